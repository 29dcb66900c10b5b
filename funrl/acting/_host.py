"""Steps of copies on the host: a loop in Python with random numbers that are drawn in advance."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from funrl import random, tree
from funrl.acting._choose import host_chooser, with_reset
from funrl.acting._state import ActorState
from funrl.acting._step import any_of, cleared, restart, with_discount
from funrl.env import Transition, VectorEnv
from funrl.policies import StatefulPolicy
from funrl.typing import Act


class Drawn(NamedTuple):
    """Random numbers of the steps of copies on the host, one entry for each step.

    Attributes:
        choices: the keys [B] of the actions; without a policy the random actions themselves.
        steps: the keys of the steps.
        resets: the keys of the resets.
    """

    choices: Sequence[Any]
    steps: Sequence[torch.Tensor]
    resets: Sequence[torch.Tensor]


def draw(key: torch.Tensor, *, env: VectorEnv, act: Act | StatefulPolicy | None, num_steps: int) -> Drawn:
    """Draw the random numbers of :func:`host_steps`. They do not depend on parameters, and so can be drawn before these are known.

    Example:
        >>> import funrl
        >>> with funrl.envs.make("gymnasium:CartPole-v1", num_envs=2) as env:
        ...     drawn = draw(funrl.random.key(0), env=env, act=None, num_steps=5)
        >>> len(drawn.choices), drawn.choices[0].shape
        (5, torch.Size([2]))
    """
    keys, steps, resets = random.split(key, (num_steps, 3)).unbind(1)
    keys = torch.func.vmap(lambda key: random.split(key, env.num_envs))(keys)
    choices: Sequence[Any] = keys.unbind(0)
    if act is None:
        values, form = tree.flatten(torch.func.vmap(torch.func.vmap(env.action_space.sample))(keys))
        choices = [tree.unflatten(form, row) for row in zip(*(x.unbind(0) for x in values), strict=True)]
    return Drawn(choices, steps.unbind(0), resets.unbind(0))


def host_steps(
    params: Any, drawn: Drawn, actor: ActorState, env_params: Any, *, env: VectorEnv, act: Act | StatefulPolicy | None
) -> tuple[ActorState, list[tuple[Any, ...]]]:
    """Perform a rollout step by step in Python, and return a tuple of the fields of each Transition, in order.

    Example:
        >>> import funrl
        >>> with funrl.envs.make("gymnasium:CartPole-v1") as env:
        ...     drawn = draw(funrl.random.key(1), env=env, act=None, num_steps=5)
        ...     actor = ActorState(*env.reset(funrl.random.key(0), ()))
        ...     actor, rows = host_steps(None, drawn, actor, (), env=env, act=None)
        >>> len(rows), Transition(*rows[0]).reward
        (5, tensor([1.]))
    """
    choose = host_chooser(params, act)
    env_state, last, memory = actor.env, actor.timestep, actor.memory
    observation, info, rows = last.observation, last.info, []
    for choice, step_key, reset_key in zip(*drawn, strict=True):
        memory, action, extras = choose(choice, memory, observation)
        env_state, last = env.step(step_key, env_state, action, env_params)
        rows.append((observation, action, last.reward, last.terminated, last.truncated, last.observation, with_discount(extras, last)))
        observation, info = last.observation, last.info
        if memory != ():
            memory = with_reset(memory, last.done)
        if any_of(last.terminated) or any_of(last.truncated):
            env_state, observation, info = restart(reset_key, env_state, last, last.done, env_params, env)
    return ActorState(env_state, cleared(last, observation, info), memory), rows


def rollout_host(
    params: Any, key: torch.Tensor, actor: ActorState, env_params: Any, *, env: VectorEnv, act: Act | StatefulPolicy | None, num_steps: int
) -> tuple[ActorState, Transition]:
    """Implement :func:`funrl.rollout` on the host.

    Example:
        >>> import funrl
        >>> with funrl.envs.make("gymnasium:CartPole-v1") as env:
        ...     actor = ActorState(*env.reset(funrl.random.key(0), ()))
        ...     rollout_host(None, funrl.random.key(1), actor, (), env=env, act=None, num_steps=5)[1].reward.shape
        torch.Size([5, 1])
    """
    drawn = draw(key, env=env, act=act, num_steps=num_steps)
    actor, rows = host_steps(params, drawn, actor, env_params, env=env, act=act)
    return actor, Transition(*(_stack(column) for column in zip(*rows, strict=True)))


def _stack(values: tuple[Any, ...]) -> Any:
    if isinstance(values[0], torch.Tensor):
        return torch.stack(values)
    return tree.stack(values) if any(value != {} for value in values) else {}
