"""The contract of every loss of a whole learner: masks, weights, dtypes, transforms and compiled programs."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import pytest
import torch
from torch.func import grad, grad_and_value, vmap

import funrl
from funrl import losses, nn, random, tree
from funrl.distributions import Categorical, Independent, TanhNormal
from tests.losses.batches import (
    ACTIONS,
    ACTOR,
    OBSERVATIONS,
    POLICY_AND_VALUE,
    Q,
    actor,
    actor_critic,
    categorical,
    critic,
    critics,
    crossq_sum,
    normalized_actor_critic,
    parameters,
    policy_and_value,
    q_critics,
    q_values,
    same,
    soft_actor_critic,
    td3_sum,
    transitions,
    unused,
    weights,
)
from tests.support import compilations

ATOMS = nn.mlp((5,), ACTIONS * 7)


def atoms(params, observation):
    return ATOMS.apply(params, observation).unflatten(-1, (ACTIONS, 7))


def squashed(params, observation):
    loc = ACTOR.apply(params, observation)
    return Independent(TanhNormal(loc, 0.3 + loc.sigmoid()), 1)


def support(x):
    return torch.linspace(-3.0, 3.0, 7, dtype=x.reward.dtype)


class Family(NamedTuple):
    """A loss, ``call(params, target_params, key, batch, number, weight)``; the number is gamma, or else the weight of the entropy."""

    call: Callable[..., Any]
    params: Callable[..., Any]  # (seed, dtype) -> params, or (params, moments) where the moments stand for targets
    discrete: bool = True


def pair(make):
    """Params and targets of one kind."""
    return lambda seed, dtype: (make(seed, dtype), make(seed + 100, dtype))


def net(which):
    return pair(lambda seed, dtype: parameters(which, seed, OBSERVATIONS, dtype))


def soft(members, discrete=False):
    def make(seed, dtype):
        options = {"dtype": dtype, "members": members, "discrete": discrete}
        return soft_actor_critic(seed, **options), soft_actor_critic(seed + 100, **options).critic

    return make


def q_learning(loss, apply, **options):
    return lambda p, t, k, b, n, w: loss(p, t, b, apply=apply, gamma=n, weight=w, **{key: f(b) for key, f in options.items()})


def with_key(loss, **options):
    return lambda p, t, k, b, n, w: loss(p, t, k, b, gamma=n, weight=w, **options)


def without_key(loss, **options):
    return lambda p, t, k, b, n, w: loss(p, t, b, gamma=n, weight=w, **options)


def reinforced(batch):
    return losses.ReinforceBatch(batch.observation, batch.action, returns=batch.reward)


def advantaged(batch):
    return losses.A2CBatch(batch.observation, batch.action, advantage=batch.extras["log_prob"], target=batch.reward)


def proximal(batch):
    numbers = {"log_prob": batch.extras["log_prob"], "value": batch.observation[..., 0], "target": batch.observation[..., 1]}
    return losses.PPOBatch(batch.observation, batch.action, advantage=batch.reward, **numbers)


def policy_gradient(loss, convert, apply=policy_and_value, **options):
    return lambda p, t, k, b, n, w: loss(p, convert(b), apply=apply, entropy_weight=n, weight=w, **options)


def kl(p, t, k, b, n, w):
    old = Categorical(b.observation[..., :ACTIONS])
    return losses.ppo_kl_loss(p, proximal(b), old, apply=policy_and_value, kl_weight=n, weight=w)


SOFT = {"actor": squashed, "critic": critics, "target_entropy": -3.0}
OFF_POLICY = {
    "dqn_loss": Family(q_learning(losses.dqn_loss, q_values), net(Q)),
    "dqn_loss, double": Family(q_learning(partial(losses.dqn_loss, chooser_apply=q_values), q_values), net(Q)),
    "c51_loss": Family(q_learning(losses.c51_loss, atoms, support=support), net(ATOMS)),
    "c51_loss, double": Family(q_learning(partial(losses.c51_loss, chooser_apply=atoms), atoms, support=support), net(ATOMS)),
    "qr_dqn_loss": Family(q_learning(losses.qr_dqn_loss, atoms), net(ATOMS)),
    "qr_dqn_loss, double": Family(q_learning(partial(losses.qr_dqn_loss, chooser_apply=atoms), atoms), net(ATOMS)),
    "ddpg_loss": Family(without_key(losses.ddpg_loss, actor=actor, critic=critic), pair(actor_critic), False),
    "td3, sum": Family(with_key(td3_sum), pair(lambda seed, dtype: actor_critic(seed, dtype, members=2)), False),
    "sac_loss": Family(with_key(losses.sac_loss, **SOFT), soft(2), False),
    "redq_loss": Family(with_key(losses.redq_loss, **SOFT), soft(4), False),
    "crossq, sum": Family(with_key(crossq_sum, actor=squashed, target_entropy=-3.0), normalized_actor_critic, False),
    "sac_discrete_loss": Family(
        without_key(losses.sac_discrete_loss, actor=categorical, critic=q_critics, target_entropy=0.8), soft(2, discrete=True)
    ),
}
IMPALA = {
    "impala_loss": Family(
        lambda p, t, k, b, n, w: losses.impala_loss(p, b, apply=policy_and_value, gamma=n, weight=w), net(POLICY_AND_VALUE)
    )
}
ON_POLICY = {
    "reinforce_loss": Family(
        policy_gradient(losses.reinforce_loss, reinforced, apply=lambda p, x: policy_and_value(p, x)[0]), net(POLICY_AND_VALUE)
    ),
    "reinforce_with_baseline_loss": Family(policy_gradient(losses.reinforce_with_baseline_loss, reinforced), net(POLICY_AND_VALUE)),
    "a2c_loss": Family(policy_gradient(losses.a2c_loss, advantaged), net(POLICY_AND_VALUE)),
    "ppo_loss": Family(policy_gradient(losses.ppo_loss, proximal, value_clip=0.5), net(POLICY_AND_VALUE)),
    "ppo_kl_loss": Family(kl, net(POLICY_AND_VALUE)),
    "drift_loss": Family(policy_gradient(losses.drift_loss, proximal, value_clip=0.5), net(POLICY_AND_VALUE)),
}
FAMILIES = OFF_POLICY | IMPALA | ON_POLICY


def over(families):
    return pytest.mark.parametrize("family", [pytest.param(family, id=name) for name, family in families.items()])


def arguments(family, dtype=torch.float64, seed=0, n=12):
    """params, target_params, key, batch, number."""
    number = torch.tensor(0.9, dtype=dtype) - 0.1 * seed
    return *family.params(seed, dtype), random.key(seed), transitions(n, discrete=family.discrete, dtype=dtype, seed=seed), number


def test_every_loss_is_here():
    parts = {name for name in losses.__all__ if name.endswith(("_actor_loss", "_critic_loss"))}
    pieces = {"temperature_loss", "clipped_value_loss", "expectile_loss", "advantage_weighted_loss", "ensemble_diversity_loss"}
    offline = {name for name in losses.__all__ if name.startswith(("bc_", "iql_", "discrete_cql", "decision_transformer"))}
    elsewhere = offline  # test_offline.py
    whole = {name for name in losses.__all__ if name.endswith("_loss")} - parts - pieces - elsewhere
    assert {name.partition(",")[0] for name in FAMILIES} == whole | {"td3", "crossq"}


@over(OFF_POLICY | IMPALA)
def test_terminated_alone_masks_a_bootstrap(family):
    params, target, key, batch, gamma = arguments(family)

    def loss(**fields):
        return family.call(params, target, key, batch.replace(**fields), gamma, None)[0]

    def at_next(**fields):
        """Return what another next observation changes."""
        other = batch.next_observation + 1.0
        return loss(next_observation=other, **fields) - loss(**fields)

    no, yes = torch.zeros(12, dtype=torch.bool), torch.ones(12, dtype=torch.bool)
    if family is not OFF_POLICY["crossq, sum"]:  # whose normalisation looks at both halves
        assert at_next(terminated=yes, truncated=no).abs() < 1e-12
    assert at_next(terminated=no, truncated=no).abs() > 1e-3
    assert at_next(terminated=no, truncated=yes).abs() > 1e-3
    if family in OFF_POLICY.values():
        torch.testing.assert_close(loss(truncated=yes), loss(truncated=no), rtol=0, atol=0)
        metrics = family.call(params, target, key, batch.replace(terminated=yes, reward=0.5 * batch.reward), gamma, None)[1]
        torch.testing.assert_close(metrics["target_mean"], 0.5 * batch.reward.mean())
        assert metrics["td_error"].shape == (12,) and (metrics["td_error"] >= 0).all()


@over(FAMILIES)
def test_a_weight_for_each_sample(family):
    params, target, key, batch, number = arguments(family)
    weight, row = weights(), torch.eye(12, dtype=torch.float64)
    differentiate = grad(lambda p, w: family.call(p, target, key, batch, number, w)[0])
    same(differentiate(params, None), differentiate(params, torch.ones(12, dtype=torch.float64)))
    each = vmap(differentiate, (None, 0))(params, row)
    same(differentiate(params, weight), tree.map(lambda x: torch.einsum("n,n...->...", weight, x), each), rtol=1e-6, atol=1e-10)
    assert unused(grad(lambda w: family.call(params, target, key, batch, number, w)[0])(weight))
    for wrong in (weight[:, None], weight[:6], weight.sum()):
        with pytest.raises(ValueError, match=r"weight: expected the shape \[12\]"):
            family.call(params, target, key, batch, number, wrong)


@over({name: f for name, f in OFF_POLICY.items() if "dqn" in name or name in ("c51_loss", "ddpg_loss", "sac_discrete_loss")})
def test_any_batch_dimensions(family):
    """Nothing is drawn here, so that the loss of a batch is the mean of its samples', whose leaves have no batch dimension."""
    params, target, key, batch, gamma = arguments(family)
    whole, metrics = family.call(params, target, key, batch, gamma, None)
    square = family.call(params, target, key, tree.reshape(batch, (3, 4)), gamma, None)
    torch.testing.assert_close(square[0], whole)
    torch.testing.assert_close(square[1]["td_error"], metrics["td_error"].reshape(3, 4))
    singles = [family.call(params, target, key, tree.index(batch, i), gamma, None)[0] for i in range(12)]
    torch.testing.assert_close(torch.stack(singles).mean(), whole)


