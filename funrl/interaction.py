"""Acting in environments: ``rollout`` gathers transitions, ``evaluate`` measures whole episodes.

A pure environment is scanned: all that happens is one program. One that runs on the host is stepped by a loop in Python.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from funrl import random, tree
from funrl.compiler import scan
from funrl.env import Env, Timestep, Transition
from funrl.policies import StatefulPolicy

__all__ = ["Evaluation", "Memory", "check_act", "evaluate", "rand_step", "rollout", "step_mdp", "with_memory"]

Act = Callable[[Any, torch.Tensor, Any], tuple[Any, Any]] | StatefulPolicy


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


@tree.dataclass
class Memory(tree.Replaceable):
    """What a policy with a memory hands on from step to step, and from one rollout to the next.

    Attributes:
        state: what the policy keeps, such as the carry of a recurrent cell; leaves [...] or [B, ...].
        reset: bool [] or [B], True where the next observation is the first of an episode.
    """

    state: Any
    reset: torch.Tensor


def check_act(what: str, act: Any) -> None:
    """Raise a TypeError unless ``act`` is what :func:`rollout` takes; the message begins with ``what``.

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


def with_memory(params: Any, state: tuple[Any, Timestep], *, env: Env, policy: StatefulPolicy) -> tuple[Any, Timestep, Memory]:
    """Return the state that a rollout of a policy with a memory starts from.

    Args:
        params: what the policy learns.
        state: what ``env.reset`` returned, the pair of the environment's state and its :class:`~funrl.env.Timestep`, or a batch of them.
        env: the environment.
        policy: such as :func:`funrl.policies.recurrent` makes.

    Returns:
        The triple of the environment's state, its timestep, and a :class:`Memory`.

    Raises:
        ValueError: if ``state`` is not such a pair, or not batched as ``env`` is.

    Example:
        >>> import funrl
        >>> from funrl import distributions, nn, policies
        >>> env = funrl.envs.make("MemoryChain-bsuite", memory_length=3)
        >>> policy = policies.recurrent(nn.gru(8), policies.stochastic(nn.mlp((), 2), distributions.Categorical))
        >>> state = env.reset(funrl.random.key(0), env.default_params)
        >>> params = policy.init(funrl.random.key(1), state[1].observation)
        >>> state = with_memory(params, state, env=env, policy=policy)
        >>> state, batch = rollout(params, funrl.random.key(2), state, env.default_params, env=env, act=policy, num_steps=6)
        >>> state[2].state.shape, batch.terminated
        (torch.Size([8]), tensor([False, False, False,  True, False, False]))
    """
    batch_shape = _batch_shape(state, env)
    start = torch.func.vmap(policy.start, (None, 0)) if batch_shape else policy.start
    kept = tree.map(lambda x: x.clone(memory_format=torch.contiguous_format), start(params, state[1].observation))
    return (*state, Memory(kept, torch.ones_like(state[1].terminated)))


