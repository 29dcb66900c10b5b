"""Every learner solves every probe that applies, and a fault in it is seen by the probe that is there for it."""

import functools

import pytest
import torch
from torch.func import vmap

from funrl import algos, compiler, nn, random, tree
from funrl.algos import _actor_critic as actor_critic, _networks as networks, _normalized as normalized
from funrl.env import Env
from funrl.envs import probes
from funrl.losses import _deterministic as ddpg_losses, _policy_gradient as impala_losses

GAMMA = 0.5
CELLS = (16,)
NAMES = list(probes.PROBES)

PPO = dict(num_envs=8, num_steps=8, num_minibatches=2, learning_rate=0.01, num_cells=CELLS, lambda_=0.5)
OFF_POLICY = dict(
    num_envs=8, num_steps=8, num_updates=8, batch_size=32, learning_starts=128, buffer_size=4096, learning_rate=0.01, num_cells=CELLS
)
ON_POLICY = dict(num_envs=32, num_steps=4, learning_rate=0.03, num_cells=CELLS)
POLICY_GRADIENT = dict(ON_POLICY, entropy_weight=0.0)
SOFT = dict(OFF_POLICY, initial_alpha=1e-4)
LEARNERS = {
    "ppo, discrete": ("ppo", "discrete", PPO),
    "ppo, continuous": ("ppo", "continuous", dict(PPO, num_envs=16, initial_log_std=-1.0)),
    "dqn": ("dqn", "discrete", dict(OFF_POLICY, target_period=10, epsilon_steps=1_000)),
    "c51": ("dqn", "discrete", dict(OFF_POLICY, target_period=10, epsilon_steps=1_000, c51=True, num_atoms=31, v_min=-3.0, v_max=3.0)),
    "ddpg": ("ddpg", "continuous", dict(OFF_POLICY, tau=0.05, exploration_noise=0.3)),
    "td3": ("td3", "continuous", dict(OFF_POLICY, tau=0.1, exploration_noise=0.3, target_noise=0.05)),
    "sac": ("sac", "continuous", dict(SOFT, tau=0.05)),
    "sac_discrete": ("sac_discrete", "discrete", dict(SOFT, tau=0.05)),
    "redq": ("redq", "continuous", dict(SOFT, tau=0.05, num_critics=3, policy_delay=2)),
    "crossq": ("crossq", "continuous", dict(SOFT, policy_delay=2, momentum=0.1)),
    "a2c": ("a2c", "discrete", POLICY_GRADIENT),
    "reinforce": ("reinforce", "discrete", POLICY_GRADIENT),
    "reinforce, no baseline": ("reinforce", "discrete", dict(POLICY_GRADIENT, baseline="none")),  # only the actions are looked at
    "impala": ("impala", "discrete", dict(POLICY_GRADIENT, num_minibatches=4)),
    "pqn": ("pqn", "discrete", dict(ON_POLICY, num_minibatches=2, epsilon_steps=4_000)),
}


def joined(kind):
    """All probes as one environment: a number among the constants says which one it is."""
    envs = [probe(kind) for probe in probes.PROBES.values()]

    def pick(number, results):
        return functools.reduce(lambda old, i: tree.where(number == i, results[i], old), range(1, len(results)), results[0])

    def reset(key, number):
        return pick(number, [env.reset(key, env.default_params) for env in envs])

    def step(key, state, action, number):
        return pick(number, [env.step(key, state, action, env.default_params) for env in envs])

    return Env("probes", reset, step, envs[0].observation_space, envs[0].action_space, torch.tensor(0), 2, None)


def critic(learner, config, state, env):
    """Return V or Q of what was learned, a function of observations [S, 1] and actions; None where there is none."""
    network, activation = state.learner.params.network, config.activation
    if getattr(config, "baseline", "value") == "none":
        return None
    if hasattr(config, "trunk"):
        return lambda x, a: actor_critic.make(config, env).both(network, x)[1]
    if learner == "pqn":
        out = networks.q_network(config, env, norm="layer")
        return lambda x, a: out.apply(network, x).gather(-1, a[:, None]).squeeze(-1)
    if learner == "dqn":
        atoms = config.num_atoms if config.c51 else 1
        out = networks.q_network(config, env, num_atoms=atoms)
        support = torch.linspace(config.v_min, config.v_max, atoms)
        mean = (lambda x: (x.softmax(-1) * support).sum(-1)) if config.c51 else (lambda x: x)
        return lambda x, a: mean(out.apply(network, x)).gather(-1, a[:, None]).squeeze(-1)
    if learner == "sac_discrete":
        net = nn.mlp(config.num_cells, env.action_space.n, activation=activation)
        out = lambda x: vmap(net.apply, (0, None))(network.critic, x).mean(0)  # noqa: E731
        return lambda x, a: out(x).gather(-1, a[:, None]).squeeze(-1)
    if learner == "crossq":
        nets = normalized.normalized_critics(2, config.num_cells, activation, config.momentum)
        return lambda x, a: nets.apply(network.critic, state.learner.target, x, a).mean(0)
    size = {"ddpg": 1, "td3": 2, "sac": 2, "redq": getattr(config, "num_critics", 0)}[learner]
    return lambda x, a: networks.q_ensemble(size, config.num_cells, activation).apply(network.critic, x, a).mean(0)


