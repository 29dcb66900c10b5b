import pytest
import torch
from torch.func import vmap

import funrl
from funrl import acting, compiler, evaluate, nn, policies, random, rollout, tree
from funrl.acting import ActorState
from tests.oracles import rollout as oracle
from tests.support import compilations, same

LIMITS = {"CartPole-v1": 6, "Pendulum-v1": 5}
STEPS, COPIES = 16, 3


def showing_keys(env):
    """The environment, with the keys that it was given shown in its observations: how a rollout makes them is its own affair."""

    def reset(key, env_params):
        state, timestep = env.reset(key, env_params)
        return (state, key), timestep.replace(observation={"x": timestep.observation, "reset": key, "step": torch.zeros_like(key)})

    def step(key, state, action, env_params):
        state, reset_key = state
        state, timestep = env.step(key, state, action, env_params)
        return (state, reset_key), timestep.replace(observation={"x": timestep.observation, "reset": reset_key, "step": key})

    return env._replace(reset=reset, step=step)


def make(name, dtype=torch.float32):
    env = showing_keys(funrl.envs.make(name))
    env_params = tree.to(env.default_params, dtype).replace(max_steps=torch.tensor(LIMITS[name]))
    if name == "CartPole-v1":
        env_params = env_params.replace(reset_scale=torch.tensor(0.2, dtype=dtype))  # a pole that may well fall in time

    def act(params, key, observation):
        if name == "CartPole-v1":
            logit = observation["x"] @ params
            action = (random.uniform(key, dtype=dtype) < torch.sigmoid(logit)).to(torch.int64)
            return action, {"key": key, "logit": logit}
        noise = random.normal(key, (1,), dtype=dtype)
        return (observation["x"] @ params + noise).clamp(-2, 2), {"key": key, "noise": noise}

    params = torch.linspace(-1, 1, *env.observation_space.shape, dtype=dtype)
    return env, env_params, act, params


def start(env, env_params, copies=COPIES, seed=0):
    return acting.start(random.key(seed), env_params, env=env, num_envs=copies)


def expected_rollout(params, state, env_params, env, act, last, batch):
    """Return the rollout of the oracle for the keys that a rollout used."""
    shown = torch.cat([batch.observation["reset"][1:], last.timestep.observation["reset"][None]])
    return oracle.rollout(
        params,
        (state.env, state.timestep),
        env_params,
        env=env,
        act=act,
        act_keys=batch.extras["key"],
        step_keys=batch.next_observation["step"],
        reset_keys=shown,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LIMITS)
def test_rollout_agrees_with_a_loop(name, dtype):
    env, env_params, act, params = make(name, dtype)
    state = start(env, env_params)
    kept = tree.map(torch.clone, (params, state, env_params))

    def run(params, key, state, env_params):
        return rollout(params, key, state, env_params, env=env, act=act, num_steps=STEPS)

    last, batch = run(params, random.key(1), state, env_params)
    expected_last, expected = expected_rollout(params, state, env_params, env, act, last, batch)
    same(batch, expected)
    # Only what goes on matters of the last timestep: that the episode is not over.
    same((last.env, last.timestep.observation, last.timestep.info), (expected_last[0], expected_last[1].observation, expected_last[1].info))
    assert not last.timestep.done.any() and last.timestep.reward.shape == (COPIES,)
    same((params, state, env_params), kept, rtol=0, atol=0)

    # The data hold what the test is about: episodes that end and go on, by both ways where the environment has both.
    done = batch.done
    assert batch.truncated.any() and (name == "Pendulum-v1" or batch.terminated.any())
    assert batch.reward.dtype == batch.observation["x"].dtype == dtype
    # The successor is the true one, of the episode that ends; the next observation is a fresh one's.
    follows = (batch.next_observation["x"][:-1] == batch.observation["x"][1:]).all(-1)
    assert torch.equal(follows, ~done[:-1])
    assert torch.equal(batch.next_observation["reset"], batch.observation["reset"])
    # Every key is used once.
    shown = torch.cat([batch.observation["reset"][1:], last.timestep.observation["reset"][None]])[done]
    keys = torch.cat([batch.extras["key"].reshape(-1), batch.next_observation["step"].reshape(-1), shown])
    assert len(keys.unique()) == len(keys)

    if dtype == torch.float64:
        return
    compiled = compiler.compile(run, backend="aot_eager")
    same(compiled(params, random.key(1), state, env_params), (last, batch), rtol=1e-4, atol=1e-4)
    with compilations(0):
        again, more = compiled(params, random.key(2), last, env_params)
    same((again, more), run(params, random.key(2), last, env_params), rtol=1e-3, atol=1e-3)


