"""Modules that importing funrl loads, and those that it loads later."""

import subprocess
import sys

import pytest

import funrl

# Each takes a noticeable part of the time of importing torch, or is an extra that need not be there.
LATER = (
    *("torch._dynamo", "torch._inductor", "sympy", "torch.distributed.tensor", "torch.utils.tensorboard"),
    *("funrl.algos", "funrl.buffers", "funrl.collectors", "funrl.envs", "funrl.losses"),
    *("funrl.offline", "funrl.populations", "funrl.record", "funrl.training", "funrl.transforms"),
    *("gymnasium", "pygame", "matplotlib", "PIL", "imageio", "dm_control", "mujoco", "jax", "tensorboard", "wandb", "mlflow"),
)


def run(program):
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert not done.returncode and not done.stderr, done.stderr
    return done.stdout.split()


def test_importing_funrl_warns_of_nothing_and_leaves_what_takes_long():
    got = run(f"import funrl, sys; print(*(name for name in {LATER} if name in sys.modules))")
    assert got == []
    named = set(run("import torch._inductor, sys; print(*sys.modules)"))
    assert named >= {"torch._dynamo", "torch._inductor", "sympy"}  # these are still their names


def test_what_comes_later_comes_by_its_name():
    names = "funrl.training.train is funrl.train, funrl.envs.__name__, funrl.algos.ppo.__name__"
    assert run(f"import funrl; print({names})") == ["True", "funrl.envs", "funrl.algos.ppo"]
    assert set(funrl.__all__) <= set(dir(funrl))
    with pytest.raises(AttributeError, match="module 'funrl' has no attribute 'trian'"):
        funrl.trian  # noqa: B018


def test_tracing_and_xla_leave_torchs_compilers_alone():
    """Dynamo alone takes two seconds to import."""
    program = f"""
import sys, funrl, torch
from torch.func import grad, vmap
f = lambda x: funrl.scan(lambda c, x: (c + x.sin().sum(), c), torch.zeros(()), x)[0]
funrl.compile(vmap(grad(f)), backend="xla")(torch.ones(2, 3))
print(*(name for name in {LATER[:2]} if name in sys.modules))
"""
    assert run(program) == []


def test_what_comes_later_may_come_in_a_compiled_program():
    program = """
import sys, funrl, torch
f = funrl.compile(lambda x: funrl.losses.normalize_advantage(x), backend="aot_eager")
before = "funrl.losses" in sys.modules
f(torch.arange(3.0))
print(before, *f(torch.arange(3.0)).round().tolist())
"""
    assert run(program) == ["False", "-1.0", "0.0", "1.0"]
