"""Drift functions, compared with loops in float64, and mirror learning, compared with PPO."""

import math

import pytest
import torch
from torch.func import grad, grad_and_value, vmap

import funrl
from funrl import losses, random
from funrl.algos import ppo
from tests.losses.batches import POLICY_AND_VALUE, parameters, policy_and_value, same, transitions

DRIFTS = {
    "clip": lambda x, a: losses.clip_drift(x, a, clip=0.3),
    "dpo": losses.dpo_drift,
    "dpo, other numbers": lambda x, a: losses.dpo_drift(x, a, alpha=torch.tensor(0.5), beta=1.5),
    "learned": lambda x, a: losses.learned_drift(network(x.dtype), x, a),
}


def network(dtype=torch.float64):
    params = losses.init_drift(random.key(3), 5, dtype=dtype)
    return params.replace(output=torch.tensor([0.5, -1.0, 0.7, 0.2, 1.1], dtype=dtype))


def points(n=60, dtype=torch.float64):
    return 0.7 * random.normal(random.key(1), (n,), dtype=dtype), random.normal(random.key(2), (n,), dtype=dtype)


def naive(name, x, a):
    r = math.exp(x)
    if name == "clip":
        return max(0.0, (r - min(max(r, 0.7), 1.3)) * a)
    if name.startswith("dpo"):
        alpha, beta = (0.5, 1.5) if "other" in name else (2.0, 0.6)
        if a >= 0:
            return max(0.0, (r - 1) * a - alpha * math.tanh((r - 1) * a / alpha))
        return max(0.0, x * a - beta * math.tanh(x * a / beta))
    params = network()
    inputs = [1 - r, (1 - r) ** 2, (1 - r) * a, (1 - r) ** 2 * a, x, x**2, x * a, x**2 * a]
    hidden = [math.tanh(sum(w * y for w, y in zip(row, inputs, strict=True))) for row in params.hidden.tolist()]
    return max(0.0, sum(w * y for w, y in zip(params.output.tolist(), hidden, strict=True)) - 1e-6)


@pytest.mark.parametrize("name", DRIFTS)
def test_drifts_agree_with_loops(name):
    x, advantage = points()
    expected = [naive(name, *pair) for pair in zip(x.tolist(), advantage.tolist(), strict=True)]
    found = DRIFTS[name](x, advantage)
    same(found, torch.tensor(expected, dtype=torch.float64))
    assert 0.1 < (found > 0).double().mean() < 0.95, "both kinds are there"


@pytest.mark.parametrize("name", DRIFTS)
def test_a_drift_and_its_gradient_are_zero_at_a_ratio_of_one(name):
    advantage = points()[1]
    zero = torch.zeros_like(advantage)
    slope, value = grad_and_value(lambda x: DRIFTS[name](x, advantage).sum())(zero)
    same((value, slope), (zero[0], zero), rtol=0, atol=0)


@pytest.mark.parametrize("name", DRIFTS)
def test_a_drift_far_away_is_finite(name):
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0])
    slope, value = grad_and_value(lambda x: DRIFTS[name](x, advantage).sum())(torch.tensor([40.0, 40.0, -40.0, -40.0]))
    assert value.isfinite() and slope.isfinite().all()


def batch():
    b = transitions(discrete=True)
    numbers = {"log_prob": b.extras["log_prob"], "value": b.observation[..., 0], "target": b.observation[..., 1]}
    return parameters(POLICY_AND_VALUE, 0, 4), losses.PPOBatch(b.observation, b.action, advantage=b.reward, **numbers)


def test_with_the_drift_of_clipping_it_is_ppo():
    params, rows = batch()
    options = dict(apply=policy_and_value, value_clip=0.2, entropy_weight=0.1, weight=torch.linspace(0.5, 2.0, 12, dtype=torch.float64))
    found = grad_and_value(losses.drift_loss, has_aux=True)(params, rows, drift=DRIFTS["clip"], **options)
    expected = grad_and_value(losses.ppo_loss, has_aux=True)(params, rows, clip=0.3, **options)
    assert found[1][1].pop("drift") > 0 and expected[1][1].pop("clip_fraction") > 0
    same(found, expected)


