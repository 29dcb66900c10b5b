import pytest
import torch
from torch.func import vmap

import funrl
from funrl import random, tree
from funrl.env import Env, check_env
from funrl.envs import vectorize
from tests.support import traced

KEY = random.key(0)
B = 3


@pytest.fixture(params=["CartPole-v1", "Pendulum-v1"])
def envs(request):
    return vectorize(funrl.envs.make(request.param), B)


def same(one, other, tolerance=0.0):
    assert tree.structure(one) == tree.structure(other)
    for path, x, y in zip(tree.paths(one), tree.leaves(one), tree.leaves(other), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, msg=lambda text, path=path: f"{path}: {text}")


def act(envs, key):
    return vmap(envs.action_space.sample)(random.split(key, B))


def own(env_params):
    """Params of which each copy has its own."""
    scale = torch.tensor([1.0, 0.5, 2.0])
    return tree.map(lambda x: x * scale.to(x.dtype) if x.is_floating_point() else x.expand(B), env_params)


def test_keeps_the_contract(envs):
    for seed in range(2):
        check_env(envs, random.key(seed))
    assert envs.num_envs == B and not envs.host and isinstance(envs.below, Env)


@pytest.mark.parametrize("kind", ["shared", "own", "mixed"])
def test_agrees_with_each_copy_alone(envs, kind):
    single, env_params = envs.below, envs.default_params
    if kind == "own":
        env_params = own(env_params)
    if kind == "mixed":
        name = "force" if envs.name == "CartPole-v1" else "gravity"
        env_params = env_params.replace(**{name: torch.tensor([1.0, 5.0, 9.0])})

    def alone(i):
        constants = tree.map(lambda x: x[i] if x.ndim else x, env_params)
        state, first = single.reset(random.split(KEY, B)[i], constants)
        return (state, first), single.step(random.split(KEY, B)[i], state, act(envs, KEY)[i], constants)

    state, first = envs.reset(KEY, env_params)
    result = (state, first), envs.step(KEY, state, act(envs, KEY), env_params)
    same(result, tree.stack([alone(i) for i in range(B)]), 1e-6)
    if kind != "shared":
        shared = envs.step(KEY, state, act(envs, KEY))[1].observation
        assert not torch.equal(result[1][1].observation[1], shared[1])


def test_a_mask_chooses_rows(envs):
    mask = torch.tensor([True, False, True])
    other = random.key(1)
    state, _ = envs.reset(KEY)
    state, _ = envs.step(KEY, state, act(envs, KEY))
    for (new, timestep), (all_new, everywhere) in (
        (envs.reset(other, state=state, where=mask), envs.reset(other)),
        (envs.step(other, state, act(envs, other), where=mask), envs.step(other, state, act(envs, other))),
    ):
        same(tree.index((new, timestep), mask), tree.index((all_new, everywhere), mask))
        same(tree.index(new, ~mask), tree.index(state, ~mask))
        assert not torch.equal(tree.leaves(all_new)[0][1], tree.leaves(state)[0][1])


def test_one_compiled_program_serves_shared_and_own_params_and_vmap(envs):
    state, _ = envs.reset(KEY)
    mask = torch.tensor([True, False, True])

    def run(key, state, env_params):
        state, timestep = envs.step(key, state, act(envs, key), env_params, mask)
        return envs.reset(key, env_params, state, timestep.done), timestep

    compiled = funrl.compile(run, backend="aot_eager")
    for env_params in (envs.default_params, own(envs.default_params)):
        same(compiled(KEY, state, env_params), run(KEY, state, env_params), 1e-5)
        before = traced()
        compiled(random.key(1), state, env_params)
        assert traced() == before
    keys = random.split(KEY, 2)
    lifted = vmap(run, (0, None, None))(keys, state, own(envs.default_params))
    same(lifted, tree.stack([run(key, state, own(envs.default_params)) for key in keys.unbind(0)]), 1e-5)


def test_float64_params_make_a_float64_environment(envs):
    _, timestep = envs.reset(KEY, tree.to(own(envs.default_params), torch.float64))
    assert timestep.observation.dtype == timestep.reward.dtype == torch.float64


def test_an_environment_without_params():
    ball = funrl.envs.make("CartPole-v1")
    bare = ball._replace(
        default_params=(), reset=lambda key, env_params: ball.reset(key), step=lambda k, s, a, env_params: ball.step(k, s, a)
    )
    assert vectorize(bare, 2).reset(KEY)[1].observation.shape == (2, 4)


def test_pictures(envs):
    state, _ = envs.reset(KEY)
    pictures = envs.render(state)
    assert pictures.shape[0] == B and pictures.dtype == torch.uint8
    assert (pictures[1] != envs.below.render(tree.index(state, 1))).any(-1).float().mean() < 1e-3
    assert vectorize(envs.below._replace(render=None), B).render is None


def test_bad_arguments():
    env = funrl.envs.make("CartPole-v1")
    for arguments, error, message in (
        (("CartPole-v1", 2), TypeError, "env: expected an Env, got a str"),
        ((env, 2.0), TypeError, "num_envs: expected an integer of at least 1, got 2.0"),
        ((env, True), TypeError, "num_envs: expected an integer of at least 1, got True"),
        ((env, 0), ValueError, "num_envs: expected an integer of at least 1, got 0"),
        ((vectorize(env, 2)._replace(host=True), 3), ValueError, "CartPole-v1 has 2 copies already; ask its make for num_envs=3"),
        ((vectorize(env, 2), 2), ValueError, "CartPole-v1 has 2 copies already"),
    ):
        with pytest.raises(error, match=message):
            vectorize(*arguments)


def test_what_has_no_row_for_each_copy_is_named(envs):
    state, _ = envs.reset(KEY)
    action = act(envs, KEY)
    params, name = envs.default_params, "force" if envs.name == "CartPole-v1" else "gravity"
    for call, message in (
        (lambda: envs.step(KEY, state, action[0]), r"action: leaf .*: expected a tensor \[3, ...\]"),
        (lambda: envs.step(KEY, state, 1), "action: leaf .*got a int"),
        (lambda: envs.step(KEY, tree.index(state, slice(2)), action), r"state: leaf .*got shape \[2\]"),
        (lambda: envs.reset(KEY, state=state, where=torch.tensor(True)), r"where: expected a bool tensor \[3\]"),
        (lambda: envs.step(KEY, state, action, where=torch.ones(B)), "where: expected a bool tensor .*got float32"),
        (lambda: envs.reset(KEY, params.replace(**{name: torch.ones(2)})), rf"env_params: leaf .*{name} has shape \[2\]; expected one"),
        (lambda: envs.reset(KEY, params.replace(**{name: torch.ones(B, B)})), r"has shape \[3, 3\]; .* or \[3\] with a value for each"),
        (lambda: envs.reset(KEY, {}), "env_params has another structure than default_params"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()
