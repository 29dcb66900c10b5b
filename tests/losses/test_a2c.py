import chex
import numpy as np
import pytest
import torch
from torch.func import grad, grad_and_value

from funrl import tree
from funrl.distributions import Categorical, Normal
from funrl.losses import A2CBatch, a2c_loss
from tests.losses.batches import ACTIONS, OBSERVATIONS, normal, transitions, unused, weights

jax = pytest.importorskip("jax")

from tests.oracles import policy_gradient  # noqa: E402  (imports JAX)

PARAMS = {"policy": normal(1, OBSERVATIONS, ACTIONS, dtype=torch.float32), "value": normal(2, OBSERVATIONS, dtype=torch.float32)}


def linear(params, observation):
    return Categorical(observation @ params["policy"]), observation @ params["value"]


def experience(dtype=torch.float32):
    batch = transitions(discrete=True, dtype=dtype)
    return A2CBatch(batch.observation, batch.action, advantage=normal(3, 12, dtype=dtype), target=normal(4, 12, dtype=dtype))


BATCH, WEIGHT = experience(), weights(dtype=torch.float32)


def test_agrees_with_rlax():
    gradient, (loss, metrics) = grad_and_value(a2c_loss, has_aux=True)(
        PARAMS, BATCH, apply=linear, value_weight=0.7, entropy_weight=0.05, weight=WEIGHT
    )
    arrays = [x.numpy() for x in (BATCH.observation, BATCH.action, BATCH.advantage, BATCH.target, WEIGHT)]
    differentiate = jax.value_and_grad(policy_gradient.actor_critic)
    expected, expected_gradient = differentiate(tree.map(lambda x: x.numpy(), PARAMS), *arrays, 0.7, 0.05)
    chex.assert_trees_all_close(loss.numpy(), np.asarray(expected), rtol=1e-5, atol=1e-6)
    for name, x in gradient.items():
        chex.assert_trees_all_close(x.numpy(), np.asarray(expected_gradient[name]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metrics["policy_loss"] + 0.7 * metrics["value_loss"] - 0.05 * metrics["entropy"], loss)


def test_each_term_has_its_weight():
    """With all other weights 0, the value gets no gradient of the policy's loss, and the policy none of the value's."""
    policy_alone = grad(lambda p: a2c_loss(p, BATCH, apply=linear, value_weight=0.0)[0])(PARAMS)
    assert (policy_alone["value"] == 0).all() and (policy_alone["policy"] != 0).any()
    nothing_to_gain = BATCH.replace(advantage=torch.zeros(12))
    value_alone = grad(lambda p: a2c_loss(p, nothing_to_gain, apply=linear)[0])(PARAMS)
    assert (value_alone["policy"] == 0).all() and (value_alone["value"] != 0).any()
    more = grad(lambda p: a2c_loss(p, nothing_to_gain, apply=linear, entropy_weight=1.0)[0])(PARAMS)["policy"]
    entropy = linear(tree.map(lambda x, g: x - 0.01 * g, PARAMS, {**PARAMS, "policy": more}), BATCH.observation)[0].entropy().mean()
    assert entropy > linear(PARAMS, BATCH.observation)[0].entropy().mean()


def test_nothing_in_the_batch_carries_a_gradient():
    def loss(numbers):
        return a2c_loss(PARAMS, BATCH.replace(**numbers), apply=linear)[0]

    assert unused(grad(loss)({"advantage": BATCH.advantage, "target": BATCH.target}))


def column(params, observation):
    policy, value = linear(params, observation)
    return policy, value[:, None]


def vectors(params, observation):
    return Normal(observation, torch.ones_like(observation)), observation[:, 0]


def call(batch=BATCH, apply=linear, **options):
    return lambda: a2c_loss(PARAMS, batch, apply=apply, **options)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (call(transitions(discrete=True)), TypeError, "a2c_loss: batch: expected a funrl.losses.A2CBatch .*got a Transition"),
        (call(BATCH.replace(target=BATCH.target[:, None])), ValueError, r"batch.target: .*\[12\] of batch.advantage, got \[12, 1\]"),
        (call(apply=column), ValueError, r"apply's value: .* got \[12, 1\]; .*squeeze"),
        (call(BATCH.replace(action=BATCH.observation), apply=vectors), ValueError, r"log_prob: .* got \[12, 4\]; .*Independent"),
        (call(BATCH.replace(advantage=BATCH.action)), TypeError, "batch.advantage: expected a floating-point tensor, got torch.int64"),
        (call(value_weight=-1.0), ValueError, "a2c_loss: value_weight: expected a number of at least 0, got -1.0"),
        (call(weight=WEIGHT[:, None]), ValueError, r"a2c_loss: weight: .* got \[12, 1\]"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