@over(FAMILIES)
def test_a_column_of_rewards_is_refused(family):
    """[B, 1] with [B] would broadcast to [B, B] in silence."""
    params, target, key, batch, number = arguments(family)
    with pytest.raises(ValueError, match=r"expected the shape \[12(, 1)?\].* got \[12(, 1)?\]"):
        family.call(params, target, key, batch.replace(reward=batch.reward[:, None]), number, None)


@over(FAMILIES)
def test_dtypes_stay_and_nothing_is_changed(family):
    """A number in another dtype promotes nothing; float32 is float64, rounded."""
    given = arguments(family)
    before = tree.map(torch.clone, given)
    wide = family.call(*given, None)
    same(given, before, rtol=0, atol=0)
    same(family.call(*given, None), wide, rtol=0, atol=0)
    params, target, key, batch, number = given
    narrow = family.call(*cast((params, target)), key, cast(batch), number, None)
    assert all(x.dtype == torch.float64 for x in tree.leaves(wide)) and all(x.dtype == torch.float32 for x in tree.leaves(narrow))
    if family not in (OFF_POLICY["td3, sum"], OFF_POLICY["sac_loss"], OFF_POLICY["redq_loss"], OFF_POLICY["crossq, sum"]):
        same(tree.map(torch.Tensor.double, narrow), wide, rtol=1e-4, atol=1e-5)  # the others draw other noise in another dtype
    assert not any(x.requires_grad for x in tree.leaves(wide[1]))


