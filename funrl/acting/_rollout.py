"""Rollouts: T steps of one environment or of B environments, as one loop."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.acting._choose import check_act, chooser, mapped, with_reset
from funrl.acting._host import rollout_host
from funrl.acting._state import ActorState, check_reward, checked
from funrl.acting._step import cleared, with_discount
from funrl.compiler import scan
from funrl.env import AnyEnv, Transition, VectorEnv, batch_shape
from funrl.policies import StatefulPolicy
from funrl.typing import Act


def rollout(
    params: Any,
    key: torch.Tensor,
    actor: ActorState,
    env_params: Any,
    *,
    env: AnyEnv,
    act: Act | StatefulPolicy | None = None,
    num_steps: int,
) -> tuple[ActorState, Transition]:
    """Act for ``num_steps`` steps in one environment or in B environments.

    When an episode ends, its environment is reset, and the next step begins a new episode. ``next_observation`` is never the observation
    of the reset but always the true successor, so that a learner can bootstrap from it after a truncation.

    Step t calls ``act``, ``env.step`` and then, as :func:`step_mdp` does, ``env.reset``. Each uses one of the three keys
    ``random.split(key, (num_steps, 3))[t]``; copy b of an Env uses ``random.split(key, (num_steps, B, 3))[t, b]``.

    Args:
        params: the parameters of ``act``.
        key: a key [], or the keys of all steps, [T, 3] or [T, B, 3], such as some of those of a longer rollout.
        actor: an :class:`~funrl.acting.ActorState`, from :func:`funrl.acting.start` or the last rollout, or the result of ``env.reset``.
            With B environments all its leaves are [B, ...].
        env_params: the physical constants, shared by all environments; those of :func:`funrl.envs.vectorize` may have
            separate values for each copy.
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv`, pure or on the host.
        act: ``act(params, key, observation) -> (action, extras)`` for a single observation; a VectorEnv maps it over
            ``random.split(key, B)``. None: random actions, and ``extras`` are {}. A recurrent policy is a
            :class:`funrl.policies.StatefulPolicy`, whose memory ``actor`` has.
        num_steps: T >= 1.

    Returns:
        The actor after the steps, and a :class:`~funrl.env.Transition` with leaves [T, ...] or [T, B, ...].

    Raises:
        TypeError: if ``act`` is neither a function nor a StatefulPolicy, or ``actor`` neither an ActorState nor what
            ``env.reset`` returned.
        ValueError: if ``num_steps`` is less than 1, the shape of ``key`` is none of these, ``actor`` is not batched as ``env`` is or lacks
            the memory of a recurrent policy, or there is not one reward for each environment.

    Example:
        >>> import torch, funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> key, reset_key, step_key = funrl.random.split(funrl.random.key(0), 3)
        >>> def act(params, key, observation):
        ...     return funrl.random.randint(key, (), 0, 2), {}
        >>> actor = funrl.acting.start(reset_key, env=env, num_envs=4)
        >>> actor, batch = rollout(None, step_key, actor, env.default_params, env=env, act=act, num_steps=16)
        >>> batch.observation.shape, batch.action.shape
        (torch.Size([16, 4, 4]), torch.Size([16, 4]))
    """
    _check.integer("rollout: num_steps", num_steps, 1)
    check_act("rollout", act)
    actor, shape = checked("rollout", actor, env, act)
    if isinstance(env, VectorEnv) and env.host:
        return rollout_host(params, key, actor, env_params, env=env, act=act, num_steps=num_steps)
    choose = chooser(act, env)
    lanes = shape[len(batch_shape(env)) :]
    # All keys at once, as splits inside the loop make the program slower to compile and to run. Separate tensors are read fastest.
    keys = key if key.ndim else random.split(key, (num_steps, *lanes, 3))
    if keys.shape != (num_steps, *lanes, 3):
        expected = f"one key [], or those of all steps {[num_steps, *lanes, 3]}"
        _check.fail(ValueError, "rollout: key", expected, list(keys.shape), "split one with funrl.random.split")
    keys = tuple(each.contiguous() for each in keys.unbind(-1))
    env_params = _pack(env_params)

    def advance(carry: tuple[Any, ...], keys: tuple[torch.Tensor, ...]) -> tuple[tuple[Any, ...], Transition]:
        env_state, observation, _, memory = carry
        act_key, step_key, reset_key = keys
        constants = env_params()
        memory, action, extras = choose(params, act_key, memory, observation)
        env_state, after = env.step(step_key, env_state, action, constants)
        check_reward("rollout", after, env)
        transition = Transition(
            observation=observation,
            action=action,
            reward=after.reward,
            terminated=after.terminated,
            truncated=after.truncated,
            next_observation=after.observation,
            extras=with_discount(extras, after),
        )
        reset_state, reset = env.reset(reset_key, constants)
        new = (reset_state, reset.observation, reset.info)
        going = tree.where(after.done, new, (env_state, after.observation, after.info))
        return (*going, with_reset(memory, after.done)), transition

    first = (actor.env, actor.timestep.observation, actor.timestep.info, actor.memory)
    (env_state, observation, info, memory), transitions = scan(mapped(advance) if lanes else advance, first, keys)
    last = cleared(tree.index(transitions, -1), observation, info)
    if isinstance(actor.timestep.discount, torch.Tensor):
        last = last.replace(discount=transitions.extras["discount"][-1])
    return ActorState(env_state, last, memory), transitions


def _pack(env_params: Any) -> Callable[[], Any]:
    """Pack ``env_params`` into one vector for each dtype, as a loop has a cost for every tensor that it reads; return the inverse."""
    values, form = tree.flatten(env_params)
    dtypes = dict.fromkeys(x.dtype for x in values)  # a dict, as the order of a set may differ between processes
    vectors = {dtype: tree.ravel([x for x in values if x.dtype == dtype]) for dtype in dtypes}

    def unpack() -> Any:
        parts = {dtype: iter(unravel(vector)) for dtype, (vector, unravel) in vectors.items()}
        return tree.unflatten(form, [next(parts[x.dtype]) for x in values])

    return unpack
