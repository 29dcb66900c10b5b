"""The contract of an Algorithm, and the checks of configurations. A new algorithm joins by a line in tests/registry.py."""

import contextlib
import dataclasses

import optree
import pytest
import torch
from torch.func import vmap
from torch.utils import _pytree as torch_pytree

import funrl
from funrl import debug, random, transforms, tree
from funrl.algos._arguments import make_config
from funrl.policies import StatefulPolicy
from tests.registry import ALGORITHMS, EVOLUTIONARY
from tests.support import same, traced

AGENTS = 2


def pytest_generate_tests(metafunc):
    """Run a test with the argument ``kind`` for each kind in ALGORITHMS."""
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", ALGORITHMS)


def stateless(policy, example):
    """Make a policy with a memory act as at the first observation of an episode."""
    if not isinstance(policy, StatefulPolicy):
        return policy

    def act(params, key, observation):
        return policy.act(params, key, policy.start(params, example), observation, torch.tensor(True))[1:]

    return act


def keys(seed):
    return random.split(random.key(seed), AGENTS)


def test_vmapped_updates_agree_with_single_ones(algorithm, kind):
    algo = algorithm(kind)
    given, states = keys(1), vmap(algo.init)(keys(0))
    singles = [algo.init(key) for key in keys(0).unbind(0)]
    same(states, tree.stack(singles))
    kept = tree.map(torch.clone, (states, given))
    results = [algo.step(key, state) for key, state in zip(given.unbind(0), singles, strict=True)]
    same(vmap(algo.step)(given, states), tree.stack(results), rtol=1e-4, atol=1e-5)
    same(algo.step(given[0], singles[0]), results[0], rtol=0, atol=0)
    same((states, given), kept, rtol=0, atol=0)


def test_compiled_updates_agree_with_single_ones(algorithm, program, kind):
    algo, step = algorithm(kind), program(kind)
    states = vmap(algo.init)(keys(0))
    for i in range(3):
        given = keys(i)
        kept = tree.map(torch.clone, (states, given))
        results = [algo.step(key, tree.index(states, j)) for j, key in enumerate(given.unbind(0))]
        before = traced()
        compiled = step(given, states)
        assert i == 0 or traced() == before, "it compiled again"
        same(compiled, tree.stack(results), rtol=1e-3, atol=1e-4)
        same((states, given), kept, rtol=0, atol=0)
        states = compiled[0]


def test_the_key_decides(algorithm, kind):
    algo = algorithm(kind)
    step = vmap(algo.step)
    states = vmap(algo.init)(torch.stack([random.key(0)] * 2))
    close = dict(rtol=1e-4, atol=1e-5)  # rows of one program may take other paths through a kernel
    same(tree.index(states, 0), tree.index(states, 1), **close)
    once, _ = step(torch.stack([random.key(1)] * 2), states)
    same(tree.index(once, 0), tree.index(once, 1), **close)
    again, _ = step(torch.stack([random.key(1), random.key(2)]), states)
    same(tree.index(again, 0), tree.index(once, 0), **close)
    one, other = (tree.ravel(tree.index(again, i).learner.params.network)[0] for i in range(2))
    assert (one - other).abs().max() > 1e-4


def test_state_metrics_and_keys(algorithm, kind):
    algo = algorithm(kind)
    with contextlib.nullcontext() if kind in ("apg", "shac") else debug.keys():  # those two play their rollout again, with its key
        state = algo.init(random.key(0))
        new, metrics = algo.step(random.key(1), state)
    tree.check_like(new, state, "the new state", "the old")
    assert all(isinstance(x, torch.Tensor) and not x.requires_grad for x in tree.leaves((new, metrics)))
    for leaves, build in (optree.tree_flatten(new), torch_pytree.tree_flatten(new)):
        again = optree.tree_unflatten(build, leaves) if isinstance(build, optree.PyTreeSpec) else torch_pytree.tree_unflatten(leaves, build)
        same(again, new, rtol=0, atol=0)
    assert all(x.shape == () for x in metrics.values())
    assert all(x.isfinite() for name, x in metrics.items() if not name.startswith("episode_"))
    assert metrics["steps"] == algo.steps_per_update == new.learner.num_steps


def test_no_two_parts_of_a_learner_share_memory(algorithm, kind):
    state = algorithm(kind).init(random.key(0)).learner
    places = [x.untyped_storage().data_ptr() for x in tree.leaves(state)]
    assert len(set(places)) == len(places)


def test_observations_in_another_precision_than_rewards(algorithm, kind):
    """Observations are float64, as those of gymnasium's MuJoCo: the learner computes and remembers in the dtype of rewards."""
    algo = algorithm(kind)
    options = {field.name: getattr(algo.config, field.name) for field in dataclasses.fields(algo.config)}
    double = funrl.algos.make(algo.name, transforms.cast(torch.float64)(algo.env), **options)
    state, expected = double.init(random.key(0)), algo.init(random.key(0))
    assert state.actor.timestep.observation.dtype == torch.float64
    result, expected = double.step(random.key(1), state), algo.step(random.key(1), expected)
    same((result[0].learner, result[1]), (expected[0].learner, expected[1]), rtol=1e-4, atol=1e-5)


def test_an_agent_begins_with_hyperparameters_of_its_own(algorithm, kind):
    algo = algorithm(kind)
    name = next(field.name for field in dataclasses.fields(algo.config) if not field.metadata.get("static"))
    value = torch.tensor(0.125)
    state, usual = algo.init(random.key(0), {name: value}), algo.init(random.key(0))
    assert getattr(state.learner.hparams, name) == value != getattr(usual.learner.hparams, name)
    assert tree.structure(state) == tree.structure(usual)