def cast(value):
    return tree.map(lambda x: x.float() if x.is_floating_point() else x, value)


def test_metrics_carry_no_gradient():
    for family in FAMILIES.values():
        params, *others = arguments(family)
        learned = tree.map(lambda x: x.requires_grad_(), params)
        loss, metrics = family.call(learned, *others, None)
        assert loss.requires_grad and not any(x.requires_grad for x in tree.leaves(metrics))


@cache
def agents(name):
    """Three learners that differ in params, targets, keys, batches and numbers; and a step of all of them, one by one."""
    family = FAMILIES[name]
    each = [arguments(family, torch.float32, seed, 6) for seed in range(3)]

    def step(*given):
        return grad_and_value(lambda p, *rest: family.call(p, *rest, None), has_aux=True)(*given)

    return step, tree.stack(each), tree.stack([step(*given) for given in each])


@pytest.mark.parametrize("name", FAMILIES)
def test_vmapped_agrees_with_a_loop(name):
    """Over all arguments, and over parameters and numbers alone with one batch."""
    step, given, expected = agents(name)
    same(vmap(step)(*given), expected, rtol=1e-4, atol=1e-5)
    params, target, key, batch, number = given
    one = tree.index((target, key, batch), 0)
    got = vmap(step, (0, None, None, None, 0))(params, *one, number)
    rows = [step(*tree.index((params,), i), *one, number[i]) for i in range(3)]
    same(got, tree.stack(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_compiled_agrees_with_eager(name):
    """One graph, and no other for other numbers."""
    step, given, expected = agents(name)
    program = funrl.compile(step, backend="aot_eager")
    with compilations(1):
        for i in range(3):
            same(program(*tree.index(given, i)), tree.index(expected, i), rtol=1e-4, atol=1e-5)


def test_numbers_are_checked_and_tensors_are_not():
    """A tensor's value is not looked at while tracing: that would break the program."""
    for name, family in (OFF_POLICY | IMPALA).items():
        *given, _ = arguments(family)
        with pytest.raises(ValueError, match="gamma: expected a number in"):
            family.call(*given, 1.5, None)
        assert family.call(*given, torch.tensor(1.5), None)[0].isfinite(), name