def learn(name, steps, compiled=False):
    """Learn in all probes at once, one agent each; return what went wrong in which."""
    learner, kind, options = LEARNERS[name]
    env = joined(kind)
    make = lambda number: algos.make(learner, env._replace(default_params=number), gamma=GAMMA, **options)  # noqa: E731
    algo = make(torch.tensor(0))
    keys = random.split(random.key(0), (steps + 1, len(NAMES)))
    states = vmap(lambda key, number: make(number).init(key))(keys[0], torch.arange(len(NAMES)))
    step = compiler.compile(vmap(algo.step), donate=1, backend="xla") if compiled else vmap(algo.step)
    for key in keys[1:].unbind(0):
        states, _ = step(key, states)
    failed = {}
    for i, probe in enumerate(NAMES):
        state = tree.index(states, i)
        best = probes.solution(probes.PROBES[probe](kind), GAMMA)
        action = vmap(algo.greedy, (None, None, 0))(state.learner.params, random.key(0), best.observation)[0]
        of = critic(learner, algo.config, state, env)
        value = of(best.observation, action) if of else best.value
        wrong = (value - best.value).abs().max() > 0.15
        if best.action is not None:
            wrong |= (action - best.action).abs().max() > 0.2
        if wrong or not value.isfinite().all():
            failed[probe] = (value.tolist(), action.flatten().tolist())
    return failed


STEPS = {"ppo, discrete": 60, "a2c": 150, "reinforce": 150, "reinforce, no baseline": 150, "impala": 80, "pqn": 80}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_every_probe_is_solved(name):
    failed = learn(name, STEPS.get(name, 80), compiled=compiler._backends.has_jax())
    assert failed == {}


def with_batch(change, field="reward"):
    """A fault that changes the batch of a loss, the argument with rewards (or another field)."""

    def fault(loss):
        def faulty(*args, **options):
            return loss(*[change(x) if hasattr(x, field) else x for x in args], **options)

        return faulty

    return fault


def negated(loss):
    def faulty(*args, **options):
        value, metrics = loss(*args, **options)
        return -value, metrics

    return faulty


def undetached(detach):
    return lambda value: value


def without_end(batch):
    return batch.replace(terminated=torch.zeros_like(batch.terminated))


def cut_off_is_end(batch):
    return batch.replace(terminated=batch.terminated | batch.truncated)


def after_the_reset(batch):
    start = torch.where(batch.truncated[:, None], -1.0, batch.next_observation)
    return batch.replace(next_observation=start)


def mixed_rows(batch):
    return batch.replace(observation=batch.observation.flip(0))


def negative_reward(batch):
    return batch.replace(reward=-batch.reward)


FAULTS = {
    "bootstraps from a terminal state": ("dqn", (algos.dqn, "dqn_loss"), with_batch(without_end), {"value", "discount"}),
    "takes a cut-off for an end": ("c51", (algos.dqn, "c51_loss"), with_batch(cut_off_is_end), {"truncation"}),
    "the actor moves the critic": ("ddpg", (ddpg_losses, "detach"), undetached, {"value"}),
    "the actor goes down": ("td3", (algos.td3, "td3_actor_loss"), negated, {"action", "observation"}),
    "mixes up rows": ("sac", (algos.sac, "sac_loss"), with_batch(mixed_rows), {"observation"}),
    "the sign of the reward": ("sac_discrete", (algos.sac_discrete, "sac_discrete_loss"), with_batch(negative_reward), {"value", "action"}),
    "no discount": (
        "redq",
        (algos.redq, "redq_critic_loss"),
        lambda loss: lambda *args, gamma, **options: loss(*args, gamma=torch.ones_like(gamma), **options),
        {"discount"},
    ),
    "the policy goes down": (
        "a2c",
        (algos.a2c, "a2c_loss"),
        with_batch(lambda batch: batch.replace(advantage=-batch.advantage), "advantage"),
        {"action", "observation"},
    ),
    "mixes up returns": (
        "reinforce, no baseline",
        (algos.reinforce, "reinforce_loss"),
        with_batch(lambda batch: batch.replace(returns=batch.returns.flip(0)), "returns"),
        {"observation"},
    ),
    "the target moves the value": ("impala", (impala_losses, "detach"), undetached, {"value"}),
    "no end in V-trace": ("impala", (algos.impala, "impala_loss"), with_batch(without_end), {"value", "discount"}),
    "bootstraps from the next episode": ("crossq", (algos.crossq, "crossq_critic_loss"), with_batch(after_the_reset), {"truncation"}),
}


@pytest.mark.nightly
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(monkeypatch, fault):
    name, (module, function), change, expected = FAULTS[fault]
    monkeypatch.setattr(module, function, change(getattr(module, function)))
    failed = learn(name, STEPS.get(name, 80))
    assert expected <= failed.keys()


RETURNS = {
    "ppo, discrete": (algos.ppo, "gae"),
    "a2c": (algos.a2c, "gae"),
    "reinforce": (algos.reinforce, "td1"),
    "pqn": (algos.pqn, "q_lambda"),
}
FAULTS_OF_RETURNS = {
    "bootstraps from a terminal state": (lambda reward, end, cut: (reward, torch.zeros_like(end), cut | end), {"value", "discount"}),
    "takes a cut-off for an end": (lambda reward, end, cut: (reward, end | cut, cut), {"truncation"}),
    "the sign of the reward": (lambda reward, end, cut: (-reward, end, cut), {"value", "action"}),
}


@pytest.mark.nightly
@pytest.mark.parametrize("fault", FAULTS_OF_RETURNS)
@pytest.mark.parametrize("name", RETURNS)
def test_a_fault_of_returns_is_seen(monkeypatch, name, fault):
    (module, function), (change, expected) = RETURNS[name], FAULTS_OF_RETURNS[fault]
    real = getattr(module, function)

    def faulty(reward, *values_and_flags, **options):
        *values, end, cut = values_and_flags
        reward, end, cut = change(reward, end, cut)
        return real(reward, *values, end, cut, **options)

    monkeypatch.setattr(module, function, faulty)
    failed = learn(name, STEPS.get(name, 80))
    assert expected <= failed.keys()
