import pytest
import torch
from torch.func import grad, grad_and_value

from funrl import random
from funrl.losses import sac_actor_loss, sac_critic_loss, sac_loss, temperature_loss
from tests.losses.batches import (
    ACTIONS,
    ACTOR,
    actor,
    critics,
    gaussian,
    leaves_of_autograd,
    member,
    same_as_autograd,
    soft_actor_critic,
    transitions,
    unused,
    weights,
)
from tests.oracles import losses

PARAMS, TARGET = soft_actor_critic(0), soft_actor_critic(10).critic
BATCH, WEIGHT, KEY = transitions(), weights(), random.key(7)
NETWORKS = {"actor": gaussian([]), "critic": critics}


def policy(params):
    return losses.gaussian(lambda observation: ACTOR.apply(params, observation))


def test_agrees_with_the_naive_loop():
    """Each part of the parameters gets the gradient of its own term, in which all else is a constant."""
    options = {"critic": critics, "gamma": 0.9, "target_entropy": -2.5, "weight": WEIGHT}
    drawn = []
    sac_loss(PARAMS, TARGET, KEY, BATCH, actor=gaussian(drawn), **options)
    next_noise, noise = drawn
    assert next_noise.shape == noise.shape == (12, ACTIONS) and not torch.equal(next_noise, noise)
    gradient, (loss, metrics) = grad_and_value(sac_loss, has_aux=True)(PARAMS, TARGET, KEY, BATCH, actor=gaussian([]), **options)

    learned, leaves = leaves_of_autograd(PARAMS)
    alpha, fixed = PARAMS.log_alpha.exp(), [member(PARAMS.critic, e) for e in range(2)]
    critic_loss = losses.soft_critic(
        *(BATCH, WEIGHT, 0.9, alpha, [member(learned.critic, e) for e in range(2)]),
        *(policy(PARAMS.actor), [member(TARGET, e) for e in range(2)], next_noise),
    )
    actor_loss, log_probs = losses.soft_actor(BATCH, WEIGHT, alpha, lambda s, a: min(q(s, a) for q in fixed), policy(learned.actor), noise)
    alpha_loss = losses.temperature(learned.log_alpha, log_probs, WEIGHT, -2.5)
    torch.testing.assert_close(loss, (critic_loss + actor_loss + alpha_loss).detach())
    for name, x in {"critic_loss": critic_loss, "actor_loss": actor_loss, "temperature_loss": alpha_loss, "temperature": alpha}.items():
        torch.testing.assert_close(metrics[name], x.detach())
    torch.testing.assert_close(metrics["entropy"], -torch.stack(log_probs).mean())
    assert metrics["td_error"].shape == (12,)
    same_as_autograd(gradient, critic_loss + actor_loss + alpha_loss, PARAMS, leaves)


def test_the_target_is_the_smaller_less_the_temperature_times_log_prob():
    def constants(params, observation, action):
        return params[:, None] + 0 * action.sum(-1)

    class Known:
        def __init__(self, observation):
            self.observation = observation

        def sample_with_log_prob(self, key):
            return self.observation[..., :ACTIONS], torch.full_like(self.observation[..., 0], -4.0)

    batch = BATCH.replace(reward=torch.ones_like(BATCH.reward), terminated=torch.arange(12) == 0)
    params = PARAMS.replace(log_alpha=torch.tensor(0.5).double().log(), critic=torch.tensor([2.0, 9.0]).double())
    networks = {"actor": lambda p, s: Known(s), "critic": constants}
    values, target = torch.tensor([1.0, 2.0]).double(), torch.tensor([7.0, 3.0]).double()
    loss, metrics = sac_critic_loss(values, params, target, KEY, batch, gamma=1.0, **networks)
    torch.testing.assert_close(metrics["target_max"].item(), 1 + 3 + 0.5 * 4)
    torch.testing.assert_close(metrics["td_error"].tolist(), [1.0] + [5.0] * 11)
    torch.testing.assert_close(loss.item(), 0.5 * ((0 + 1) + 11 * (25 + 16)) / 12)
    torch.testing.assert_close(sac_actor_loss((), params, KEY, batch, **networks)[0].item(), 0.5 * -4 - 2)


def test_what_carries_no_gradient():
    critic_options = {"gamma": 0.9, **NETWORKS}
    assert unused(grad(lambda p: sac_critic_loss(PARAMS.critic, p, TARGET, KEY, BATCH, **critic_options)[0])(PARAMS))
    assert unused(grad(lambda t: sac_critic_loss(PARAMS.critic, PARAMS, t, KEY, BATCH, **critic_options)[0])(TARGET))
    at_next = grad(lambda x: sac_critic_loss(PARAMS.critic, PARAMS, TARGET, KEY, BATCH.replace(next_observation=x), **critic_options)[0])
    assert unused(at_next(BATCH.next_observation))
    # The actor's loss teaches neither critics nor temperature, ...
    assert unused(grad(lambda p: sac_actor_loss(PARAMS.actor, p, KEY, BATCH, **NETWORKS)[0])(PARAMS))
    # ... and the temperature's not the actor.
    log_prob = BATCH.extras["log_prob"]
    assert unused(grad(lambda x: temperature_loss(PARAMS.log_alpha, x, target_entropy=-3.0)[0])(log_prob))
    assert not sac_actor_loss(leaves_of_autograd(PARAMS.actor)[0], PARAMS, KEY, BATCH, **NETWORKS)[1]["log_prob"].requires_grad


def test_the_temperature_falls_where_there_is_too_much_entropy():
    log_prob = torch.tensor([-3.0, -5.0])
    for target, sign in ((3.0, 1), (4.0, 0), (5.0, -1)):
        assert grad(lambda x, t=target: temperature_loss(x, log_prob, target_entropy=t)[0])(torch.tensor(2.0)) == sign


def call(**options):
    return lambda: sac_loss(PARAMS, TARGET, KEY, BATCH, **{"gamma": 0.9, "target_entropy": -3.0, **NETWORKS} | options)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (call(actor=actor), TypeError, "sac_critic_loss: actor: .*sample_with_log_prob.* got float64 .*; .*ddpg_loss or td3_critic_loss"),
        (call(critic=lambda p, s, a: critics(p, s, a)[0]), ValueError, r"of next_observation: expected the shape \[E, 12\], got \[12\]"),
        (call(gamma=-0.1), ValueError, "sac_critic_loss: gamma: .* got -0.1"),
        (call(weight=WEIGHT[:, None]), ValueError, r"weight: .* got \[12, 1\]"),
        (
            lambda: sac_loss(PARAMS.actor, TARGET, KEY, BATCH, gamma=0.9, target_entropy=0.0, **NETWORKS),
            TypeError,
            "sac_loss: params: .*Soft",
        ),
        (
            lambda: temperature_loss(torch.zeros(1), WEIGHT, target_entropy=0.0),
            ValueError,
            r"log_alpha: expected the shape \[\], got \[1\]",
        ),
        (lambda: temperature_loss(1.0, WEIGHT, target_entropy=0.0), TypeError, "log_alpha: expected a floating-point tensor, got a float"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