def rollout(
    params: Any,
    key: torch.Tensor,
    state: tuple[Any, ...],
    env_params: Any,
    *,
    env: Env,
    act: Act | None = None,
    num_steps: int,
) -> tuple[tuple[Any, ...], Transition]:
    """Act for ``num_steps`` steps in one environment, or in B of them side by side.

    An environment that is done is reset, here and nowhere else; ``next_observation`` is the true successor all the
    same, so that a value can be bootstrapped from it on truncation.

    It is the loop of ``act``, ``env.step`` and :func:`step_mdp`, which use the three keys of
    ``random.split(key, (num_steps, 3))[t]`` in that order; with B states of a single environment those of
    ``random.split(key, (num_steps, B, 3))[t, b]``.

    Args:
        params: what ``act`` learns.
        key: a key [].
        state: what ``env.reset`` returned, or the last rollout did: the pair of the environment's state and its
            latest :class:`~funrl.env.Timestep`. Batched by ``vmap(env.reset, (0, None))``, all its leaves are [B, ...].
        env_params: the physical constants, shared by all environments; a batched one may take some for each copy.
        env: the environment: pure or on the host, single or batched.
        act: ``act(params, key, observation) -> (action, extras)`` for a single observation; a batched environment maps it over
            ``random.split(key, B)``. None: random actions, and ``extras`` are {}. Or a policy with a memory, a
            :class:`funrl.policies.StatefulPolicy`: then ``state`` begins as what :func:`with_memory` returns, and the policy is told
            where an episode begins.
        num_steps: T >= 1.

    Returns:
        The state to go on from, and a :class:`~funrl.env.Transition` with leaves [T, ...] or [T, B, ...].

    Raises:
        TypeError: if ``act`` is neither a function nor a StatefulPolicy.
        ValueError: if ``num_steps`` is less than 1, or ``state`` is not such a pair (or triple), or not batched as ``env`` is, or the
            reward is not one number for each environment.

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
    check_act("rollout", act)
    batch_shape = _batch_shape(state, env, act)
    if env.host:
        return _rollout_host(params, key, state, env_params, env=env, act=act, num_steps=num_steps)
    choose = _chooser(act, env)
    lanes = batch_shape if env.num_envs is None else ()
    # All keys at once: drawing them inside the loop makes the program slower to compile and to run. Apart, as a step reads them fastest.
    keys = tuple(each.contiguous() for each in random.split(key, (num_steps, *lanes, 3)).unbind(-1))
    env_params = _pack(env_params)

    def advance(carry: tuple[Any, ...], keys: tuple[torch.Tensor, ...]) -> tuple[tuple[Any, ...], Transition]:
        (env_state, observation, _), memory = carry
        act_key, step_key, reset_key = keys
        constants = env_params()
        memory, action, extras = choose(params, act_key, memory, observation)
        env_state, after = env.step(step_key, env_state, action, constants)
        _check_reward("rollout", after, env)
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
        going = tree.where(after.done, new, (env_state, after.observation, after.info))
        return (going, _told(memory, after.done)), transition

    if lanes:
        advance = _mapped(advance)
    (env_state, timestep), memory = _parted(state)
    start = ((env_state, timestep.observation, timestep.info), memory)
    ((env_state, observation, info), memory), transitions = scan(advance, start, keys)
    return _joined((env_state, _cleared(tree.index(transitions, -1), observation, info)), memory), transitions


def _rollout_host(
    params: Any, key: torch.Tensor, state: tuple[Any, ...], env_params: Any, *, env: Env, act: Act | None, num_steps: int
) -> tuple[tuple[Any, ...], Transition]:
    drawn = draw(key, env=env, act=act, num_steps=num_steps)
    state, rows = host_steps(params, drawn, state, env_params, env=env, act=act)
    return state, Transition(*(_stack(column) for column in zip(*rows, strict=True)))


class Drawn(NamedTuple):
    """What the steps of a host environment leave to chance, for each step.

    Attributes:
        choices: what an action is chosen with: a key, or [B] keys for the copies; without a policy the random action itself.
        steps: keys to step with.
        resets: keys to reset with.
    """

    choices: Sequence[Any]
    steps: Sequence[torch.Tensor]
    resets: Sequence[torch.Tensor]


def draw(key: torch.Tensor, *, env: Env, act: Act | None, num_steps: int) -> Drawn:
    """Return what :func:`host_steps` needs of chance, which depends on no parameters and so can be drawn before they are there.

    Example:
        >>> import funrl
        >>> with funrl.envs.make("gymnasium:CartPole-v1", num_envs=2) as env:
        ...     drawn = draw(funrl.random.key(0), env=env, act=None, num_steps=5)
        >>> len(drawn.choices), drawn.choices[0].shape
        (5, torch.Size([2]))
    """
    copies = env.num_envs
    keys, steps, resets = random.split(key, (num_steps, 3)).unbind(1)
    if copies is not None:
        keys = torch.func.vmap(lambda key: random.split(key, copies))(keys)
    choices: Sequence[Any] = keys.unbind(0)
    if act is None:
        sample = torch.func.vmap(env.action_space.sample)
        values, form = tree.flatten((sample if copies is None else torch.func.vmap(sample))(keys))
        choices = [tree.unflatten(form, row) for row in zip(*(x.unbind(0) for x in values), strict=True)]
    return Drawn(choices, steps.unbind(0), resets.unbind(0))


def host_steps(
    params: Any, drawn: Drawn, state: tuple[Any, ...], env_params: Any, *, env: Env, act: Act | None
) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
    """Do what :func:`rollout` does, step by step in Python, and return for each step the fields of its Transition, in order.

    Example:
        >>> import funrl
        >>> with funrl.envs.make("gymnasium:CartPole-v1") as env:
        ...     drawn = draw(funrl.random.key(1), env=env, act=None, num_steps=5)
        ...     state, rows = host_steps(None, drawn, env.reset(funrl.random.key(0)), (), env=env, act=None)
        >>> len(rows), Transition(*rows[0]).reward
        (5, tensor(1.))
    """
    choose = host_chooser(params, env, act)
    (env_state, last), memory = _parted(state)
    observation, info, rows = last.observation, last.info, []
    for choice, step_key, reset_key in zip(*drawn, strict=True):
        memory, action, extras = choose(choice, memory, observation)
        env_state, last = env.step(step_key, env_state, action, env_params)
        rows.append((observation, action, last.reward, last.terminated, last.truncated, last.observation, extras))
        observation, info = last.observation, last.info
        if memory != ():  # nothing is computed for nobody
            memory = _told(memory, last.done)
        if _any(last.terminated) or _any(last.truncated):
            env_state, observation, info = _restart(reset_key, env_state, last, last.done, env_params, env)
    return _joined((env_state, _cleared(last, observation, info)), memory), rows


def _any(flag: torch.Tensor) -> bool:
    value = flag.tolist()  # for the few copies of a host several times as fast as a reduction
    return True in value if isinstance(value, list) else value


def _stack(values: tuple[Any, ...]) -> Any:
    if isinstance(values[0], torch.Tensor):
        return torch.stack(values)
    return tree.stack(values) if any(value != {} for value in values) else {}


def host_chooser(params: Any, env: Env, act: Act | None) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
    """Return ``choose(choice, memory, observation) -> (memory, action, extras)`` for the choices that :func:`draw` drew.

    Example:
        >>> import funrl
        >>> with funrl.envs.make("gymnasium:CartPole-v1", num_envs=2) as env:
        ...     drawn = draw(funrl.random.key(0), env=env, act=None, num_steps=5)
        ...     memory, action, extras = host_chooser(None, env, None)(drawn.choices[0], (), None)
        >>> action.shape, extras
        (torch.Size([2]), {})
    """
    if act is None:
        return lambda action, memory, observation: (memory, action, {})

    def over_copies(f: Callable, num_inputs: int) -> Callable:
        # A compiled act stays so under vmap.
        map_over = getattr(f, "vmapped", functools.partial(torch.func.vmap, f))
        return f if env.num_envs is None else map_over((None, *(0 for _ in range(num_inputs))))

    if isinstance(act, StatefulPolicy):
        each = over_copies(act.act, 4)

        def choose(key: torch.Tensor, memory: Memory, observation: Any) -> tuple[Memory, Any, Any]:
            kept, action, extras = each(params, key, memory.state, observation, memory.reset)
            return memory.replace(state=kept), action, extras

        return choose
    each = over_copies(act, 2)
    return lambda key, memory, observation: (memory, *_pair(each(params, key, observation)))


def _pair(chosen: Any) -> tuple[Any, Any]:
    if not isinstance(chosen, tuple) or len(chosen) != 2:
        got = f"{len(chosen)} of them" if isinstance(chosen, tuple) else f"a {type(chosen).__name__}"
        raise TypeError(
            f"act: expected it to return the pair (action, extras), got {got}; where there are no extras, return (action, {{}})"
        )
    return chosen


def _chooser(act: Act | None, env: Env) -> Callable[[Any, torch.Tensor, Any, Any], tuple[Any, Any, Any]]:
    """Return ``choose(params, key, memory, observation) -> (memory, action, extras)`` for what ``env`` observes.

    The memory is () where ``act`` has none. A batched environment has all of it mapped over its copies.
    """

    def one(params: Any, key: torch.Tensor, memory: Any, observation: Any) -> tuple[Any, Any, Any]:
        if isinstance(act, StatefulPolicy):
            kept, action, extras = act.act(params, key, memory.state, observation, memory.reset)
            return memory.replace(state=kept), action, extras
        action, extras = (env.action_space.sample(key), {}) if act is None else _pair(act(params, key, observation))
        return memory, action, extras

    copies = env.num_envs
    if copies is None:
        return one

    def each(params: Any, key: torch.Tensor, memory: Any, observation: Any) -> tuple[Any, Any, Any]:
        mapped = _mapped(lambda key, memory, observation: one(params, key, memory, observation))
        return mapped(random.split(key, copies), memory, observation)

    return each


def _mapped(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``torch.func.vmap(f)`` that takes None among the results for what it is: a tree without leaves."""

    def mapped(*args: Any) -> Any:
        form: Any = None

        def leaves(*args: Any) -> list[torch.Tensor]:
            nonlocal form
            values, form = tree.flatten(f(*args))
            return values

        values = torch.func.vmap(leaves)(*args)
        return tree.unflatten(form, values)

    return mapped


