import math

import chex
import numpy as np
import pytest
import torch
from torch.func import grad, grad_and_value

from funrl.losses import qr_dqn_loss, quantile_huber
from tests.losses.batches import ACTIONS, OBSERVATIONS, normal, transitions, unused, weights
from tests.oracles.deepmind import rlax

jax = pytest.importorskip("jax")
jnp = jax.numpy

QUANTILES = 5
W, TARGET_W = (normal(seed, OBSERVATIONS, ACTIONS, QUANTILES, dtype=torch.float32) for seed in (1, 2))
TAU = ((np.arange(QUANTILES) + 0.5) / QUANTILES).astype(np.float32)


def linear(params, observation):
    return torch.einsum("...d,dak->...ak", observation, params)


def close(got, expected, tolerance=1e-5):
    chex.assert_trees_all_close(np.asarray(got), np.asarray(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("delta", [0.5, 1.0, 3.0])
def test_quantile_huber_agrees_with_rlax(delta):
    """rlax does not divide by kappa."""
    quantiles, target = 2 * normal(0, QUANTILES, dtype=torch.float32), 2 * normal(1, 8, dtype=torch.float32)
    expected = rlax.quantile_regression_loss(quantiles.numpy(), TAU, target.numpy(), delta) / delta
    close(quantile_huber(quantiles, target, huber_delta=delta), expected)
    close(quantile_huber(quantiles, target, huber_delta=torch.tensor(delta)), expected)


def test_the_minimum_is_at_the_quantiles():
    """With little rounding, the values that minimise the loss are the middle of each tenth of the data."""
    target = torch.linspace(0.0, 1.0, 1001, dtype=torch.float64)
    quantiles = (torch.arange(5, dtype=torch.float64) + 0.5) / 5
    at = grad(lambda q: quantile_huber(q, target, huber_delta=1e-4))(quantiles)
    assert at.abs().max() < 2e-3
    off = grad(lambda q: quantile_huber(q, target, huber_delta=1e-4))(quantiles + 0.05)
    assert (off > 0.04).all()


@pytest.mark.parametrize("double", [False, True])
def test_agrees_with_rlax(double):
    """Value and gradient of a linear network, with weights and a discount for each sample. rlax has quantiles before actions."""
    batch, weight = transitions(discrete=True, dtype=torch.float32), weights(dtype=torch.float32)
    gamma = torch.linspace(0.8, 1.0, 12)
    observation, next_observation, action, reward = (
        x.numpy() for x in (batch.observation, batch.next_observation, batch.action, batch.reward)
    )
    discount = (gamma * ~batch.terminated).numpy()

    def expected(w):
        quantiles = jnp.einsum("nd,dak->nka", observation, w)
        next_quantiles = jnp.einsum("nd,dak->nka", next_observation, TARGET_W.numpy())
        chooser = jnp.einsum("nd,dak->nka", next_observation, w) if double else next_quantiles
        each = jax.vmap(rlax.quantile_q_learning, (0, None, 0, 0, 0, 0, 0, None))(
            *(quantiles, TAU, action, reward, discount, chooser, next_quantiles, 1.0)
        )
        return jnp.mean(weight.numpy() * each)

    options = {"gamma": gamma, "weight": weight, "chooser_apply": linear if double else None}
    gradient, (got, metrics) = grad_and_value(qr_dqn_loss, has_aux=True)(W, TARGET_W, batch, apply=linear, **options)
    value, expected_gradient = jax.value_and_grad(expected)(W.numpy())
    close(got, value)
    close(gradient, expected_gradient)
    prediction = linear(W, batch.observation)[torch.arange(12), batch.action].mean(-1)
    torch.testing.assert_close(metrics["q_mean"], prediction.mean())
    assert metrics["td_error"].shape == (12,)


def test_a_terminated_step_has_its_reward_alone():
    batch = transitions(discrete=True, dtype=torch.float32)
    batch = batch.replace(terminated=torch.ones(12, dtype=torch.bool), next_observation=torch.full_like(batch.observation, torch.nan))
    metrics = qr_dqn_loss(W, TARGET_W, batch, apply=linear, gamma=0.9)[1]
    torch.testing.assert_close(metrics["target_mean"], batch.reward.mean())


@pytest.mark.parametrize("chooser", [None, linear])
def test_targets_carry_no_gradient(chooser):
    batch = transitions(discrete=True, dtype=torch.float32)
    options = {"apply": linear, "chooser_apply": chooser, "gamma": 0.9}
    assert unused(grad(lambda p: qr_dqn_loss(W, p, batch, **options)[0])(TARGET_W))
    assert unused(grad(lambda x: qr_dqn_loss(W, TARGET_W, batch.replace(next_observation=x), **options)[0])(batch.observation))


B = transitions(4, discrete=True, dtype=torch.float32)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: quantile_huber(W, torch.zeros(5)), ValueError, r"target: expected the shape \[4, 3, J\], got \[5\]"),
        (lambda: quantile_huber(W, W, huber_delta=0.0), ValueError, "huber_delta: expected a number above 0, got 0.0"),
        (lambda: qr_dqn_loss(W, W, B, apply=lambda p, x: x, gamma=0.9), ValueError, r"apply's quantiles: .*\[4, A, K\], got \[4, 4\]"),
        (
            lambda: qr_dqn_loss(W, W, transitions(4), apply=linear, gamma=0.9),
            TypeError,
            "qr_dqn_loss: batch.action: expected a tensor of integers",
        ),
        (lambda: qr_dqn_loss(W, W, B, apply=linear, gamma=-1.0), ValueError, "qr_dqn_loss: gamma"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_without_a_kink_it_is_half_the_squared_error():
    """The limit of the rounded loss, which divided by an infinite kappa was 0, and so were its gradients."""
    quantiles, target = torch.tensor([0.0, 2.0]), torch.tensor([1.0])
    for delta in (math.inf, torch.tensor(math.inf)):
        assert quantile_huber(quantiles, target, huber_delta=delta) == 0.25
        assert grad(lambda q, d=delta: quantile_huber(q, target, huber_delta=d))(quantiles).tolist() == [-0.25, 0.25]
    wide = quantile_huber(quantiles, target, huber_delta=1e6)
    assert wide * 1e6 == pytest.approx(0.25)
