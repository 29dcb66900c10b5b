"""The vocabulary of checks: each message names argument, expectation, finding and remedy."""

from types import SimpleNamespace

import pytest
import torch

import funrl
from funrl import _check

X = torch.zeros(3)


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: _check.integer("f: n", 1.5, 1), TypeError, "f: n: expected an integer of at least 1, got 1.5"),
        (lambda: _check.integer("f: n", True), TypeError, "f: n: expected an integer, got True"),
        (lambda: _check.integer("f: n", 5, 1, 4, "r"), ValueError, "f: n: expected an integer from 1 to 4, got 5; r"),
        (lambda: _check.integers("f: n", (1, 0), 1), ValueError, "f: n: expected integers of at least 1, got (1, 0)"),
        (lambda: _check.integers("f: n", 3), TypeError, "f: n: expected integers, got 3"),
        (lambda: _check.integers("f: n", (1,), 1, 2), ValueError, "f: n: expected 2 integers of at least 1, got (1,)"),
        (lambda: _check.number("f: x", 1.0, "[0, 1)"), ValueError, "f: x: expected a number in [0, 1), got 1.0"),
        (lambda: _check.number("f: x", 0, "(0, inf]"), ValueError, "f: x: expected a number above 0, got 0"),
        (lambda: _check.number("f: x", float("inf"), "[0, inf)"), ValueError, "f: x: expected a finite number of at least 0, got inf"),
        (lambda: _check.number("f: x", float("nan"), "[0, inf]"), ValueError, "f: x: expected a number of at least 0, got nan"),
        (
            lambda: _check.number("f: x", X, tensor=True),
            TypeError,
            "f: x: expected a number or a floating-point tensor [], got float32 [3]; ",
        ),
        (lambda: _check.number("f: x", "1"), TypeError, "f: x: expected a number, got a str"),
        (lambda: _check.fields(SimpleNamespace(a=0, b=-1), "[0, 1]", "a", "b"), ValueError, "b: expected a number in [0, 1], got -1"),
        (lambda: _check.fields(SimpleNamespace(a=-1), "[0, inf)", "a"), ValueError, "a: expected a number of at least 0, got -1"),
        (lambda: _check.divisor("n", 2, 9, "m"), ValueError, "n: expected a divisor of m = 9, got 2"),
        (lambda: _check.in_dtype("f: x", -1.0, X), ValueError, "f: x: expected a number of at least 0, got -1.0"),
        (lambda: _check.one_of("f: x", "c", ("a", "b")), ValueError, "f: x: expected 'a' or 'b', got 'c'"),
        (lambda: _check.instance("f: x", 1, torch.nn.Module, "r"), TypeError, "f: x: expected a Module, got an int; r"),
        (lambda: _check.has("f: x", 1, ["apply"], "a net"), TypeError, "f: x: expected a net, got an int"),
        (lambda: _check.function("f: x", 1), TypeError, "f: x: expected a function, got an int"),
        (lambda: _check.some("f: x", (), "leaf"), ValueError, "f: x: expected at least one leaf, got none"),
        (lambda: _check.count("f: x", (1,), 2, "layers"), ValueError, "f: x: expected 2 layers, got 1"),
        (lambda: _check.strings("f: x", "a"), TypeError, "f: x: expected a list of names such as ['pixels'], got 'a'"),
        (lambda: _check.strings("f: x", ["a", "a"]), ValueError, "f: x: expected at least one name, each once, got ['a', 'a']"),
        (lambda: _check.tensor("f: x", 1), TypeError, "f: x: expected a tensor, got an int; wrap it in torch.tensor"),
        (
            lambda: _check.floating("f: x", 1),
            TypeError,
            "f: x: expected a floating-point tensor, got an int; make it one with torch.tensor(",
        ),
        (lambda: _check.floating("f: x", X.int()), TypeError, "f: x: expected a floating-point tensor, got torch.int32; cast it with"),
        (lambda: _check.floating("f: x", X, shape=(3, "A")), ValueError, "f: x: expected the shape [3, A], got [3]"),
        (lambda: _check.flag("f: x", X), TypeError, "f: x: expected a bool tensor, got torch.float32; cast it with .to(torch.bool)"),
        (lambda: _check.flag("f: x", X > 0, "r", shape=(2,)), ValueError, "f: x: expected a bool tensor [2], got bool [3]; r"),
        (lambda: _check.whole("f: x", X > 0), TypeError, "f: x: expected a tensor of integers, got torch.bool; cast it with"),
        (lambda: _check.sized("f: x", X[:0], ("T", ...)), ValueError, "f: x: expected the shape [T, ...] with T at least 1, got [0]"),
        (lambda: _check.sized("f: x", X, (..., 4), of="y"), ValueError, "f: x: expected the shape [..., 4] of y, got [3]"),
        (lambda: _check.sized("f: x", X[0], ("T", ...)), ValueError, "f: x: expected the shape [T, ...] with T at least 1, got []"),
        (lambda: _check.alike("f", a=X, b=X[:2]), ValueError, "f: b: expected the shape [3] of a, got [2]; nothing is broadcast"),
        (lambda: _check.alike("f", a=X, truncated=X), TypeError, "f: truncated: expected a bool tensor, got torch.float32"),
        (lambda: _check.key("f: key", 0), TypeError, "f: key: expected one key, int64 [], got an int; make it with funrl.random.key"),
        (lambda: _check.key("f: key", X.long()), ValueError, "f: key: expected one key, int64 [], got int64 [3]; map over keys with"),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message) and type(error.value) is kind


def test_what_is_right_is_returned():
    assert _check.integers("n", [1, 2], 1, 2) == (1, 2) and _check.integer("n", 4, 1, 4) == 4 and _check.integers("n", (), 1) == ()
    assert _check.number("x", 0.0, "[0, 1)") == 0 and _check.number("x", float("inf"), "(0, inf]") == float("inf")
    assert _check.number("x", X[0], "[1, 2]", tensor=True) is not None, "values of tensors are not looked at"
    assert _check.in_dtype("x", torch.tensor(2.0), X.double(), "[0, 1]").dtype is torch.float64
    assert _check.sized("x", torch.zeros(4, 3, 2), (4, ...)).ndim == 3 and _check.sized("x", torch.zeros(4, 3, 2), (..., "A", 2)).ndim == 3
    assert _check.one_of("x", None, ("a", None)) is None and _check.strings("x", ["a"]) == ("a",)
    assert _check.broadcasts((), (3,)) and _check.broadcasts((1,), (3,)) and not _check.broadcasts((2,), (3,))


@pytest.mark.parametrize("values", [True, False])
def test_values_are_seen_in_eager_code_alone(values):
    """``seen`` never asks a tensor of vmap or of a program for its value, whether or not it is told the tensors."""
    asked = []

    def f(x):
        asked.append(_check.seen(lambda: (x < 0).any(), *([x] if values else [])))
        return x + 1

    x = torch.tensor([-1.0, 1.0])
    f(x)
    torch.func.vmap(f)(x[:, None])
    for backend in ("xla", "aot_eager"):
        funrl.compile(f, backend=backend)(x)
    assert asked[0] is True and not any(asked[1:])
    if values:
        torch.func.grad(lambda x: f(x).sum())(x)
        assert asked[-1] is False
