import dataclasses

import chex
import gymnasium
import numpy as np
import pytest
import scipy.stats
import torch
from torch.func import vmap

from funrl import compiler, random, spaces
from funrl.spaces import Binary, Box, Dict, Discrete, MultiDiscrete, Tuple

INF = float("inf")
SPACES = {
    "box": Box(-1.0, [0.0, 2.0, 5.0]),
    "box64": Box(-1.0, 1.0, (2, 3), torch.float64),
    "half": Box(-1.0, 1.0, (2,), torch.bfloat16),
    "open": Box([-INF, -INF, 0.0, -3.0], [INF, 2.0, INF, 1.0]),
    "image": Box(0, 255, (4, 4, 3), torch.uint8),
    "integers": Box([-3, 5], [3, 5], dtype=torch.int32),
    "discrete": Discrete(3),
    "shifted": Discrete(4, start=-2),
    "multi": MultiDiscrete((2, 5, 1)),
    "multi shifted": MultiDiscrete((2, 5, 1), (-1, 0, 7)),
    "binary": Binary((3,)),
    "flag": Binary(),
    "dict": Dict({"b": Box(0.0, 1.0, (2,)), "a": Dict({"x": Discrete(2), "y": Binary()})}),
    "tuple": Tuple([Discrete(2), Dict({"a": Box(0.0, 1.0, (2,))})]),
}


@pytest.fixture(params=SPACES, ids=str)
def space(request):
    return SPACES[request.param]


def leaves(x):
    """The entries of a dict, or of a tuple that is no shape."""
    if isinstance(x, dict):
        return [y for entry in x.values() for y in leaves(entry)]
    if isinstance(x, tuple) and any(not isinstance(entry, int) for entry in x):
        return [y for entry in x for y in leaves(entry)]
    return [x]


def test_sample_is_an_element_of_the_stated_shape_and_dtype(space):
    for seed in range(20):
        x = space.sample(random.key(seed))
        assert space.contains(x) is not False and bool(space.contains(x))
        for value, shape, dtype in zip(leaves(x), leaves(space.shape), leaves(space.dtype), strict=True):
            chex.assert_shape(value, shape)
            assert value.dtype == dtype


def test_sample_depends_on_the_key_only(space):
    first, again, other = (space.sample(random.key(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(x, y) for x, y in zip(leaves(first), leaves(again), strict=True))
    if sum(x.numel() for x in leaves(first)) > 4:
        assert any(not torch.equal(x, y) for x, y in zip(leaves(first), leaves(other), strict=True))


def test_vmap_agrees_with_a_loop(space):
    keys = random.split(random.key(0), 5)
    batch = torch.func.vmap(space.sample)(keys)
    inside = torch.func.vmap(space.contains)(batch)
    projected = torch.func.vmap(space.project)(batch)
    assert inside.shape == (5,) and bool(inside.all())
    for i, key in enumerate(keys):
        one = space.sample(key)
        for x, y, z in zip(leaves(batch), leaves(one), leaves(projected), strict=True):
            torch.testing.assert_close(x[i], y)
            torch.testing.assert_close(x[i], z[i])


def test_compiled_agrees_with_eager(space):
    key = random.key(5)

    def program(key):
        x = space.sample(key)
        return x, space.contains(x), space.project(x)

    compiled = compiler.compile(program, backend="aot_eager")(key)
    for got, expected in zip(compiled, program(key), strict=True):
        for x, y in zip(leaves(got), leaves(expected), strict=True):
            torch.testing.assert_close(x, y)


def test_spaces_are_values(space):
    twin = dataclasses.replace(space) if not isinstance(space, Box) else Box(space.low, space.high, space.shape, space.dtype)
    assert twin == space and hash(twin) == hash(space)
    assert all(other is space or other != space for other in SPACES.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.shape = (7,)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Box(-1.0, [0.0, 2.0, 5.0]), gymnasium.spaces.Box(-1.0, np.array([0.0, 2.0, 5.0], np.float32))),
        (Discrete(4, start=-2), gymnasium.spaces.Discrete(4, start=-2)),
        (MultiDiscrete((2, 5)), gymnasium.spaces.MultiDiscrete([2, 5])),
        (MultiDiscrete((2, 5), (1, -2)), gymnasium.spaces.MultiDiscrete([2, 5], start=[1, -2])),
    ],
)
def test_contains_agrees_with_gymnasium(ours, theirs):
    numbers = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        x = numbers.uniform(-3, 6, ours.shape)
        x = x.astype(np.float32) if ours.dtype == torch.float32 else np.asarray(x.round(), np.int64)
        expected = theirs.contains(x if ours.shape else x[()])
        assert bool(ours.contains(torch.as_tensor(x))) == expected
        seen.add(expected)
    assert seen == {True, False}


def test_box_samples_are_uniform_exponential_and_normal():
    box = SPACES["open"]
    x = torch.func.vmap(box.sample)(random.split(random.key(1), 4000)).numpy()
    for column, law in enumerate(("norm", lambda v: scipy.stats.expon.cdf(v), "expon", lambda v: (v + 3) / 4)):
        values = 2 - x[:, 1] if column == 1 else x[:, column]
        assert scipy.stats.kstest(values, law).pvalue > 1e-3


