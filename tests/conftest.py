"""What all tests share: the thread policy, and small programs of all algorithms that compile once."""

import functools
import os

# Of jax's CPU backend, which an oracle may start before a program of ours does, with as many threads as there are cores.
os.environ.setdefault("PJRT_NPROC", "1")

import funrl  # isort: skip  (before torch: see funrl/__init__.py)
import pytest
import torch

# One thread a test process; FUNRL_TEST_THREADS=2 shows what holds for one number of threads only.
torch.set_num_threads(int(os.environ.get("FUNRL_TEST_THREADS", "1")))

# One update of every kind of learner in a second or two once it is compiled.
PPO = dict(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, num_cells=(8,))
OFF_POLICY = dict(num_envs=2, num_steps=4, num_updates=2, batch_size=8, num_cells=(8,), buffer_size=64, learning_starts=0)
RAINBOW = dict(double=True, dueling=True, n_step=3, prioritized=True, c51=True, noisy=True, epsilon_start=0, epsilon_end=0)
ALGORITHMS = {
    "ppo, discrete": ("ppo", "CartPole-v1", PPO),
    "ppo, continuous": (
        "ppo",
        "Pendulum-v1",
        dict(PPO, trunk="shared", normalize_observation=True, normalize_reward=True, value_clip=0.2),
    ),
    "ppo, recurrent": ("ppo", "CartPole-v1", dict(PPO, recurrent="gru", recurrent_size=8)),
    "rainbow": ("dqn", "CartPole-v1", dict(OFF_POLICY, num_cells=(8, 8), **RAINBOW)),
    "sac": ("sac", "Pendulum-v1", OFF_POLICY),
    "dqn": ("dqn", "CartPole-v1", OFF_POLICY),
    "ddpg": ("ddpg", "Pendulum-v1", OFF_POLICY),
    "td3": ("td3", "Pendulum-v1", OFF_POLICY),
    "sac_discrete": ("sac_discrete", "CartPole-v1", OFF_POLICY),
    "redq": ("redq", "Pendulum-v1", dict(OFF_POLICY, num_critics=3, policy_delay=2)),
    "crossq": ("crossq", "Pendulum-v1", dict(OFF_POLICY, policy_delay=2)),
}


@pytest.fixture(scope="session")
def algorithm():
    """``algorithm(kind)``: the Algorithm of a kind in ALGORITHMS; each is made once a session."""

    @functools.cache
    def make(kind):
        name, env, options = ALGORITHMS[kind]
        return funrl.algos.make(name, funrl.envs.make(env), **options)

    return make


@pytest.fixture(scope="session")
def program(algorithm):
    """``program(kind)``: compiled vmap(algo.step) of ``algorithm(kind)``; each is made once a session."""
    return functools.cache(lambda kind: funrl.compile(torch.func.vmap(algorithm(kind).step), backend="aot_eager"))