def test_rollout_goes_on_where_it_stopped():
    env, env_params, act, params = make("CartPole-v1")
    state = start(env, env_params)
    state, first = rollout(params, random.key(1), state, env_params, env=env, act=act, num_steps=7)
    _, second = rollout(params, random.key(2), state, env_params, env=env, act=act, num_steps=7)
    going = ~first.done[-1]
    same(second.observation["x"][0][going], first.next_observation["x"][-1][going], rtol=0, atol=0)
    assert (second.observation["x"][0][~going].abs() <= 0.2).all()


def test_same_key_same_rollout():
    env, env_params, act, params = make("Pendulum-v1")
    state = start(env, env_params)
    run = lambda key: rollout(params, key, state, env_params, env=env, act=act, num_steps=6)  # noqa: E731
    same(run(random.key(1)), run(random.key(1)), rtol=0, atol=0)
    assert not torch.equal(run(random.key(1))[1].action, run(random.key(2))[1].action)
    assert len(run(random.key(1))[1].action[0].unique()) == COPIES


@pytest.mark.parametrize("name", LIMITS)
def test_one_environment_without_a_batch(name):
    env, env_params, act, params = make(name)
    state = ActorState(*env.reset(random.key(0), env_params))
    last, batch = rollout(params, random.key(1), state, env_params, env=env, act=act, num_steps=STEPS)
    assert batch.reward.shape == batch.done.shape == (STEPS,)
    one = tree.map(lambda x: x.unsqueeze(0), (state, last))
    column = tree.map(lambda x: x.unsqueeze(1), batch)
    _, expected = expected_rollout(params, one[0], env_params, env, act, one[1], column)
    same(column, expected)


def test_rollout_under_vmap_over_params_and_constants():
    env, env_params, act, params = make("CartPole-v1")
    params = torch.stack([params, -params, 2 * params])
    constants = tree.stack(
        [env_params.replace(force=torch.tensor(f), max_steps=torch.tensor(n)) for f, n in ((5.0, 7), (10.0, 3), (20.0, 5))]
    )
    states = tree.stack([start(env, env_params, seed=i) for i in range(3)])
    keys = random.split(random.key(1), 3)

    def run(params, key, state, env_params):
        return rollout(params, key, state, env_params, env=env, act=act, num_steps=10)

    expected = tree.stack([run(params[i], keys[i], tree.index(states, i), tree.index(constants, i)) for i in range(3)])
    same(vmap(run)(params, keys, states, constants), expected)
    same(compiler.compile(vmap(run), backend="aot_eager")(params, keys, states, constants), expected, rtol=1e-4, atol=1e-4)
    # Params alone: the rest is shared, and becomes batched on the way.
    expected = tree.stack([run(params[i], keys[0], tree.index(states, 0), env_params) for i in range(3)])
    same(vmap(run, (0, None, None, None))(params, keys[0], tree.index(states, 0), env_params), expected)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(num_steps=0), "num_steps: expected an integer of at least 1, got 0"),
        (dict(state=torch.zeros(3)), "actor: expected an ActorState, or the pair .*that env.reset returned, got a Tensor"),
        (dict(state=(torch.zeros(3), torch.zeros(3))), "got a Tensor for its timestep"),
        (dict(lift=2), r"batch dimensions \[1, 1, 3\]; expected none or one, and torch.func.vmap for more"),
    ],
)
def test_rollout_errors(change, message):
    env, env_params, act, params = make("CartPole-v1")
    state = start(env, env_params)
    state = tree.map(lambda x: x[None, None], state) if change.pop("lift", 0) else change.pop("state", state)
    with pytest.raises((TypeError, ValueError), match=message):
        rollout(params, random.key(0), state, env_params, env=env, act=act, **{"num_steps": 3, **change})


