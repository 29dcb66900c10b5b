import chex
import pytest
import torch
from torch.func import vmap

import funrl
from funrl import compiler, distributions, nn, policies, random, spaces

KEY = random.key(0)
X = random.normal(random.key(1), (7, 5))


def squashed(loc, scale):
    return distributions.Independent(distributions.TanhNormal(loc, scale, -2.0, 2.0), 1)


GAUSSIAN = distributions.normal_params(nn.mlp((8,), 4))


def test_deterministic_plays_what_the_network_says():
    net = nn.mlp((8,), 3)
    policy = policies.deterministic(net)
    params = policy.init(KEY, X)
    action, extras = policy.act(params, KEY, X)
    assert torch.equal(action, net.apply(params, X)) and extras == {} and policy.extras == ()
    entries = policies.deterministic(nn.chain(nn.keyed(nn.mlp((8,)), "obs", "hidden"), nn.keyed(nn.mlp((), 3), "hidden", "action")))
    params = entries.init(KEY, {"obs": X})
    action, extras = entries.act(params, KEY, {"obs": X})
    chex.assert_shape(action, (7, 3))
    assert list(extras) == ["hidden"] == list(entries.extras) and entries.in_keys == ("obs",)
    noisy = policies.deterministic(nn.noisy_linear(3))
    params = noisy.init(KEY, X)
    assert not torch.equal(noisy.act(params, KEY, X)[0], noisy.act(params, random.key(2), X)[0])


def test_stochastic_samples_and_says_how_likely():
    policy = policies.stochastic(GAUSSIAN, squashed)
    params = policy.init(KEY, X)
    dist = squashed(*GAUSSIAN.apply(params, X))
    action, extras = policy.act(params, KEY, X)
    expected, log_prob = dist.sample_with_log_prob(KEY)
    assert torch.equal(action, expected) and torch.equal(extras["log_prob"], log_prob)
    action, extras = policy.act(params, KEY, X, mode="mode")
    assert torch.equal(action, dist.mode()) and torch.equal(extras["log_prob"], dist.log_prob(dist.mode()))
    action, extras = policy.act(params, KEY, X, mode="mean")
    assert torch.equal(action, dist.mean(KEY)) and extras["log_prob"].isfinite().all()
    without = policies.stochastic(GAUSSIAN, squashed, return_log_prob=False)
    assert without.act(params, KEY, X)[1] == {} and without.extras == () and policy.extras == ("log_prob",)
    plain = policies.stochastic(GAUSSIAN, distributions.Normal)
    loc, _ = GAUSSIAN.apply(params, X)
    assert torch.equal(plain.act(params, KEY, X, mode="mean")[0], loc)


def test_parameters_come_as_a_tensor_a_tuple_or_by_name():
    net = nn.mlp((), 3)
    params = net.init(KEY, X)
    one = policies.stochastic(net, distributions.Categorical).act(params, KEY, X)[0]
    named = nn.keyed(lambda p: p, "observation", "logits")
    other = policies.stochastic(nn.chain(nn.keyed(net, "observation", "hidden"), nn.keyed(lambda h: h, "hidden", "logits"))[:], lambda **k:
                                distributions.Categorical(k["logits"]))  # fmt: skip
    action, extras = other.act((params, ()), KEY, {"observation": X})
    assert torch.equal(action, one) and set(extras) == {"hidden", "logits", "log_prob"} == set(other.extras)
    by_dict = policies.stochastic(nn.sequential(net, lambda x: {"logits": x}), distributions.Categorical)
    assert torch.equal(by_dict.act((params, ()), KEY, X)[0], one)
    masked = policies.stochastic(
        nn.keyed(lambda z, m: (z, m), ["z", "legal"], [("dist", "logits"), ("dist", "mask")]), distributions.Categorical
    )
    action, extras = masked.act((), KEY, {"z": torch.zeros(3), "legal": torch.tensor([False, False, True])})
    assert action == 2 and set(extras) == {"logits", "mask", "log_prob"}
    assert named.in_keys == ("observation",)


def test_q_value_chooses_the_greatest():
    values = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -2.0]])
    identity = nn.sequential(lambda x: x)
    action, extras = policies.q_value(identity).act(((),), None, values)
    assert torch.equal(action, torch.tensor([1, 0])) and torch.equal(extras["value"], torch.tensor([3.0, 0.0]))
    assert extras["action_value"] is values
    hot, extras = policies.q_value(identity, encoding="one_hot").act(((),), None, values)
    assert torch.equal(hot, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])) and torch.equal(extras["value"], torch.tensor([3.0, 0.0]))
    dueling = policies.q_value(nn.dueling((8,), 3))
    assert dueling.act(dueling.init(KEY, X), KEY, X)[0].shape == (7,)


def test_safe_projects_into_the_space():
    box = spaces.Box([-1.0, 0.0], [1.0, 0.5])
    policy = policies.safe(policies.deterministic(nn.sequential(lambda x: 100 * x)), box)
    for shape in ((2,), (7, 2), (3, 7, 2)):
        x = random.normal(KEY, shape)
        action, _ = policy.act(((),), None, x)
        assert torch.equal(action, torch.minimum(torch.maximum(100 * x, box.low), box.high))
    whole = spaces.Dict({"move": spaces.Discrete(3), "turn": spaces.Box(-1.0, 1.0, (1,))})
    policy = policies.safe(policies.deterministic(nn.sequential(lambda x: {"move": x["move"] + 5, "turn": x["turn"]})), whole)
    action, _ = policy.act(((),), None, {"move": torch.tensor([0, -9]), "turn": torch.tensor([[0.5], [7.0]])})
    assert torch.equal(action["move"], torch.tensor([2, 0])) and torch.equal(action["turn"], torch.tensor([[0.5], [1.0]]))
    memory = policies.safe(policies.additive_gaussian(policies.deterministic(nn.mlp((), 2)), box, 0.1), box)
    params, x = memory.init(KEY, X[0]), X[0]
    state, action, extras = memory.act(params, KEY, memory.start(params, x), x, torch.tensor(True))
    assert box.contains(action) and state.count == 1 and extras == {}


