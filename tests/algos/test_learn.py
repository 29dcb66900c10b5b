"""Learning from experience that was gathered elsewhere: a step is a rollout of ``act`` and ``learn``."""

import threading

import cloudpickle
import pytest
import torch
from torch.func import vmap

import funrl
from funrl import random, tree
from funrl.policies import StatefulPolicy
from tests.algos.test_on_policy import short as short_episodes
from tests.registry import ALGORITHMS, OFF_POLICY, ON_POLICY, OWN_COLLECT, PPO
from tests.support import same, traced


def counted_from_three(name):
    """An environment whose actions begin with 3."""
    env = funrl.envs.make(name)
    space = funrl.spaces.Discrete(env.action_space.n, start=3)
    return env._replace(action_space=space, step=lambda key, state, action, params: env.step(key, state, action - 3, params))


def make(kind):
    if kind.endswith("from three"):
        options = {"ppo from three": PPO, "dqn from three": OFF_POLICY, "a2c from three": ON_POLICY}[kind]
        return funrl.algos.make(kind.split()[0], counted_from_three("CartPole-v1"), **options)
    name, env, options = ALGORITHMS[kind]
    return funrl.algos.make(name, short_episodes(env) if name in ("a2c", "reinforce", "impala", "pqn") else funrl.envs.make(env), **options)


def by_hand(algo):
    """Do the same as ``algo.step``, with public parts."""

    def step(key, state):
        rollout_key, learn_key = random.split(key).unbind(0)
        options = dict(env=algo.env, act=algo.act, num_steps=algo.config.num_steps)
        envs, transitions = funrl.rollout(state.learner.params, rollout_key, state.actor, state.learner.env_params, **options)
        learner, metrics = algo.learn(learn_key, state.learner, transitions)
        return funrl.algos.State(envs, learner), metrics

    return step


@pytest.mark.parametrize(
    "kind", [*(kind for kind in ALGORITHMS if kind not in OWN_COLLECT), "ppo from three", "dqn from three", "a2c from three"]
)
def test_a_step_is_a_rollout_and_learning(kind):
    algo = make(kind)
    state = algo.init(random.key(0))
    # What a recurrent policy makes of an observation is computed for all steps at once, and not one after the other.
    tolerances = dict(rtol=1e-4, atol=1e-5) if "recurrent" in kind or kind in ("rl2", "varibad") else dict(rtol=0, atol=0)
    for i in (1, 2):
        kept = tree.map(torch.clone, state)
        expected = algo.step(random.key(i), state)
        same(by_hand(algo)(random.key(i), state), expected, **tolerances)
        same(state, kept, rtol=0, atol=0)
        state = expected[0]


@pytest.mark.parametrize("kind", ["a2c", *(pytest.param(x, marks=pytest.mark.slow) for x in ("ppo, recurrent", "sac"))])
def test_agents_learn_side_by_side_in_one_program(kind):
    algo = make(kind)
    states = vmap(algo.init)(random.split(random.key(0), 2))

    def gather(key, state):
        options = dict(env=algo.env, act=algo.act, num_steps=algo.config.num_steps)
        return funrl.rollout(state.learner.params, key, state.actor, state.learner.env_params, **options)[1]

    transitions = vmap(gather)(random.split(random.key(1), 2), states)
    learn, learners = funrl.compile(vmap(algo.learn), backend="aot_eager"), states.learner
    for i in (2, 3):
        keys = random.split(random.key(i), 2)
        expected = [algo.learn(keys[j], *tree.index((learners, transitions), j)) for j in range(2)]
        before = traced()
        result = learn(keys, learners, transitions)
        assert i == 2 or traced() == before, "it compiled again"
        same(result, tree.stack(expected), rtol=1e-3, atol=1e-4)
        learners = result[0]


def test_a_recurrent_policy_learns_from_the_middle_of_episodes_without_the_learners_environments():
    """All that it needs is in the transitions: another learner's memory goes with them."""
    algo = make("ppo, recurrent")
    state = algo.init(random.key(0))
    actor, _ = funrl.rollout(
        state.learner.params,
        random.key(1),
        state.actor,
        state.learner.env_params,
        env=algo.env,
        act=algo.act,
        num_steps=algo.config.num_steps,
    )
    assert isinstance(algo.act, StatefulPolicy) and not actor.memory.reset.all() and actor.memory.state.any()
    expected, _ = by_hand(algo)(random.key(2), state.replace(actor=actor))
    rollout_key, learn_key = random.split(random.key(2)).unbind(0)
    _, transitions = funrl.rollout(
        state.learner.params, rollout_key, actor, state.learner.env_params, env=algo.env, act=algo.act, num_steps=algo.config.num_steps
    )
    assert torch.equal(transitions.extras["memory"].state[0], actor.memory.state)
    new, _ = algo.learn(learn_key, state.learner, transitions)
    same(new, expected.learner, rtol=0, atol=0)
    memory = transitions.extras["memory"]
    extras = {**transitions.extras, "memory": memory.replace(state=torch.zeros_like(memory.state))}
    other, _ = algo.learn(learn_key, state.learner, transitions.replace(extras=extras))
    assert not torch.equal(tree.ravel(other.params.network)[0], tree.ravel(new.params.network)[0])


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_a_policy_travels_without_its_environment(kind):
    """A policy in a worker process knows the spaces of the environment, but not the environment, which may be none that can be sent."""
    name, env, options = ALGORITHMS[kind]
    whole, thread = funrl.envs.make(env), threading.Lock()
    env = whole._replace(reset=lambda *args: [thread, whole.reset(*args)][1], step=lambda *args: [thread, whole.step(*args)][1])
    algo = funrl.algos.make(name, env, **options)
    with pytest.raises(TypeError, match="pickle"):
        cloudpickle.dumps(algo)
    for act in (algo.act, algo.greedy):
        cloudpickle.loads(cloudpickle.dumps(act))


@pytest.mark.parametrize("kind", ["ppo, discrete", "ppo, recurrent", "dqn", "a2c"])
def test_experience_that_does_not_fit(kind):
    algo = make(kind)
    state, config = algo.init(random.key(0)), algo.config
    options = dict(env=algo.env, act=algo.act, num_steps=config.num_steps)
    _, transitions = funrl.rollout(state.learner.params, random.key(1), state.actor, state.learner.env_params, **options)
    shape = rf"\[{config.num_steps}, {config.num_envs}, \.\.\.\]"
    for wrong in (tree.index(transitions, slice(1, None)), tree.map(lambda x: x[:, :1], transitions), tree.index(transitions, 0)):
        with pytest.raises(ValueError, match=f"learn: transitions: expected leaves {shape}, num_steps by num_envs, got a reward"):
            algo.learn(random.key(2), state.learner, wrong)
    with pytest.raises(TypeError, match=r"learn: learner: expected a LearnerState, got a State; give state\.learner"):
        algo.learn(random.key(2), state, transitions)
    for name in {"log_prob", "unclipped_action", "memory"} & set(transitions.extras):
        if name == "log_prob" and not kind.startswith("ppo"):
            continue  # it has none to compare with
        extras = {k: v for k, v in transitions.extras.items() if k != name}
        with pytest.raises(ValueError, match=f"extras lack '{name}'; let the algorithm's own act choose"):
            algo.learn(random.key(2), state.learner, transitions.replace(extras=extras))
