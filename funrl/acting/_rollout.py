"""Single steps, the reset at the end of an episode, and rollouts: one ``scan``, or for environments on the host a loop in Python."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from funrl import _check, random, tree
from funrl.acting._actor import ActorState, check_act, check_reward, checked, chooser, host_chooser, mapped, with_reset
from funrl.compiler import scan
from funrl.env import AnyEnv, Timestep, Transition, VectorEnv, batch_shape, masked, on_host
from funrl.policies import StatefulPolicy
from funrl.typing import Act


def step_mdp(key: torch.Tensor, actor: ActorState, env_params: Any, *, env: AnyEnv) -> ActorState:
    """Reset the environments whose episode has ended, and return the actor for the next step.

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
    return actor.replace(env=env_state, timestep=after), Transition(*_fields(before.observation, action, extras, after))


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
    """Return the timestep after resets, with the given observation and info: no flag is set, and rewards of ended episodes are 0.

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


def _fields(observation: Any, action: Any, extras: dict[str, Any], after: Timestep) -> tuple[Any, ...]:
    """Return the fields of the transition to the timestep ``after``, in order."""
    return observation, action, after.reward, after.terminated, after.truncated, after.observation, with_discount(extras, after)


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
        rows.append(_fields(observation, action, extras, last))
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
        key: a key []; except on the host also the keys of all steps, [T, 3] or [T, B, 3], such as some of those of a longer rollout.
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
        TypeError: if ``act`` is neither a function nor a StatefulPolicy, or ``actor`` is neither an ActorState nor the
            result of ``env.reset``.
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
        transition = Transition(*_fields(observation, action, extras, after))
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
    """Pack ``env_params`` into one vector for each dtype; return a function that unpacks them. A loop that reads few tensors is faster."""
    values, form = tree.flatten(env_params)
    dtypes = dict.fromkeys(x.dtype for x in values)  # a dict, as the order of a set may differ between processes
    vectors = {dtype: tree.ravel([x for x in values if x.dtype == dtype]) for dtype in dtypes}

    def unpack() -> Any:
        parts = {dtype: iter(unravel(vector)) for dtype, (vector, unravel) in vectors.items()}
        return tree.unflatten(form, [next(parts[x.dtype]) for x in values])

    return unpack
