"""Transforms of episodes: their start and end, the length of a step, and step counters."""

from typing import Any

import torch

from funrl import _check, random, tree
from funrl.compiler import scan
from funrl.env import AnyEnv, Mask, Timestep, masked, with_label
from funrl.spaces import Binary, Box, Discrete
from funrl.transforms._core import Transform, reset_some, stateful, stateless, step_some
from funrl.transforms._parts import add_entry, followed_entry, label, misfit, neutral, signal
from funrl.typing import Key


def noop_reset(noops: int = 30, *, action: Any = None) -> Transform:
    """Start each episode with a random number of no-op steps, uniform from 1 to ``noops``.

    Their rewards are dropped. If an episode ends during them, the copy is reset once more and starts without further no-ops. In a compiled
    program every reset costs ``noops`` steps, and :func:`funrl.rollout` computes a reset at each step: choose a small number there.

    Args:
        noops: the maximum number of such steps, at least 1.
        action: the no-op, an element of the action space; by default its element nearest to 0.

    Raises:
        TypeError: if ``noops`` is not an integer.
        ValueError: if it is less than 1; when applied: if ``action`` is not in the action space.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("Pendulum-v1"), noop_reset(3))
        >>> state, timestep = env.reset(funrl.random.key(0))
        >>> 1 <= state.time <= 3, timestep.reward
        (tensor(True), tensor(0.))

    Reference: V. Mnih et al., "Human-level control through deep reinforcement learning", Nature 518, 2015.
    """
    _check.integer("noop_reset: noops", noops, 1)

    def apply(env: AnyEnv) -> AnyEnv:
        if action is not None and not bool(env.action_space.contains(action)):
            raise ValueError(f"noop_reset: action: expected an element of {env.action_space}, got {action!r}; give a tensor like a sample")

        def reset(key: Key, env_params: Any = env.default_params, state: Any = None, where: Mask = None) -> tuple[Any, Timestep]:
            reset_key, idle_key = random.split(key).unbind(0)
            state, timestep = masked(env)[0](reset_key, env_params, state, where)
            begun = torch.ones_like(timestep.done) if where is None else where
            count_key, step_key, again_key = random.split(idle_key, 3).unbind(0)
            counts = random.randint(count_key, tuple(begun.shape), 1, noops + 1)
            like = timestep.reward
            still = neutral(env.action_space, like.dtype, like.device) if action is None else tree.to(action, like.device)
            still = tree.map(lambda x: x.expand((*like.shape, *x.shape)), still)
            # A compiled loop cannot take two tensors from outside that share memory; in a rollout these are views of one vector.
            env_params = tree.map(torch.clone, env_params)

            def advance(carry: Any, x: tuple[torch.Tensor, torch.Tensor]) -> tuple[Any, tuple[()]]:
                (state, timestep), (number, key) = carry, x
                going = begun & (number < counts) & ~timestep.done
                return step_some(env, key, state, timestep, still, going, env_params), ()

            numbers = torch.arange(noops, device=key.device)
            (state, timestep), _ = scan(advance, (state, timestep), (numbers, random.split(step_key, noops)))
            state, timestep = reset_some(env, again_key, state, timestep, begun & timestep.done, env_params)
            no = torch.zeros_like(timestep.done)
            return state, timestep.replace(reward=torch.zeros_like(timestep.reward), terminated=no, truncated=no.clone())

        return with_label(env._replace(reset=reset), label("noop_reset", noops=noops, action=action), below=env)

    return apply


