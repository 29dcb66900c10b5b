"""Single steps: with a random action, and the reset at the end of an episode."""

from typing import Any

import torch

from funrl import random, tree
from funrl.acting._choose import chooser
from funrl.acting._state import ActorState, checked
from funrl.env import AnyEnv, Timestep, Transition, masked, on_host


def step_mdp(key: torch.Tensor, actor: ActorState, env_params: Any, *, env: AnyEnv) -> ActorState:
    """Return the actor for the next step: ``actor`` itself, or if its episode is over, a new episode.

    Args:
        key: a key [], for the resets.
        actor: the :class:`ActorState` after a step, or the result of ``env.step``; its memory, if any, does not change.
        env_params: the physical constants.
        env: the environment.

    Returns:
        An :class:`ActorState`.

    Raises:
        TypeError: if ``actor`` is neither an :class:`ActorState` nor what ``env.reset`` returned.
        ValueError: if it is not batched as ``env`` is.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> reset_key, key, next_key = funrl.random.split(funrl.random.key(0), 3)
        >>> actor = ActorState(*env.reset(reset_key, env.default_params))
        >>> after, transition = rand_step(key, actor, env.default_params, env=env)
        >>> actor = step_mdp(next_key, after, env.default_params, env=env)
        >>> bool((actor.timestep.observation == transition.next_observation).all())
        True
    """
    actor, _ = checked("step_mdp", actor, env)
    done = actor.timestep.done
    return actor if on_host(env) and not any_of(done) else renew(key, actor, done, env_params, env)


def rand_step(key: torch.Tensor, actor: ActorState, env_params: Any, *, env: AnyEnv) -> tuple[ActorState, Transition]:
    """Take one step with a random action, without a reset.

    Args:
        key: a key [].
        actor: an :class:`ActorState`, or the result of ``env.reset``.
        env_params: the physical constants.
        env: the environment; each copy of a :class:`~funrl.env.VectorEnv` has its own action.

    Returns:
        The :class:`ActorState` after the step, and the :class:`~funrl.env.Transition`.

    Raises:
        TypeError: if ``actor`` is neither an :class:`ActorState` nor what ``env.reset`` returned.
        ValueError: if it is not batched as ``env`` is.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> actor = ActorState(*env.reset(funrl.random.key(0), env.default_params))
        >>> actor, transition = rand_step(funrl.random.key(1), actor, env.default_params, env=env)
        >>> transition.action.shape, transition.next_observation.shape
        (torch.Size([1]), torch.Size([3]))
    """
    actor, _ = checked("rand_step", actor, env)
    act_key, step_key = random.split(key).unbind(0)
    before = actor.timestep
    _, action, extras = chooser(None, env)(None, act_key, (), before.observation)
    env_state, after = env.step(step_key, actor.env, action, env_params)
    return actor.replace(env=env_state, timestep=after), Transition(
        observation=before.observation,
        action=action,
        reward=after.reward,
        terminated=after.terminated,
        truncated=after.truncated,
        next_observation=after.observation,
        extras=with_discount(extras, after),
    )


def renew(key: torch.Tensor, actor: ActorState, where: torch.Tensor, env_params: Any, env: AnyEnv) -> ActorState:
    """Reset the environments in the mask ``where``.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> actor = ActorState(*env.reset(funrl.random.key(0), env.default_params))
        >>> renewed = renew(funrl.random.key(1), actor, torch.tensor(False), env.default_params, env)
        >>> bool((renewed.timestep.observation == actor.timestep.observation).all())
        True
    """
    env_state, observation, info = restart(key, actor.env, actor.timestep, where, env_params, env)
    old = actor.timestep
    reward = torch.where(where, 0.0, old.reward)
    new = old.replace(
        observation=observation, reward=reward, terminated=old.terminated & ~where, truncated=old.truncated & ~where, info=info
    )
    return actor.replace(env=env_state, timestep=new)


def restart(key: torch.Tensor, env_state: Any, last: Timestep, where: torch.Tensor, env_params: Any, env: AnyEnv) -> tuple[Any, Any, Any]:
    """Reset the environments in the mask ``where``; return their state, observation and info.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> env_state, last = env.reset(funrl.random.key(0), env.default_params)
        >>> restart(funrl.random.key(1), env_state, last, torch.tensor(True), env.default_params, env)[1].shape
        torch.Size([4])
    """
    env_state, new = masked(env)[0](key, env_params, env_state, where)
    return env_state, _pick(where, new.observation, last.observation), _pick(where, new.info, last.info)


def cleared(last: Timestep | Transition, observation: Any, info: Any) -> Timestep:
    """Return the timestep after the resets. Only observation and info have to be carried; the other fields follow from the last timestep.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> _, last = env.reset(funrl.random.key(0), env.default_params)
        >>> cleared(last, last.observation, {}).reward
        tensor(0.)
    """
    no = torch.zeros_like(last.terminated)
    reward = torch.where(last.terminated | last.truncated, 0.0, last.reward)
    return Timestep(observation, reward, no, no.clone(), info, getattr(last, "discount", ()))


def with_discount(extras: dict[str, Any], after: Timestep) -> dict[str, Any]:
    """Add the discount of a timestep to the extras of a transition, if it has one.

    Example:
        >>> no = torch.tensor(False)
        >>> with_discount({}, Timestep((), torch.tensor(1.0), no, no, {}, discount=torch.tensor(0.81)))
        {'discount': tensor(0.8100)}
    """
    return {**extras, "discount": after.discount} if isinstance(after.discount, torch.Tensor) else extras


def any_of(flag: torch.Tensor) -> bool:
    """Return whether a flag, or any of several, is True; for few copies on the host several times as fast as a reduction.

    Example:
        >>> any_of(torch.tensor([False, True])), any_of(torch.tensor(False))
        (True, False)
    """
    value = flag.tolist()
    return True in value if isinstance(value, list) else value


def _pick(where: torch.Tensor, yes: Any, no: Any) -> Any:
    """Return ``tree.where(where, yes, no)``, faster on the host for a single tensor."""
    if isinstance(yes, torch.Tensor):
        return torch.where(where.reshape(where.shape + (1,) * (yes.ndim - where.ndim)), yes, no)
    return tree.where(where, yes, no) if yes != {} else yes
