import pytest
import torch
from torch.func import grad, grad_and_value

from funrl.distributions import Categorical
from funrl.losses import PPOBatch, adapt_kl_weight, ppo_kl_loss
from tests.losses.batches import (
    ACTIONS,
    OBSERVATIONS,
    POLICY_AND_VALUE,
    leaves_of_autograd,
    normal,
    parameters,
    policy_and_value,
    same_as_autograd,
    transitions,
    unused,
    weights,
)

PARAMS, WEIGHT, STEPS = parameters(POLICY_AND_VALUE, 0, OBSERVATIONS), weights(), transitions(discrete=True)
OLD = Categorical(normal(3, 12, ACTIONS))
BATCH = PPOBatch(STEPS.observation, STEPS.action, OLD.log_prob(STEPS.action), *(normal(seed, 12) for seed in (4, 5, 6)))


def test_agrees_with_torch_distributions():
    gradient, (loss, metrics) = grad_and_value(ppo_kl_loss, has_aux=True)(
        *(PARAMS, BATCH, OLD), apply=policy_and_value, kl_weight=1.5, value_clip=0.3, value_weight=0.7, entropy_weight=0.05, weight=WEIGHT
    )
    learned, leaves = leaves_of_autograd(PARAMS)
    out = POLICY_AND_VALUE.apply(learned, BATCH.observation)
    policy, old, value = (*(torch.distributions.Categorical(logits=x) for x in (out[:, :-1], OLD.logits)), out[:, -1])
    kl = torch.distributions.kl_divergence(old, policy)
    total = 0.0
    for i in range(12):
        ratio = torch.exp(policy.log_prob(BATCH.action)[i]) / torch.exp(BATCH.log_prob[i])
        moved = BATCH.value[i] + (value[i] - BATCH.value[i]).clamp(-0.3, 0.3)
        error = max((value[i] - BATCH.target[i]) ** 2, (moved - BATCH.target[i]) ** 2) / 2
        each = -ratio * BATCH.advantage[i] + 0.7 * error - 0.05 * policy.entropy()[i] + 1.5 * kl[i]
        total = total + WEIGHT[i] * each / 12
    torch.testing.assert_close(loss, total.detach())
    torch.testing.assert_close(metrics["kl"], kl.mean().detach())
    same_as_autograd(gradient, total, PARAMS, leaves)


def test_what_carries_no_gradient():
    names = ("log_prob", "value", "advantage", "target")
    options = {"apply": policy_and_value, "kl_weight": 1.0, "value_clip": 0.3}
    assert unused(grad(lambda x: ppo_kl_loss(PARAMS, BATCH.replace(**x), OLD, **options)[0])({n: getattr(BATCH, n) for n in names}))
    assert unused(grad(lambda x: ppo_kl_loss(PARAMS, BATCH, Categorical(x), **options)[0])(OLD.logits))


def test_the_weight_adapts():
    """Half of it where the divergence is below target / 1.5, twice where it is above 1.5 target, and else the same."""
    kl = torch.tensor([0.0, 0.66, 0.67, 1.0, 1.49, 1.51, 9.0])
    weight = torch.full((7,), 3.0)
    expected = [1.5, 1.5, 3.0, 3.0, 3.0, 6.0, 6.0]
    assert adapt_kl_weight(weight, kl, target=1.0).tolist() == expected
    assert adapt_kl_weight(weight, kl, target=torch.tensor(1.0)).tolist() == expected


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: ppo_kl_loss(PARAMS, BATCH, Categorical(OLD.logits[None]), apply=policy_and_value, kl_weight=1.0),
            ValueError,
            r"ppo_kl_loss: old_policy's kl: expected the shape \[12\] .*got \[1, 12\]",
        ),
        (lambda: ppo_kl_loss(PARAMS, BATCH, OLD, apply=policy_and_value, kl_weight=-1.0), ValueError, "kl_weight: .* got -1.0"),
        (lambda: ppo_kl_loss(PARAMS, BATCH, OLD, apply=policy_and_value, kl_weight=1.0, value_clip=-1.0), ValueError, "value_clip"),
        (lambda: ppo_kl_loss(PARAMS, STEPS, OLD, apply=policy_and_value, kl_weight=1.0), TypeError, "batch: expected a .*PPOBatch"),
        (lambda: adapt_kl_weight(torch.ones(1), torch.ones(()), target=1.0), ValueError, r"kl: expected the shape \[1\] of kl_weight"),
        (lambda: adapt_kl_weight(torch.ones(()), torch.ones(()), target=0.0), ValueError, "target: expected a number above 0, got 0"),
        (lambda: adapt_kl_weight(torch.ones(()), torch.ones(()), target=-1.0), ValueError, "target: .* got -1.0"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