def keyed_counter(length):
    """An environment that says how long it goes on: the first observation's number of steps, with reward 1, 2, 3, ..."""

    def reset(key, env_params):
        left = random.randint(key, (), 1, length)
        state = {"left": left, "time": torch.zeros_like(left)}
        zero = torch.zeros((), dtype=torch.float32)
        never = torch.zeros((), dtype=torch.bool)
        return state, funrl.env.Timestep(left.to(torch.float32), zero, never, never, {})

    def step(key, state, action, env_params):
        state = {"left": state["left"] - 1, "time": state["time"] + 1}
        over = state["left"] == 0  # and goes on counting below, with rewards that must not be seen
        timestep = funrl.env.Timestep(state["left"].to(torch.float32), state["time"].to(torch.float32), over, over & False, {})
        return state, timestep

    return reset, step


def test_evaluate_counts_the_first_episode_alone():
    reset, step = keyed_counter(9)
    env = funrl.envs.make("CartPole-v1")._replace(reset=reset, step=step, max_episode_steps=20)
    act = lambda params, key, observation: (torch.zeros((), dtype=torch.int64), {})  # noqa: E731

    def run(key, max_steps=None):
        return evaluate(None, key, (), env=env, act=act, num_episodes=16, max_steps=max_steps)

    result = run(random.key(0))
    length = result.episode_length
    assert result.finished.all() and 1 <= length.min() < length.max() <= 8
    assert torch.equal(result.episode_return, (length * (length + 1) / 2))
    assert result.episode_length.dtype == torch.int64 and result.episode_return.dtype == torch.float32
    short = run(random.key(0), max_steps=4)
    assert torch.equal(short.finished, length <= 4) and torch.equal(short.episode_length, length.clamp(max=4))
    same(compiler.compile(run, backend="aot_eager")(random.key(0)), result)
    same(run(random.key(0)), result)
    same(vmap(run)(random.split(random.key(3), 2)), tree.stack([run(key) for key in random.split(random.key(3), 2).unbind(0)]))


def test_evaluate_agrees_with_a_loop():
    """CartPole from one fixed start, with policies that draw nothing: no key matters."""
    env = funrl.envs.make("CartPole-v1")

    def act(params, key, observation):
        return (observation @ params + 0.01 > 0).to(torch.int64), {}

    seen = []
    for weights, force, limit, max_steps in (
        ([0.0, 0.0, 1.0, 0.0], 10.0, 500, 60),
        ([0.0, 0.0, 1.0, 0.5], 10.0, 40, 60),
        ([0.0, 0.0, 1.0, 0.5], 10.0, 500, 60),
        ([0.0, 1.0, 0.0, 0.0], 3.0, 500, None),
    ):
        env_params = env.default_params.replace(force=torch.tensor(force), max_steps=torch.tensor(limit), reset_scale=torch.tensor(0.0))
        key, params = random.key(0), torch.tensor(weights)
        result = evaluate(params, key, env_params, env=env, act=act, num_episodes=2, max_steps=max_steps)
        keys = random.split(key, max_steps or env.max_episode_steps)
        expected = oracle.evaluate(params, env.reset(key, env_params), env_params, env=env, act=act, act_keys=keys, step_keys=keys)
        for i in range(2):
            assert (result.episode_return[i].item(), result.episode_length[i].item(), result.finished[i].item()) == expected
        seen.append(expected)
    assert seen[1][1:] == (40, True) and seen[2][1:] == (60, False)
    assert seen[0][2] and seen[0][1] < 60 and seen[3][2]


