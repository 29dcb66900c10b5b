import pytest
import torch
from torch.func import grad, grad_and_value

from funrl import tree
from funrl.distributions import Categorical
from funrl.losses import sac_discrete_actor_loss, sac_discrete_critic_loss, sac_discrete_loss
from tests.losses.batches import (
    ACTOR,
    categorical,
    gaussian,
    leaves_of_autograd,
    q_critics,
    q_values,
    same_as_autograd,
    soft_actor_critic,
    transitions,
    unused,
    weights,
)
from tests.oracles import losses

PARAMS, TARGET = soft_actor_critic(0, discrete=True), soft_actor_critic(10, discrete=True).critic
BATCH, WEIGHT = transitions(discrete=True), weights()
NETWORKS = {"actor": categorical, "critic": q_critics}


def members(params):
    return [lambda s, e=e: q_values(tree.index(params, e), s) for e in range(2)]


def policy(params):
    def probabilities(observation):
        odds = ACTOR.apply(params, observation).exp()
        return odds / odds.sum()

    return probabilities


def test_agrees_with_the_naive_loop():
    options = {"gamma": 0.9, "target_entropy": 0.8, "weight": WEIGHT, **NETWORKS}
    gradient, (loss, metrics) = grad_and_value(sac_discrete_loss, has_aux=True)(PARAMS, TARGET, BATCH, **options)
    learned, leaves = leaves_of_autograd(PARAMS)
    alpha = PARAMS.log_alpha.exp()
    critic_loss = losses.soft_discrete_critic(
        *(BATCH, WEIGHT, 0.9, alpha, members(learned.critic), policy(PARAMS.actor), members(TARGET)),
    )
    actor_loss, log_probs = losses.soft_discrete_actor(BATCH, WEIGHT, alpha, members(PARAMS.critic), policy(learned.actor))
    alpha_loss = losses.temperature(learned.log_alpha, log_probs, WEIGHT, 0.8)
    torch.testing.assert_close(loss, (critic_loss + actor_loss + alpha_loss).detach())
    for name, x in {"critic_loss": critic_loss, "actor_loss": actor_loss, "temperature_loss": alpha_loss, "temperature": alpha}.items():
        torch.testing.assert_close(metrics[name], x.detach())
    torch.testing.assert_close(metrics["entropy"], -torch.stack(log_probs).mean())
    same_as_autograd(gradient, critic_loss + actor_loss + alpha_loss, PARAMS, leaves)


def test_the_value_is_an_expectation_by_hand():
    """Two equal actions: V = (min(1, 5) + min(4, 2)) / 2 + alpha log 2."""
    batch = transitions(1, discrete=True).replace(reward=torch.tensor([10.0]), terminated=torch.tensor([False]), action=torch.tensor([1]))
    target, values = torch.tensor([[[1.0, 4.0]], [[5.0, 2.0]]]), torch.zeros(2, 1, 2)
    params = PARAMS.replace(actor=torch.zeros(1, 2), log_alpha=torch.tensor(2.0).log())
    networks = {"actor": lambda p, s: Categorical(p), "critic": lambda p, s: p}
    _, metrics = sac_discrete_critic_loss(values, params, target, batch, gamma=0.5, **networks)
    torch.testing.assert_close(metrics["target_mean"], 10 + 0.5 * (1.5 + 2 * torch.tensor(2.0).log()))


def test_what_carries_no_gradient():
    options = {"gamma": 0.9, **NETWORKS}
    assert unused(grad(lambda p: sac_discrete_critic_loss(PARAMS.critic, p, TARGET, BATCH, **options)[0])(PARAMS))
    assert unused(grad(lambda t: sac_discrete_critic_loss(PARAMS.critic, PARAMS, t, BATCH, **options)[0])(TARGET))
    at_next = grad(lambda x: sac_discrete_critic_loss(PARAMS.critic, PARAMS, TARGET, BATCH.replace(next_observation=x), **options)[0])
    assert unused(at_next(BATCH.next_observation))
    assert unused(grad(lambda p: sac_discrete_actor_loss(PARAMS.actor, p, BATCH, **NETWORKS)[0])(PARAMS))


def call(batch=BATCH, **options):
    return lambda: sac_discrete_loss(PARAMS, TARGET, batch, **{"gamma": 0.9, "target_entropy": 0.8, **NETWORKS} | options)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (call(transitions()), TypeError, "sac_discrete_critic_loss: batch.action: expected whole numbers.*sac_loss"),
        (call(BATCH.replace(action=BATCH.action[:, None])), ValueError, r"batch.action: .* got \[12, 1\]"),
        (call(actor=lambda p, s: gaussian([])(p, s)), TypeError, "actor: .*Categorical, got a Gaussian; continuous .* sac_loss"),
        (call(critic=lambda p, s: q_critics(p, s)[0]), ValueError, r"critic's values: expected the shape \[E, 12, 3\], got \[12, 3\]"),
        (call(gamma=1.5), ValueError, "sac_discrete_critic_loss: gamma: .* got 1.5"),
        (call(weight=WEIGHT[:, None]), ValueError, r"weight: .* got \[12, 1\]"),
        (lambda: sac_discrete_loss({}, TARGET, BATCH, gamma=0.9, target_entropy=0.0, **NETWORKS), TypeError, "sac_discrete_loss: params"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
