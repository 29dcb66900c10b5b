import math
from functools import partial

import chex
import numpy as np
import pytest
import torch
from torch.func import grad, grad_and_value

from funrl.env import Transition
from funrl.losses import c51_loss, dqn_loss, huber, qr_dqn_loss
from tests.losses.batches import ACTIONS, OBSERVATIONS, Q, normal, parameters, q_values, transitions, unused, weights
from tests.oracles.deepmind import rlax

jax = pytest.importorskip("jax")
jnp = jax.numpy

W, TARGET_W = (normal(seed, OBSERVATIONS, ACTIONS, dtype=torch.float32) for seed in (1, 2))


def linear(params, observation):
    return observation @ params


def close(got, expected, tolerance=1e-5):
    chex.assert_trees_all_close(np.asarray(got), np.asarray(expected), rtol=tolerance, atol=tolerance)


def test_huber_agrees_with_rlax():
    x = 3 * normal(0, 50, dtype=torch.float32)
    for delta in (0.5, 1.0, 10.0):
        close(huber(x, delta=delta), rlax.huber_loss(x.numpy(), delta))
        close(huber(x, delta=torch.tensor(delta)), rlax.huber_loss(x.numpy(), delta))
        close(grad(lambda x, d=delta: huber(x, delta=d).sum())(x), x.clamp(-delta, delta))
    assert torch.equal(huber(x, delta=math.inf), 0.5 * x.square())


@pytest.mark.parametrize("double", [False, True])
def test_agrees_with_rlax(double):
    """Value, gradient and errors of a linear network, with weights and a discount for each sample."""
    batch, weight = transitions(discrete=True, dtype=torch.float32), weights(dtype=torch.float32)
    gamma = torch.linspace(0.8, 1.0, 12)
    arrays = [x.numpy() for x in (batch.observation, batch.next_observation, batch.action, batch.reward)]
    discount = (gamma * ~batch.terminated).numpy()

    def expected(w):
        observation, next_observation, action, reward = arrays
        if double:
            errors = jax.vmap(rlax.double_q_learning)(
                *(observation @ w, action, reward, discount, next_observation @ TARGET_W.numpy(), next_observation @ w)
            )
        else:
            errors = jax.vmap(rlax.q_learning)(observation @ w, action, reward, discount, next_observation @ TARGET_W.numpy())
        return jnp.mean(weight.numpy() * rlax.huber_loss(errors, 1.0)), errors

    options = {"gamma": gamma, "weight": weight, "chooser_apply": linear if double else None}
    gradient, (got, metrics) = grad_and_value(dqn_loss, has_aux=True)(W, TARGET_W, batch, apply=linear, **options)
    (value, errors), expected_gradient = jax.value_and_grad(expected, has_aux=True)(W.numpy())
    close(got, value)
    close(gradient, expected_gradient)
    close(metrics["td_error"], np.abs(errors))
    assert (np.abs(errors) > 1).any() and (np.abs(errors) < 1).any()


def test_metrics_by_hand():
    batch = transitions(2, discrete=True).replace(
        reward=torch.tensor([1.0, 2.0]), terminated=torch.tensor([False, True]), action=torch.tensor([0, 1])
    )
    q, next_q = torch.tensor([[1.0, 9.0], [9.0, 5.0]]), torch.tensor([[4.0, 8.0], [1.0, 1.0]])
    batch = batch.replace(observation=q, next_observation=next_q)
    loss, metrics = dqn_loss((), (), batch, apply=lambda _, x: x, gamma=0.5, huber_delta=math.inf)
    got = {name: x.tolist() for name, x in metrics.items()}
    assert loss == 6.25
    assert got == {
        "critic_loss": 6.25,
        "q_mean": 3.0,
        "q_max": 5.0,
        "target_mean": 3.5,
        "target_max": 5.0,
        "td_error": [4.0, 3.0],
    }


def test_the_learned_network_chooses_in_double_learning():
    """Where the two networks disagree about the best action, plain and double targets differ in the way that the paper says."""
    batch = transitions(1, discrete=True).replace(terminated=torch.tensor([False]), reward=torch.tensor([0.0]), action=torch.tensor([0]))
    learned, target = torch.tensor([[0.0, 1.0]]), torch.tensor([[5.0, 3.0]])

    def apply(params, observation):
        return params

    assert dqn_loss(learned, target, batch, apply=apply, gamma=1.0)[1]["target_mean"] == 5.0
    assert dqn_loss(learned, target, batch, apply=apply, chooser_apply=apply, gamma=1.0)[1]["target_mean"] == 3.0


