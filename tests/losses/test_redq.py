import pytest
import torch
from torch.func import grad, grad_and_value

from funrl import random, tree
from funrl.losses import redq_actor_loss, redq_critic_loss, redq_loss, sac_critic_loss
from tests.losses.batches import (
    ACTOR,
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

E = 5
PARAMS, TARGET = soft_actor_critic(0, members=E), soft_actor_critic(10, members=E).critic
BATCH, WEIGHT, KEY = transitions(), weights(), random.key(7)
NETWORKS = {"actor": gaussian([]), "critic": critics}


def policy(params):
    return losses.gaussian(lambda observation: ACTOR.apply(params, observation))


def chosen(key, subset=2):
    """Return the numbers of the critics that a target asks: each critic says its own."""
    numbers, asked = torch.arange(E, dtype=torch.float64), []

    def say(params, observation, action):
        asked.append(params)
        return params[:, None] + 0 * action.sum(-1)

    redq_critic_loss(numbers, PARAMS, numbers, key, BATCH, actor=gaussian([]), critic=say, gamma=0.9, subset=subset)
    return asked[0].long().tolist()


def test_agrees_with_the_naive_loop():
    """All critics learn the one target of those chosen, and the mean of all judges the actor."""
    options = {"critic": critics, "gamma": 0.9, "target_entropy": -2.5, "weight": WEIGHT, "subset": 3}
    drawn = []
    redq_loss(PARAMS, TARGET, KEY, BATCH, actor=gaussian(drawn), **options)
    next_noise, noise = drawn
    subset = chosen(random.split(KEY)[0], 3)
    assert len(set(subset)) == 3
    gradient, (loss, metrics) = grad_and_value(redq_loss, has_aux=True)(PARAMS, TARGET, KEY, BATCH, actor=gaussian([]), **options)

    learned, leaves = leaves_of_autograd(PARAMS)
    alpha, fixed = PARAMS.log_alpha.exp(), [member(PARAMS.critic, e) for e in range(E)]
    critic_loss = losses.soft_critic(
        *(BATCH, WEIGHT, 0.9, alpha, [member(learned.critic, e) for e in range(E)]),
        *(policy(PARAMS.actor), [member(TARGET, e) for e in subset], next_noise),
    )
    judge = lambda s, a: sum(q(s, a) for q in fixed) / E  # noqa: E731
    actor_loss, log_probs = losses.soft_actor(BATCH, WEIGHT, alpha, judge, policy(learned.actor), noise)
    total = critic_loss + actor_loss + losses.temperature(learned.log_alpha, log_probs, WEIGHT, -2.5)
    torch.testing.assert_close(loss, total.detach())
    torch.testing.assert_close(metrics["critic_loss"], critic_loss.detach())
    torch.testing.assert_close(metrics["actor_loss"], actor_loss.detach())
    same_as_autograd(gradient, total, PARAMS, leaves)


def test_the_subset_is_drawn_anew_without_replacement_and_evenly():
    draws = [chosen(key) for key in random.split(random.key(0), 200).unbind(0)]
    assert all(len(set(draw)) == 2 for draw in draws)
    counts = torch.bincount(torch.tensor(draws).flatten(), minlength=E)
    assert (counts > 50).all() and (counts < 110).all()  # 80 each is expected, with a deviation of 7
    assert sorted(chosen(KEY, E)) == list(range(E)) and len(chosen(KEY, 1)) == 1


def test_the_whole_ensemble_of_two_is_sac():
    two, target = tree.index(PARAMS.critic, slice(0, 2)), tree.index(TARGET, slice(0, 2))
    drawn, batch = [], BATCH.replace(terminated=torch.zeros(12, dtype=torch.bool))
    loss, _ = redq_critic_loss(two, PARAMS, target, KEY, batch, actor=gaussian(drawn), critic=critics, gamma=0.9)
    action_key = random.split(KEY)[0]
    again = []
    expected, _ = sac_critic_loss(two, PARAMS, target, action_key, batch, actor=gaussian(again), critic=critics, gamma=0.9)
    assert torch.equal(drawn[0], again[0])
    torch.testing.assert_close(loss, expected)


def test_what_carries_no_gradient():
    assert unused(grad(lambda p: redq_critic_loss(PARAMS.critic, p, TARGET, KEY, BATCH, gamma=0.9, **NETWORKS)[0])(PARAMS))
    assert unused(grad(lambda t: redq_critic_loss(PARAMS.critic, PARAMS, t, KEY, BATCH, gamma=0.9, **NETWORKS)[0])(TARGET))
    assert unused(grad(lambda p: redq_actor_loss(PARAMS.actor, p, KEY, BATCH, **NETWORKS)[0])(PARAMS))


def call(target=TARGET, **options):
    return lambda: redq_loss(PARAMS, target, KEY, BATCH, **{"gamma": 0.9, "target_entropy": -3.0, **NETWORKS} | options)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (call(subset=6), ValueError, "redq_critic_loss: subset: expected a whole number M from 1 to the number of critics E = 5, got 6"),
        (call(subset=0), ValueError, "subset: .* got 0"),
        (call(subset=2.0), ValueError, "subset: .* got 2.0"),
        (call(subset=True), ValueError, "subset: .* got True"),
        (
            call(target={"a": torch.zeros(5, 2), "b": torch.zeros(4, 2)}),
            ValueError,
            r"leaves \[E, ...\] with the same E, .*funrl.tree.stack",
        ),
        (call(target=torch.tensor(1.0)), ValueError, r"leaves \[E, ...\] with the same E"),
        (call(gamma=2.0), ValueError, "redq_critic_loss: gamma"),
        (call(critic=lambda p, s, a: critics(p, s, a)[0]), ValueError, r"expected the shape \[M, 12\], got \[12\]"),
        (lambda: redq_loss(PARAMS.actor, TARGET, KEY, BATCH, gamma=0.9, target_entropy=0.0, **NETWORKS), TypeError, "redq_loss: params"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
