import chex
import pytest
import torch
from torch.func import grad_and_value, vmap

from funrl import distributions, nn, policies, random, tree
from funrl.losses._ppo import PPOBatch, ppo_loss

KEY = random.key(0)
X = random.normal(random.key(1), (7, 5))
BOTH = policies.actor_critic(nn.mlp((8,)), nn.mlp((), 3), nn.mlp((), 1), distributions.Categorical)


def test_actor_and_critic_share_their_trunk():
    params = BOTH.init(KEY, X)
    assert set(params) == {"trunk", "actor", "critic"}
    features = nn.mlp((8,)).apply(params["trunk"], X)
    logits, values = nn.mlp((), 3).apply(params["actor"], features), nn.mlp((), 1).apply(params["critic"], features)[:, 0]
    action, extras = BOTH.act(params, KEY, X)
    dist = distributions.Categorical(logits)
    assert torch.equal(action, dist.sample(KEY))
    torch.testing.assert_close(extras["log_prob"], dist.log_prob(action))
    torch.testing.assert_close(extras["value"], values)
    torch.testing.assert_close(BOTH.value(params, X), values)
    assert torch.equal(BOTH.act(params, KEY, X, mode="mode")[0], dist.mode())
    distribution, value = BOTH.evaluate(params, X)
    torch.testing.assert_close((distribution.logits, value), (logits, values))


def test_it_is_what_the_loss_of_ppo_takes():
    params = BOTH.init(KEY, X)
    action, extras = BOTH.act(params, KEY, X)
    batch = PPOBatch(X, action, extras["log_prob"], extras["value"], torch.ones(7), torch.ones(7))
    gradient, (loss, metrics) = grad_and_value(ppo_loss, has_aux=True)(params, batch, apply=BOTH.evaluate)
    assert loss.isfinite() and metrics["clip_fraction"] == 0
    assert all((g != 0).any() for g in tree.leaves(gradient["trunk"]))


@pytest.mark.parametrize("cell", [nn.gru(6), nn.lstm(6), nn.min_gru(6)])
def test_a_recurrent_policy_is_its_cell_and_its_policy(cell):
    policy = policies.recurrent(cell, BOTH, nn.mlp((4,)))
    params = policy.init(KEY, X[0])
    assert set(params) == {"encoder", "cell", "policy"} and policy.extras == ("log_prob", "value")
    state = vmap(policy.start, (None, 0))(params, X)
    reset = torch.arange(7) % 2 == 0
    for t in range(3):
        before, x = state, X + t
        state, action, extras = policy.act(params, random.key(t), before, x, reset)
        h, y = cell.apply(params["cell"], before, nn.mlp((4,)).apply(params["encoder"], x), reset)
        expected, more = BOTH.act(params["policy"], random.key(t), y)
        assert torch.equal(action, expected)
        torch.testing.assert_close((tree.leaves(state), extras), (tree.leaves(h), more))
    fresh = policy.act(params, KEY, vmap(policy.start, (None, 0))(params, X), X, torch.zeros(7).bool())[0]
    again = policy.act(params, KEY, state, X, torch.ones(7).bool())[0]
    torch.testing.assert_close(tree.leaves(fresh), tree.leaves(again))
    assert torch.equal(policy.act(params, KEY, state, X, reset, mode="mode")[1], policy.act(params, KEY, state, X, reset, mode="mode")[1])
    single = vmap(policy.act, (None, 0, 0, 0, 0))(params, random.split(KEY, 7), state, X, reset)
    chex.assert_shape(single[1], (7,))


def test_without_an_encoder_the_cell_sees_the_observation():
    policy = policies.recurrent(nn.gru(6), policies.deterministic(nn.mlp((), 2)))
    params = policy.init(KEY, X[0])
    chex.assert_shape(params["cell"]["weight_input"], (18, 5))
    assert "encoder" not in params


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: policies.actor_critic(nn.mlp((), 2), 3, nn.mlp((), 1), distributions.Categorical), TypeError, "actor: net: expected"),
        (
            lambda: policies.actor_critic(nn.noisy_linear(2), nn.mlp((), 2), nn.mlp((), 1), distributions.Categorical),
            ValueError,
            "trunk: expected a net without noise",
        ),
        (lambda: policies.actor_critic(nn.mlp((2,)), nn.mlp((), 2), nn.mlp((), 1), None), TypeError, "distribution: expected a class"),
        (
            lambda: policies.actor_critic(*[nn.sequential(torch.tanh)] * 3, distributions.Categorical).value(
                {"trunk": ((),), "actor": ((),), "critic": ((),)}, torch.zeros(3)
            ),
            ValueError,
            r"critic: expected an output \[..., 1\]",
        ),
        (lambda: policies.recurrent(nn.mlp((2,)), BOTH), TypeError, "cell: expected what nn.gru or its like returned, got a Net"),
        (lambda: policies.recurrent(nn.gru(2), policies.recurrent(nn.gru(2), BOTH)), TypeError, "expected a policy without a state"),
        (lambda: policies.recurrent(nn.gru(2), BOTH, torch.tanh), TypeError, "encoder: net: expected a net"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