def test_random_draws_from_the_space():
    space = spaces.Box([-1.0, 0.0], [1.0, 0.5])
    policy = policies.random(space)
    actions = vmap(lambda key: policy.act(policy.init(KEY, X), key, X)[0])(random.split(KEY, 500))
    assert vmap(space.contains)(actions).all() and actions.std(0).min() > 0.1


def test_keyed_policies_read_and_write_entries():
    actor = policies.keyed(policies.deterministic(nn.mlp((), 3)), "obs")
    params = actor.init(KEY, {"obs": X})
    entries = actor.apply(params, {"obs": X})
    assert list(entries) == ["obs", "action"] and actor.in_keys == ("obs",) and actor.out_keys == ("action",)
    joined = nn.chain(nn.keyed(GAUSSIAN, "obs", ["loc", "scale"]), policies.keyed(policies.stochastic(nn.sequential(
        lambda pair: pair), squashed), ["loc", "scale"]))  # fmt: skip
    params = joined.init(KEY, {"obs": X})
    entries = joined.apply(params, {"obs": X}, key=KEY)
    assert joined.out_keys == ("loc", "scale", "action", "log_prob") and entries["action"].shape == (7, 2)
    whole = policies.stochastic(nn.keyed(GAUSSIAN, "obs", ["loc", "scale"]), squashed)
    one = policies.keyed(whole, mode="mode")
    entries = one.apply(params[0], {"obs": X, "other": KEY})
    assert set(entries) == {"obs", "other", "loc", "scale", "action", "log_prob"}
    torch.testing.assert_close(entries["action"], 2 * torch.tanh(entries["loc"]))


def test_a_policy_acts_in_a_compiled_rollout_as_it_does_eagerly():
    env = funrl.envs.make("Pendulum-v1")
    policy = policies.safe(policies.stochastic(distributions.normal_params(nn.mlp((4,), 2)), squashed), env.action_space)
    params = policy.init(KEY, torch.zeros(3))

    def roll(params, key):
        state = vmap(env.reset, (0, None))(random.split(key, 2), env.default_params)
        return funrl.rollout(params, key, state, env.default_params, env=env, act=policy.act, num_steps=3)[1]

    expected, got = roll(params, KEY), compiler.compile(roll, backend="aot_eager")(params, KEY)
    torch.testing.assert_close(got.action, expected.action)
    torch.testing.assert_close(got.extras["log_prob"], expected.extras["log_prob"])


IDENTITY = nn.sequential(lambda x: x)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: policies.deterministic(torch.nn.Linear(2, 2)), TypeError, "deterministic: net: expected a net, got a Linear"),
        (lambda: policies.deterministic(nn.keyed(IDENTITY, "a", "b")), ValueError, r"expected 'action' among its out_keys, got \['b'\]"),
        (lambda: policies.stochastic(IDENTITY, "normal"), TypeError, "distribution: expected a class or function, got a str"),
        (
            lambda: policies.stochastic(IDENTITY, distributions.Categorical).act(((),), KEY, X, mode="greedy"),
            ValueError,
            "stochastic.act: mode: expected 'random', 'mode' or 'mean', got 'greedy'",
        ),
        (
            lambda: policies.stochastic(IDENTITY, distributions.Categorical).act(((),), KEY, X, mode="mean"),
            TypeError,
            "Categorical.mean: classes are labels",
        ),
        (lambda: policies.q_value(IDENTITY, encoding="onehot"), ValueError, "encoding: expected 'index' or 'one_hot', got 'onehot'"),
        (lambda: policies.q_value(nn.keyed(IDENTITY, "a", "b")), TypeError, "expected a net of the observation"),
        (lambda: policies.q_value(IDENTITY).act(((),), KEY, torch.tensor(1.0)), ValueError, r"expected the values \[..., A\]"),
        (lambda: policies.safe(IDENTITY, spaces.Discrete(2)), TypeError, "safe: policy: expected a policy, got a Net"),
        (lambda: policies.safe(policies.q_value(IDENTITY), 3), TypeError, "space: expected a space with a method project, got a int"),
        (
            lambda: policies.safe(policies.deterministic(IDENTITY), spaces.Box(-1.0, 1.0, (3,))).act(((),), KEY, torch.zeros(7, 2)),
            ValueError,
            r"expected shape \[3\]",
        ),
        (
            lambda: policies.stochastic(IDENTITY, lambda x: torch.distributions.Normal(x, 1.0)).act(((),), KEY, torch.zeros(2)),
            TypeError,
            "stochastic.act: distribution: expected one of funrl.distributions, got a torch.distributions.normal.Normal",
        ),
        (lambda: policies.random(3), TypeError, "random: space: expected a space with a method sample, got a int"),
        (lambda: policies.keyed(IDENTITY), TypeError, "keyed: policy: expected a policy, got a Net"),
        (
            lambda: policies.keyed(policies.epsilon_greedy(policies.q_value(IDENTITY), spaces.Discrete(2), 0.1)),
            TypeError,
            "expected one without a state",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