def test_the_name_of_an_environment_is_none(kind):
    name, env, options = ALGORITHMS[kind]
    with pytest.raises(TypeError, match=r"env: expected a funrl.env.Env( or VectorEnv)?, got a str; funrl.envs.make makes one"):
        getattr(funrl.algos, name, getattr(funrl.meta, name, None)).make(env, **options)


def test_float64_comes_from_the_environment(algorithm, kind):
    algo = algorithm(kind)
    env = algo.env._replace(default_params=tree.to(algo.env.default_params, torch.float64))
    options = {field.name: getattr(algo.config, field.name) for field in dataclasses.fields(algo.config)}
    double = funrl.algos.make(algo.name, env, **options)
    for made, dtype in ((double, torch.float64), (algo, torch.float32)):
        result = made.step(random.key(1), made.init(random.key(0)))
        for path, x in zip(tree.paths(result), tree.leaves(result), strict=True):
            # Priorities have dtypes of their own, whatever the items are.
            if not path.startswith(("[0].learner.buffer.priorities", "[0].learner.buffer.exponents")):
                assert x.dtype in (dtype, torch.int64, torch.bool), f"{path} is {x.dtype}"


def test_everything_is_on_the_device_of_the_key(algorithm, kind):
    algo = algorithm(kind)
    key = random.key(0).to("meta")
    state, metrics = algo.step(key, algo.init(key))
    assert {x.device.type for x in tree.leaves((state, metrics))} == {"meta"}


def learned(network):
    """Return the parameters with gradients: all but the running moments of normalisation."""
    return {path: x for path, x in zip(tree.paths(network), tree.leaves(network), strict=True) if "statistics" not in path}


def hyperparameters_differ_between_agents(algo, step):
    states = vmap(algo.init)(keys(0))
    for rates in ([0.0, 1e-2], [1e-2, 0.0]):
        changed = tree.update(states, ("learner", "hparams", "learning_rate"), torch.tensor(rates))
        new, _ = step(keys(1), changed)
        moved = [not tree.equal(*(learned(tree.index(s, i).learner.params.network) for s in (new, states))) for i in range(AGENTS)]
        assert moved == [rate > 0 for rate in rates]


def test_hyperparameters_differ_between_agents(algorithm, kind):
    algo = algorithm(kind)
    hyperparameters_differ_between_agents(algo, vmap(algo.step))


def test_hyperparameters_differ_between_agents_of_one_program(algorithm, program, kind):
    algo, step = algorithm(kind), program(kind)
    step(keys(1), vmap(algo.init)(keys(0)))
    before = traced()
    hyperparameters_differ_between_agents(algo, step)
    assert traced() == before


def test_acting(algorithm, kind):
    algo = algorithm(kind)
    params = algo.init(random.key(0)).learner.params
    observations = vmap(algo.env.observation_space.sample)(random.split(random.key(1), 20))
    observations = observations.clamp(-3, 3) if observations.is_floating_point() else observations
    many = random.split(random.key(2), 20)
    act, greedy = (stateless(policy, observations[0]) for policy in (algo.act, algo.greedy))
    for function in (act, greedy):
        action, extras = vmap(function, (None, 0, 0))(params, many, observations)
        assert vmap(algo.env.action_space.contains)(action).all()
        assert all(len(x) == 20 for x in tree.leaves(extras))
        alone, _ = function(params, many[3], observations[3])
        torch.testing.assert_close(alone, action[3])
    other, _ = vmap(greedy, (None, 0, 0))(params, many + 1, observations)
    assert torch.equal(other, action)
    first, _ = vmap(act, (None, 0, None))(params, many, observations[0])
    assert len(first.unique()) > 1 or algo.name in EVOLUTIONARY


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of each type."""

    num_envs: int = 64
    gamma: float = 0.99
    num_cells: tuple = (64, 64)
    trunk: str = "shared"
    normalize: bool = False


def test_make_config():
    assert make_config(Config, {}) == Config()
    config = make_config(Config, {"gamma": 1, "num_cells": [8], "normalize": True})
    assert config == Config(gamma=1.0, num_cells=(8,), normalize=True) and isinstance(config.gamma, float)


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(gama=0.9), ValueError, "unknown option 'gama': did you mean gamma?"),
        (dict(zzz=1), ValueError, "unknown option 'zzz': choose one of num_envs, gamma, num_cells, trunk, normalize"),
        (dict(num_envs=3.0), TypeError, "num_envs: expected int, as its default 64 is, got 3.0"),
        (dict(num_envs=True), TypeError, "num_envs: expected int"),
        (dict(gamma="x"), TypeError, "gamma: expected float"),
        (dict(gamma=True), TypeError, "gamma: expected float"),
        (dict(num_cells=8), TypeError, "num_cells: expected tuple"),
        (dict(normalize=1), TypeError, "normalize: expected bool"),
    ],
)
def test_make_config_errors(options, error, message):
    with pytest.raises(error) as raised:
        make_config(Config, options)
    assert message in str(raised.value)


def test_make_by_name():
    """A batched environment says how many copies there are; what is no environment says so."""
    with funrl.envs.make("gymnasium:CartPole-v1", num_envs=2) as env:
        assert funrl.algos.make("dqn", env).config.num_envs == 2
    for wrong in (None, env.action_space):
        with pytest.raises(TypeError, match=r"algos\.make: env: expected a funrl\.env\.Env or VectorEnv, or the name of one"):
            funrl.algos.make("dqn", wrong)
