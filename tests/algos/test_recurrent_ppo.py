"""PPO with a recurrent policy, against torch's own cells in a loop."""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import evaluate, random, rollout, tree
from funrl.algos import ppo
from funrl.policies import StatefulPolicy
from tests.oracles import recurrent_ppo as oracle
from tests.support import operators, same

SMALL = dict(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, num_cells=(8,), recurrent="gru", recurrent_size=6)
CELLS = ["gru", "lstm", "min_gru"]


def short(name, limit=5, dtype=torch.float64):
    """An environment whose episodes are truncated soon, in float64 so that tolerances can be tight."""
    env = funrl.envs.make(name)
    env_params = tree.to(env.default_params, dtype).replace(max_steps=torch.tensor(limit))
    if name == "CartPole-v1":
        env_params = env_params.replace(reset_scale=torch.tensor(0.25, dtype=dtype))  # some poles soon fall
    return env._replace(default_params=env_params)


def distance(one, other):
    return (tree.ravel(one)[0] - tree.ravel(other)[0]).abs().max()


def experience(algo, key, state):
    """Return the experience of the update with this key, as the oracle takes it: its rollout again, and its minibatches of environments."""
    rollout_key, epoch_key = random.split(key).unbind(0)
    config, memory = algo.config, state.actor.memory
    _, samples = rollout(
        state.learner.params, rollout_key, state.actor, state.learner.env_params, env=algo.env, act=algo.act, num_steps=config.num_steps
    )
    seen = {name: getattr(samples, name) for name in ("observation", "next_observation", "action", "reward", "terminated", "truncated")}
    reset = torch.cat([memory.reset[None], samples.done[:-1]])
    orders = [random.permutation(k, config.num_envs) for k in random.split(epoch_key, config.num_epochs).unbind(0)]
    order = [envs for one in orders for envs in one.reshape(config.num_minibatches, -1)]
    return {**seen, "log_prob": samples.extras["log_prob"], "reset": reset}, tree.leaves(memory.state), order


@pytest.mark.parametrize(
    "env_name, options",
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", dict(recurrent="lstm", num_cells=(), num_minibatches=4)),
        ("CartPole-v1", dict(recurrent="min_gru", value_clip=0.02, normalize_advantage=False)),
        ("Pendulum-v1", dict(trunk="shared", initial_log_std=-2.0)),
    ],
)
def test_an_update_agrees_with_plain_pytorch(env_name, options):
    algo = ppo.make(short(env_name), learning_rate=0.01, **{**SMALL, **options})
    start = algo.init(random.key(0))
    # The third update, in whose first step some environments are amid an episode; but a fresh Adam.
    state, _ = algo.step(random.key(1), start)
    state, _ = algo.step(random.key(2), state)
    state = tree.update(state, ("learner", "optimizer"), start.learner.optimizer)
    new, _ = algo.step(random.key(3), state)
    samples, carry, order = experience(algo, random.key(3), state)
    reset = samples["reset"]
    assert not reset[0].all() and reset[1:].any() and samples["truncated"].any()
    assert env_name == "Pendulum-v1" or samples["terminated"].any()
    network, config = state.learner.params.network, algo.config
    expected = oracle.update(network, samples, carry, order, config)
    same(new.learner.params.network, expected, rtol=1e-6, atol=1e-7)
    assert distance(expected, network) > 0.01 and distance(expected["memory"], network["memory"]) > 0.005

    # The oracle tells what is wrong: each of these mistakes is seen.
    def differs(carry=carry, order=order, **changes):
        settings = SimpleNamespace(**{field: getattr(config, field) for field in ppo.PPOConfig.__dataclass_fields__})
        return distance(oracle.update(network, {**samples, **changes}, carry, order, settings), new.learner.params.network) > 1e-5

    nowhere = torch.zeros_like(reset)
    assert differs(reset=nowhere), "the carry survives an episode"
    assert differs(reset=torch.cat([reset[1:], reset[:1]])), "the carry is reset a step early"
    assert differs(reset=torch.cat([nowhere[:1], reset[1:]])) or not reset[0].any(), "the first step does not know that an episode is over"
    assert differs(carry=[torch.zeros_like(x) for x in carry]), "the carry before a rollout is lost"
    assert differs(terminated=samples["terminated"] | samples["truncated"]), "a truncated episode has no value after it"
    assert differs(next_observation=samples["observation"]), "the value of the successor is that of the observation"
    assert differs(order=[envs.flip(0) for envs in reversed(order)]), "other minibatches"


@pytest.mark.parametrize("cell", CELLS)
def test_first_pass_has_ratio_one(cell):
    algo = ppo.make(short("CartPole-v1", dtype=torch.float32), **{**SMALL, "num_epochs": 1, "num_minibatches": 1, "recurrent": cell})
    state = algo.init(random.key(0))
    for i in range(4):
        state, metrics = algo.step(random.key(i), state)
        assert metrics["approximate_kl"] < 1e-10 and metrics["clip_fraction"] == 0 and metrics["learned_fraction"] == 1


