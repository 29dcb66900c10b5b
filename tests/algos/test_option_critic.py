"""The option-critic: its returns against a loop, its choices against their probabilities."""

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import algos, envs, random, tree
from tests.oracles import options as plain
from tests.support import same

OPTIONS = dict(num_envs=3, num_steps=40, num_options=3, num_cells=(6,), epsilon=0.3, lambda_=0.7, gamma=0.9)


def made(**options):
    """An environment whose episodes are cut after 9 steps, and end at the goal sooner or later."""
    env = envs.make("FourRooms-misc")
    params = env.default_params.replace(max_steps=torch.tensor(9), starts=env.default_params.starts[-30:])
    return algos.option_critic.make(env._replace(default_params=tree.to(params, torch.float64)), **{**OPTIONS, **options})


def test_rows_are_those_of_a_loop():
    kept = []

    def loss(params, rows, hparams, *, default, apply):
        kept.append((rows, params, apply))
        return default(params, rows, hparams)

    algo = made(loss=loss)
    state = algo.init(random.key(3))
    _, samples = algo.collect(random.key(4), state)
    assert samples.terminated.any() and samples.truncated.any()
    algo.learn(random.key(5), state.learner, samples)
    rows, _, apply = kept[0]
    rows, network = tree.reshape(rows, (40, 3), batch_dims=1), state.learner.params.network
    option = samples.extras["option"]

    def all_options(observation):
        return torch.stack([torch.stack(apply(network, observation, torch.full_like(option, k))[1:]) for k in range(3)], -1)

    (value, _), (next_value, beta) = all_options(samples.observation), all_options(samples.next_observation)
    for b in range(3):
        arrival, advantage = [], []
        for t in range(40):
            k = option[t, b].item()
            u, a = plain.option_values(next_value[t, b].tolist(), beta[t, b, k].item(), k, 0.3)
            arrival.append(u)
            advantage.append(a)
        ends = (samples.terminated[:, b].tolist(), samples.truncated[:, b].tolist())
        own = value[torch.arange(40), b, option[:, b]]
        target = plain.returns(samples.reward[:, b].tolist(), own.tolist(), arrival, *ends, 0.9, 0.7)
        target = torch.tensor(target, dtype=torch.float64)
        torch.testing.assert_close(rows.target[:, b], target)
        torch.testing.assert_close(rows.advantage[:, b], target - own)
        torch.testing.assert_close(rows.option_advantage[:, b], torch.tensor(advantage, dtype=torch.float64))
    assert torch.equal(rows.option, option) and torch.equal(rows.terminated, samples.terminated)


def test_an_option_goes_on_until_it_terminates_or_the_episode_ends():
    algo = made(num_options=3, epsilon=0.3)
    params = algo.init(random.key(0)).learner.params
    network, observation = params.network, torch.tensor([8.0, 7.0, 8.0, 9.0], dtype=torch.float64)
    bias = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    last = network["termination"][-1]
    network = {**network, "termination": (*network["termination"][:-1], {"weight": last["weight"] * 0, "bias": bias})}
    params = params.replace(network=network)
    values = algo_values(algo, network, observation)
    best, n = int(values.argmax()), 20_000
    keys = random.split(random.key(1), n)
    for option in range(3):
        for reset in (False, True):
            after = vmap(lambda key: algo.act.act(params, key, torch.tensor(option), observation, torch.tensor(reset))[0])(keys)  # noqa: B023
            stop = 1.0 if reset else bias[option].sigmoid().item()
            chance = torch.full((3,), stop * 0.1)
            chance[best] += stop * 0.7
            chance[option] += 1 - stop
            found = torch.bincount(after, minlength=3) / n
            assert (found - chance).abs().max() < 0.018
    greedy = vmap(lambda key: algo.greedy.act(params, key, torch.tensor(0), observation, torch.tensor(True))[0])(keys[:100])
    assert (greedy == best).all()


def algo_values(algo, network, observation):
    """The values of all options, by the forward pass that a loss of the user's own is given."""
    found = []

    def loss(params, rows, hparams, *, default, apply):
        found.append(apply)
        return default(params, rows, hparams)

    twin = made(loss=loss)
    state = twin.init(random.key(0))
    twin.step(random.key(1), state)
    return torch.stack([found[0](network, observation, torch.tensor(k))[1] for k in range(3)])


def test_one_option_learns_as_a2c_does():
    """Then V and U are the value of the option, whether it terminates or not, and an update is one of A2C."""
    options = dict(OPTIONS, num_options=1, deliberation_cost=0.0)
    algo = made(**options)
    same_options = {name: options[name] for name in ("num_envs", "num_steps", "num_cells", "lambda_", "gamma")}
    flat = algos.a2c.make(algo.env, **same_options)
    state, other = algo.init(random.key(3)), flat.init(random.key(8)).learner
    shared = {name: state.learner.params.network[name] for name in ("policy", "value")}
    assert tree.structure(shared) == tree.structure(other.params.network)
    other = other.replace(params=other.params.replace(network=shared))
    for i in range(3):
        actor, samples = algo.collect(random.key(4 + i), state)
        learner, metrics = algo.learn(random.key(5), state.learner, samples)
        other, expected = flat.learn(random.key(5), other, samples)
        state = state.replace(actor=actor, learner=learner)
        for name in shared:
            same(learner.params.network[name], other.params.network[name], rtol=1e-12, atol=1e-12)
        assert samples.done.any() and not samples.extras["option"].any()
        same([metrics[name] for name in ("policy_loss", "value_loss", "entropy", "gradient_norm")],
             [expected[name] for name in ("policy_loss", "value_loss", "entropy", "gradient_norm")], rtol=1e-12, atol=1e-12)  # fmt: skip
        assert metrics["termination_loss"].abs() < 1e-15


@pytest.mark.slow
def test_continuous_actions_and_the_contract():
    algos.check(algos.option_critic.make(envs.make("Pendulum-v1"), num_envs=2, num_steps=4, num_cells=(4,)), random.key(0))


def test_wrong_options():
    for options, message in (
        (dict(num_options=0), "num_options: expected"),
        (dict(epsilon=1.5), "epsilon: expected a number in \\[0, 1\\]"),
        (dict(deliberation_cost=-1.0), "deliberation_cost: expected"),
        (dict(network=funrl.nn.mlp((4,), 2)), "this algorithm has no such part"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**options)


def test_the_policy_makes_parameters_of_its_own():
    algo = made()
    params = algo.act.init(random.key(0), torch.zeros(4, dtype=torch.float64))
    assert tree.structure(params) == tree.structure(algo.init(random.key(0)).learner.params) and params.random == 0.3
    option = algo.act.start(params, torch.zeros(4, dtype=torch.float64))
    after, action, extras = algo.act.act(params, random.key(1), option, torch.zeros(4, dtype=torch.float64), torch.tensor(True))
    assert 0 <= after < 3 and 0 <= action < 4 and torch.equal(extras["option"], after)
