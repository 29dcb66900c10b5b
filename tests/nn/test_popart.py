"""PopArt: its statistics, compared with those of rlax and of a loop in float64, and values that an update preserves."""

import math

import jax.numpy as jnp
import pytest
import torch
from torch.func import vmap

import funrl
from funrl import envs, meta, nn, random, tree
from tests.oracles.deepmind import rlax
from tests.support import same

K, D = 3, 4


def made(**options):
    return nn.popart(lambda observation: observation[..., -K:].argmax(-1), K, **options)


def layer(dtype=torch.float64):
    weight_key, bias_key = random.split(random.key(3))
    return {"weight": random.normal(weight_key, (K, D), dtype=dtype), "bias": random.normal(bias_key, (K,), dtype=dtype)}


def test_updates_equal_those_of_rlax():
    """One target of each of two tasks at a time, after the first targets, as rlax has a constant step size."""
    ours, (_, theirs) = made(rate=0.01), rlax.popart(K, 0.01, 1e-4, 1e6)
    state = nn.PopArtState(torch.zeros(K), torch.ones(K), torch.ones(K))
    other = rlax.PopArtState(jnp.zeros(K), jnp.ones(K), jnp.ones(K))
    head = layer(torch.float32)
    other_head = {"w": jnp.asarray(head["weight"].T.numpy()), "b": jnp.asarray(head["bias"].numpy())}
    task = torch.tensor([2, 0])
    for i in range(50):
        target = random.normal(random.key(i), (2,)) * torch.tensor([5.0, 0.1]) + torch.tensor([3.0, -1.0])
        after = ours.update(state, task, target)
        head = ours.rescale(head, state, after)
        state = after
        other_head, other = theirs(other_head, other, jnp.asarray(target.numpy()), jnp.asarray(task.numpy(), dtype=jnp.int32))
    tolerances = dict(rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.mean, torch.tensor(other.shift.tolist()), **tolerances)
    torch.testing.assert_close(ours.scale(state, torch.arange(K)), torch.tensor(other.scale.tolist()), **tolerances)
    torch.testing.assert_close(head["weight"].T, torch.tensor(other_head["w"].tolist()), **tolerances)
    torch.testing.assert_close(head["bias"], torch.tensor(other_head["b"].tolist()), **tolerances)
    x = torch.tensor([7.0, -7.0])
    expected = rlax.unnormalize(other, jnp.asarray(x.numpy()), jnp.asarray(task.numpy(), dtype=jnp.int32))
    torch.testing.assert_close(ours.denormalize(state, task, x), torch.tensor(expected.tolist()), **tolerances)
    torch.testing.assert_close(ours.normalize(state, task, ours.denormalize(state, task, x)), x, **tolerances)


