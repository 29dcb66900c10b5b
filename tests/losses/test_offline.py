"""Losses of offline learners, compared with loops over samples, in value and gradient."""

import pytest
import torch
from torch.func import grad, grad_and_value, vmap

import funrl
from funrl import losses, nn, random, tree
from funrl.distributions import Independent, Normal, TanhNormal
from funrl.losses import ActorCritic
from tests.losses.batches import (
    ACTIONS,
    ACTOR,
    OBSERVATIONS,
    Q,
    actor,
    actor_critic,
    critics,
    gaussian,
    leaves_of_autograd,
    member,
    normal,
    parameters,
    q_values,
    same_as_autograd,
    soft_actor_critic,
    transitions,
    unused,
    weights,
)
from tests.oracles import offline_losses as oracle

BATCH, WEIGHT, KEY = transitions(), weights(), random.key(7)
VALUE = nn.mlp((6,), 1)
PARAMS, TARGET = actor_critic(0, members=2), actor_critic(10, members=2)


def value(params, observation):
    return VALUE.apply(params, observation).squeeze(-1)


def normal_actor(params, observation):
    loc = ACTOR.apply(params, observation)
    return Independent(Normal(loc, 0.3 + loc.sigmoid()), 1)


def density(params):
    """The log-density of normal_actor's actions, by torch."""

    def log_prob(observation, action):
        loc = ACTOR.apply(params, observation)
        return torch.distributions.Normal(loc, 0.3 + loc.sigmoid(), validate_args=False).log_prob(action).sum()

    return log_prob


def test_expectile():
    u = normal(1, 40)
    for tau in (0.0, 0.3, 0.9):
        expected = torch.stack([oracle.expectile(x, tau) for x in u])
        torch.testing.assert_close(losses.expectile_loss(u, expectile=tau), expected)
    # The constant that minimises the loss is the expectile: the slopes of both sides balance.
    c = torch.tensor(0.0, dtype=torch.float64)
    for _ in range(80):
        c = c - 0.8 * grad(lambda c: losses.expectile_loss(u - c, expectile=0.8).mean())(c)
    above, below = (u - c).clamp(min=0).sum(), (c - u).clamp(min=0).sum()
    torch.testing.assert_close(0.8 * above, 0.2 * below)


def test_cloning():
    gradient, (loss, _) = grad_and_value(losses.bc_loss, has_aux=True)(PARAMS.actor, BATCH, actor=actor, scale=0.5, weight=WEIGHT)
    learned, leaves = leaves_of_autograd(PARAMS.actor)
    expected = oracle.cloning(BATCH, WEIGHT, lambda s: actor(learned, s), 0.5)
    torch.testing.assert_close(loss, expected.detach())
    same_as_autograd(gradient, expected, PARAMS.actor, leaves)


def test_cloning_by_likelihood_is_a_weighted_one_with_equal_weights():
    zero = torch.zeros(12, dtype=torch.float64)
    by_weights = losses.advantage_weighted_loss(PARAMS.actor, zero, BATCH, actor=normal_actor, temperature=3.0, weight=WEIGHT)[0]
    torch.testing.assert_close(losses.bc_loss(PARAMS.actor, BATCH, actor=normal_actor, weight=WEIGHT)[0], by_weights)


def test_advantage_weights():
    advantage = 4 * normal(3, 12)
    run = grad_and_value(losses.advantage_weighted_loss, has_aux=True)
    gradient, (loss, metrics) = run(PARAMS.actor, advantage, BATCH, actor=normal_actor, temperature=2.0, max_weight=20.0, weight=WEIGHT)
    learned, leaves = leaves_of_autograd(PARAMS.actor)
    expected = oracle.advantage_weighted(BATCH, WEIGHT, advantage, density(learned), 2.0, 20.0)
    torch.testing.assert_close(loss, expected.detach())
    assert (2.0 * advantage).exp().max() > 20 > metrics["advantage_weight"]
    same_as_autograd(gradient, expected, PARAMS.actor, leaves)
    huge = losses.advantage_weighted_loss(PARAMS.actor, torch.full_like(advantage, 1e6), BATCH, actor=normal_actor, temperature=2.0)
    assert bool(huge[0].isfinite())