def frame_skip(num: int) -> Transform:
    """Repeat each action ``num`` times, or until the episode ends, and sum the rewards.

    If steps have discounts of their own, as those of :func:`options` have, the sum is discounted by them, and the discount of the timestep
    is their product.

    The loop is unrolled, so that gradients flow through the steps in a compiled program; the compilation takes ``num`` times as long.

    Args:
        num: the number of steps, at least 1.

    Raises:
        TypeError: if ``num`` is not an integer.
        ValueError: if it is less than 1.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("CartPole-v1"), frame_skip(4))
        >>> state, _ = env.reset(funrl.random.key(0))
        >>> env.step(funrl.random.key(1), state, torch.tensor(1))[1].reward, env.max_episode_steps
        (tensor(4.), 125)
    """
    _check.integer("frame_skip: num", num, 1)

    def apply(env: AnyEnv) -> AnyEnv:
        def step(key: Key, state: Any, action: Any, env_params: Any = env.default_params, where: Mask = None) -> tuple[Any, Timestep]:
            first, *others = random.split(key, num).unbind(0)
            state, timestep = masked(env)[1](first, state, action, env_params, where)
            chosen = torch.ones_like(timestep.done) if where is None else where
            total: torch.Tensor = timestep.reward
            discount: Any = timestep.discount
            timed = isinstance(discount, torch.Tensor)
            for other in others:
                going = chosen & ~timestep.done
                state, timestep = step_some(env, other, state, timestep, action, going, env_params)
                total = torch.where(going, total + (discount * timestep.reward if timed else timestep.reward), total)
                discount = torch.where(going, discount * timestep.discount, discount) if timed else ()
            return state, timestep.replace(reward=total, discount=discount)

        new = env._replace(step=step, max_episode_steps=-(-env.max_episode_steps // num))
        return with_label(new, label("frame_skip", num=num), below=env)

    return apply


def time_limit(max_steps: int) -> Transform:
    """Truncate an episode after ``max_steps`` steps, if it has not ended before.

    ``own`` of the state: the steps since the reset, int64 [].

    Args:
        max_steps: at least 1.

    Raises:
        TypeError: if ``max_steps`` is not an integer.
        ValueError: if it is less than 1.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("Pendulum-v1"), time_limit(2))
        >>> state, _ = env.reset(funrl.random.key(0))
        >>> for i in range(2):
        ...     state, timestep = env.step(funrl.random.key(i), state, torch.zeros(1))
        >>> timestep.truncated, timestep.terminated, env.max_episode_steps
        (tensor(True), tensor(False), 2)
    """
    _check.integer("time_limit: max_steps", max_steps, 1)

    def finish(time: torch.Tensor, timestep: Timestep) -> tuple[torch.Tensor, Timestep]:
        time = time + 1
        return time, timestep.replace(truncated=timestep.truncated | (time >= max_steps))

    def apply(env: AnyEnv) -> AnyEnv:
        return stateful(
            env,
            label("time_limit", max_steps=max_steps),
            start=lambda timestep: (_zero(timestep), timestep),
            finish=finish,
            max_episode_steps=min(env.max_episode_steps, max_steps),
        )

    return apply


def step_counter(*, out_key: str = "step_count") -> Transform:
    """Add the number of steps since the reset to the observation, an entry int64 [].

    A plain observation becomes the entry ``"observation"`` of a dict. ``own`` of the state: the same number.

    Args:
        out_key: the name of the entry.

    Raises:
        TypeError: if ``out_key`` is not a string.
        ValueError: when applied: if the observation has such an entry already.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("CartPole-v1"), step_counter())
        >>> state, timestep = env.reset(funrl.random.key(0))
        >>> timestep.observation["step_count"], env.step(funrl.random.key(1), state, torch.tensor(1))[1].observation["step_count"]
        (tensor(0), tensor(1))
    """

    return followed_entry("step_counter", out_key, Box(0, 2**31 - 1, (), torch.int64), _zero, lambda time, timestep: time + 1)


def init_tracker(*, out_key: str = "is_init") -> Transform:
    """Add a flag to the observation that is True in the first observation of an episode, an entry bool [].

    Recurrent policies can reset their state there. A plain observation becomes the entry ``"observation"`` of a dict.

    Args:
        out_key: the name of the entry.

    Raises:
        TypeError: if ``out_key`` is not a string.
        ValueError: when applied: if the observation has such an entry already.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("CartPole-v1"), init_tracker())
        >>> state, timestep = env.reset(funrl.random.key(0))
        >>> timestep.observation["is_init"], env.step(funrl.random.key(1), state, torch.tensor(1))[1].observation["is_init"]
        (tensor(True), tensor(False))
    """

    def apply(env: AnyEnv) -> AnyEnv:
        put, space = add_entry(env, "init_tracker", out_key, Binary())
        return stateless(
            env,
            label("init_tracker", out_key=out_key),
            start=lambda timestep: put(timestep, torch.ones_like(timestep.terminated)),
            finish=lambda timestep: put(timestep, torch.zeros_like(timestep.terminated)),
            observation_space=space,
        )

    return apply


def end_of_life(in_key: str = "lives") -> Transform:
    """End an episode as soon as a life is lost, so that the agent learns to avoid it.

    The step that loses it is ``terminated``. The reset starts a new game, and does not continue with the remaining lives. ``own`` of the
    state: the remaining lives.

    Args:
        in_key: the name of the number of lives, an integer [], in the observation or else in ``info``.

    Raises:
        TypeError: if ``in_key`` is not a string.
        ValueError: when applied: if the entry is not a single number; when it resets: if there is none of that name.

    Example:
        >>> import funrl
        >>> from funrl.env import Timestep
        >>> def timestep(lives):
        ...     zero, no = torch.tensor(0.0), torch.tensor(False)
        ...     return Timestep(zero, zero, no, no, {"lives": lives})
        >>> def reset(key, env_params):
        ...     return torch.tensor(3), timestep(torch.tensor(3))
        >>> def step(key, state, action, env_params):
        ...     return state - action, timestep(state - action)
        >>> env = funrl.envs.make("CartPole-v1")._replace(observation_space=Box(0.0, 0.0, ()), reset=reset, step=step)
        >>> env = funrl.transforms.compose(env, end_of_life())
        >>> state, _ = env.reset(funrl.random.key(0))
        >>> [env.step(funrl.random.key(1), state, torch.tensor(lost))[1].terminated.item() for lost in (0, 1)]
        [False, True]

    Reference: V. Mnih et al., "Human-level control through deep reinforcement learning", Nature 518, 2015.
    """

    def apply(env: AnyEnv) -> AnyEnv:
        read, entry = signal(env, "end_of_life", in_key)
        if entry is not None and not (isinstance(entry, (Box, Discrete)) and entry.shape == ()):
            raise misfit("end_of_life", f"observation[{in_key!r}]", "a single number", entry, "name the number of lives with in_key")

        def lives(timestep: Timestep) -> torch.Tensor:
            left = read(timestep)
            if left.ndim != 0:
                raise ValueError(f"end_of_life: info[{in_key!r}]: expected a single number [], got {list(left.shape)}")
            return left

        def finish(before: torch.Tensor, timestep: Timestep) -> tuple[torch.Tensor, Timestep]:
            left = lives(timestep)
            return left, timestep.replace(terminated=timestep.terminated | (left < before))

        return stateful(env, label("end_of_life", in_key=in_key), start=lambda timestep: (lives(timestep), timestep), finish=finish)

    return apply


def _zero(timestep: Timestep) -> torch.Tensor:
    return torch.zeros_like(timestep.reward, dtype=torch.int64)