def test_normalised_observations_and_rewards():
    """They reach the cell: moments beside the network, and still a ratio of one."""
    options = {**SMALL, "num_epochs": 1, "num_minibatches": 1}
    algo = ppo.make(short("Pendulum-v1"), normalize_observation=True, normalize_reward=True, **options)
    state = algo.init(random.key(0))
    for i in range(3):
        state, metrics = algo.step(random.key(i), state)
        assert metrics["approximate_kl"] < 1e-10 and metrics["clip_fraction"] == 0
    assert state.learner.params.observation.count == 3 * algo.steps_per_update
    plain = ppo.make(short("Pendulum-v1"), **SMALL)
    params, x, moments = state.learner.params, torch.tensor([0.3, -0.2, 4.0], dtype=torch.float64), state.learner.params.observation
    seen = ((x - moments.mean) / (moments.var + 1e-8).sqrt()).clamp(-10, 10)
    carry, yes = algo.greedy.start(params, x), torch.tensor(True)
    same(
        algo.greedy.act(params, random.key(0), carry, x, yes),
        plain.greedy.act(params.replace(observation=()), random.key(0), carry, seen, yes),
    )


def test_policies_with_a_memory_roll_out_and_are_evaluated():
    algo = ppo.make(funrl.envs.make("MemoryChain-bsuite"), **SMALL)
    state = algo.init(random.key(0))
    assert isinstance(algo.act, StatefulPolicy) and isinstance(algo.greedy, StatefulPolicy)
    result = evaluate(state.learner.params, random.key(1), state.learner.env_params, env=algo.env, act=algo.greedy, num_episodes=8)
    assert (result.episode_length == 21).all() and set(result.episode_return.tolist()) <= {-1.0, 1.0}
    made = algo.greedy.init(random.key(2), torch.zeros(3))
    tree.check_like(made, state.learner.params, "what the policy makes", "the learner's params")
    end, samples = rollout(
        state.learner.params, random.key(3), state.actor, state.learner.env_params, env=algo.env, act=algo.act, num_steps=25
    )
    assert end.memory.state.shape == (4, 6) and samples.extras["value"].shape == (25, 4)


def test_pictures_are_remembered():
    env = funrl.transforms.unsqueeze(-1)(funrl.envs.make("Catch-bsuite"))
    algo = ppo.make(env, num_channels=(4,), **SMALL)
    state = algo.init(random.key(0))
    assert state.learner.params.network["memory"]["below"][0]["weight"].shape == (4, 1, 3, 3)
    new, _ = algo.step(random.key(1), state)
    before, after = (s.learner.params.network["memory"]["below"] for s in (state, new))
    assert distance(before, after) > 1e-5


def test_a_step_on_the_host_is_the_same_update(monkeypatch):
    """A batched pure environment in the place of the host's."""
    monkeypatch.setattr(funrl.algos._algorithm, "compile", functools.partial(funrl.compile, backend="aot_eager"))
    env = funrl.envs.vectorize(short("CartPole-v1"), 4)
    pure, host = (ppo.make(env._replace(host=host), **SMALL) for host in (False, True))
    state = pure.init(random.key(0))
    same(state, host.init(random.key(0)), rtol=0, atol=0)
    for i in range(2):
        expected = pure.step(random.key(i), state)
        same(host.step(random.key(i), state), expected)
        state = expected[0]
    assert not state.actor.memory.reset.all() and state.actor.memory.state.shape == (4, 6)


def test_the_program_does_not_grow_with_the_steps():
    """But for the rounds in which advantages are estimated, log2 of the steps, as many operators for 4 steps as for 64."""

    def size(num_steps):
        algo = ppo.make(funrl.envs.make("MemoryChain-bsuite"), **{**SMALL, "num_steps": num_steps})
        step = funrl.compile(algo.step, backend="aot_eager")
        step(random.key(1), algo.init(random.key(0)))
        return operators(step)

    assert size(4) < size(64) < 1.1 * size(4)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(recurrent="gnu"), "recurrent: expected 'none', 'gru', 'lstm' or 'min_gru', got 'gnu'"),
        (dict(recurrent="gru", recurrent_size=0), "recurrent_size: expected a number of at least 1, got 0"),
        (
            dict(recurrent="gru", num_envs=6),
            "num_minibatches: expected a divisor of num_envs = 6, got 4; recurrent policies learn from whole environments",
        ),
    ],
)
def test_option_errors(options, message):
    with pytest.raises(ValueError, match=message):
        ppo.make(funrl.envs.make("CartPole-v1"), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell, learning_rate, updates",
    [("gru", 1e-3, 50), *(pytest.param(*x, marks=pytest.mark.nightly) for x in (("lstm", 1e-3, 50), ("min_gru", 3e-3, 150)))],
)
def test_learns_to_remember(cell, learning_rate, updates):
    """Five seeds, 51,200 steps each (min_gru 153,600): all recall what they saw ten steps ago at least 19 times in 20.

    So did 100 seeds of each. Long past the solution normalised advantages are noise, and at 3e-3 one LSTM in fifty forgets.
    """
    env = funrl.envs.memory_chain(10)
    options = dict(num_envs=32, num_steps=32, num_cells=(32,), recurrent=cell, recurrent_size=32)
    algo = ppo.make(env, learning_rate=learning_rate, anneal_steps=1_024.0 * updates, **options)
    step = funrl.compile(vmap(algo.step))
    states = vmap(algo.init)(random.split(random.key(0), 5))
    for i in range(updates):
        states, _ = step(random.split(random.fold_in(random.key(1), i), 5), states)

    def recall(params, key):
        return evaluate(params, key, env.default_params, env=env, act=algo.greedy, num_episodes=100).episode_return

    right = (vmap(recall)(states.learner.params, random.split(random.key(2), 5)) > 0).double().mean(-1)
    assert (right >= 0.95).all(), right
