"""SAC on Pendulum-v1 and DQN on CartPole-v1 in other libraries, timed: what ``benchmarks/off_policy.py`` holds funrl against.

A sample is the gradient steps per second, all agents counted, with a batch of 256 and one gradient step to each step of one
environment, after the warm-up of :data:`SETTINGS` and, for rejax, compilation.

Both libraries get two hidden layers of ReLU units, Adam at its defaults, SAC's two critics and its learned temperature, a target
that follows at each step (SAC, tau 0.005) or is copied (DQN, every 200 steps). rejax clips gradients and takes the end of an episode
by its time limit for a terminal state; both stay, as they cost it next to nothing.
"""

import sys
from typing import Any, NamedTuple

from benchmarks.ppo_peers import Stopwatch, check_single

__all__ = ["ENVIRONMENTS", "SETTINGS", "rejax", "sb3"]

ENVIRONMENTS = {"sac": "Pendulum-v1", "dqn": "CartPole-v1"}


class Settings(NamedTuple):
    """Settings of every peer (and ``benchmarks/off_policy.py`` gives to funrl)."""

    batch_size: int = 256
    buffer_size: int = 100_000
    learning_starts: int = 1_000
    learning_rate: float = 1e-3
    gamma: float = 0.99
    tau: float = 0.005
    target_period: int = 200


SETTINGS = Settings()


def sb3(algorithm: str, width: int, num_agents: int, capacity: int, min_seconds: float, repeats: int = 3) -> list[float]:
    """Time Stable-Baselines3's SAC or DQN on gymnasium's environment.

    Args:
        algorithm: ``"sac"`` or ``"dqn"``.
        width: units of each of two hidden layers.
        num_agents: 1: it trains one agent at a time.
        capacity: of the buffer.
        min_seconds: the least time that a sample covers.
        repeats: how many samples to take.

    Returns:
        ``repeats`` numbers: gradient steps per second.

    Raises:
        ValueError: if ``num_agents`` is not 1.
    """
    check_single("sb3", num_agents)
    import gymnasium
    from stable_baselines3 import DQN, SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv

    tick = 100  # steps between two looks at the clock
    watch = Stopwatch(tick, min_seconds, repeats)

    class Timer(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps > SETTINGS.learning_starts + tick and self.num_timesteps % tick == 0:
                watch.tick()
            return not watch.done

    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [width, width]}, "seed": 0, "device": "cpu", "train_freq": 1}
    options |= {name: getattr(SETTINGS, name) for name in ("batch_size", "learning_starts", "learning_rate", "gamma")}
    options["buffer_size"] = capacity
    if algorithm == "sac":
        options |= {"tau": SETTINGS.tau}
    else:
        options |= {"target_update_interval": SETTINGS.target_period, "gradient_steps": 1}
    env = DummyVecEnv([lambda: gymnasium.make(ENVIRONMENTS[algorithm])])
    {"sac": SAC, "dqn": DQN}[algorithm]("MlpPolicy", env, **options).learn(sys.maxsize, callback=Timer())
    return watch.samples


def rejax(
    algorithm: str, width: int, num_agents: int, capacity: int, min_seconds: float, repeats: int = 3, steps_per_call: int = 2**12
) -> list[float]:
    """Time rejax's SAC or DQN, one agent or several by ``jax.vmap``; arguments and return as for :func:`sb3`.

    Raises:
        ValueError: if ``width`` is not the 64 that its DQN has.
    """
    import jax
    import rejax as library

    jax.config.update("jax_platforms", "cpu")
    options: dict[str, Any] = {"agent_kwargs": {"activation": "relu"}}
    if algorithm == "sac":
        options |= {"hidden_layer_sizes": (width, width), "polyak": 1 - SETTINGS.tau}
        if width != 64:
            options["agent_kwargs"]["hidden_layer_sizes"] = (width, width)
    elif width != 64:
        raise ValueError(f"rejax: width is {width}, expected 64: its DQN has no other")
    else:
        options |= {"ddqn": False, "polyak": 0.0, "target_update_freq": SETTINGS.target_period}
    algorithm_type = {"sac": library.SAC, "dqn": library.DQN}[algorithm]
    agent = algorithm_type.create(
        env=ENVIRONMENTS[algorithm],
        num_envs=1,
        num_epochs=1,
        batch_size=SETTINGS.batch_size,
        buffer_size=capacity,
        fill_buffer=SETTINGS.learning_starts,
        learning_rate=SETTINGS.learning_rate,
        gamma=SETTINGS.gamma,
        total_timesteps=steps_per_call,
        eval_freq=steps_per_call,
        skip_initial_evaluation=True,
        **options,
    ).replace(eval_callback=lambda algorithm, state, key: ())

    def train(state: Any) -> Any:
        state, _ = agent.train(train_state=state)
        return state

    key = jax.random.PRNGKey(0)
    if num_agents == 1:
        state = jax.jit(agent.init_state)(key)
    else:
        state = jax.jit(jax.vmap(agent.init_state))(jax.random.split(key, num_agents))
        train = jax.vmap(train)
    program = jax.jit(train, donate_argnums=0).lower(state).compile()
    watch = Stopwatch(num_agents * steps_per_call, min_seconds, repeats)
    while not watch.done:
        state = jax.block_until_ready(program(state))
        watch.tick()
    return watch.samples