def _parted(state: tuple[Any, ...]) -> tuple[tuple[Any, Timestep], Any]:
    return state[:2], state[2] if len(state) == 3 else ()


def _joined(state: tuple[Any, Timestep], memory: Any) -> tuple[Any, ...]:
    return (*state, memory) if isinstance(memory, Memory) else state


def _told(memory: Any, done: torch.Tensor) -> Any:
    """Return the memory that knows where episodes are over."""
    return memory.replace(reset=done) if isinstance(memory, Memory) else memory


def step_mdp(key: torch.Tensor, state: tuple[Any, Timestep], env_params: Any, *, env: Env) -> tuple[Any, Timestep]:
    """Return what to go on from after a step: ``state`` itself, or the start of a new episode where its episode is over.

    Args:
        key: a key [], for the resets.
        state: what ``env.step`` returned, the pair of the environment's state and its :class:`~funrl.env.Timestep`.
        env_params: the physical constants.
        env: the environment.

    Returns:
        A pair like ``state``.

    Raises:
        ValueError: if ``state`` is not such a pair, or not batched as ``env`` is.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> reset_key, key, next_key = funrl.random.split(funrl.random.key(0), 3)
        >>> state = env.reset(reset_key, env.default_params)
        >>> after, transition = rand_step(key, state, env.default_params, env=env)
        >>> state = step_mdp(next_key, after, env.default_params, env=env)
        >>> bool((state[1].observation == transition.next_observation).all())
        True
    """
    _batch_shape(state, env)
    done = state[1].done
    return state if env.host and not _any(done) else _renew(key, state, done, env_params, env)


