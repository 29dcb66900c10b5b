import chex
import numpy as np
import pytest
import torch
from torch.func import grad, grad_and_value

from funrl import tree
from funrl.distributions import Categorical, Independent, TanhNormal
from funrl.losses import ReinforceBatch, reinforce_loss, reinforce_with_baseline_loss
from tests.losses.batches import ACTIONS, OBSERVATIONS, normal, transitions, unused, weights

jax = pytest.importorskip("jax")

from tests.oracles import policy_gradient  # noqa: E402  (imports JAX)

PARAMS = {"policy": normal(1, OBSERVATIONS, ACTIONS, dtype=torch.float32), "value": normal(2, OBSERVATIONS, dtype=torch.float32)}
STEPS, WEIGHT = transitions(discrete=True, dtype=torch.float32), weights(dtype=torch.float32)
BATCH = ReinforceBatch(STEPS.observation, STEPS.action, returns=normal(3, 12, dtype=torch.float32))


def policy(params, observation):
    return Categorical(observation @ params["policy"])


def linear(params, observation):
    return policy(params, observation), observation @ params["value"]


def test_takes_a_squashed_normal():
    """Its entropy, which has no closed form, is part of the loss and of its gradient."""
    locs, batch = torch.zeros(3), BATCH.replace(action=BATCH.observation[:, :3].tanh())

    def loss(scale):
        apply = lambda locs, x: Independent(TanhNormal(x[:, :3] + locs, scale.exp().expand(3)), 1)  # noqa: E731
        return reinforce_loss(locs, batch, apply=apply, entropy_weight=100.0)

    gradient, (_, metrics) = grad_and_value(loss, has_aux=True)(torch.tensor(-1.0))
    assert metrics["entropy"].isfinite() and gradient < 0  # more entropy is less loss


@pytest.mark.parametrize("baseline", [False, True])
def test_agrees_with_rlax(baseline):
    """The advantage is the return, or what it is above the baseline."""
    if baseline:
        loss, options = reinforce_with_baseline_loss, {"apply": linear, "value_weight": 0.7}
        advantage = BATCH.returns - BATCH.observation @ PARAMS["value"]
    else:
        loss, options, advantage = reinforce_loss, {"apply": policy}, BATCH.returns
    gradient, (got, metrics) = grad_and_value(loss, has_aux=True)(PARAMS, BATCH, entropy_weight=0.05, weight=WEIGHT, **options)
    arrays = [x.numpy() for x in (BATCH.observation, BATCH.action, advantage, BATCH.returns, WEIGHT)]
    differentiate = jax.value_and_grad(policy_gradient.actor_critic)
    expected, expected_gradient = differentiate(tree.map(lambda x: x.numpy(), PARAMS), *arrays, options.get("value_weight", 0.0), 0.05)
    chex.assert_trees_all_close(got.numpy(), np.asarray(expected), rtol=1e-5, atol=1e-6)
    for name, x in gradient.items():
        chex.assert_trees_all_close(x.numpy(), np.asarray(expected_gradient[name]), rtol=1e-4, atol=1e-6)
    assert metrics.keys() == {"policy_loss", "entropy"} | ({"value_loss"} if baseline else set())


def test_a_baseline_changes_no_expectation():
    """Over all actions, each as often as the policy says, the gradient is the same with any baseline."""
    observation = BATCH.observation[:1].expand(ACTIONS, -1).double()
    params = tree.map(lambda x: x.double(), PARAMS)
    batch = ReinforceBatch(observation, torch.arange(ACTIONS), returns=torch.tensor([1.0, -2.0, 0.5]).double())
    often = policy(params, observation).probs[0]
    plain = grad(lambda p: reinforce_loss(p, batch, apply=policy, weight=often)[0])(params)
    with_baseline = grad(lambda p: reinforce_with_baseline_loss(p, batch, apply=linear, weight=often)[0])(params)
    torch.testing.assert_close(plain["policy"], with_baseline["policy"])
    assert (plain["policy"] != 0).any()


def test_what_carries_no_gradient():
    assert unused(grad(lambda x: reinforce_loss(PARAMS, BATCH.replace(returns=x), apply=policy)[0])(BATCH.returns))
    assert unused(grad(lambda x: reinforce_with_baseline_loss(PARAMS, BATCH.replace(returns=x), apply=linear)[0])(BATCH.returns))
    # The baseline learns from its own error alone.
    alone = grad(lambda p: reinforce_with_baseline_loss(p, BATCH, apply=linear, value_weight=0.0)[0])(PARAMS)
    assert (alone["value"] == 0).all() and (alone["policy"] != 0).any()


def column(params, observation):
    distribution, value = linear(params, observation)
    return distribution, value[:, None]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: reinforce_loss(PARAMS, STEPS, apply=policy), TypeError, "reinforce_loss: batch: expected a .*ReinforceBatch .*Transition"),
        (
            lambda: reinforce_loss(PARAMS, BATCH.replace(returns=BATCH.returns[:, None]), apply=policy),
            ValueError,
            r"reinforce_loss: apply's log_prob: expected the shape \[12, 1\] of batch.returns, got \[12\]",
        ),
        (lambda: reinforce_loss(PARAMS, BATCH, apply=policy, weight=WEIGHT[:, None]), ValueError, r"weight: .* got \[12, 1\]"),
        (lambda: reinforce_with_baseline_loss(PARAMS, BATCH, apply=column), ValueError, r"apply's value: .* got \[12, 1\]; .*squeeze"),
        (
            lambda: reinforce_with_baseline_loss(PARAMS, BATCH, apply=linear, value_weight=-0.5),
            ValueError,
            "reinforce_with_baseline_loss: value_weight: .* got -0.5",
        ),
        (lambda: reinforce_loss(PARAMS, BATCH.replace(returns=STEPS.action), apply=policy), TypeError, "batch.returns: .*torch.int64"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