@pytest.mark.parametrize("loss", [dqn_loss, partial(dqn_loss, chooser_apply=q_values)])
def test_another_function_may_take_the_target_params(loss):
    batch, params = transitions(discrete=True), parameters(Q, 3, OBSERVATIONS)
    got = loss(params, params, batch, apply=q_values, target_apply=lambda p, x: 2 * q_values(p, x), gamma=0.9)[1]["target_mean"]
    plain = loss(params, params, batch.replace(reward=0 * batch.reward), apply=q_values, gamma=0.9)[1]["target_mean"]
    torch.testing.assert_close(got, batch.reward.mean() + 2 * plain)


@pytest.mark.parametrize("loss", [dqn_loss, partial(dqn_loss, chooser_apply=q_values)])
def test_targets_carry_no_gradient(loss):
    batch, params, target = transitions(discrete=True), parameters(Q, 3, OBSERVATIONS), parameters(Q, 4, OBSERVATIONS)
    assert unused(grad(lambda p: loss(params, p, batch, apply=q_values, gamma=0.9)[0])(target))
    assert unused(grad(lambda x: loss(params, target, batch.replace(next_observation=x), apply=q_values, gamma=0.9)[0])(batch.observation))


B = transitions(4, discrete=True, dtype=torch.float32)


def call(batch=B, apply=linear, **options):
    return lambda: dqn_loss(W, TARGET_W, batch, **{"apply": apply, "gamma": 0.9} | options)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (call({"observation": B.observation}), TypeError, r"dqn_loss: batch: expected a funrl.env.Transition .*got a dict with \['obs"),
        (
            call(transitions(4)),
            TypeError,
            "batch.action: expected a tensor of integers, got torch.float64; for continuous actions use ddpg_loss",
        ),
        (call(B.replace(action=B.action[:, None])), ValueError, r"batch.action: .*\[4\] of batch.reward, got \[4, 1\]; squeeze"),
        (call(B.replace(terminated=B.terminated[:, None])), ValueError, r"batch.terminated: .*\[4\] of batch.reward, got \[4, 1\]"),
        (call(B.replace(terminated=B.reward)), TypeError, "batch.terminated: expected a bool tensor, got torch.float32"),
        (call(B.replace(reward=B.action)), TypeError, "batch.reward: expected a floating-point tensor, got torch.int64"),
        (call(apply=lambda p, x: x[:, 0]), ValueError, r"apply's values: expected the shape \[4, A\], got \[4\]"),
        (call(target_apply=lambda p, x: x[:2]), ValueError, r"target_apply's values: expected the shape \[4, A\], got \[2, 4\]"),
        (call(weight=torch.ones(4, 1)), ValueError, r"weight: expected the shape \[4\], got \[4, 1\]"),
        (call(weight=torch.ones(4, dtype=torch.int64)), TypeError, "weight: expected a floating-point tensor, got torch.int64"),
        (call(gamma=1.5), ValueError, r"dqn_loss: gamma: expected a number in \[0, 1\], got 1.5"),
        (call(gamma=torch.ones(4, 1)), ValueError, r"gamma: .* shape \[\] or \[4\], got \[4, 1\]"),
        (call(huber_delta=-1.0), ValueError, "huber_delta: expected a number of at least 0, got -1.0"),
        (
            call(chooser_apply=lambda p, x: x[:2]),
            ValueError,
            r"apply's values of next_observation: expected the shape \[4, A\], got \[2, 4\]",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_noisy_choice_has_a_noise_of_its_own():
    """Fortunato et al. draw three: for the value, for the target and for the choice of the next action."""
    batch = Transition(
        observation=torch.eye(2), action=torch.tensor([0, 1]), reward=torch.zeros(2), terminated=torch.tensor([False, False]),
        truncated=torch.tensor([False, False]), next_observation=torch.eye(2), extras=(),
    )  # fmt: skip
    for loss, tail, options in (
        (dqn_loss, (), {}),
        (c51_loss, (3,), {"support": torch.tensor([0.0, 1.0, 2.0])}),
        (qr_dqn_loss, (3,), {}),
    ):
        seen = []

        def note(name, tail=tail, seen=seen):
            def apply(params, observation):
                seen.append((name, observation is batch.next_observation))
                return observation.reshape(2, 2, *(1 for _ in tail)).expand(2, 2, *tail)

            return apply

        loss(None, None, batch, apply=note("value"), target_apply=note("target"), chooser_apply=note("choice"), gamma=0.9, **options)
        assert sorted(seen) == [("choice", True), ("target", True), ("value", False)]