def test_without_drift_it_is_the_surrogate_alone():
    params, rows = batch()
    nothing = lambda x, a: 0 * x  # noqa: E731
    found, _ = losses.drift_loss(params, rows, apply=policy_and_value, drift=nothing)
    expected, _ = losses.ppo_loss(params, rows, apply=policy_and_value, clip=1e9)
    same(found, expected)


def test_ppo_learns_by_a_drift_as_by_its_clip():
    options = dict(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, num_cells=(8,), clip=0.1, learning_rate=0.03)
    env = funrl.envs.make("CartPole-v1")
    own, drifting = (ppo.make(env, loss=loss, **options) for loss in (None, ppo.with_drift(lambda x, a: losses.clip_drift(x, a, clip=0.1))))
    results = [algo.step(random.key(1), algo.init(random.key(0))) for algo in (own, drifting)]
    same(*(result[0] for result in results))
    assert results[1][1]["drift"] > 0
    other = ppo.make(env, loss=ppo.with_drift(losses.dpo_drift), **options)
    policies = [other.step(random.key(1), other.init(random.key(0)))[0].learner.params.network["policy"], results[0][0].learner.params]
    assert (policies[0][0]["weight"] - policies[1].network["policy"][0]["weight"]).abs().max() > 1e-4


def test_drifts_that_differ_between_agents_are_one_program():
    params = vmap(lambda key: losses.init_drift(key, 4))(random.split(random.key(0), 3))
    params = params.replace(output=torch.tensor([[0.0] * 4, [0.5] * 4, [0.5] * 4]))
    options = dict(num_envs=2, num_steps=16, num_epochs=2, num_minibatches=1, num_cells=(8,), learning_rate=0.03)

    def learn(drift, key):
        algo = ppo.make(funrl.envs.make("CartPole-v1"), loss=ppo.with_drift(lambda x, a: losses.learned_drift(drift, x, a)), **options)
        return algo.step(key, algo.init(key))[1]["drift"]

    found = funrl.compile(vmap(learn, (0, None)), backend="aot_eager")(params, random.key(1))
    assert found[0] == 0 and (found[1:] > 0).all() and found[1] != found[2]


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda x: losses.dpo_drift(x, x[:2]), ValueError, r"dpo_drift: advantage: expected the shape \[3\] of log_ratio, got \[2\]"),
        (lambda x: losses.dpo_drift(x, x, alpha=0.0), ValueError, "dpo_drift: alpha: expected a number above 0, got 0.0"),
        (lambda x: losses.dpo_drift(x, x, beta=-1), ValueError, "dpo_drift: beta"),
        (lambda x: losses.clip_drift(x, x, clip=-0.1), ValueError, "clip_drift: clip"),
        (lambda x: losses.clip_drift(x.long(), x), TypeError, "clip_drift: log_ratio: expected a floating-point tensor"),
        (lambda x: losses.learned_drift(network(), x, x[:1]), ValueError, "learned_drift: advantage"),
        (lambda x: losses.init_drift(random.key(0), 0), ValueError, "init_drift: num_hidden: expected at least 1, got 0"),
        (
            lambda x: losses.drift_loss(*batch(), apply=policy_and_value, drift=lambda x, a: x.sum()),
            ValueError,
            "drift_loss: drift's result: expected the shape",
        ),
    ],
)
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call(torch.zeros(3))


def test_gradients_go_through_the_ratio_alone():
    params, rows = batch()
    moved = grad(lambda a: losses.drift_loss(params, rows.replace(advantage=a), apply=policy_and_value)[0])(rows.advantage)
    assert (moved == 0).all()
