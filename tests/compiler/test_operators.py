"""Lowerings beside torch's own kernels, on OpInfo's samples: a choice of operators here, those of operators.json nightly."""

import json
import warnings

import pytest
import torch
from torch.utils import _pytree as pytree

pytest.importorskip("jax")
pytest.importorskip("expecttest")

from funrl import compiler
from tests.compiler import operators

# What most programs are made of, and what is most often wrong: ties, NaN, rounding, wrap-around, indices.
COMMON = [
    "add",
    "mul",
    "div.no_rounding_mode",
    "div.floor_rounding",
    "remainder",
    "pow",
    "maximum",
    "clamp",
    "round",
    "where",
    "sum",
    "argmax",
]
COMMON += ["amin", "cumsum", "sort", "topk", "gather", "scatter_add", "index_put", "index_select", "matmul", "cat", "flip", "roll", "var"]
COMMON += ["nn.functional.linear", "nn.functional.layer_norm", "nn.functional.softplus", "logsumexp", "searchsorted"]
KNOWN = json.loads(operators.FILE.read_text())


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=str)
def test_common_operators(dtype):
    calls = []
    for name in COMMON:
        if str(dtype).removeprefix("torch.") in KNOWN[name]["right"]:
            found, missing = operators.calls_of(name, dtype, most_samples=2)
            assert found and not missing, name
            calls += found
    assert len(calls) > 20 and not operators.wrong(calls)


# Without a lowering of their own, or with gradients that are transposes of one: torch's decompositions have to agree with its kernels.
DECOMPOSED = """
    block_diag cdist diag_embed dist masked.normalize nansum renorm rot90 sinc special.entr special.log_ndtr
    nn.functional.adaptive_avg_pool2d nn.functional.avg_pool2d nn.functional.cross_entropy nn.functional.embedding nn.functional.glu
    nn.functional.group_norm nn.functional.hardswish nn.functional.mish nn.functional.nll_loss nn.functional.pad.reflect
    nn.functional.pad.replicate nn.functional.prelu nn.functional.rms_norm nn.functional.scaled_dot_product_attention
    nn.functional.softshrink nn.functional.unfold
""".split()


@pytest.mark.nightly
@pytest.mark.parametrize("name", DECOMPOSED)
def test_decomposed_operators_agree_with_kernels(name):
    """Values and gradients of a compiled operator, beside the same eagerly."""
    from tests.compiler.opinfo import op_db

    (info,) = [x for x in op_db if x.name + (f".{x.variant_test_name}" if x.variant_test_name else "") == name]
    torch.manual_seed(0)
    count = 0
    for _, sample in zip(range(6), info.sample_inputs("cpu", torch.float64), strict=False):
        leaves, form = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        floats = {i: x.detach() for i, x in enumerate(leaves) if isinstance(x, torch.Tensor) and x.is_floating_point()}
        if sample.kwargs.get("dropout_p") or not floats or any(isinstance(x, torch.Tensor) and x.is_complex() for x in leaves):
            continue

        def both(floats, leaves=leaves, form=form):
            def run(floats):
                x, args, kwargs = pytree.tree_unflatten([floats.get(i, x) for i, x in enumerate(leaves)], form)
                return info.op(x, *args, **kwargs)

            out, pull = torch.func.vjp(run, {i: x.clone() for i, x in floats.items()})
            return out, pull(torch.ones_like(out) + out.detach().cos())

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                eager = both(floats)
            except RuntimeError:  # not differentiable in the weights of classes
                continue
            compiled = compiler.compile(both, backend="xla")(floats)
        torch.testing.assert_close(compiled, eager, equal_nan=True, check_stride=False)
        count += 1
    assert count


@pytest.mark.nightly
@pytest.mark.parametrize("part", [0, 1, *(pytest.param(part, marks=pytest.mark.weekly) for part in range(2, 8))])
def test_operators_that_are_said_to_be_right(part):
    """A quarter of all operators by night, all in a week: each is a program of XLA for each dtype."""
    wrong = {}
    for name in sorted(KNOWN)[part::8]:
        dtypes = [getattr(torch, dtype) for dtype in KNOWN[name]["right"]]
        _, faults = operators.verdict(name, dtypes[:2], most_samples=3)
        if faults:
            wrong[name] = faults
    assert not wrong


def test_enough_is_right():
    """An operator counts that has a right dtype, and none that is wrong."""
    assert sum(bool(x["right"]) and "faults" not in x for x in KNOWN.values()) >= 400
    assert set(KNOWN) == set(operators.all_names())