def test_iql():
    params, target = parameters(VALUE, 4, OBSERVATIONS), TARGET.critic
    run = grad_and_value(losses.iql_value_loss, has_aux=True)
    gradient, (loss, metrics) = run(params, target, BATCH, value=value, critic=critics, expectile=0.8, weight=WEIGHT)
    learned, leaves = leaves_of_autograd(params)
    expected = oracle.iql_value(BATCH, WEIGHT, lambda s: value(learned, s), [member(target, e) for e in range(2)], 0.8)
    torch.testing.assert_close(loss, expected.detach())
    same_as_autograd(gradient, expected, params, leaves)
    q = torch.stack([member(target, e)(BATCH.observation, BATCH.action) for e in range(2)]).amin(0)
    torch.testing.assert_close(metrics["advantage"], q - value(params, BATCH.observation))

    run = grad_and_value(losses.iql_critic_loss, has_aux=True)
    gradient, (loss, _) = run(PARAMS.critic, params, BATCH, value=value, critic=critics, gamma=0.9, weight=WEIGHT)
    learned, leaves = leaves_of_autograd(PARAMS.critic)
    targets = oracle.iql_targets(BATCH, 0.9, lambda s: value(params, s))
    expected = oracle.squared(BATCH, WEIGHT, [member(learned, e) for e in range(2)], targets)
    torch.testing.assert_close(loss, expected.detach())
    same_as_autograd(gradient, expected, PARAMS.critic, leaves)
    assert unused(grad(lambda p: losses.iql_critic_loss(PARAMS.critic, p, BATCH, value=value, critic=critics, gamma=0.9)[0])(params))


@pytest.mark.parametrize("kind", ["td3_bc", "rebrac"])
def test_regularised_actors(kind):
    if kind == "td3_bc":
        loss, options, numbers = losses.td3_bc_actor_loss, {"alpha": 2.5}, (2.5, 1.0, 0.5, True)
    else:
        loss, options, numbers = losses.rebrac_actor_loss, {"beta": 0.3}, (1.0, 0.3, 0.5, False)
    networks = {"actor": actor, "critic": critics, "scale": 0.5, "weight": WEIGHT}
    gradient, (found, _) = grad_and_value(loss, has_aux=True)(PARAMS.actor, PARAMS.critic, BATCH, **options, **networks)
    learned, leaves = leaves_of_autograd(PARAMS.actor)
    both = [member(PARAMS.critic, e) for e in range(2)]
    judge = both[0] if kind == "td3_bc" else lambda s, a: torch.minimum(both[0](s, a), both[1](s, a))
    expected = oracle.regularised_actor(BATCH, WEIGHT, lambda s: actor(learned, s), judge, *numbers)
    torch.testing.assert_close(found, expected.detach())
    same_as_autograd(gradient, expected, PARAMS.actor, leaves)


def test_rebrac_critics():
    extras = {"next_action": normal(8, 12, ACTIONS).tanh(), "has_next": torch.arange(12) % 4 != 1}
    batch = BATCH.replace(extras=extras)
    options = {"noise_std": 0.4, "noise_clip": 0.3, "low": -0.9, "high": 0.8}
    run = grad_and_value(losses.rebrac_critic_loss, has_aux=True)
    networks = {"actor": actor, "critic": critics, "weight": WEIGHT}
    gradient, (loss, _) = run(PARAMS.critic, TARGET, KEY, batch, gamma=0.9, beta=0.7, scale=0.5, **options, **networks)
    noise = (0.4 * random.normal(KEY, (12, ACTIONS), dtype=torch.float64)).clamp(-0.3, 0.3)
    actions = (actor(TARGET.actor, batch.next_observation) + noise).clamp(-0.9, 0.8)
    targets = oracle.rebrac_targets(batch, 0.9, [member(TARGET.critic, e) for e in range(2)], actions, 0.7, 0.5)
    learned, leaves = leaves_of_autograd(PARAMS.critic)
    expected = oracle.squared(batch, WEIGHT, [member(learned, e) for e in range(2)], targets)
    torch.testing.assert_close(loss, expected.detach())
    same_as_autograd(gradient, expected, PARAMS.critic, leaves)
    without = losses.rebrac_critic_loss(PARAMS.critic, TARGET, KEY, batch, gamma=0.9, beta=0.0, **options, **networks)[0]
    td3 = losses.td3_critic_loss(PARAMS.critic, TARGET, KEY, batch, gamma=0.9, **options, **networks)[0]
    torch.testing.assert_close(without, td3)


