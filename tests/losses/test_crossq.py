import pytest
import torch
from torch.func import grad, grad_and_value

from funrl import random, tree
from funrl.losses import crossq_actor_loss, crossq_critic_loss
from tests.losses.batches import (
    ACTOR,
    crossq_sum,
    frozen_critics,
    gaussian,
    leaves_of_autograd,
    normalized_actor_critic,
    normalized_critics,
    same,
    same_as_autograd,
    transitions,
    unused,
    weights,
)
from tests.oracles import losses

PARAMS, MOMENTS = normalized_actor_critic(0)
BATCH, WEIGHT, KEY = transitions(), weights(), random.key(7)
OPTIONS = {"gamma": 0.9, "target_entropy": -2.5}


def policy(params):
    return losses.gaussian(lambda observation: ACTOR.apply(params, observation))


def test_agrees_with_plain_batch_normalisation():
    """One forward pass of both halves, whose normalisation lets gradients of the first half reach both; none comes from the targets."""
    drawn = []
    crossq_sum(PARAMS, MOMENTS, KEY, BATCH, actor=gaussian(drawn), weight=WEIGHT, **OPTIONS)
    next_noise, noise = drawn
    gradient, (loss, metrics) = grad_and_value(crossq_sum, has_aux=True)(
        PARAMS, MOMENTS, KEY, BATCH, actor=gaussian([]), weight=WEIGHT, **OPTIONS
    )
    learned, leaves = leaves_of_autograd(PARAMS)
    alpha = PARAMS.log_alpha.exp()
    with torch.no_grad():
        pairs = [policy(PARAMS.actor)(s, e) for s, e in zip(BATCH.next_observation, next_noise, strict=True)]
    now, later = (
        torch.cat([BATCH.observation, BATCH.action], 1),
        torch.stack([torch.cat([s, a]) for s, (a, _) in zip(BATCH.next_observation, pairs, strict=True)]),
    )
    values = []
    running = [(MOMENTS["mean"][e, 0].clone(), MOMENTS["var"][e, 0].clone()) for e in range(2)]
    for e in range(2):
        hidden = torch.cat([now, later]) @ learned.critic["in"][e]
        normal = torch.nn.functional.batch_norm(hidden, None, None, training=True, eps=1e-3)
        values.append(normal.tanh() @ learned.critic["out"][e])
    critic_loss = 0.0
    for i in range(12):
        value = min(q[12 + i].detach() for q in values) - alpha * pairs[i][1]
        y = BATCH.reward[i] if BATCH.terminated[i] else BATCH.reward[i] + 0.9 * value
        critic_loss = critic_loss + sum(WEIGHT[i] * 0.5 * (y - q[i]) ** 2 for q in values) / 12

    def judge(s, a):
        each = []
        for e, (mean, var) in enumerate(running):
            hidden = (torch.cat([s, a]) @ PARAMS.critic["in"][e])[None]
            normal = torch.nn.functional.batch_norm(hidden, mean, var, training=False, eps=1e-3)
            each.append((normal.tanh() @ PARAMS.critic["out"][e])[0])
        return min(each)

    actor_loss, log_probs = losses.soft_actor(BATCH, WEIGHT, alpha, judge, policy(learned.actor), noise)
    total = critic_loss + actor_loss + losses.temperature(learned.log_alpha, log_probs, WEIGHT, -2.5)
    torch.testing.assert_close(loss, total.detach())
    torch.testing.assert_close(metrics["critic_loss"], critic_loss.detach())
    torch.testing.assert_close(metrics["actor_loss"], actor_loss.detach())
    same_as_autograd(gradient, total, PARAMS, leaves)
    hidden = torch.cat([now, later]) @ PARAMS.critic["in"]
    expected = {
        "mean": 0.9 * MOMENTS["mean"] + 0.1 * hidden.mean(1, keepdim=True),
        "var": 0.9 * MOMENTS["var"] + 0.1 * hidden.var(1, correction=0, keepdim=True),
    }
    same(metrics["statistics"], expected)


def test_what_carries_no_gradient():
    critic_options = {"actor": gaussian([]), "critic": normalized_critics, "gamma": 0.9}
    assert unused(grad(lambda p: crossq_critic_loss(PARAMS.critic, p, MOMENTS, KEY, BATCH, **critic_options)[0])(PARAMS))
    actor_options = {"actor": gaussian([]), "frozen_critic": frozen_critics}
    assert unused(grad(lambda p: crossq_actor_loss(PARAMS.actor, p, MOMENTS, KEY, BATCH, **actor_options)[0])(PARAMS))
    assert unused(grad(lambda m: crossq_actor_loss(PARAMS.actor, PARAMS, m, KEY, BATCH, **actor_options)[0])(MOMENTS))
    learned, _ = leaves_of_autograd(PARAMS.critic)
    _, metrics = crossq_critic_loss(learned, PARAMS, MOMENTS, KEY, BATCH, **critic_options)
    assert not any(x.requires_grad for x in tree.leaves(metrics))


def call(params=PARAMS, batch=BATCH, **options):
    return lambda: crossq_sum(params, MOMENTS, KEY, batch, **{"actor": gaussian([]), **OPTIONS} | options)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (call(batch=tree.reshape(BATCH, (3, 4))), ValueError, r"crossq_critic_loss: batch.reward: expected the shape \[B\], got \[3, 4\]"),
        (
            call(critic=lambda p, m, s, a: (normalized_critics(p, m, s, a)[0][:, :12], m)),
            ValueError,
            r"critic's values: expected the shape \[E, 24\], got \[2, 12\]",
        ),
        (call(frozen_critic=lambda p, m, s, a: s[:, 0]), ValueError, r"critic's values: expected the shape \[E, 12\], got \[12\]"),
        (call(gamma=1.5), ValueError, "crossq_critic_loss: gamma: .* got 1.5"),
        (call(weight=WEIGHT[:, None]), ValueError, r"weight: .* got \[12, 1\]"),
        (
            lambda: crossq_actor_loss(PARAMS.actor, PARAMS.actor, MOMENTS, KEY, BATCH, actor=gaussian([]), frozen_critic=frozen_critics),
            TypeError,
            "sac_actor_loss: params: .*SoftActorCritic",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
