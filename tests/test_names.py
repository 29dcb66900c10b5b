import pytest

from funrl.names import nearest

KNOWN = ["learning_rate", "num_envs", "gamma", "lambda_"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("learnin_rate", "did you mean learning_rate?"),
        ("GAMMA", "did you mean gamma or lambda_?"),
        ("lamda", "did you mean lambda_ or gamma?"),
        ("xyz", "choose one of learning_rate, num_envs, gamma, lambda_"),
        ("", "choose one of learning_rate, num_envs, gamma, lambda_"),
    ],
)
def test_nearest(name, advice):
    assert nearest(name, KNOWN) == advice
    assert nearest(name, iter(KNOWN)) == advice