def test_awac_critics():
    run = grad_and_value(losses.awac_critic_loss, has_aux=True)
    gradient, (loss, _) = run(PARAMS.critic, TARGET, KEY, BATCH, actor=normal_actor, critic=critics, gamma=0.9, weight=WEIGHT)
    actions = normal_actor(TARGET.actor, BATCH.next_observation).sample(KEY)
    targets = oracle.policy_targets(BATCH, 0.9, [member(TARGET.critic, e) for e in range(2)], actions)
    learned, leaves = leaves_of_autograd(PARAMS.critic)
    expected = oracle.squared(BATCH, WEIGHT, [member(learned, e) for e in range(2)], targets)
    torch.testing.assert_close(loss, expected.detach())
    same_as_autograd(gradient, expected, PARAMS.critic, leaves)


@pytest.mark.parametrize("calibrated", [False, True])
def test_cql_of_continuous_actions(calibrated):
    """The densities of the importance weights are torch's, at the actions that were drawn with the documented keys."""
    params, target, n = soft_actor_critic(0), soft_actor_critic(10).critic, 3
    bound = 2 * normal(9, 12) if calibrated else None
    options = {"num_actions": n, "low": -0.8, "high": 1.2, "lower_bound": bound, "weight": WEIGHT, "gamma": 0.9, "penalty_weight": 1.5}
    run = grad_and_value(losses.cql_critic_loss, has_aux=True)
    gradient, (loss, metrics) = run(params.critic, params, target, KEY, BATCH, actor=gaussian([]), critic=critics, **options)

    next_key, penalty_key = random.split(KEY).unbind(0)
    uniform_key, here_key, there_key = random.split(penalty_key, 3).unbind(0)
    policy = gaussian([])
    next_actions = policy(params.actor, BATCH.next_observation).sample_with_log_prob(next_key)[0]
    uniform = -0.8 + 2.0 * random.uniform(uniform_key, (n, 12, ACTIONS), dtype=torch.float64)
    drawn = [[(uniform[k, i], -ACTIONS * torch.tensor(2.0).double().log(), False) for k in range(n)]
             for i in range(12)]  # fmt: skip
    for key, observation in ((here_key, BATCH.observation), (there_key, BATCH.next_observation)):
        for each in random.split(key, n).unbind(0):
            loc = ACTOR.apply(params.actor, observation)
            action = loc + (0.3 + loc.sigmoid()) * random.normal(each, (12, ACTIONS), dtype=torch.float64)
            log_density = torch.distributions.Normal(loc, 0.3 + loc.sigmoid()).log_prob(action).sum(-1)
            for i in range(12):
                drawn[i].append((action[i], log_density[i], True))
    learned, leaves = leaves_of_autograd(params.critic)
    ours, theirs = [member(learned, e) for e in range(2)], [member(target, e) for e in range(2)]
    expected, penalty = oracle.cql(BATCH, WEIGHT, ours, theirs, 0.9, 1.5, next_actions, drawn, bound)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(metrics["penalty"], penalty)
    same_as_autograd(gradient, expected, params.critic, leaves)


def test_the_penalty_estimates_the_integral_over_the_box():
    """Of critics that are linear in the action the integral is known: log of a product of (e^(c h) - e^(c l)) / c."""
    slope = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    linear = lambda p, s, a: torch.einsum("ea,...a->e...", p, a)  # noqa: E731
    wide = lambda p, s: Independent(TanhNormal(torch.zeros(len(s), 2).double() + p, torch.ones(len(s), 2).double()), 1)  # noqa: E731
    zero = torch.zeros(50, 2, dtype=torch.float64)
    batch = transitions(50).replace(action=zero)
    zeros = torch.zeros((), dtype=torch.float64)
    penalty = losses.cql_penalty(slope, zeros, KEY, batch, actor=wide, critic=linear, num_actions=400)
    exact = ((slope.exp() - (-slope).exp()) / slope).log().sum()
    torch.testing.assert_close(penalty.mean(), exact, rtol=0.02, atol=0.0)


