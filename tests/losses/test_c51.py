import chex
import numpy as np
import pytest
import torch
from torch.func import grad, grad_and_value

from funrl.losses import c51_loss, project_categorical
from tests.losses.batches import ACTIONS, OBSERVATIONS, normal, transitions, unused, weights
from tests.oracles import losses
from tests.oracles.deepmind import rlax

jax = pytest.importorskip("jax")
jnp = jax.numpy

ATOMS = 7
SUPPORT = torch.linspace(-2.0, 2.0, ATOMS)
W, TARGET_W = (normal(seed, OBSERVATIONS, ACTIONS, ATOMS, dtype=torch.float32) for seed in (1, 2))


def linear(params, observation):
    return torch.einsum("...d,dak->...ak", observation, params)


def close(got, expected, tolerance=1e-5):
    chex.assert_trees_all_close(np.asarray(got), np.asarray(expected), rtol=tolerance, atol=tolerance)


def test_projection_agrees_with_rlax_and_the_naive_loop():
    atoms, probs = 2 * normal(0, 20, 9, dtype=torch.float32), normal(1, 20, 9, dtype=torch.float32).softmax(-1)
    got = project_categorical(atoms, probs, SUPPORT)
    close(got, jax.vmap(rlax.categorical_l2_project, (0, 0, None))(atoms.numpy(), probs.numpy(), SUPPORT.numpy()))
    close(got, [losses.project(*(x.tolist() for x in (a, p, SUPPORT))) for a, p in zip(atoms, probs, strict=True)])
    assert (atoms.abs() > 2).any()


def test_projection_at_the_edges_and_on_the_atoms():
    """All mass stays: on an atom it stays there, at and beyond an end it goes to the end."""
    support = torch.tensor([0.0, 1.0, 2.0])
    for atom, expected in {0.0: [1, 0, 0], 1.0: [0, 1, 0], 2.0: [0, 0, 1], -5.0: [1, 0, 0], 7.0: [0, 0, 1], 1.25: [0, 0.75, 0.25]}.items():
        assert project_categorical(torch.tensor([atom]), torch.ones(1), support).tolist() == expected
    atoms, probs = 30 * normal(0, 100, ATOMS), normal(1, 100, ATOMS).softmax(-1)
    torch.testing.assert_close(project_categorical(atoms, probs, SUPPORT.double()).sum(-1), torch.ones(100, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:Rlax categorical_cross_entropy:PendingDeprecationWarning")
@pytest.mark.parametrize("double", [False, True])
def test_agrees_with_rlax(double):
    """Value and gradient of a linear network, with weights and a discount for each sample."""
    batch, weight = transitions(discrete=True, dtype=torch.float32), weights(dtype=torch.float32)
    gamma = torch.linspace(0.8, 1.0, 12)
    observation, next_observation, action, reward = (
        x.numpy() for x in (batch.observation, batch.next_observation, batch.action, batch.reward)
    )
    discount, support = (gamma * ~batch.terminated).numpy(), SUPPORT.numpy()

    def expected(w):
        logits, next_logits = jnp.einsum("nd,dak->nak", observation, w), jnp.einsum("nd,dak->nak", next_observation, TARGET_W.numpy())
        arguments = support, logits, action, reward, discount, support, next_logits
        if double:
            chooser = (jax.nn.softmax(jnp.einsum("nd,dak->nak", next_observation, w)) * support).sum(-1)
            each = jax.vmap(rlax.categorical_double_q_learning, (None, 0, 0, 0, 0, None, 0, 0))(*arguments, chooser)
        else:
            each = jax.vmap(rlax.categorical_q_learning, (None, 0, 0, 0, 0, None, 0))(*arguments)
        return jnp.mean(weight.numpy() * each)

    options = {"support": SUPPORT, "gamma": gamma, "weight": weight, "chooser_apply": linear if double else None}
    gradient, (got, metrics) = grad_and_value(c51_loss, has_aux=True)(W, TARGET_W, batch, apply=linear, **options)
    value, expected_gradient = jax.value_and_grad(expected)(W.numpy())
    close(got, value)
    close(gradient, expected_gradient)
    assert metrics["td_error"].shape == (12,) and (metrics["td_error"] > 0).all()


def test_a_terminated_step_has_its_reward_alone():
    batch = transitions(discrete=True, dtype=torch.float32)
    batch = batch.replace(reward=torch.ones(12), terminated=torch.ones(12, dtype=torch.bool))
    metrics = c51_loss(W, TARGET_W, batch, apply=linear, support=SUPPORT, gamma=0.9)[1]
    torch.testing.assert_close(metrics["target_mean"], torch.tensor(1.0))


def test_the_error_is_a_divergence():
    """It is 0 where the prediction is the target, whatever its entropy, and so is the gradient."""
    batch = transitions(1, discrete=True).replace(reward=torch.zeros(1), terminated=torch.tensor([False]), action=torch.zeros(1).long())
    logits, support = normal(0, 1, 1, 3).float(), torch.tensor([-1.0, 0.0, 1.0])
    gradient, (loss, metrics) = grad_and_value(c51_loss, has_aux=True)(
        logits, logits, batch, apply=lambda p, x: p, support=support, gamma=1.0
    )
    assert loss > 0.5 and metrics["td_error"] < 1e-6 and gradient.abs().max() < 1e-6


@pytest.mark.parametrize("chooser", [None, linear])
def test_targets_carry_no_gradient(chooser):
    batch = transitions(discrete=True, dtype=torch.float32)
    options = {"apply": linear, "chooser_apply": chooser, "support": SUPPORT, "gamma": 0.9}
    assert unused(grad(lambda p: c51_loss(W, p, batch, **options)[0])(TARGET_W))
    assert unused(grad(lambda x: c51_loss(W, TARGET_W, batch.replace(next_observation=x), **options)[0])(batch.next_observation))


B = transitions(4, discrete=True, dtype=torch.float32)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: project_categorical(SUPPORT, SUPPORT[:2], SUPPORT), ValueError, r"probs: expected the shape \[7\] of atoms, got \[2\]"),
        (lambda: project_categorical(SUPPORT, SUPPORT, SUPPORT[:1]), ValueError, r"support: .* K at least 2, got \[1\]"),
        (lambda: c51_loss(W, W, B, apply=linear, support=SUPPORT[:6], gamma=0.9), ValueError, r"logits: .*\[4, A, 6\], got \[4, 3, 7\]"),
        (lambda: c51_loss(W, W, B, apply=linear, support=SUPPORT.int(), gamma=0.9), TypeError, "c51_loss: support: .* got torch.int32"),
        (lambda: c51_loss(W, W, B, apply=linear, support=SUPPORT, gamma=2.0), ValueError, "c51_loss: gamma: .* got 2.0"),
        (lambda: c51_loss(W, W, transitions(4), apply=linear, support=SUPPORT, gamma=0.9), TypeError, "action: expected a tensor"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