def _renew(key: torch.Tensor, state: tuple[Any, Timestep], where: torch.Tensor, env_params: Any, env: Env) -> tuple[Any, Timestep]:
    """Reset the environment ``where`` it is asked for."""
    if env.num_envs is None:
        return env.reset(key, env_params) if env.host else tree.where(where, env.reset(key, env_params), state)
    env_state, observation, info = _restart(key, *state, where, env_params, env)
    old = state[1]
    return env_state, Timestep(observation, torch.where(where, 0.0, old.reward), old.terminated & ~where, old.truncated & ~where, info)


def _restart(key: torch.Tensor, env_state: Any, last: Timestep, where: torch.Tensor, env_params: Any, env: Env) -> tuple[Any, Any, Any]:
    """Reset a host environment, or the copies ``where`` of a batched one; return its state, observation and info."""
    if env.num_envs is None:
        env_state, new = env.reset(key, env_params)
        return env_state, new.observation, new.info
    env_state, new = env.reset_where(key, env_state, where, env_params)
    return env_state, _pick(where, new.observation, last.observation), _pick(where, new.info, last.info)


def _cleared(last: Timestep | Transition, observation: Any, info: Any) -> Timestep:
    """Return what remains of a timestep once what was done is reset: all but observation and info is known, and no loop has to carry it."""
    no = torch.zeros_like(last.terminated)
    return Timestep(observation, torch.where(last.terminated | last.truncated, 0.0, last.reward), no, no.clone(), info)


def _pick(where: torch.Tensor, yes: Any, no: Any) -> Any:
    """``tree.where``, which has a price on the host, save where it is a mere tensor."""
    if isinstance(yes, torch.Tensor):
        return torch.where(where.reshape(where.shape + (1,) * (yes.ndim - where.ndim)), yes, no)
    return tree.where(where, yes, no) if yes != {} else yes