def test_cql_of_discrete_actions():
    batch = transitions(discrete=True)
    params, target = parameters(Q, 3, OBSERVATIONS), parameters(Q, 13, OBSERVATIONS)
    run = grad_and_value(losses.discrete_cql_loss, has_aux=True)
    gradient, (loss, _) = run(params, target, batch, apply=q_values, gamma=0.9, penalty_weight=0.7, weight=WEIGHT)
    learned, leaves = leaves_of_autograd(params)
    expected = oracle.discrete_cql(batch, WEIGHT, lambda s: q_values(learned, s), lambda s: q_values(target, s), 0.9, 0.7)
    torch.testing.assert_close(loss, expected.detach())
    same_as_autograd(gradient, expected, params, leaves)


def test_diversity_is_that_of_finite_differences():
    params = actor_critic(0, members=4).critic
    call = lambda p: losses.ensemble_diversity_loss(p, BATCH, critic=critics, weight=WEIGHT)[0]  # noqa: E731
    expected = oracle.diversity(BATCH, WEIGHT, [member(params, e) for e in range(4)])
    torch.testing.assert_close(call(params), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    # Its gradient, along random directions.
    gradient, (vector, unravel) = tree.ravel(grad(call)(params))[0], tree.ravel(params)
    for seed in range(3):
        direction = normal(seed, len(vector))
        slope = (call(unravel(vector + 1e-6 * direction)) - call(unravel(vector - 1e-6 * direction))) / 2e-6
        torch.testing.assert_close(gradient @ direction, slope, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="expected at least 2 critics"):
        losses.ensemble_diversity_loss(tree.map(lambda x: x[:1], params), BATCH, critic=critics)


def test_losses_map_and_compile():
    """Under vmap over hyperparameters, in float32, and as one program they are what they are one by one."""
    batch, target, params = (tree.to(x, torch.float32) for x in (BATCH, TARGET, soft_actor_critic(0)))
    number = torch.tensor([0.3, 0.9])

    def every(x):
        own = {"actor": actor, "critic": critics}
        drawn = {"actor": lambda p, s: Independent(TanhNormal(ACTOR.apply(p, s), torch.ones(12, ACTIONS)), 1), "critic": critics}
        extras = {"next_action": batch.action, "has_next": ~batch.terminated}
        plain = ActorCritic(params.actor, params.critic)
        found = [
            losses.td3_bc_actor_loss(params.actor, params.critic, batch, alpha=x, **own),
            losses.rebrac_actor_loss(params.actor, params.critic, batch, beta=x, **own),
            losses.rebrac_critic_loss(params.critic, plain, KEY, batch.replace(extras=extras), gamma=x, beta=x, **own),
            losses.cql_critic_loss(params.critic, params, target.critic, KEY, batch, gamma=x, penalty_weight=x, num_actions=2, **drawn),
            losses.awac_critic_loss(params.critic, plain, KEY, batch, gamma=x, **drawn),
            losses.ensemble_diversity_loss(params.critic, batch, critic=critics),
            losses.advantage_weighted_loss(params.actor, batch.reward, batch, actor=normal_actor, temperature=x, max_weight=10 * x),
        ]
        return torch.stack([loss for loss, _ in found])

    compiled = funrl.compile(vmap(every))(number)
    for i in range(2):
        torch.testing.assert_close(compiled[i], every(number[i]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(vmap(every)(number)[i], every(number[i]), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"advantage_weighted_loss: actor's log_prob: expected the shape \[3\] of advantage, got \[12\]"):
        losses.advantage_weighted_loss(PARAMS.actor, torch.zeros(3).double(), BATCH, actor=normal_actor, temperature=1.0)
    with pytest.raises(ValueError, match=r"iql_value_loss|expectile: expected a number in \[0, 1\], got 1.5"):
        losses.expectile_loss(torch.zeros(2), expectile=1.5)
    with pytest.raises(ValueError, match="expected extras with next_action and has_next, got"):
        losses.rebrac_critic_loss(PARAMS.critic, TARGET, KEY, BATCH, actor=actor, critic=critics, gamma=0.9, beta=1.0)
    with pytest.raises(ValueError, match=r"td3_bc_actor_loss: actor's action: expected the shape \[12, 3\] of batch.action, got \[12\]"):
        losses.td3_bc_actor_loss(PARAMS.actor, PARAMS.critic, BATCH, actor=lambda p, s: actor(p, s)[:, 0], critic=critics)
