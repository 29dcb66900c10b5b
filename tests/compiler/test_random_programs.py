"""Random programs (tests/compiler/programs.py), compiled, beside what torch gives eagerly. Seeds are 0, 1, ...; a failure names its own."""

import functools

import pytest
import torch

from funrl import compiler
from tests.compiler import programs

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching rule")
COUNT, TOGETHER = 300, 25


@functools.cache
def drawn():
    """Return the programs with what they give, those left out, and how many steps of each kind there are."""
    programs.COUNTS.clear()
    return *programs.valid(COUNT), dict(programs.COUNTS)


def found():
    return drawn()[0]


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    yield
    drawn.cache_clear()
    compiler.clear()


def fault(f, program, right):
    """Return what is wrong with a compiled function of one program, or None."""
    inputs, outside = [x.clone() for x in program.inputs], [x.clone() for x in program.outside]
    try:
        wrong = programs.close(f(*program.inputs), right, program.tolerance)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    if programs.close(program.inputs, inputs, 0) or programs.close(program.outside, outside, 0):
        wrong = "its inputs were changed"
    return wrong and f"program {program.seed}: {wrong}"


def together(which):
    """Return a function of a donated state and the inputs of some programs: the next state, and what all the programs give."""

    def f(states, rows, inputs):
        new = [programs.successor(program.seed, x, rows) for program, x in zip(which[::5], states, strict=True)]
        return new, [program(*values) for program, values in zip(which, inputs, strict=True)]

    return f


def agree(backend, which, rights):
    """Fail unless programs, compiled as one function, give what they give eagerly, twice, with donated states."""
    states = [programs.state(program.seed) for program in which[::5]]
    rows = torch.linspace(-1, 1, 320, dtype=torch.float64).reshape(5, 64)
    inputs = [program.inputs for program in which]
    plain = together(which)
    f = compiler.compile(plain, donate=0, backend=backend)
    expected = plain(states, rows, inputs)[0]
    expected = [expected, plain(expected, rows, inputs)[0]]
    for right_states in expected:
        try:
            states, results = f([x.clone() for x in states], rows, inputs)
        except Exception as error:
            faults = [
                fault(compiler.compile(program, backend=backend), program, right) for program, right in zip(which, rights, strict=True)
            ]
            raise AssertionError([x for x in faults if x] or "each program alone is right") from error
        wrong = [
            f"program {program.seed}: {text}"
            for program, got, right in zip(which, results, rights, strict=True)
            if (text := programs.close(got, right, program.tolerance))
        ]
        wrong += [
            f"state {program.seed}: {text}"
            for program, got, right in zip(which[::5], states, right_states, strict=True)
            if (text := programs.close([got], [right], 1e-12))
        ]
        assert not wrong, "\n".join(wrong)


def test_the_programs_are_varied():
    """Nearly all random programs run eagerly, and each kind of step comes about in many."""
    _, left_out, counts = drawn()
    assert len(left_out) < COUNT / 20
    assert min(counts.get(step.__name__, 0) for step in programs.STEPS) > 100


def test_traced():
    wrong = [fault(compiler.compile(program, backend="aot_eager"), program, right) for program, right in found()]
    assert not any(wrong), "\n".join(x for x in wrong if x)


@pytest.mark.parametrize(
    "start, count",
    [
        (0, 10),
        *(
            pytest.param(k, TOGETHER, marks=pytest.mark.nightly if k < 3 * TOGETHER else pytest.mark.weekly)
            for k in range(0, COUNT, TOGETHER)
        ),
    ],
)
def test_compiled_by_xla(start, count):
    """XLA takes a second for each of these programs: ten each day, 75 by night, all in a week."""
    pytest.importorskip("jax")
    agree("xla", *zip(*found()[start : start + count], strict=True))


@pytest.mark.weekly
@pytest.mark.parametrize("start", range(0, COUNT, TOGETHER))
def test_compiled_by_inductor(start):
    """Inductor and g++ take three minutes for 25 of these programs."""
    agree("inductor", *zip(*found()[start : start + TOGETHER], strict=True))


@pytest.mark.weekly
def test_more_are_traced():
    """Two thousand seeds more; the first 300 are traced each day."""
    wrong = [fault(compiler.compile(program, backend="aot_eager"), program, right) for program, right in programs.valid(2000, 1000)[0]]
    assert not any(wrong), "\n".join(x for x in wrong if x)
