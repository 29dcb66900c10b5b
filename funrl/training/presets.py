"""Default steps and options for pairs of algorithm and environment."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["PRESETS", "Preset", "preset"]


class Preset(NamedTuple):
    """Default steps and options for a pair of algorithm and environment.

    Attributes:
        total_steps: the environment steps of each agent.
        options: the options of the algorithm that differ from its defaults.
    """

    total_steps: int
    options: Mapping[str, Any]

    def options_over(self, total_steps: int) -> dict[str, Any]:
        """Return the options for a run of another length: a learning rate that falls does so over the whole run."""
        return {name: float(total_steps) if name == "anneal_steps" else value for name, value in self.options.items()}


def _annealed(total_steps: int, **options: Any) -> Preset:
    """Return a preset whose learning rate falls to 0 over the whole run."""
    return Preset(total_steps, {**options, "anneal_steps": float(total_steps)})


_PQN = _annealed(200_000, num_envs=16, num_steps=32, epsilon_steps=40_000.0, learning_rate=0.0037, gamma=0.99, lambda_=0.7)
PRESETS: dict[tuple[str, str], Preset] = {
    ("ppo", "CartPole-v1"): _annealed(500_000, num_envs=32, num_steps=32, num_epochs=8, gamma=0.98, lambda_=0.8, entropy_weight=0.0),
    ("ppo", "Acrobot-v1"): _annealed(1_000_000, num_envs=16),
    ("ppo", "Pendulum-v1"): _annealed(2_000_000, num_envs=16, num_epochs=10, num_minibatches=8, gamma=0.9, entropy_weight=0.0),
    ("ppo", "gymnasium:HalfCheetah-v5"): _annealed(
        1_000_000,
        num_envs=8, num_steps=512, num_epochs=10, num_minibatches=64, normalize_observation=True, normalize_reward=True,
        num_cells=(256, 256), activation="relu", initial_log_std=-1.0, learning_rate=3e-4, max_grad_norm=0.8,
        gamma=0.98, lambda_=0.92, value_weight=0.58, entropy_weight=4e-4,
    ),
    ("ppo", "MemoryChain-bsuite"): _annealed(
        300_000, num_envs=32, num_steps=32, num_cells=(32,), recurrent="gru", recurrent_size=32, learning_rate=3e-3
    ),
    ("ppo", "Breakout-MinAtar"): _annealed(
        1_500_000, num_envs=64, num_minibatches=8, num_cells=(64,), activation="relu", trunk="shared", learning_rate=2e-3
    ),
    # benchmarks/results/tuning.md has the sweeps that chose this one, A2C, IMPALA and PQN on Acrobot-v1, and PQN on CartPole-v1.
    ("ppo", "PointRobot-misc"): _annealed(
        100_000, num_envs=16, num_steps=32, learning_rate=0.012, gamma=0.98, entropy_weight=0.003, lambda_=0.7
    ),
    ("dqn", "CartPole-v1"): _annealed(100_000, target_period=1, tau=0.005, huber_delta=math.inf),
    ("ddpg", "Pendulum-v1"): Preset(50_000, {}),
    ("td3", "Pendulum-v1"): Preset(50_000, {}),
    ("sac", "Pendulum-v1"): Preset(50_000, {}),
    ("sac", "gymnasium:Hopper-v5"): Preset(
        200_000,
        dict(num_envs=4, num_steps=8, num_updates=32, batch_size=128, num_cells=(128, 128), buffer_size=200_000, learning_starts=5_000),
    ),
    # 5 gradient steps per environment step instead of the paper's 20 (arXiv:2101.05982): enough here, and four times as fast.
    ("redq", "Pendulum-v1"): Preset(12_000, dict(num_updates=160, policy_delay=5, batch_size=128)),
    ("crossq", "Pendulum-v1"): Preset(50_000, {}),
    ("sac_discrete", "CartPole-v1"): Preset(60_000, {}),
    ("a2c", "CartPole-v1"): _annealed(1_000_000, num_envs=16, learning_rate=3e-3, gamma=0.98, lambda_=0.8, entropy_weight=0.0),
    ("a2c", "Acrobot-v1"): _annealed(200_000, num_envs=16, num_steps=16, learning_rate=0.005, gamma=0.98, entropy_weight=0.03, lambda_=0.9),
    ("reinforce", "CartPole-v1"): _annealed(1_000_000, num_envs=16, num_steps=256, learning_rate=1e-2),
    ("impala", "CartPole-v1"): _annealed(1_000_000, num_envs=64, num_steps=16, learning_rate=2e-3, gamma=0.98, lambda_=0.9),
    ("impala", "Acrobot-v1"): _annealed(
        200_000, num_envs=16, num_steps=16, learning_rate=0.0016, gamma=0.95, entropy_weight=0.01, lambda_=0.8
    ),
    # A generation of 64 candidates is 32,000 steps.
    **{(name, "CartPole-v1"): Preset(640_000, {}) for name in ("openes", "pgpe", "snes", "cma_es", "ars")},
    ("apg", "Pendulum-v1"): _annealed(200_000, num_envs=8, activation="elu", learning_rate=5e-3, max_grad_norm=0.5),
    ("shac", "Reacher-misc"): _annealed(150_000, num_envs=16, learning_rate=2e-2),
    ("shac", "Pendulum-v1"): _annealed(300_000, num_envs=16, learning_rate=1e-2, critic_learning_ratio=0.15),
    # Without normalised rewards the loss of the values is far greater than that of the policy. benchmarks/meta_learning.py has more.
    ("rl2", "BernoulliBandit-misc"): _annealed(
        3_072_000,
        num_envs=256, num_steps=100, num_episodes=1, num_epochs=3, num_cells=(32,), recurrent_size=32, normalize_reward=True,
        learning_rate=5e-3, gamma=0.95, lambda_=0.95, entropy_weight=0.02,
    ),
    ("multi_task", "CartPole-v1"): _annealed(
        3_000_000, num_envs=128, num_steps=32, num_epochs=8, gamma=0.98, lambda_=0.8, entropy_weight=0.0
    ),
    # Kernels of the size of a maze are a dense layer: on a CPU several times as fast as the default ones.
    ("plr", "Maze-misc"): _annealed(
        2_500_000,
        num_envs=32, num_steps=200, num_channels=(128,), kernel_size=9, num_cells=(128,), activation="relu", trunk="shared",
        learning_rate=1e-3,
    ),
    ("maml", "PointRobot-misc"): Preset(8_000_000, dict(learning_rate=5e-3)),
    ("option_critic", "FourRooms-misc"): Preset(300_000, dict(num_envs=16, learning_rate=3e-3)),
    ("feudal", "FourRooms-misc"): Preset(150_000, dict(goal_steps=16)),
    ("pqn", "CartPole-v1"): _PQN,
    ("pqn", "Acrobot-v1"): _PQN,
    ("pqn", "Breakout-MinAtar"): _annealed(2_500_000, num_envs=128, num_minibatches=16, num_cells=(64,), epsilon_steps=2.5e5),
}  # fmt: skip


def preset(algorithm: str, env: str) -> Preset:
    """Return the entry of :data:`PRESETS`, or a million steps with the algorithm's defaults.

    Gymnasium's environments have the entries of funrl's pure ones with the same name.

    Example:
        >>> preset("ppo", "CartPole-v1").total_steps, preset("ppo", "gymnasium:CartPole-v1").total_steps
        (500000, 500000)
    """
    own = PRESETS.get((algorithm, env))
    return own or PRESETS.get((algorithm, env.removeprefix("gymnasium:")), Preset(1_000_000, {}))