def test_batches_equal_a_loop_with_second_moments():
    """The first batch of a task replaces the initial values, and later ones count by their mean."""
    ours, rate = made(rate=0.2), 0.2
    state = ours.init(torch.zeros((), dtype=torch.float64))
    first, second, times = [0.0] * K, [1.0] * K, [0] * K
    for i in range(12):
        task_key, key = random.split(random.key(i))
        task = random.randint(task_key, (5, 2), 0, K - (i % 2))
        target = 1e3 * task + 10.0**task * random.normal(key, (5, 2), dtype=torch.float64)
        state = ours.update(state, task, target)
        for k in range(K):
            seen = [float(x) for x, number in zip(target.flatten(), task.flatten(), strict=True) if number == k]
            if seen:
                times[k] += 1
                beta = rate / (1 - (1 - rate) ** times[k])
                first[k] += beta * (sum(seen) / len(seen) - first[k])
                second[k] += beta * (sum(x * x for x in seen) / len(seen) - second[k])
    assert min(times) > 1 and len(set(times)) > 1
    torch.testing.assert_close(state.mean, torch.tensor(first, dtype=torch.float64))
    deviation = [math.sqrt(b - a * a) for a, b in zip(first, second, strict=True)]
    torch.testing.assert_close(ours.scale(state, torch.arange(K)), torch.tensor(deviation, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_an_update_preserves_all_values():
    ours, head = made(rate=0.3), layer()
    x = random.normal(random.key(0), (10, D), dtype=torch.float64)
    state = ours.init(x)

    def values(state, head):
        return ours.denormalize(state, torch.arange(K), x @ head["weight"].T + head["bias"])

    expected = values(state, head)
    for i in range(20):
        target = 1e4 * random.normal(random.key(i), (6,), dtype=torch.float64) ** 3
        after = ours.update(state, torch.tensor([0, 0, 1, 1, 1, 0]), target)
        state, head = after, ours.rescale(head, state, after)
    torch.testing.assert_close(values(state, head), expected, rtol=1e-11, atol=1e-11)
    assert state.var[0] > 1e4 and state.var[2] == 1


def test_scales_have_bounds():
    ours = made(rate=1.0, min_scale=0.5, max_scale=2.0)
    state = ours.init(torch.zeros(()))
    after = ours.update(state, torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, 1.0, -100.0, 100.0]))
    assert ours.scale(after, torch.arange(K)).tolist() == [0.5, 2.0, 1.0]
    assert ours.rescale(layer(torch.float32), state, after)["weight"].isfinite().all()


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_ppo_learns_normalised_values_and_acts_with_those_of_the_task(trunk):
    env = envs.make("Pendulum-v1")
    env = meta.one_of([env, funrl.transforms.reward_scale(1000.0)(env)])
    options = dict(num_envs=8, num_steps=16, num_epochs=1, num_minibatches=1, num_cells=(4,), trunk=trunk, learning_rate=0.0)
    algo = meta.multi_task.make(
        env, tasks=env.default_params.replace(which=torch.arange(2)), popart_rate=0.5, normalize_observation=True, **options
    )
    state = algo.init(random.key(0))
    before = state.learner.params
    collected, transitions = algo.collect(random.key(1), state)
    learner, metrics = algo.learn(random.key(2), state.learner, transitions)
    stats = learner.params.network["popart"]
    assert (stats.var > 1).all() and (stats.var[1] > 1e4 * stats.var[0]) and metrics["value_loss"] < 5
    # With a learning rate of 0 only the statistics changed, and no value did.
    observation = tree.index(collected.timestep.observation, 0)
    params = learner.params.replace(observation=before.observation)
    one, other = (algo.act(x, random.key(3), observation)[1]["value"] for x in (before, params))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(stats.mean.abs().max()))
    assert not torch.equal(tree.leaves(before.network["value"])[-1], tree.leaves(params.network["value"])[-1])


@pytest.mark.slow
def test_statistics_get_no_gradient_and_agents_have_their_own():
    ours = nn.popart(lambda observation: torch.zeros_like(observation[..., 0], dtype=torch.int64), 1)
    algo = funrl.algos.ppo.make(envs.make("CartPole-v1"), popart=ours, num_envs=4, num_steps=8, num_cells=(4,), trunk="shared")
    states = vmap(algo.init)(random.split(random.key(0)))
    compiled, _ = funrl.compile(vmap(algo.step))(random.split(random.key(1)), states)
    states, _ = vmap(algo.step)(random.split(random.key(1)), states)
    same(compiled, states, rtol=1e-3, atol=1e-4)
    each = [tree.index(states, i).learner.params.network["popart"] for i in range(2)]
    assert each[0].mean != each[1].mean
    # The steps of Adam leave them as they are: one more update by hand gives the same.
    state = tree.index(states, 0)
    _, transitions = algo.collect(random.key(2), state)
    learner, _ = algo.learn(random.key(3), state.learner, transitions)
    again, _ = algo.learn(random.key(4), state.learner, transitions)  # other minibatches
    same(learner.params.network["popart"], again.params.network["popart"], rtol=0, atol=0)


def test_errors():
    with pytest.raises(TypeError, match="popart: task: expected a function"):
        nn.popart(None, 2)
    with pytest.raises(ValueError, match=r"popart: rate: expected a number in \(0, 1\], got 0"):
        made(rate=0.0)
    with pytest.raises(ValueError, match="popart: num_tasks: expected an integer of at least 1, got 0"):
        nn.popart(lambda x: x, 0)
    with pytest.raises(TypeError, match=r"popart: expected a funrl\.nn\.PopArt, got .*call the factory"):
        funrl.algos.ppo.make(envs.cartpole(), popart=nn.popart)
    with pytest.raises(ValueError, match="popart: expected a policy without memory, got recurrent='gru'"):
        funrl.algos.ppo.make(envs.cartpole(), popart=made(), recurrent="gru")


def test_a_target_that_is_not_finite_spoils_its_own_task_only():
    heads = nn.popart(lambda observation: observation, 3, rate=1.0)
    for bad in (float("nan"), float("inf")):
        state = heads.update(heads.init(torch.zeros(())), torch.tensor([0, 1, 1]), torch.tensor([bad, 1.0, 3.0]))
        assert state.mean[1:].tolist() == [2.0, 0.0] and state.var[1:].tolist() == [1.0, 1.0] and not state.mean[0].isfinite()
