"""Acting in environments: ``rollout`` gathers transitions, ``evaluate`` measures whole episodes."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, Transition
from funrl.program import scan

__all__ = ["Evaluation", "evaluate", "rollout"]


@tree.dataclass
class Evaluation:
    """Whole episodes, one for each environment.

    Attributes:
        episode_return: floating point [N]; the undiscounted sum of rewards.
        episode_length: int64 [N]; in steps.
        finished: bool [N]; False where the episode was still going on after ``max_steps``.
    """

    episode_return: torch.Tensor
    episode_length: torch.Tensor
    finished: torch.Tensor


def rollout(
    params: Any,
    key: torch.Tensor,
    state: tuple[Any, Timestep],
    env_params: Any,
    *,
    env: Env,
    act: Callable[[Any, torch.Tensor, Any], tuple[Any, Any]],
    num_steps: int,
) -> tuple[tuple[Any, Timestep], Transition]:
    """Act for ``num_steps`` steps in one environment, or in B of them side by side.

    An environment that is done is reset, here and nowhere else; ``next_observation`` is the true successor all the
    same, so that a value can be bootstrapped from it on truncation.

    Args:
        params: what ``act`` learns.
        key: a key [].
        state: what ``env.reset`` returned, or the last rollout did: the pair of the environment's state and its
            latest :class:`~funrl.env.Timestep`. Batched by ``vmap(env.reset, (0, None))``, all its leaves are [B, ...].
        env_params: the physical constants, shared by all environments.
        env: the environment.
        act: ``act(params, key, observation) -> (action, extras)`` for a single observation.
        num_steps: T >= 1.

    Returns:
        The state to go on from, and a :class:`~funrl.env.Transition` with leaves [T, ...] or [T, B, ...].

    Raises:
        ValueError: if ``num_steps`` is less than 1, or ``state`` is not such a pair.

    Example:
        >>> import torch, funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> key, reset_key, step_key = funrl.random.split(funrl.random.key(0), 3)
        >>> def act(params, key, observation):
        ...     return funrl.random.randint(key, (), 0, 2), {}
        >>> state = torch.func.vmap(env.reset, (0, None))(funrl.random.split(reset_key, 4), env.default_params)
        >>> state, batch = rollout(None, step_key, state, env.default_params, env=env, act=act, num_steps=16)
        >>> batch.observation.shape, batch.action.shape
        (torch.Size([16, 4, 4]), torch.Size([16, 4]))
    """
    if num_steps < 1:
        raise ValueError(f"rollout: num_steps is {num_steps}; expected at least 1")
    batch_shape = _batch_shape(state)
    # All keys at once: drawing them inside the loop makes the program slower to compile and to run.
    keys = random.split(key, (num_steps, *batch_shape, 3))
    env_params = _pack(env_params)

    def advance(carry: tuple[Any, Any, Any], keys: torch.Tensor) -> tuple[tuple[Any, Any, Any], tuple[Transition, Any]]:
        env_state, observation, _ = carry
        act_key, step_key, reset_key = keys.unbind(0)
        constants = env_params()
        action, extras = act(params, act_key, observation)
        env_state, after = env.step(step_key, env_state, action, constants)
        transition = Transition(
            observation=observation,
            action=action,
            reward=after.reward,
            terminated=after.terminated,
            truncated=after.truncated,
            next_observation=after.observation,
            extras=extras,
        )
        reset_state, reset = env.reset(reset_key, constants)
        new = (reset_state, reset.observation, reset.info)
        return tree.where(after.done, new, (env_state, after.observation, after.info)), transition

    if batch_shape:
        advance = torch.func.vmap(advance)
    env_state, timestep = state
    (env_state, observation, info), transitions = scan(advance, (env_state, timestep.observation, timestep.info), keys)
    # What a reset makes of the rest of the last timestep is known: no loop has to carry it.
    last = Timestep(
        observation=observation,
        reward=torch.where(transitions.done[-1], 0.0, transitions.reward[-1]),
        terminated=torch.zeros_like(timestep.terminated),
        truncated=torch.zeros_like(timestep.truncated),
        info=info,
    )
    return (env_state, last), transitions


def _pack(env_params: Any) -> Callable[[], Any]:
    """Return a function that gives ``env_params`` back from one vector for each dtype: a loop pays for every tensor that it reads."""
    values, form = tree.flatten(env_params)
    dtypes = dict.fromkeys(x.dtype for x in values)  # in order: a set's may differ in another process
    vectors = {dtype: tree.ravel([x for x in values if x.dtype == dtype]) for dtype in dtypes}

    def unpack() -> Any:
        parts = {dtype: iter(unravel(vector)) for dtype, (vector, unravel) in vectors.items()}
        return tree.unflatten(form, [next(parts[x.dtype]) for x in values])

    return unpack


def evaluate(
    params: Any,
    key: torch.Tensor,
    env_params: Any,
    *,
    env: Env,
    act: Callable[[Any, torch.Tensor, Any], tuple[Any, Any]],
    num_episodes: int,
    max_steps: int | None = None,
) -> Evaluation:
    """Play one episode in each of ``num_episodes`` environments side by side.

    As every environment counts with its first episode only, short episodes are not preferred.

    Args:
        params: what ``act`` learns.
        key: a key [].
        env_params: the physical constants.
        env: the environment.
        act: ``act(params, key, observation) -> (action, extras)`` for a single observation.
        num_episodes: N >= 1.
        max_steps: how many steps to go at most; ``env.max_episode_steps`` by default.

    Returns:
        An :class:`Evaluation` with leaves [N].

    Raises:
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
    if num_episodes < 1:
        raise ValueError(f"evaluate: num_episodes is {num_episodes}; expected at least 1")
    max_steps = env.max_episode_steps if max_steps is None else max_steps
    if max_steps < 1:
        raise ValueError(f"evaluate: max_steps is {max_steps}; expected at least 1")
    reset_key, step_key = random.split(key).unbind(0)
    state = torch.func.vmap(env.reset, (0, None))(random.split(reset_key, num_episodes), env_params)

    def advance(carry: Any, key: torch.Tensor) -> tuple[Any, Any]:
        env_state, timestep, result = carry
        act_key, step_key = random.split(key).unbind(0)
        action, _ = act(params, act_key, timestep.observation)
        env_state, timestep = env.step(step_key, env_state, action, env_params)
        result = Evaluation(
            episode_return=torch.where(result.finished, result.episode_return, result.episode_return + timestep.reward),
            episode_length=torch.where(result.finished, result.episode_length, result.episode_length + 1),
            finished=result.finished | timestep.done,
        )
        return (env_state, timestep, result), ()

    _, timestep = state
    start = Evaluation(
        episode_return=torch.zeros_like(timestep.reward),
        episode_length=torch.zeros_like(timestep.reward, dtype=torch.int64),
        finished=torch.zeros_like(timestep.done),
    )
    keys = random.split(step_key, (max_steps, num_episodes))
    (_, _, result), _ = scan(torch.func.vmap(advance), (*state, start), keys)
    return result


def _batch_shape(state: Any) -> torch.Size:
    if not (isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], Timestep)):
        raise ValueError(
            f"rollout: state is {type(state).__name__}; expected the pair (state, Timestep) that env.reset or a rollout before returned"
        )
    shape = state[1].reward.shape
    if len(shape) > 1:
        raise ValueError(f"rollout: state has the batch dimensions {list(shape)}; expected none or one, and torch.func.vmap for more")
    return shape