def test_evaluate_errors():
    env, env_params, act, params = make("CartPole-v1")
    for change, message in (
        (dict(num_episodes=0), "num_episodes: expected an integer of at least 1, got 0"),
        (dict(max_steps=0), "max_steps: expected an integer of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(params, random.key(0), env_params, env=env, act=act, **{"num_episodes": 2, **change})


# Policies with a memory

CELL = nn.gru(5)


def showing(params, key, features):
    """A policy on what the cell made of the observations, which shows it."""
    return (random.uniform(key, dtype=features.dtype) < torch.sigmoid(features.sum())).to(torch.int64), {"features": features}


REMEMBERING = policies.recurrent(CELL, policies.Policy(lambda key, features: (), showing))


def remembering(dtype=torch.float32, seed=0):
    """CartPole with episodes that end soon, by both ways, and a policy with a memory at their start."""
    env = funrl.envs.make("CartPole-v1")
    env_params = tree.to(env.default_params, dtype).replace(max_steps=torch.tensor(6), reset_scale=torch.tensor(0.25, dtype=dtype))
    state = start(env, env_params, seed=seed)
    params = REMEMBERING.init(random.key(5), state.timestep.observation[0])
    return env, env_params, params, acting.with_memory(params, state, env=env, policy=REMEMBERING)


def torch_cell(params):
    """torch's own cell, with the parameters of ours."""
    cell = torch.nn.GRUCell(4, 5, dtype=params["cell"]["bias_input"].dtype)
    names = {"weight_ih": "weight_input", "weight_hh": "weight_hidden", "bias_ih": "bias_input", "bias_hh": "bias_hidden"}
    cell.load_state_dict({theirs: params["cell"][ours] for theirs, ours in names.items()})
    return cell


def expected_features(params, batch, hidden, reset):
    """Return the outputs of a loop over torch's cell, which starts again in each episode."""
    cell, (steps, copies) = torch_cell(params), batch.reward.shape
    expected = torch.zeros(steps, copies, 5, dtype=batch.reward.dtype)
    for b in range(copies):
        h, begins = hidden[b : b + 1], bool(reset[b])
        for t in range(steps):
            h = cell(batch.observation[t, b : b + 1], torch.zeros_like(h) if begins else h)
            expected[t, b], begins = h[0].detach(), bool(batch.done[t, b])
    return expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_memory_begins_anew_with_each_episode(dtype):
    env, env_params, params, state = remembering(dtype)
    kept = tree.map(torch.clone, (params, state))
    assert state.memory.reset.all() and not state.memory.state.any()
    middle, first = rollout(params, random.key(1), state, env_params, env=env, act=REMEMBERING, num_steps=9)
    last, second = rollout(params, random.key(2), middle, env_params, env=env, act=REMEMBERING, num_steps=9)
    same((params, state), kept, rtol=0, atol=0)
    both = tree.map(lambda x, y: torch.cat([x, y]), first, second)
    assert both.terminated.any() and both.truncated.any() and first.done[:-1].any()
    # What one rollout remembers the next one knows, and where it ended with an episode it is told so.
    assert (
        (~middle.memory.reset).any()
        and torch.equal(middle.memory.reset, first.done[-1])
        and torch.equal(last.memory.reset, second.done[-1])
    )
    for batch, memory in ((both, state.memory), (second, middle.memory)):
        same(batch.extras["features"], expected_features(params, batch, memory.state, memory.reset), rtol=1e-5, atol=1e-6)
    same(last.memory.state, both.extras["features"][-1])
    # A loop that does not begin anew is seen to be wrong.
    forgetful = both.replace(terminated=both.terminated & False, truncated=both.truncated & False)
    wrong = expected_features(params, forgetful, state.memory.state, state.memory.reset)
    assert (wrong - both.extras["features"]).abs().max() > 1e-2


def test_a_memory_alone_batched_vmapped_and_compiled():
    env, env_params, params, state = remembering()

    def run(params, key, state):
        return rollout(params, key, state, env_params, env=env, act=REMEMBERING, num_steps=9)

    # Two learners at once.
    both = tree.stack([params, REMEMBERING.init(random.key(6), state.timestep.observation[0])])
    states, keys = tree.stack([state, remembering(seed=1)[3]]), random.split(random.key(1), 2)
    expected = tree.stack([run(tree.index(both, i), keys[i], tree.index(states, i)) for i in range(2)])
    same(vmap(run)(both, keys, states), expected)
    compiled = compiler.compile(vmap(run), backend="aot_eager")
    same(compiled(both, keys, states), expected, rtol=1e-4, atol=1e-5)
    with compilations(0):
        compiled(both, keys, expected[0])
    # One environment alone.
    alone, batch = run(params, random.key(3), tree.index(state, 0))
    assert alone.memory.state.shape == (5,)
    column = tree.map(lambda x: x.unsqueeze(1), batch)
    same(batch.extras["features"], expected_features(params, column, torch.zeros(1, 5), [True])[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("host", [False, True])
def test_a_memory_in_an_environment_of_copies(host):
    single, env_params, params, _ = remembering()
    env = funrl.envs.vectorize(single, COPIES)._replace(host=host)
    state = acting.with_memory(params, env.reset(random.key(7), env_params), env=env, policy=REMEMBERING)
    middle, first = rollout(params, random.key(1), state, env_params, env=env, act=REMEMBERING, num_steps=9)
    _, second = rollout(params, random.key(2), middle, env_params, env=env, act=REMEMBERING, num_steps=9)
    both = tree.map(lambda x, y: torch.cat([x, y]), first, second)
    assert both.terminated.any() and both.truncated.any()
    same(both.extras["features"], expected_features(params, both, state.memory.state, state.memory.reset), rtol=1e-5, atol=1e-6)


def answer(params, key, state, observation, reset):
    """Keep the bit that an episode begins with, and give it as the answer."""
    bit = torch.where(reset, observation[2], state)
    return bit, (bit > 0).to(torch.int64), {}


PERFECT = policies.StatefulPolicy(lambda key, observation: (), lambda params, observation: torch.zeros_like(observation[2]), answer)


@pytest.mark.parametrize("host", [None, False, True])
def test_evaluate_remembers(host):
    """Of single environments, of one of copies, and of one on the host, where each copy plays several episodes."""
    env = funrl.envs.memory_chain(4)
    if host is not None:
        env = funrl.envs.vectorize(env, COPIES)._replace(host=host)
    play = lambda policy: evaluate((), random.key(0), env.default_params, env=env, act=policy, num_episodes=2 * COPIES)  # noqa: E731
    result = play(PERFECT)
    assert result.finished.all() and (result.episode_return == 1).all() and (result.episode_length == 5).all()

    # One that is not told of a new episode, or always, fails where the bits are others.
    def never(params, key, state, observation, reset):
        return answer(params, key, state, observation, reset & False)

    def always(params, key, state, observation, reset):
        return answer(params, key, state, observation, reset | True)

    assert not (play(PERFECT._replace(act=never)).episode_return == 1).all()
    assert not (play(PERFECT._replace(act=always)).episode_return == 1).all()


def test_memory_errors():
    env, env_params, params, state = remembering()
    run = lambda state, act: rollout(params, random.key(0), state, env_params, env=env, act=act, num_steps=2)  # noqa: E731
    with pytest.raises(ValueError, match=r"actor: expected one with a Memory, as act is a StatefulPolicy; .*with_memory"):
        run(state.replace(memory=()), REMEMBERING)
    with pytest.raises(ValueError, match=r"start: num_envs: expected None, as CartPole-v1 has 3 copies already, got 2"):
        acting.start(random.key(0), env_params, env=funrl.envs.vectorize(env, 3), num_envs=2)


def test_a_rollout_starts_from_what_reset_returned():
    env = funrl.envs.make("CartPole-v1")
    pair = env.reset(random.key(0), env.default_params)
    one, other = (rollout(None, random.key(1), x, env.default_params, env=env, num_steps=3) for x in (pair, ActorState(*pair)))
    assert isinstance(one[0], ActorState)
    same(one, other, rtol=0, atol=0)
    after, _ = funrl.rand_step(random.key(1), pair, env.default_params, env=env)
    assert isinstance(after, ActorState) and isinstance(funrl.step_mdp(random.key(2), pair, env.default_params, env=env), ActorState)


def test_act_returns_a_pair():
    env = funrl.envs.make("CartPole-v1")
    state = env.reset(random.key(0), env.default_params)
    with funrl.envs.make("gymnasium:CartPole-v1", num_envs=2) as host:
        for each, start in ((env, state), (host, host.reset(random.key(0)))):
            for chosen, got in ((torch.tensor(0), "a Tensor"), ((torch.tensor(0), {}, {}), "3 of them")):
                act = lambda params, key, observation, chosen=chosen: chosen  # noqa: E731
                with pytest.raises(
                    TypeError, match=rf"act: expected it to return the pair \(action, extras\), got {got}; .*\(action, {{}}\)"
                ):
                    rollout((), random.key(0), start, each.default_params, env=each, act=act, num_steps=2)
                start = host.reset(random.key(0)) if each is host else start


def test_a_policy_is_given_by_its_act():
    env = funrl.envs.make("Pendulum-v1")
    policy = policies.deterministic(nn.mlp((), 1))
    state = env.reset(random.key(0))
    for call in (
        lambda act: funrl.rollout((), random.key(0), state, env.default_params, env=env, act=act, num_steps=2),
        lambda act: funrl.evaluate((), random.key(0), env.default_params, env=env, act=act, num_episodes=2),
    ):
        with pytest.raises(TypeError, match=r"act: expected a function or a StatefulPolicy, got a Policy; give its act: policy.act"):
            call(policy)
        with pytest.raises(TypeError, match=r"act: expected .*, got a int; write act\(params, key, observation\)"):
            call(3)


@pytest.mark.parametrize("at_reset", [True, False])
@pytest.mark.parametrize("num_envs", [None, 3])
def test_rewards_of_several_agents_are_refused_by_all_alike(at_reset, num_envs):
    inner = funrl.envs.make("CartPole-v1")

    def several(f, wide):
        def g(*args):
            state, timestep = f(*args)
            return state, timestep.replace(reward=timestep.reward.expand(2).clone()) if wide else timestep

        return g

    env = inner._replace(reset=several(inner.reset, at_reset), step=several(inner.step, True))
    env = env if num_envs is None else funrl.envs.vectorize(env, num_envs)
    message = r"env: expected one reward for each copy, .* but CartPole-v1 gives \[.*2\]; if several agents have different rewards"
    with pytest.raises(ValueError, match=f"evaluate: {message}"):
        funrl.evaluate(None, random.key(0), env.default_params, env=env, num_episodes=3)
    with pytest.raises(ValueError, match=f"rollout: {message}"):
        funrl.rollout(None, random.key(1), env.reset(random.key(0), env.default_params), env.default_params, env=env, num_steps=4)


def test_keys_of_another_number_of_steps():
    env = funrl.envs.make("CartPole-v1")
    actor = acting.start(random.key(0), env=env, num_envs=2)
    keys = random.split(random.key(1), (5, 2, 3))
    _, one = rollout(None, random.key(1), actor, env.default_params, env=env, num_steps=5)
    _, other = rollout(None, keys, actor, env.default_params, env=env, num_steps=5)
    same(one, other, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"rollout: key: expected one key \[\], or those of all steps \[4, 2, 3\], got \[5, 2, 3\]"):
        rollout(None, keys, actor, env.default_params, env=env, num_steps=4)
