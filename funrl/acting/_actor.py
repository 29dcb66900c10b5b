"""The state of an actor from one rollout to the next, and the choice of its actions: by a function, by a recurrent policy or at random."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.env import AnyEnv, Timestep, VectorEnv
from funrl.policies import StatefulPolicy
from funrl.typing import Act


@tree.dataclass
class Memory(tree.Replaceable):
    """The memory of a recurrent policy, from step to step and from one rollout to the next.

    Attributes:
        state: the state of the policy, such as the carry of a recurrent cell; leaves [...] or [B, ...].
        reset: bool [] or [B], True where the next observation is the first of an episode.
    """

    state: Any
    reset: torch.Tensor


@tree.dataclass
class ActorState(tree.Replaceable):
    """The state from which a rollout begins: environments, their latest timesteps, and the memory of a recurrent policy.

    ``ActorState(*env.reset(key, env_params))`` makes one from a reset; :func:`start` also makes B copies, and a memory.

    Attributes:
        env: the state of the environment, as ``env.reset`` and ``env.step`` return it; leaves [...] or [B, ...].
        timestep: the latest :class:`~funrl.env.Timestep`; leaves [...] or [B, ...].
        memory: the :class:`Memory` of a recurrent policy, or () without one.
    """

    env: Any
    timestep: Timestep
    memory: Any = ()


def start(
    key: torch.Tensor, env_params: Any = None, *, env: AnyEnv, num_envs: int | None = None, act: Any = None, params: Any = ()
) -> ActorState:
    """Reset an environment, or B copies of it, and start the memory of a recurrent policy.

    Args:
        key: a key []; with ``num_envs`` copy b is reset with ``random.split(key, B)[b]``.
        env_params: the physical constants; None: ``env.default_params``.
        env: the environment.
        num_envs: B, copies of an :class:`~funrl.env.Env`, by ``vmap``; None: ``env`` as it is.
        act: the policy that will act; it is needed only if it is recurrent, a :class:`funrl.policies.StatefulPolicy`.
        params: the parameters of such a policy.

    Returns:
        An :class:`ActorState` with leaves [...] or [B, ...].

    Raises:
        ValueError: if ``num_envs`` is given for a :class:`~funrl.env.VectorEnv`, which has its copies already.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> actor = start(funrl.random.key(0), env=env, num_envs=3)
        >>> actor.timestep.observation.shape
        torch.Size([3, 4])
    """
    env_params = env.default_params if env_params is None else env_params
    if num_envs is None:
        actor = ActorState(*env.reset(key, env_params))
    elif isinstance(env, VectorEnv):
        raise ValueError(
            f"start: num_envs: expected None, as {env.name} has {env.num_envs} copies already, got {num_envs}; "
            "funrl.envs.make(..., num_envs=) makes copies"
        )
    else:
        actor = ActorState(*torch.func.vmap(env.reset, (0, None))(random.split(key, num_envs), env_params))
    return with_memory(params, actor, env=env, policy=act) if isinstance(act, StatefulPolicy) else actor


def with_memory(params: Any, actor: ActorState, *, env: AnyEnv, policy: StatefulPolicy) -> ActorState:
    """Return the actor with the initial memory of a recurrent policy.

    Args:
        params: the parameters of the policy.
        actor: an :class:`ActorState` at the start of its episodes.
        env: the environment.
        policy: a recurrent policy, such as those of :func:`funrl.policies.recurrent`.

    Returns:
        The actor with a :class:`Memory`.

    Raises:
        TypeError: if ``actor`` is neither an :class:`ActorState` nor what ``env.reset`` returned.
        ValueError: if it is not batched as ``env`` is.

    Example:
        >>> import funrl
        >>> from funrl import distributions, nn, policies
        >>> env = funrl.envs.make("MemoryChain-bsuite", memory_length=3)
        >>> policy = policies.recurrent(nn.gru(8), policies.stochastic(nn.mlp((), 2), distributions.Categorical))
        >>> actor = ActorState(*env.reset(funrl.random.key(0), env.default_params))
        >>> params = policy.init(funrl.random.key(1), actor.timestep.observation)
        >>> actor = with_memory(params, actor, env=env, policy=policy)
        >>> actor, batch = funrl.rollout(params, funrl.random.key(2), actor, env.default_params, env=env, act=policy, num_steps=6)
        >>> actor.memory.state.shape, batch.terminated
        (torch.Size([8]), tensor([False, False, False,  True, False, False]))
    """
    actor, shape = checked("with_memory", actor, env)
    begin = torch.func.vmap(policy.start, (None, 0)) if shape else policy.start
    carry = tree.map(lambda x: x.clone(memory_format=torch.contiguous_format), begin(params, actor.timestep.observation))
    return actor.replace(memory=Memory(carry, torch.ones_like(actor.timestep.terminated)))


def checked(what: str, actor: Any, env: AnyEnv, act: Any = None) -> tuple[ActorState, torch.Size]:
    """Check that an actor fits the environment and the policy, and return it and its batch dimensions, [] or [B].

    The pair that ``env.reset`` returned is converted to an actor.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> checked("rollout", torch.zeros(3), env)
        Traceback (most recent call last):
        ...
        TypeError: rollout: actor: expected an ActorState, or the pair (state, Timestep) that env.reset returned, got a Tensor
    """
    if type(actor) is tuple and len(actor) == 2:
        actor = ActorState(*actor)
    if not isinstance(actor, ActorState) or not isinstance(actor.timestep, Timestep):
        got = type(actor).__name__ if not isinstance(actor, ActorState) else f"{type(actor.timestep).__name__} for its timestep"
        raise TypeError(f"{what}: actor: expected an ActorState, or the pair (state, Timestep) that env.reset returned, got a {got}")
    if isinstance(act, StatefulPolicy) and not isinstance(actor.memory, Memory):
        raise ValueError(
            f"{what}: actor: expected one with a Memory, as act is a StatefulPolicy; funrl.acting.start(..., act=act) makes one, and "
            "funrl.acting.with_memory adds one to an actor"
        )
    check_reward(what, actor.timestep, env)
    shape = actor.timestep.reward.shape
    if isinstance(env, VectorEnv) and shape != (env.num_envs,):
        raise ValueError(f"{what}: actor has the batch dimensions {list(shape)}, but {env.name} has [{env.num_envs}]; use its reset")
    if len(shape) > 1:
        raise ValueError(f"{what}: actor has the batch dimensions {list(shape)}; expected none or one, and torch.func.vmap for more")
    return actor, shape


def check_reward(what: str, timestep: Timestep, env: AnyEnv) -> None:
    """Raise a ValueError unless ``reward`` and ``terminated`` have the same shape.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> check_reward("rollout", env.reset(funrl.random.key(0), env.default_params)[1], env)
    """
    if timestep.reward.shape != timestep.terminated.shape:
        raise ValueError(
            f"{what}: env: expected one reward for each copy, {list(timestep.terminated.shape)} like terminated, but {env.name} gives "
            f"{list(timestep.reward.shape)}; if several agents have different rewards, return their sum, or the reward of one agent"
        )


def check_act(what: str, act: Any) -> None:
    """Raise a TypeError unless ``act`` is valid for :func:`funrl.rollout`; the message begins with ``what``.

    Example:
        >>> from funrl import nn, policies
        >>> check_act("rollout", policies.deterministic(nn.mlp((), 1)))
        Traceback (most recent call last):
        ...
        TypeError: rollout: act: expected a function or a StatefulPolicy, got a Policy; give its act: policy.act
    """
    if act is not None and not callable(act) and not isinstance(act, StatefulPolicy):
        remedy = "give its act: policy.act" if hasattr(act, "act") else "write act(params, key, observation) -> (action, extras)"
        raise TypeError(f"{what}: act: expected a function or a StatefulPolicy, got a {type(act).__name__}; {remedy}")


def chooser(act: Act | StatefulPolicy | None, env: AnyEnv) -> Callable[[Any, torch.Tensor, Any, Any], tuple[Any, Any, Any]]:
    """Return ``choose(params, key, memory, observation) -> (memory, action, extras)`` for observations of ``env``.

    The memory is () if ``act`` has none. For a :class:`~funrl.env.VectorEnv` the function is mapped over the copies.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> memory, action, extras = chooser(None, env)((), random.key(0), (), None)
        >>> action.shape, extras
        (torch.Size([]), {})
    """

    def one(params: Any, key: torch.Tensor, memory: Any, observation: Any) -> tuple[Any, Any, Any]:
        if isinstance(act, StatefulPolicy):
            carry, action, extras = act.act(params, key, memory.state, observation, memory.reset)
            return memory.replace(state=carry), action, extras
        action, extras = (env.action_space.sample(key), {}) if act is None else _pair(act(params, key, observation))
        return memory, action, extras

    if not isinstance(env, VectorEnv):
        return one

    def each(params: Any, key: torch.Tensor, memory: Any, observation: Any) -> tuple[Any, Any, Any]:
        all_of_them = mapped(lambda key, memory, observation: one(params, key, memory, observation))
        return all_of_them(random.split(key, env.num_envs), memory, observation)

    return each


def host_chooser(params: Any, act: Act | StatefulPolicy | None) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
    """Return ``choose(choice, memory, observation) -> (memory, action, extras)``.

    ``choice`` is an entry of ``choices`` from :func:`draw`: the keys of the actions, or without a policy the random actions themselves.

    Example:
        >>> import funrl
        >>> from funrl.acting import draw
        >>> with funrl.envs.make("gymnasium:CartPole-v1", num_envs=2) as env:
        ...     drawn = draw(funrl.random.key(0), env=env, act=None, num_steps=5)
        ...     memory, action, extras = host_chooser(None, None)(drawn.choices[0], (), None)
        >>> action.shape, extras
        (torch.Size([2]), {})
    """
    if act is None:
        return lambda action, memory, observation: (memory, action, {})

    def over_copies(f: Callable, num_inputs: int) -> Callable:
        # A compiled act remains compiled under vmap.
        map_over = getattr(f, "vmapped", functools.partial(torch.func.vmap, f))
        return map_over((None, *(0 for _ in range(num_inputs))))

    if isinstance(act, StatefulPolicy):
        each = over_copies(act.act, 4)

        def choose(key: torch.Tensor, memory: Memory, observation: Any) -> tuple[Memory, Any, Any]:
            carry, action, extras = each(params, key, memory.state, observation, memory.reset)
            return memory.replace(state=carry), action, extras

        return choose
    each = over_copies(act, 2)
    return lambda key, memory, observation: (memory, *_pair(each(params, key, observation)))


def with_reset(memory: Any, done: torch.Tensor) -> Any:
    """Set the reset flag of the memory, if there is one, where episodes have ended.

    Example:
        >>> with_reset((), torch.tensor(True))
        ()
    """
    return memory.replace(reset=done) if isinstance(memory, Memory) else memory


def mapped(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``torch.func.vmap(f)`` that treats None in the results as a tree without leaves.

    Example:
        >>> mapped(lambda x: (x + 1, None))(torch.zeros(2))
        (tensor([1., 1.]), None)
    """

    def all_of_them(*args: Any) -> Any:
        form: Any = None

        def leaves(*args: Any) -> list[torch.Tensor]:
            nonlocal form
            values, form = tree.flatten(f(*args))
            return values

        values = torch.func.vmap(leaves)(*args)
        return tree.unflatten(form, values)

    return all_of_them


def _pair(chosen: Any) -> tuple[Any, Any]:
    return _check.pair("act", chosen, "(action, extras)", "without extras, return (action, {})")
