import pytest

from funrl._check import nearest

KNOWN = ["learning_rate", "num_envs", "gamma", "lambda_"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("learnin_rate", "did you mean learning_rate?"),
        ("GAMMA", "did you mean gamma?"),
        ("lamda", "did you mean lambda_?"),
        ("envs", "did you mean num_envs?"),
        ("rate", "choose one of learning_rate, num_envs, gamma, lambda_"),
        ("num", "choose one of learning_rate, num_envs, gamma, lambda_"),
        ("xyz", "choose one of learning_rate, num_envs, gamma, lambda_"),
        ("", "choose one of learning_rate, num_envs, gamma, lambda_"),
    ],
)
def test_nearest(name, advice):
    assert nearest(name, KNOWN) == advice
    assert nearest(name, iter(KNOWN)) == advice
