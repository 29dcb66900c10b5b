"""What importing funrl brings with it, and what it leaves for later."""

import subprocess
import sys

import pytest

import funrl

# Each takes a noticeable part of the time of importing torch, or is an extra that need not be there.
LATER = (
    *("torch._dynamo", "torch._inductor", "sympy", "torch.distributed.tensor", "torch.utils.tensorboard"),
    *("funrl.algos", "funrl.buffers", "funrl.collectors", "funrl.envs", "funrl.losses"),
    *("funrl.record", "funrl.training", "funrl.transforms"),
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


@pytest.mark.slow
@pytest.mark.parametrize("order", ["import funrl; import torch._inductor.cpp_builder", "import torch._inductor.cpp_builder; import funrl"])
def test_torch_is_changed_whenever_its_compilers_are_imported(order):
    program = f"""
import sys
{order}
from torch._dynamo.variables.higher_order_ops import ScanHigherOrderVariable
from torch._inductor import cpp_builder
print(ScanHigherOrderVariable.supports_aliasing, cpp_builder._get_optimization_cflags.__qualname__.split(".")[0])
print(sum(finder.__module__.startswith("funrl") for finder in sys.meta_path if isinstance(finder, type)))
"""
    assert run(program) == ["True", "_wrapping", "0"]


def test_what_comes_later_may_come_in_a_compiled_program():
    program = """
import sys, funrl, torch
f = funrl.compile(lambda x: funrl.losses.normalize_advantage(x), backend="eager")
before = "funrl.losses" in sys.modules
f(torch.arange(3.0))
with torch.compiler.set_stance("fail_on_recompile"):
    print(before, *f(torch.arange(3.0)).round().tolist())
"""
    assert run(program) == ["False", "-1.0", "0.0", "1.0"]
