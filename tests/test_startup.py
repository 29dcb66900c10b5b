"""What importing funrl brings with it, and what it leaves for later."""

import subprocess
import sys

import pytest

# Each takes a noticeable part of the time of importing torch, or is an extra that need not be there.
LATER = (
    *("torch._dynamo", "torch._inductor", "sympy", "torch.distributed.tensor", "torch.utils.tensorboard"),
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
