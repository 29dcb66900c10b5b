"""Entries of dict observations, against gymnasium and by hand."""

import gymnasium
import pytest
import torch

from funrl import random
from funrl.spaces import Box, Dict
from funrl.transforms import cast, cat_tensors, compose, discrete_to_one_hot, exclude, rename, select
from tests.oracles import gymnasium_twin as twin
from tests.transforms import toys


def first(env):
    observation = env.reset(random.key(0), env.default_params)[1].observation
    assert bool(env.observation_space.contains(observation))
    return observation


def test_select_is_that_of_gymnasium():
    twin.assert_agree(
        toys.arcade(), select(["level", "pixels"]), lambda env: gymnasium.wrappers.FilterObservation(env, ["level", "pixels"])
    )


def test_exclude_is_the_rest_of_select():
    env = toys.arcade()
    rest = [name for name in env.observation_space.spaces if name not in ("level", "pixels")]
    one, other = exclude(["level", "pixels"])(env), select(rest)(env)
    assert one.observation_space == other.observation_space and first(one).keys() == first(other).keys() == set(rest)


def test_cat_tensors_is_the_flattening_of_gymnasium():
    names = ("position", "keys", "level", "velocity", "lives")
    transform = [discrete_to_one_hot(in_keys=["keys", "level", "lives"]), cat_tensors()]
    twin.assert_agree(toys.arcade(names), lambda env: compose(env, *transform), gymnasium.wrappers.FlattenObservation)


def test_rename_by_hand():
    env = rename(["position", "pixels"], ["pixels", "picture"])(toys.arcade())
    old, new = first(toys.arcade()), first(env)
    assert torch.equal(new["pixels"], old["position"]) and torch.equal(new["picture"], old["pixels"])
    assert new.keys() == (old.keys() - {"position"}) | {"picture"}
    swapped = first(rename(["position", "velocity"], ["velocity", "position"])(toys.arcade()))
    assert torch.equal(swapped["velocity"], old["position"]) and torch.equal(swapped["position"], old["velocity"])


def test_cat_tensors_by_hand():
    names = ("velocity", "position", "flags")
    env, old = toys.arcade(names), first(toys.arcade(names))
    ordered = cat_tensors(["velocity", "position"], out_key="vector")(env)
    assert torch.equal(first(ordered)["vector"], torch.cat([old["velocity"], old["position"]])) and first(ordered).keys() == {
        "vector",
        "flags",
    }
    inf = float("inf")
    assert ordered.observation_space.spaces["vector"] == Box([-1, -1, -8, -8, -inf], [1, 1, 8, 8, inf])
    assert first(cat_tensors(["velocity"], out_key="velocity")(env)).keys() == set(names)
    everything = compose(env, cast(torch.float32, in_keys=["flags"]), cat_tensors())
    assert torch.equal(first(everything), torch.cat([old["flags"].float(), old["position"], old["velocity"]]))
    numbers = compose(toys.arcade(("level", "position")), cast(torch.float32, in_keys=["level"]), cat_tensors(["position", "level"]))
    assert first(numbers).shape == (4,) and first(numbers)[3] == 1


def test_cat_tensors_along_another_dimension():
    picture = torch.rand(3, 4, 2), torch.rand(3, 1, 2)
    space = Dict({"a": Box(0.0, 1.0, (3, 4, 2)), "b": Box(0.0, 2.0, (3, 1, 2))})
    env = cat_tensors(dim=1)(toys.constant(dict(zip("ab", picture, strict=True)), space))
    assert torch.equal(first(env), torch.cat(picture, 1)) and env.observation_space.high[0, :, 0].tolist() == [1.0, 1.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("transform", "error", "message"),
    [
        (lambda env: select(["speed"])(env), ValueError, "select: observation: expected an entry 'speed', got a dict"),
        (lambda env: select("level"), TypeError, "select: in_keys: expected a list of names"),
        (
            lambda env: select(["level"])(toys.arcade("level")),
            ValueError,
            r"select: observation: expected a dict with the entries \['level'\]",
        ),
        (lambda env: exclude(list(env.observation_space.spaces))(env), ValueError, "exclude: observation: expected an entry that remains"),
        (lambda env: rename(["level"], ["a", "b"]), ValueError, "rename: out_keys: expected 1 names"),
        (lambda env: rename(["level"], ["keys"])(env), ValueError, "rename: out_keys: expected new names, got 'keys'"),
        (lambda env: cat_tensors()(env), ValueError, r"cat_tensors: observation\['flags'\]: expected numbers \(a Box\), got Binary"),
        (lambda env: cat_tensors()(toys.arcade("level")), ValueError, "cat_tensors: observation: expected a dict, got Discrete"),
        (lambda env: cat_tensors(["position", "velocity"])(env), ValueError, "expected no entries besides .*; name all, select them"),
        (lambda env: cat_tensors(["position", "velocity"], out_key="level")(env), ValueError, "out_key: expected a new name, got 'level'"),
        (
            lambda env: cat_tensors(["position", "pixels"], out_key="x")(env),
            ValueError,
            r"cat_tensors: observation\['pixels'\]: expected torch.float32 as the entry before, got uint8",
        ),
        (
            lambda env: cat_tensors(["position", "image"], out_key="x")(cast(torch.float32, in_keys=["pixels"], out_keys=["image"])(env)),
            ValueError,
            r"expected a shape like \[3\] but for dimension -1, got float32 \[12, 10, 3\]; reshape it",
        ),
        (lambda env: cat_tensors(["position"], out_key="x", dim=1)(env), ValueError, "expected a dimension 1, got float32"),
        (lambda env: cat_tensors(dim=0.5), TypeError, "cat_tensors: dim: expected an integer"),
        (lambda env: cat_tensors(out_key=1), TypeError, "cat_tensors: out_key: expected a string"),
    ],
)
def test_bad_settings_are_named(transform, error, message):
    with pytest.raises(error, match=message):
        transform(toys.arcade())