def rand_step(key: torch.Tensor, state: tuple[Any, Timestep], env_params: Any, *, env: Env) -> tuple[tuple[Any, Timestep], Transition]:
    """Take one step with a random action, and reset nothing.

    Args:
        key: a key [].
        state: the pair that ``env.reset``, ``env.step`` or :func:`step_mdp` returned.
        env_params: the physical constants.
        env: the environment; if it is batched, each copy has an action of its own.

    Returns:
        The pair after the step, and the :class:`~funrl.env.Transition`.

    Raises:
        ValueError: if ``state`` is not such a pair, or not batched as ``env`` is.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> state = env.reset(funrl.random.key(0), env.default_params)
        >>> state, transition = rand_step(funrl.random.key(1), state, env.default_params, env=env)
        >>> transition.action.shape, transition.next_observation.shape
        (torch.Size([1]), torch.Size([3]))
    """
    _batch_shape(state, env)
    act_key, step_key = random.split(key).unbind(0)
    _, action, extras = _chooser(None, env)(None, act_key, (), state[1].observation)
    after = env.step(step_key, state[0], action, env_params)
    before, timestep = state[1], after[1]
    return after, Transition(
        observation=before.observation,
        action=action,
        reward=timestep.reward,
        terminated=timestep.terminated,
        truncated=timestep.truncated,
        next_observation=timestep.observation,
        extras=extras,
    )


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
    act: Act | None = None,
    num_episodes: int,
    max_steps: int | None = None,
) -> Evaluation:
    """Play ``num_episodes`` episodes: each in an environment of its own, side by side, or on the copies that ``env`` has.

    Short episodes are not preferred: every environment counts with its first one only, and the copies of a batched environment,
    like the single one of a host, each play a number of episodes that is fixed beforehand.

    Args:
        params: what ``act`` learns.
        key: a key [].
        env_params: the physical constants.
        env: the environment: pure or on the host, single or batched.
        act: ``act(params, key, observation) -> (action, extras)`` for a single observation, or a policy with a memory, a
            :class:`funrl.policies.StatefulPolicy`. None: random actions.
        num_episodes: N >= 1.
        max_steps: how many steps an episode goes at most; ``env.max_episode_steps`` by default, whatever the limit in ``env_params`` is.
            An episode that was cut is not ``finished``.

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
    if num_episodes < 1:
        raise ValueError(f"evaluate: num_episodes is {num_episodes}; expected at least 1")
    check_act("evaluate", act)
    max_steps = env.max_episode_steps if max_steps is None else max_steps
    if max_steps < 1:
        raise ValueError(f"evaluate: max_steps is {max_steps}; expected at least 1")
    if env.host:
        return _evaluate_host(params, key, env_params, env=env, act=act, num_episodes=num_episodes, max_steps=max_steps)
    if env.num_envs is None:
        return _play(params, key, env_params, env=env, act=act, lanes=(num_episodes,), max_steps=max_steps)
    keys = random.split(key, math.ceil(num_episodes / env.num_envs)).unbind(0)
    rounds = [_play(params, k, env_params, env=env, act=act, lanes=(), max_steps=max_steps) for k in keys]
    return tree.map(lambda *columns: torch.cat(columns)[:num_episodes], *rounds)


def _play(
    params: Any, key: torch.Tensor, env_params: Any, *, env: Env, act: Act | None, lanes: tuple[int, ...], max_steps: int
) -> Evaluation:
    """Play the first episode of each copy: of ``lanes`` that vmap makes, or of those that ``env`` has."""
    reset_key, step_key = random.split(key).unbind(0)
    start_all = torch.func.vmap(env.reset, (0, None)) if lanes else env.reset
    state = start_all(random.split(reset_key, lanes) if lanes else reset_key, env_params)
    (_, timestep), memory = _parted(with_memory(params, state, env=env, policy=act) if isinstance(act, StatefulPolicy) else state)
    _check_reward("evaluate", timestep, env)
    choose = _chooser(act, env)

    def advance(carry: Any, key: torch.Tensor) -> tuple[Any, Any]:
        env_state, timestep, memory, result = carry
        act_key, step_key = random.split(key).unbind(0)
        memory, action, _ = choose(params, act_key, memory, timestep.observation)
        env_state, timestep = env.step(step_key, env_state, action, env_params)
        _check_reward("evaluate", timestep, env)
        result = Evaluation(
            episode_return=torch.where(result.finished, result.episode_return, result.episode_return + timestep.reward),
            episode_length=torch.where(result.finished, result.episode_length, result.episode_length + 1),
            finished=result.finished | timestep.done,
        )
        return (env_state, timestep, _told(memory, timestep.done), result), ()

    start = Evaluation(
        episode_return=torch.zeros_like(timestep.reward),
        episode_length=torch.zeros_like(timestep.reward, dtype=torch.int64),
        finished=torch.zeros_like(timestep.done),
    )
    keys = random.split(step_key, (max_steps, *lanes))
    (*_, result), _ = scan(torch.func.vmap(advance) if lanes else advance, (*state, memory, start), keys)
    return result


def _evaluate_host(
    params: Any, key: torch.Tensor, env_params: Any, *, env: Env, act: Act | None, num_episodes: int, max_steps: int
) -> Evaluation:
    """Play on the B copies that there are: copy b plays the episodes b, b + B, b + 2 B, ... one after another."""
    reset_key, loop_key = random.split(key).unbind(0)
    state = env.reset(reset_key, env_params)
    state, memory = _parted(with_memory(params, state, env=env, policy=act) if isinstance(act, StatefulPolicy) else state)
    choose = _chooser(act, env)
    shape, zeros = state[1].reward.shape, torch.zeros_like(state[1].reward).reshape(-1)
    number, total, length = torch.arange(len(zeros), device=zeros.device), zeros, torch.zeros_like(zeros, dtype=torch.int64)
    returns, lengths = zeros.new_zeros(num_episodes), length.new_zeros(num_episodes)
    finished = torch.zeros_like(returns, dtype=torch.bool)
    for act_key, step_key, reset_key in _triples(loop_key):
        memory, action, _ = choose(params, act_key, memory, state[1].observation)
        state = env.step(step_key, state[0], action, env_params)
        done = state[1].done.reshape(-1)
        total, length = total + state[1].reward.reshape(-1), length + 1
        over = done | (length >= max_steps)
        memory = _told(memory, over.reshape(shape))
        if not bool(over.any()):
            continue
        ended = over & (number < num_episodes)
        returns[number[ended]], lengths[number[ended]], finished[number[ended]] = total[ended], length[ended], done[ended]
        number, total, length = torch.where(over, number + len(zeros), number), torch.where(over, 0, total), torch.where(over, 0, length)
        if bool((number >= num_episodes).all()):
            break
        state = _renew(reset_key, state, over.reshape(shape), env_params, env)
    return Evaluation(returns, lengths, finished)


def _triples(key: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Give three keys after another without end, made many at a time."""
    for number in itertools.count():
        for row in random.split(random.fold_in(key, number), (256, 3)).unbind(0):
            yield row.unbind(0)


