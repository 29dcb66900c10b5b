import pytest
import torch
from torch.func import grad, grad_and_value

from funrl import tree
from funrl.distributions import Categorical
from funrl.losses import OptionBatch, option_critic_loss
from tests.losses.batches import ACTIONS, OBSERVATIONS, normal, transitions, unused, weights
from tests.oracles import options as plain

K = 3
PARAMS = {
    "policy": 0.5 * normal(1, OBSERVATIONS, K * ACTIONS),
    "value": normal(2, OBSERVATIONS, K),
    "termination": normal(3, OBSERVATIONS, K),
}
WEIGHTS = dict(deliberation_cost=0.3, termination_weight=0.8, value_weight=0.7, entropy_weight=0.05)


def of(option, x):
    return x.gather(-1, option[..., None]).squeeze(-1)


def apply(params, observation, option):
    logits = (observation @ params["policy"]).unflatten(-1, (K, ACTIONS))
    own = logits.gather(-2, option[..., None, None].expand(*option.shape, 1, ACTIONS)).squeeze(-2)
    return Categorical(own), of(option, observation @ params["value"]), of(option, observation @ params["termination"]).sigmoid()


def experience():
    x = transitions(discrete=True)
    option = torch.arange(12) % K
    numbers = [normal(seed, 12) for seed in (4, 5, 6)]
    return OptionBatch(x.observation, x.action, option, numbers[0], numbers[1], x.next_observation, numbers[2], x.terminated)


BATCH, WEIGHT = experience(), weights()


def naive(params):
    distribution, value, _ = apply(params, BATCH.observation, BATCH.option)
    beta = apply(params, BATCH.next_observation, BATCH.option)[2]
    samples = [
        {"probabilities": distribution.logits.softmax(-1)[i].tolist(), "value": value[i].item(), "beta": beta[i].item(),
         **{name: getattr(BATCH, name)[i].item() for name in ("action", "target", "advantage", "option_advantage", "terminated")}}
        for i in range(12)
    ]  # fmt: skip
    return plain.loss(samples, WEIGHT.tolist(), 0.3, 0.8, 0.7, 0.05)


def test_agrees_with_a_loop_and_so_does_its_gradient():
    gradient, (loss, metrics) = grad_and_value(option_critic_loss, has_aux=True)(PARAMS, BATCH, apply=apply, weight=WEIGHT, **WEIGHTS)
    assert loss.item() == pytest.approx(naive(PARAMS), rel=1e-12)
    for name, x in PARAMS.items():
        for place in ((0, 0), (1, 2), (3, x.shape[1] - 1)):
            nudge = torch.zeros_like(x)
            nudge[place] = 1e-5
            up, down = ({**PARAMS, name: x + sign * nudge} for sign in (1, -1))
            assert gradient[name][place].item() == pytest.approx((naive(up) - naive(down)) / 2e-5, rel=1e-6, abs=1e-9)
    parts = metrics["policy_loss"] + 0.7 * metrics["value_loss"] - 0.05 * metrics["entropy"] + 0.8 * metrics["termination_loss"]
    torch.testing.assert_close(parts, loss)


def test_an_option_learns_to_terminate_where_another_is_better_by_more_than_the_cost():
    def gradient(advantage, cost):
        batch = BATCH.replace(
            option_advantage=torch.full((12,), advantage, dtype=torch.float64), terminated=torch.zeros(12, dtype=torch.bool)
        )
        options = dict(value_weight=0.0, entropy_weight=0.0, deliberation_cost=cost)

        def loss(shift):
            def shifted(params, observation, option):
                distribution, value, beta = apply(params, observation, option)
                return distribution, value, torch.special.logit(beta).add(shift).sigmoid()

            return option_critic_loss(PARAMS, batch, apply=shifted, **options)[0]

        return grad(loss)(torch.zeros((), dtype=torch.float64))

    assert gradient(-0.5, 0.1) < 0 < gradient(-0.5, 0.9)  # the loss falls as the options terminate more often
    assert gradient(0.5, 0.0) > 0


def test_where_the_episode_ends_terminations_get_no_gradient():
    batch = BATCH.replace(terminated=torch.ones(12, dtype=torch.bool))
    gradient = grad(lambda p: option_critic_loss(p, batch, apply=apply, **WEIGHTS)[0])(PARAMS)
    assert (gradient["termination"] == 0).all() and (gradient["policy"] != 0).any()


def test_nothing_in_the_batch_carries_a_gradient():
    names = ("advantage", "target", "option_advantage")
    loss = lambda numbers: option_critic_loss(PARAMS, BATCH.replace(**numbers), apply=apply)[0]  # noqa: E731
    assert unused(grad(loss)({name: getattr(BATCH, name) for name in names}))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="apply's value"):
        option_critic_loss(PARAMS, BATCH, apply=lambda *x: (lambda a, b, c: (a, b[:, None], c))(*apply(*x)))
    with pytest.raises(TypeError, match="terminated: expected a bool tensor"):
        option_critic_loss(PARAMS, BATCH.replace(terminated=BATCH.target), apply=apply)
    with pytest.raises(ValueError, match="deliberation_cost: expected"):
        option_critic_loss(PARAMS, BATCH, apply=apply, deliberation_cost=-1.0)
    with pytest.raises(TypeError, match=r"expected a funrl\.losses\.OptionBatch or the like"):
        option_critic_loss(PARAMS, tree.index({"a": WEIGHT}, 0), apply=apply)
