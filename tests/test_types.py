"""Type hints: pyright finds nothing to complain about, in the mode that pyproject.toml sets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WRONG = """
import torch
import funrl
from funrl import losses, optim
from funrl.typing import Act, Loss, Metrics

env = funrl.envs.make("CartPole-v1")
key = funrl.random.key(0)
params = env.default_params
actor = funrl.acting.start(key, params, env=env)


def act(params, key, observation):
    return observation.argmax(), {}


def without_a_key(params, observation):
    return observation.argmax(), {}


def no_pair(params, key, observation) -> torch.Tensor:
    return observation


def loss(params, batch, *, apply, clip: float = 0.2) -> tuple[torch.Tensor, Metrics]:
    return batch, {"loss": batch}


def a_number(params, batch) -> float:
    return 0.0


def critic_of_one(params, observation) -> torch.Tensor:
    return observation


right: Act = act
funrl.rollout((), key, actor, params, env=env, act=act, num_steps=3)
funrl.algos.ppo.make(env, loss=loss)
optim.Optimizer(lambda params: (), lambda grads, state, params: (grads, state))
wrong: Act = without_a_key  # error
funrl.rollout((), key, actor, params, env=env, act=without_a_key, num_steps=3)  # error
funrl.rollout((), key, actor, params, env=env, act=no_pair, num_steps=3)  # error
funrl.algos.ppo.make(env, loss=a_number)  # error
worse: Loss = a_number  # error
optim.Optimizer(lambda params: (), lambda grads, state: (grads, state))  # error
losses.ddpg_actor_loss((), (), (), actor=critic_of_one, critic=critic_of_one)  # error
"""


def errors(*options):
    """Return the errors of pyright as (file, line from 1, message), and the number of files that it read."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    found = [x for x in report["generalDiagnostics"] if x["severity"] == "error"]
    return [(x["file"], x["range"]["start"]["line"] + 1, x["message"]) for x in found], report["summary"]["filesAnalyzed"]


@pytest.mark.nightly
def test_pyright_passes():
    """It takes 50 s, most of them for torch; each run of .ci/run has it, as it has ruff."""
    found, files = errors()
    assert files > 100 and not found, found


@pytest.mark.slow
def test_a_wrong_function_is_refused(tmp_path):
    """An act without a key, a loss that returns a number and the like are errors where they are handed over."""
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"include": ["wrong.py"], "extraPaths": [str(ROOT)], "typeCheckingMode": "basic"})
    )
    found, _ = errors("-p", str(tmp_path))
    marked = {i for i, line in enumerate(WRONG.splitlines(), 1) if line.endswith("# error")}
    assert {line for _, line, _ in found} == marked and len(marked) == 7, found
