import pytest
import torch
from torch.func import grad, grad_and_value

from funrl import tree
from funrl.losses import A2CBatch, a2c_loss, impala_loss
from funrl.returns import td_lambda
from tests.losses.batches import (
    OBSERVATIONS,
    POLICY_AND_VALUE,
    leaves_of_autograd,
    parameters,
    policy_and_value,
    same,
    same_as_autograd,
    transitions,
    unused,
    weights,
)
from tests.oracles import returns

PARAMS = parameters(POLICY_AND_VALUE, 0, OBSERVATIONS)
BATCH, WEIGHT = tree.reshape(transitions(discrete=True), (6, 2)), weights().reshape(6, 2)


def test_agrees_with_the_naive_sums():
    """Advantages and targets of float64 loops, log pi and entropy of torch.distributions, a gradient of autograd."""
    clips = {"rho_clip": 1.2, "c_clip": 0.9}
    gradient, (loss, metrics) = grad_and_value(impala_loss, has_aux=True)(
        *(PARAMS, BATCH), apply=policy_and_value, gamma=0.9, lambda_=0.8, value_weight=0.7, entropy_weight=0.05, weight=WEIGHT, **clips
    )
    learned, leaves = leaves_of_autograd(PARAMS)
    out = POLICY_AND_VALUE.apply(learned, BATCH.observation)
    next_value = POLICY_AND_VALUE.apply(PARAMS, BATCH.next_observation)[..., -1]
    policy, value = torch.distributions.Categorical(logits=out[..., :-1]), out[..., -1]
    log_prob = policy.log_prob(BATCH.action)
    ratio = (log_prob.detach() - BATCH.extras["log_prob"]).exp()
    assert (ratio > 1.2).any() and (ratio < 0.9).any()
    arrays = [x.detach().numpy() for x in (BATCH.reward, value, next_value, BATCH.terminated, BATCH.truncated, ratio)]
    advantage, target = (torch.from_numpy(x) for x in returns.vtrace(*arrays, 0.9, 0.8, 1.2, 0.9, 1.2))
    each = -advantage * log_prob + 0.7 * 0.5 * (target - value) ** 2 - 0.05 * policy.entropy()
    expected = (WEIGHT * each).sum() / 12
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(metrics["importance_ratio"], ratio.mean())
    same_as_autograd(gradient, expected, PARAMS, leaves)


def test_on_policy_it_is_a2c_with_lambda_returns():
    """Where no ratio is clipped or other than 1, targets are TD(lambda)'s, and the advantage is the next step's target less the value."""
    done = BATCH.terminated | BATCH.truncated | (torch.arange(6) == 5)[:, None]
    successor = torch.where(done[..., None], BATCH.next_observation, BATCH.observation.roll(-1, 0))
    policy, value = policy_and_value(PARAMS, BATCH.observation)
    next_value = policy_and_value(PARAMS, successor)[1]
    batch = BATCH.replace(next_observation=successor, extras={"log_prob": policy.log_prob(BATCH.action)})
    target = td_lambda(batch.reward, next_value, batch.terminated, batch.truncated, gamma=0.9, lambda_=1.0)
    expected = a2c_loss(PARAMS, A2CBatch(batch.observation, batch.action, advantage=target - value, target=target), apply=policy_and_value)
    got, metrics = impala_loss(PARAMS, batch, apply=policy_and_value, gamma=0.9)
    torch.testing.assert_close(got, expected[0])
    torch.testing.assert_close(metrics["importance_ratio"].item(), 1.0)


def test_nothing_in_the_batch_carries_a_gradient():
    def loss(numbers):
        batch = BATCH.replace(reward=numbers["reward"], next_observation=numbers["next"], extras={"log_prob": numbers["log_prob"]})
        return impala_loss(PARAMS, batch, apply=policy_and_value, gamma=0.9)[0]

    assert unused(grad(loss)({"reward": BATCH.reward, "next": BATCH.next_observation, "log_prob": BATCH.extras["log_prob"]}))


def test_the_past_does_not_matter_and_the_end_of_an_episode_does():
    """Column by column, the loss is that of its columns; what follows a truncated step changes nothing before it."""
    whole = impala_loss(PARAMS, BATCH, apply=policy_and_value, gamma=0.9)[0]
    columns = [impala_loss(PARAMS, tree.map(lambda x, b=b: x[:, b], BATCH), apply=policy_and_value, gamma=0.9)[0] for b in range(2)]
    torch.testing.assert_close(whole, sum(columns) / 2)
    cut = BATCH.replace(truncated=torch.arange(6)[:, None].expand(6, 2) == 2, terminated=torch.zeros(6, 2, dtype=torch.bool))
    first = torch.arange(6)[:, None].expand(6, 2).le(2).double()
    same(
        *(
            grad(lambda p, x=x: impala_loss(p, cut.replace(reward=x), apply=policy_and_value, gamma=0.9, weight=first)[0])(PARAMS)
            for x in (cut.reward, torch.where(first.bool(), cut.reward, 100.0))
        )
    )


def column(params, observation):
    policy, value = policy_and_value(params, observation)
    return policy, value[..., None]


def call(batch=BATCH, **options):
    return lambda: impala_loss(PARAMS, batch, **{"apply": policy_and_value, "gamma": 0.9} | options)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (call(BATCH.replace(extras=())), TypeError, "impala_loss: batch.extras: expected a dict with log_prob, got tuple; act has to"),
        (call(BATCH.replace(extras={"value": BATCH.reward})), TypeError, r"expected a dict with log_prob, got \['value'\]"),
        (
            call(BATCH.replace(extras={"log_prob": BATCH.reward[..., None]})),
            ValueError,
            r"batch.extras\['log_prob'\]: expected the shape \[6, 2\] of batch.reward, got \[6, 2, 1\]",
        ),
        (call(apply=column), ValueError, r"value.*: expected the shape \[6, 2\] .*got \[6, 2, 1\]"),
        (call(BATCH.replace(terminated=BATCH.terminated[..., None])), ValueError, r"batch.terminated: .* got \[6, 2, 1\]"),
        (call(gamma=1.5), ValueError, "gamma: .* got 1.5"),
        (call(lambda_=-0.5), ValueError, "lambda_: .* got -0.5"),
        (call(rho_clip=-1.0), ValueError, "rho_clip"),
        (call(c_clip=-1.0), ValueError, "c_clip"),
        (call(value_weight=-1.0), ValueError, "impala_loss: value_weight: .* got -1.0"),
        (call(weight=WEIGHT[0]), ValueError, r"impala_loss: weight: expected the shape \[6, 2\].* got \[2\]"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