@pytest.mark.parametrize("name", ["shifted", "multi", "multi shifted", "integers", "flag"])
def test_integer_samples_are_uniform(name):
    space = SPACES[name]
    x = torch.func.vmap(space.sample)(random.split(random.key(2), 4000)).long().reshape(4000, -1)
    for column in x.unbind(1):
        values, counts = column.unique(return_counts=True)
        if len(values) > 1:
            assert scipy.stats.chisquare(counts).pvalue > 1e-3
    expected = {"shifted": [4], "multi": [2, 5, 1], "multi shifted": [2, 5, 1], "integers": [7, 1], "flag": [2]}[name]
    assert [len(column.unique()) for column in x.unbind(1)] == expected


def test_project_gives_the_nearest_element():
    assert SPACES["box"].project(torch.tensor([-5.0, 1.0, 9.0])).tolist() == [-1.0, 1.0, 5.0]
    assert SPACES["open"].project(torch.tensor([1e9, 9.0, -1.0, 9.0])).tolist() == [1e9, 2.0, 0.0, 1.0]
    assert SPACES["shifted"].project(torch.tensor(-9)).item() == -2
    assert SPACES["shifted"].project(torch.tensor(9)).item() == 1
    assert SPACES["multi"].project(torch.tensor([-1, 9, 4])).tolist() == [0, 4, 0]
    assert SPACES["multi shifted"].project(torch.tensor([-9, 9, 4])).tolist() == [-1, 4, 7]
    assert SPACES["tuple"].project((torch.tensor(5), {"a": torch.tensor([2.0, 0.5])}))[1]["a"].tolist() == [1.0, 0.5]
    x = torch.full((2, 3), 7.0)
    assert SPACES["box64"].project(x).dtype == torch.float32 and SPACES["box64"].project(x).max() == 1
    assert x.min() == 7


def test_contains_sees_values_at_the_edge_and_nan():
    box = Box([-1.0, -INF], [1.0, INF])
    assert box.contains(torch.tensor([1.0, 1e30]))
    assert not box.contains(torch.tensor([1.0001, 0.0]))
    assert not box.contains(torch.tensor([0.0, float("nan")]))
    assert box.contains(torch.zeros(2, dtype=torch.float64))
    entries = {"b": torch.tensor([0.5, 2.0]), "a": {"x": torch.tensor(0), "y": torch.tensor(True)}}
    assert not SPACES["dict"].contains(entries)
    assert not SPACES["tuple"].contains((torch.tensor(2), {"a": torch.zeros(2)}))


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("box", [0.0, 0.0, 0.0]),
        ("box", torch.zeros(2)),
        ("box", torch.zeros(1, 3)),
        ("box", torch.zeros(3, dtype=torch.int64)),
        ("image", torch.zeros(4, 4, 3)),
        ("discrete", 1),
        ("discrete", torch.tensor(1.0)),
        ("discrete", torch.tensor([1])),
        ("discrete", torch.tensor(1, dtype=torch.int32)),
        ("multi", torch.zeros(2, dtype=torch.int64)),
        ("binary", torch.zeros(3)),
        ("multi shifted", torch.zeros(3)),
        ("tuple", [torch.tensor(0), {"a": torch.zeros(2)}]),
        ("tuple", (torch.tensor(0),)),
        ("tuple", (torch.tensor(0), torch.zeros(2))),
        ("dict", torch.zeros(2)),
        ("dict", {"b": torch.zeros(2)}),
        ("dict", {"b": torch.zeros(2), "a": {"x": torch.tensor(0), "y": torch.tensor(1)}}),
    ],
)
def test_wrong_structure_shape_or_dtype_is_no_element_and_an_error_to_project(name, x):
    assert SPACES[name].contains(x) is False
    with pytest.raises((TypeError, ValueError), match="expected"):
        SPACES[name].project(x)


