import chex
import numpy as np
import pytest
import torch
from torch.func import grad, grad_and_value

from funrl import tree
from funrl.losses import ActorCritic, ddpg_actor_loss, ddpg_critic_loss, ddpg_loss
from tests.losses.batches import actor, actor_critic, critic, leaves_of_autograd, same, same_as_autograd, transitions, unused, weights
from tests.oracles import losses
from tests.oracles.deepmind import rlax

jax = pytest.importorskip("jax")

PARAMS, TARGET = actor_critic(0), actor_critic(10)
BATCH, WEIGHT = transitions(), weights()
NETWORKS = {"actor": actor, "critic": critic}


def test_agrees_with_the_naive_loop():
    gradient, (loss, metrics) = grad_and_value(ddpg_loss, has_aux=True)(PARAMS, TARGET, BATCH, gamma=0.9, weight=WEIGHT, **NETWORKS)
    learned, leaves = leaves_of_autograd(PARAMS)
    fixed = PARAMS.critic
    critic_loss = losses.ddpg_critic(
        *(BATCH, WEIGHT, 0.9, lambda s, a: critic(learned.critic, s, a)),
        *(lambda s: actor(TARGET.actor, s), lambda s, a: critic(TARGET.critic, s, a)),
    )
    actor_loss = losses.ddpg_actor(BATCH, WEIGHT, lambda s: actor(learned.actor, s), lambda s, a: critic(fixed, s, a))
    torch.testing.assert_close(loss, (critic_loss + actor_loss).detach())
    torch.testing.assert_close(metrics["critic_loss"], critic_loss.detach())
    torch.testing.assert_close(metrics["actor_loss"], actor_loss.detach())
    same_as_autograd(gradient, critic_loss + actor_loss, PARAMS, leaves)


def test_agrees_with_rlax():
    """The critic's errors are those of TD learning, and the actor's gradient is that of rlax's loss at dQ/da."""
    _, metrics = ddpg_critic_loss(PARAMS.critic, TARGET, BATCH, gamma=0.9, **NETWORKS)
    value = critic(PARAMS.critic, BATCH.observation, BATCH.action)
    next_value = critic(TARGET.critic, BATCH.next_observation, actor(TARGET.actor, BATCH.next_observation))
    discount = 0.9 * (~BATCH.terminated).double()
    arrays = [x.float().numpy() for x in (value, BATCH.reward, discount, next_value)]
    errors = jax.vmap(rlax.td_learning)(*arrays)
    chex.assert_trees_all_close(metrics["td_error"].float().numpy(), np.abs(errors), rtol=1e-4, atol=1e-5)

    loss = lambda a: ddpg_actor_loss(a, PARAMS.critic, BATCH, actor=lambda a, s: a, critic=critic)[0]  # noqa: E731
    action = actor(PARAMS.actor, BATCH.observation)
    slope = grad(lambda a: critic(PARAMS.critic, BATCH.observation, a).sum())(action)
    expected = jax.grad(lambda a: jax.vmap(rlax.dpg_loss)(a, slope.float().numpy()).sum(-1).mean())(action.float().numpy())
    chex.assert_trees_all_close(grad(loss)(action).float().numpy(), np.asarray(expected), rtol=1e-4, atol=1e-6)


def test_the_sum_is_of_its_parts():
    gradient, (loss, metrics) = grad_and_value(ddpg_loss, has_aux=True)(PARAMS, TARGET, BATCH, gamma=0.9, **NETWORKS)
    critic_gradient, (critic_loss, critic_metrics) = grad_and_value(ddpg_critic_loss, has_aux=True)(
        PARAMS.critic, TARGET, BATCH, gamma=0.9, **NETWORKS
    )
    actor_gradient, (actor_loss, actor_metrics) = grad_and_value(ddpg_actor_loss, has_aux=True)(
        PARAMS.actor, PARAMS.critic, BATCH, **NETWORKS
    )
    torch.testing.assert_close(loss, critic_loss + actor_loss)
    same(gradient, ActorCritic(actor_gradient, critic_gradient))
    assert metrics.keys() == critic_metrics.keys() | actor_metrics.keys()


def test_the_actor_climbs():
    """A step against the actor's gradient raises the value of its actions."""
    step = grad(lambda a: ddpg_actor_loss(a, PARAMS.critic, BATCH, **NETWORKS)[0])(PARAMS.actor)

    def value(size):
        params = tree.map(lambda p, g: p - size * g, PARAMS.actor, step)
        return critic(PARAMS.critic, BATCH.observation, actor(params, BATCH.observation)).mean()

    assert value(0.01) > value(0.0)


def test_what_carries_no_gradient():
    assert unused(grad(lambda t: ddpg_loss(PARAMS, t, BATCH, gamma=0.9, **NETWORKS)[0])(TARGET))
    assert unused(grad(lambda c: ddpg_actor_loss(PARAMS.actor, c, BATCH, **NETWORKS)[0])(PARAMS.critic))
    next_gradient = grad(lambda x: ddpg_loss(PARAMS, TARGET, BATCH.replace(next_observation=x), gamma=0.9, **NETWORKS)[0])
    assert unused(next_gradient(BATCH.next_observation))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ddpg_loss({"a": 1}, TARGET, BATCH, gamma=0.9, **NETWORKS), TypeError, "ddpg_loss: params: .*ActorCritic .*actor"),
        (lambda: ddpg_loss(PARAMS, PARAMS.critic, BATCH, gamma=0.9, **NETWORKS), TypeError, "target_params: .*ActorCritic.* got a tuple"),
        (lambda: ddpg_loss(PARAMS, TARGET, (), gamma=0.9, **NETWORKS), TypeError, "batch: expected a funrl.env.Transition"),
        (
            lambda: ddpg_loss(PARAMS, TARGET, BATCH, gamma=0.9, actor=actor, critic=lambda p, s, a: critic(p, s, a)[:, None]),
            ValueError,
            r"critic's value: expected the shape \[12\] of batch.reward, got \[12, 1\]; .*squeeze",
        ),
        (lambda: ddpg_loss(PARAMS, TARGET, BATCH, gamma=1.1, **NETWORKS), ValueError, "gamma: .* got 1.1"),
        (lambda: ddpg_loss(PARAMS, TARGET, BATCH, gamma=0.9, weight=WEIGHT[:, None], **NETWORKS), ValueError, r"weight: .*got \[12, 1\]"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
