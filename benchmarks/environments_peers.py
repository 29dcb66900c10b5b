"""Environments of other libraries, timed: what ``benchmarks/environments.py`` holds funrl against.

A sample is the environment steps a second of whole rollouts. Compiling and a first rollout come before the clock.

``gymnax``
    One compiled ``lax.scan`` over the vmapped environment and a policy of two layers of 64, as gymnax's own ``RolloutWrapper`` has it: with
    its observations, actions, rewards, successors and ends as the result. Actions are drawn: discrete ones from the logits, continuous ones
    around the output with a deviation of 1. gymnax's Breakout has the three actions that do something; funrl's has MinAtar's six.
``gymnasium``
    ``SyncVectorEnv``, stepped by hand in a loop that does nothing else: all actions are drawn before the clock starts, and no
    transition is kept. It resets its environments itself.
``torchrl``
    TorchRL's ``SerialEnv`` of ``GymEnv``, by its own ``rollout`` with random actions.
"""

import time
from collections.abc import Callable
from typing import Any

__all__ = ["HIDDEN", "gymnasium", "gymnax", "throughput", "torchrl"]

HIDDEN = (64, 64)


def throughput(rollout: Callable[[int], Any], steps: int, seconds: float, repeats: int = 3) -> list[float]:
    """Return steps a second of a program, from several samples.

    Args:
        rollout: takes the number of the call; it is over when it returns.
        steps: environment steps of a call.
        seconds: the least time that a sample covers.
        repeats: how many samples to take, after one that is not counted.
    """
    rollout(0)
    number, samples = 1, []
    for _ in range(repeats + 1):
        start, calls = time.perf_counter(), 0
        while not calls or time.perf_counter() - start < seconds:
            rollout(number)
            number, calls = number + 1, calls + 1
        samples.append(calls * steps / (time.perf_counter() - start))
    return samples[1:]


def gymnax(name: str, num_envs: int, num_steps: int, seconds: float) -> list[float]:
    """Time compiled rollouts; see the module for what they are."""
    import gymnax as library
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_platforms", "cpu")
    env, env_params = library.make(name)
    space, discrete = env.action_space(env_params), hasattr(env.action_space(env_params), "n")
    outputs = space.n if discrete else space.shape[0]

    def init(key: Any, size: int) -> Any:
        layers = []
        for width in (*HIDDEN, outputs):
            key, layer_key = jax.random.split(key)
            layers.append((jax.random.normal(layer_key, (size, width)) / size**0.5, jnp.zeros(width)))
            size = width
        return layers

    def act(params: Any, key: Any, observation: Any) -> Any:
        x = observation.reshape(-1)
        for weight, bias in params[:-1]:
            x = jnp.tanh(x @ weight + bias)
        x = x @ params[-1][0] + params[-1][1]
        return jax.random.categorical(key, x) if discrete else x + jax.random.normal(key, x.shape)

    def rollout(params: Any, key: Any, state: Any) -> Any:
        def advance(carry: Any, key: Any) -> Any:
            env_state, observation = carry
            act_keys, step_keys = jax.random.split(key, (2, num_envs))
            action = jax.vmap(act, (None, 0, 0))(params, act_keys, observation)
            after, env_state, reward, done, _ = jax.vmap(env.step, (0, 0, 0, None))(step_keys, env_state, action, env_params)
            return (env_state, after), (observation, action, reward, after, done)

        return jax.lax.scan(advance, state, jax.random.split(key, num_steps))

    keys = jax.random.split(jax.random.PRNGKey(0), num_envs)
    observation, env_state = jax.vmap(env.reset, (0, None))(keys, env_params)
    params = init(jax.random.PRNGKey(1), observation[0].size)
    program, box, key = jax.jit(rollout), [(env_state, observation)], jax.random.PRNGKey(2)

    def call(i: int) -> None:
        box[0], _ = jax.block_until_ready(program(params, jax.random.fold_in(key, i), box[0]))

    return throughput(call, num_envs * num_steps, seconds)


def gymnasium(name: str, num_envs: int, num_steps: int, seconds: float) -> list[float]:
    """Time gymnasium's vector environment."""
    import gymnasium as library

    envs = library.vector.SyncVectorEnv([lambda: library.make(name)] * num_envs)
    envs.reset(seed=0)
    actions = [envs.action_space.sample() for _ in range(num_steps)]

    def call(i: int) -> None:
        for action in actions:
            envs.step(action)

    return throughput(call, num_envs * num_steps, seconds)


def torchrl(name: str, num_envs: int, num_steps: int, seconds: float) -> list[float]:
    """Time TorchRL's vector environment."""
    import torch
    from torchrl import torchrl_logger
    from torchrl.envs import GymEnv, SerialEnv

    torchrl_logger.setLevel("WARNING")
    torch.set_num_threads(1)
    env = SerialEnv(num_envs, lambda: GymEnv(name, categorical_action_encoding=True, device="cpu"))
    return throughput(lambda i: env.rollout(num_steps, break_when_any_done=False), num_envs * num_steps, seconds)
