"""The command line reaches every algorithm of this room, and a resumed run equals an uninterrupted one."""

import pytest
import torch

from funrl import __main__ as command, algos, random, record, training, tree
from tests.registry import ALGORITHMS
from tests.support import same


@pytest.mark.parametrize("kind", ["maml", "meta_a2c", "multi_task", "plr", "rl2", "varibad", "apg", "shac"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, kind, capsys):
    name, env, options = ALGORITHMS[kind]
    options = {**options, **({"anneal_steps": "inf"} if "anneal_steps" in algos.defaults(name) else {})}
    given = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    steps = 4 * options["num_envs"] * options.get("num_steps", 8)

    def train(folder, total, *more):
        line = ["train", name, "--env", env, "--seed", "3", "--total-steps", str(total), "--out", str(tmp_path / folder), *given, *more]
        backend = "xla" if kind == "plr" else "eager"  # its evaluation plays 100 mazes, which takes a minute eagerly
        assert command.main([*line, "--backend", backend]) == 0

    train("whole", steps)
    train("parts", steps // 2)
    train("parts", steps, "--resume")
    one, other = (training.load_run(tmp_path / folder) for folder in ("whole", "parts"))
    same(one.state, other.state, rtol=0, atol=0)
    assert one.updates == 4 and one.algo.name == name and one.algo.env.name == env
    whole, parts = (record.read_metrics(tmp_path / folder / "metrics.csv") for folder in ("whole", "parts"))
    for metric in set(whole) - {"seconds"}:
        torch.testing.assert_close(torch.tensor(whole[metric]), torch.tensor(parts[metric]), rtol=0, atol=0, equal_nan=True)
    assert tree.leaves(one.state)


@pytest.mark.parametrize("kind", ["feudal", "option_critic"])
def test_a_resumed_hierarchy_equals_an_uninterrupted_one(tmp_path, kind):
    """Without the final evaluation, whose episodes are long."""
    name, env, options = ALGORITHMS[kind]
    algo = algos.make(name, env, **options)

    def train(folder, updates, **more):
        options = dict(out=tmp_path / folder, evaluate_episodes=0, progress=False, backend="eager", **more)
        return training.train(algo, random.key(3), updates * algo.steps_per_update, **options)

    train("parts", 2)
    one, other = train("whole", 4), train("parts", 4, resume=True)
    same((one.state, one.metrics), (other.state, other.metrics), rtol=0, atol=0)
    assert one.updates == other.updates == 4
