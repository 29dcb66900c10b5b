"""Lowerings beside torch's own kernels, on OpInfo's samples: a choice of operators here, those of operators.json nightly."""

import json

import pytest
import torch

pytest.importorskip("jax")
pytest.importorskip("expecttest")

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
