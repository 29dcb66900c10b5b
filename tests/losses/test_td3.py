import pytest
import torch
from torch.func import grad, grad_and_value

from funrl import random
from funrl.losses import td3_actor_loss, td3_critic_loss
from tests.losses.batches import (
    ACTIONS,
    actor,
    actor_critic,
    critics,
    leaves_of_autograd,
    member,
    same_as_autograd,
    td3_sum,
    transitions,
    unused,
    weights,
)
from tests.oracles import losses

PARAMS, TARGET = actor_critic(0, members=2), actor_critic(10, members=2)
BATCH, WEIGHT, KEY = transitions(), weights(), random.key(7)
NETWORKS = {"actor": actor, "critic": critics}


def test_agrees_with_the_naive_loop():
    options = {"noise_std": 0.8, "noise_clip": 0.6, "low": -0.9, "high": 0.7}
    gradient, (loss, metrics) = grad_and_value(td3_sum, has_aux=True)(PARAMS, TARGET, KEY, BATCH, gamma=0.9, weight=WEIGHT, **options)
    learned, leaves = leaves_of_autograd(PARAMS)
    noise = 0.8 * random.normal(KEY, (12, ACTIONS), dtype=torch.float64)
    assert (noise.abs() > 0.6).any()
    critic_loss = losses.td3_critic(
        *(BATCH, WEIGHT, 0.9, [member(learned.critic, e) for e in range(2)]),
        *(lambda s: actor(TARGET.actor, s), [member(TARGET.critic, e) for e in range(2)]),
        *(noise, 0.6, -0.9, 0.7),
    )
    actor_loss = losses.ddpg_actor(BATCH, WEIGHT, lambda s: actor(learned.actor, s), member(PARAMS.critic, 0))
    torch.testing.assert_close(loss, (critic_loss + actor_loss).detach())
    torch.testing.assert_close(metrics["critic_loss"], critic_loss.detach())
    torch.testing.assert_close(metrics["actor_loss"], actor_loss.detach())
    same_as_autograd(gradient, critic_loss + actor_loss, PARAMS, leaves)


def capture(**options):
    """The next actions that the critics are asked about, with an actor that always says 0.5."""
    asked = []

    def ask(params, observation, action):
        asked.append(action)
        return critics(params, observation, action)

    middle = lambda p, s: torch.full((*s.shape[:-1], ACTIONS), 0.5, dtype=s.dtype)  # noqa: E731
    td3_critic_loss(PARAMS.critic, TARGET, KEY, transitions(2000), actor=middle, critic=ask, gamma=0.9, **options)
    return asked[0]


def test_noise_and_actions_are_clipped():
    action = capture(noise_std=0.2, noise_clip=0.3, low=-1.0, high=1.0)
    noise = action - 0.5
    assert noise.abs().max() <= 0.3 + 1e-12 and (noise.abs() > 0.3 - 1e-9).double().mean() > 0.05
    assert abs(noise.mean()) < 0.01 and 0.15 < noise.std() < 0.2
    assert capture(noise_std=1.0, noise_clip=5.0, low=0.25, high=0.75).unique().numel() > 2
    wide = capture(noise_std=1.0, noise_clip=5.0, low=0.25, high=0.75)
    assert wide.min() == 0.25 and wide.max() == 0.75
    assert (capture(noise_std=0.0) == 0.5).all()
    low, high = torch.tensor([0.4, 0.5, 0.5]), torch.tensor([0.6, 0.5, 0.7])
    each = capture(noise_std=1.0, noise_clip=5.0, low=low, high=high)
    torch.testing.assert_close(each.amin(0), low.double())
    torch.testing.assert_close(each.amax(0), high.double())


def test_the_target_is_the_smaller_and_the_first_critic_judges():
    def constants(params, observation, action):
        return params[:, None] + 0 * action.sum(-1)

    batch = BATCH.replace(reward=torch.zeros_like(BATCH.reward), terminated=torch.zeros_like(BATCH.terminated))
    values = torch.tensor([7.0, 3.0], dtype=torch.float64)
    target = TARGET.replace(critic=values)
    loss, metrics = td3_critic_loss(torch.tensor([1.0, 5.0]).double(), target, KEY, batch, actor=actor, critic=constants, gamma=1.0)
    assert metrics["target_mean"] == 3.0 and loss == 2.0**2 + 2.0**2
    assert metrics["td_error"].tolist() == [2.0] * 12
    assert td3_actor_loss(PARAMS.actor, values, batch, actor=actor, critic=constants)[0] == -7.0


def test_what_carries_no_gradient():
    assert unused(grad(lambda t: td3_sum(PARAMS, t, KEY, BATCH, gamma=0.9)[0])(TARGET))
    assert unused(grad(lambda c: td3_actor_loss(PARAMS.actor, c, BATCH, **NETWORKS)[0])(PARAMS.critic))
    next_gradient = grad(lambda x: td3_sum(PARAMS, TARGET, KEY, BATCH.replace(next_observation=x), gamma=0.9)[0])
    assert unused(next_gradient(BATCH.next_observation))


def call(**options):
    return lambda: td3_critic_loss(PARAMS.critic, TARGET, KEY, BATCH, **{"gamma": 0.9, **NETWORKS} | options)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (call(noise_std=-0.1), ValueError, "td3_critic_loss: noise_std: expected a number of at least 0, got -0.1"),
        (call(noise_clip=-0.1), ValueError, "noise_clip"),
        (call(low=1.0, high=-1.0), ValueError, "low and high: expected low < high, got 1.0 and -1.0"),
        (call(critic=lambda p, s, a: critics(p, s, a)[0]), ValueError, r"next_observation: expected the shape \[E, 12\], got \[12\]"),
        (
            lambda: td3_critic_loss(PARAMS.critic, TARGET.critic, KEY, BATCH, gamma=0.9, **NETWORKS),
            TypeError,
            "td3_critic_loss: target_params: .*ActorCritic",
        ),
        (
            lambda: td3_critic_loss(PARAMS.critic, TARGET, KEY, {}, gamma=0.9, **NETWORKS),
            TypeError,
            "batch: expected a funrl.env.Transition",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