def test_check_names_the_entry():
    with pytest.raises(TypeError, match=r"action\['a'\]\['x'\]: expected int64 \[\], got float32 \[\]"):
        SPACES["dict"].check({"b": torch.zeros(2), "a": {"x": torch.tensor(0.0), "y": torch.tensor(True)}}, "action")
    with pytest.raises(ValueError, match=r"for a batch use torch\.func\.vmap"):
        SPACES["box"].check(torch.zeros(8, 3), "observation")


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Box(1.0, 0.0), ValueError, "low <= high"),
        (lambda: Box(float("nan"), 0.0), ValueError, "NaN"),
        (lambda: Box([0.0, 0.0], 1.0, (3,)), ValueError, "do not broadcast"),
        (lambda: Box([0.0, 0.0], [1.0, 1.0, 1.0]), ValueError, "do not broadcast"),
        (lambda: Box(0.0, 1.0, (-1,)), ValueError, "non-negative"),
        (lambda: Box(0, 1, (2,), torch.bool), TypeError, "use Binary"),
        (lambda: Box(0, 256, (2,), torch.uint8), ValueError, "between 0 and 255"),
        (lambda: Box(0.0, INF, (2,), torch.int64), ValueError, "whole bounds"),
        (lambda: Box(0.5, 2.0, (2,), torch.int64), ValueError, "whole bounds"),
        (lambda: Discrete(0), ValueError, "at least 1"),
        (lambda: Discrete(2.0), TypeError, "integer"),
        (lambda: Discrete(2, start=0.5), TypeError, "start"),
        (lambda: MultiDiscrete(()), ValueError, "nvec"),
        (lambda: MultiDiscrete((2, 0)), ValueError, "nvec"),
        (lambda: MultiDiscrete(3), TypeError, "use Discrete"),
        (lambda: MultiDiscrete((2, 3), (0,)), ValueError, "start: expected 2 integers"),
        (lambda: MultiDiscrete((2, 3), 1), TypeError, "start: expected 2 integers"),
        (lambda: Tuple([]), ValueError, "at least one"),
        (lambda: Tuple([3]), TypeError, "list or tuple of spaces"),
        (lambda: Binary((-2,)), ValueError, "Binary: shape"),
        (lambda: Dict({}), ValueError, "at least one"),
        (lambda: Dict([Discrete(2)]), TypeError, "mapping"),
        (lambda: Dict({"a": 3}), TypeError, "'a' to int"),
    ],
)
def test_bad_construction_is_a_clear_error(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_box_is_told_in_few_words():
    assert repr(Box(-2.0, 2.0, (1,))) == "Box(-2, 2, (1,), torch.float32)"
    assert repr(Box([-1.0, 0.25], [1.0, float("inf")])) == "Box([-1, 0.25], [1, inf], (2,), torch.float32)"
    assert repr(Box(0, 255, (400, 600, 3), torch.uint8)) == "Box(0, 255, (400, 600, 3), torch.uint8)"
    assert repr(Box(torch.arange(100.0), 1000.0)) == "Box(<0 to 99>, 1000, (100,), torch.float32)"
    assert repr(Box(0.0, 1.0, (0,))) == "Box([], [], (0,), torch.float32)"


I64 = torch.iinfo(torch.int64)


@pytest.mark.parametrize("low, high", [(0, I64.max), (I64.min, I64.max), (I64.max, I64.max), (I64.min, I64.min), (I64.max - 1, I64.max)])
def test_boxes_up_to_the_greatest_integer(low, high):
    """high + 1 wraps around."""
    box, keys = Box(low, high, (50,), torch.int64), random.split(random.key(0), 4)
    drawn = torch.stack([box.sample(k) for k in keys])
    assert ((drawn >= low) & (drawn <= high)).all() and torch.equal(vmap(box.sample)(keys), drawn)
    assert len(drawn.unique()) == min(200, high - low + 1)
    if high - low > 2**62:
        assert ((drawn.double() - low) / (high - low)).mean() == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ValueError, match="expected whole bounds"):
        Box(0.0, 2.0**63, (), torch.int64)


def test_elements_that_reach_the_ends_of_int64():
    for space in (Discrete(2, start=I64.max - 1), MultiDiscrete((2,), (I64.max - 1,)), Discrete(2**63, start=I64.min)):
        last = torch.tensor(space.start[0] + 1 if isinstance(space, MultiDiscrete) else space.start + space.n - 1).reshape(space.shape)
        assert space.contains(last) and torch.equal(space.project(last), last)
        assert all(space.contains(space.sample(k)) for k in random.split(random.key(0), 8))
    for make in (
        lambda: Discrete(3, start=I64.max - 1),
        lambda: MultiDiscrete((3,), (I64.max - 1,)),
        lambda: Discrete(2, start=-(2**63) - 1),
    ):
        with pytest.raises(ValueError, match=r"expected elements in \[-2\*\*63, 2\*\*63\)"):
            make()


def test_the_layout_of_pictures():
    def layout(space, asked=None):
        return spaces.picture_layout("env", space, asked)

    assert layout(spaces.Box(0, 255, (4, 84, 84), torch.uint8)) == "chw" and layout(spaces.Box(0.0, 1.0, (84, 84, 4))) == "hwc"
    told = spaces.Box(0.0, 1.0, (84, 84, 4), layout="chw")
    assert layout(told) == "chw" and layout(told, "hwc") == "hwc" and told == spaces.Box(0.0, 1.0, (84, 84, 4))
    assert repr(told).endswith("layout='chw')") and layout(spaces.Binary((9, 9, 9), "hwc")) == "hwc"
    for shape in ((3, 3, 3), (10, 10, 7)):
        with pytest.raises(ValueError, match="does not show where the channels are, got None; give layout='hwc'"):
            layout(spaces.Binary(shape))
    for make in (lambda: spaces.Box(0.0, 1.0, (2, 3), layout="hwc"), lambda: spaces.Binary((2,), layout="chw")):
        with pytest.raises(ValueError, match="layout: expected a shape of three dimensions"):
            make()
    with pytest.raises(ValueError, match="layout: expected 'hwc', 'chw' or None, got 'nhwc'"):
        spaces.Box(0.0, 1.0, (3, 4, 5), layout="nhwc")
