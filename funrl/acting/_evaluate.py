"""Evaluation: the returns and lengths of whole episodes."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.acting._actor import ActorState, check_act, check_reward, chooser, start, with_reset
from funrl.acting._rollout import renew
from funrl.compiler import scan
from funrl.env import AnyEnv, VectorEnv
from funrl.policies import StatefulPolicy
from funrl.typing import Act


@tree.dataclass
class Evaluation:
    """Returns and lengths of whole episodes.

    Attributes:
        episode_return: floating point [N]; the undiscounted sum of rewards.
        episode_length: int64 [N]; in steps.
        finished: bool [N]; False if the episode had not ended after ``max_steps``.
    """

    episode_return: torch.Tensor
    episode_length: torch.Tensor
    finished: torch.Tensor


def evaluate(
    params: Any,
    key: torch.Tensor,
    env_params: Any,
    *,
    env: AnyEnv,
    act: Act | StatefulPolicy | None = None,
    num_episodes: int,
    max_steps: int | None = None,
) -> Evaluation:
    """Play ``num_episodes`` whole episodes: each in its own copy of an Env, or divided among the copies of a VectorEnv.

    The result is not biased towards short episodes, as how many episodes a copy plays is fixed in advance.

    Args:
        params: the parameters of ``act``.
        key: a key [].
        env_params: the physical constants.
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv`, pure or on the host.
        act: ``act(params, key, observation) -> (action, extras)`` for a single observation, or a
            :class:`funrl.policies.StatefulPolicy`. None: random actions.
        num_episodes: N >= 1.
        max_steps: the number of steps after which an episode that has not ended is stopped, and counts as not ``finished``; None:
            ``env.max_episode_steps``, even if ``env_params`` has another limit.

    Returns:
        An :class:`Evaluation` with leaves [N].

    Raises:
        TypeError: if ``act`` is neither a function nor a StatefulPolicy.
        ValueError: if ``num_episodes`` or ``max_steps`` is less than 1.

    Example:
        >>> import torch, funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> def left(params, key, observation):
        ...     return torch.zeros((), dtype=torch.int64), {}
        >>> result = evaluate(None, funrl.random.key(0), env.default_params, env=env, act=left, num_episodes=8, max_steps=20)
        >>> bool(result.finished.all()), bool((result.episode_return == result.episode_length).all())
        (True, True)
    """
    _check.integer("evaluate: num_episodes", num_episodes, 1)
    check_act("evaluate", act)
    max_steps = env.max_episode_steps if max_steps is None else max_steps
    _check.integer("evaluate: max_steps", max_steps, 1)
    if not isinstance(env, VectorEnv):
        return _play(params, key, env_params, env=env, act=act, lanes=(num_episodes,), max_steps=max_steps)
    if env.host:
        return _evaluate_host(params, key, env_params, env=env, act=act, num_episodes=num_episodes, max_steps=max_steps)

    def one_round(none: tuple[()], key: torch.Tensor) -> tuple[tuple[()], Evaluation]:
        return none, _play(params, key, env_params, env=env, act=act, lanes=(), max_steps=max_steps)

    _, rounds = scan(one_round, (), random.split(key, math.ceil(num_episodes / env.num_envs)))
    return tree.map(lambda x: x.flatten(0, 1)[:num_episodes], rounds)


def _play(
    params: Any,
    key: torch.Tensor,
    env_params: Any,
    *,
    env: AnyEnv,
    act: Act | StatefulPolicy | None,
    lanes: tuple[int, ...],
    max_steps: int,
) -> Evaluation:
    """Play the first episode of each copy: of ``lanes[0]`` vmapped copies of an Env; if ``lanes`` is (), of those of a VectorEnv."""
    reset_key, step_key = random.split(key).unbind(0)
    actor = start(reset_key, env_params, env=env, num_envs=lanes[0] if lanes else None, act=act, params=params)
    timestep = actor.timestep
    check_reward("evaluate", timestep, env)
    choose = chooser(act, env)

    def advance(carry: Any, key: torch.Tensor) -> tuple[Any, Any]:
        env_state, timestep, memory, result = carry
        act_key, step_key = random.split(key).unbind(0)
        memory, action, _ = choose(params, act_key, memory, timestep.observation)
        env_state, timestep = env.step(step_key, env_state, action, env_params)
        check_reward("evaluate", timestep, env)
        result = Evaluation(
            episode_return=torch.where(result.finished, result.episode_return, result.episode_return + timestep.reward),
            episode_length=torch.where(result.finished, result.episode_length, result.episode_length + 1),
            finished=result.finished | timestep.done,
        )
        return (env_state, timestep, with_reset(memory, timestep.done), result), ()

    none = Evaluation(
        episode_return=torch.zeros_like(timestep.reward),
        episode_length=torch.zeros_like(timestep.reward, dtype=torch.int64),
        finished=torch.zeros_like(timestep.done),
    )
    keys = random.split(step_key, (max_steps, *lanes))
    (*_, result), _ = scan(torch.func.vmap(advance) if lanes else advance, (actor.env, timestep, actor.memory, none), keys)
    return result


def _evaluate_host(
    params: Any, key: torch.Tensor, env_params: Any, *, env: VectorEnv, act: Act | StatefulPolicy | None, num_episodes: int, max_steps: int
) -> Evaluation:
    """Play on the B copies of ``env``: copy b plays the episodes b, b + B, b + 2 B, ... one after another."""
    reset_key, loop_key = random.split(key).unbind(0)
    actor = start(reset_key, env_params, env=env, act=act, params=params)
    choose = chooser(act, env)
    zeros = torch.zeros_like(actor.timestep.reward)
    number, total, length = torch.arange(len(zeros), device=zeros.device), zeros, torch.zeros_like(zeros, dtype=torch.int64)
    returns, lengths = zeros.new_zeros(num_episodes), length.new_zeros(num_episodes)
    finished = torch.zeros_like(returns, dtype=torch.bool)
    for act_key, step_key, reset_key in _triples(loop_key):
        memory, action, _ = choose(params, act_key, actor.memory, actor.timestep.observation)
        env_state, timestep = env.step(step_key, actor.env, action, env_params)
        done = timestep.done
        total, length = total + timestep.reward, length + 1
        over = done | (length >= max_steps)
        actor = ActorState(env_state, timestep, with_reset(memory, over))
        if not bool(over.any()):
            continue
        ended = over & (number < num_episodes)
        returns[number[ended]], lengths[number[ended]], finished[number[ended]] = total[ended], length[ended], done[ended]
        number, total, length = torch.where(over, number + len(zeros), number), torch.where(over, 0, total), torch.where(over, 0, length)
        if bool((number >= num_episodes).all()):
            break
        actor = renew(reset_key, actor, over, env_params, env)
    return Evaluation(returns, lengths, finished)


def _triples(key: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield triples of keys without end; many are made at a time."""
    for number in itertools.count():
        for row in random.split(random.fold_in(key, number), (256, 3)).unbind(0):
            yield row.unbind(0)