def _check_reward(what: str, timestep: Timestep, env: Env) -> None:
    """Raise a ValueError unless there is one reward for each flag."""
    if timestep.reward.shape != timestep.terminated.shape:
        raise ValueError(
            f"{what}: env: expected one reward for each copy, {list(timestep.terminated.shape)} as terminated is, but {env.name} gives "
            f"{list(timestep.reward.shape)}; where several agents have rewards of their own, give their sum, or that of one of them"
        )


def _batch_shape(state: Any, env: Env, act: Act | None = None) -> torch.Size:
    remembers = isinstance(act, StatefulPolicy)
    if remembers and not (isinstance(state, tuple) and len(state) == 3 and isinstance(state[2], Memory)):
        raise ValueError(
            "rollout: state has no memory, but act is a StatefulPolicy; expected the triple (state, Timestep, Memory) that "
            "funrl.interaction.with_memory or a rollout before returned"
        )
    if not (isinstance(state, tuple) and len(state) == 2 + remembers and isinstance(state[1], Timestep)):
        raise ValueError(
            f"rollout: state is {type(state).__name__}; expected the pair (state, Timestep) that env.reset or a rollout before returned"
        )
    _check_reward("rollout", state[1], env)
    shape = state[1].reward.shape
    if env.num_envs is not None or env.host:
        expected = torch.Size(() if env.num_envs is None else (env.num_envs,))
        if shape != expected:
            raise ValueError(f"rollout: state has the batch dimensions {list(shape)}, but {env.name} has {list(expected)}; use its reset")
    if len(shape) > 1:
        raise ValueError(f"rollout: state has the batch dimensions {list(shape)}; expected none or one, and torch.func.vmap for more")
    return shape
