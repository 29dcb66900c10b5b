"""Transforms of the action, before it reaches the environment below."""

from collections.abc import Sequence
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.env import AnyEnv, Timestep
from funrl.spaces import Binary, Box, Discrete, MultiDiscrete
from funrl.transforms._core import Transform, stateful, stateless
from funrl.transforms._parts import add_entry, describe, label, misfit, neutral, signal


def action_scale(low: float | torch.Tensor = -1.0, high: float | torch.Tensor = 1.0) -> Transform:
    """Take actions between ``low`` and ``high``, and map them linearly to the bounds of the environment below.

    Actions outside these bounds are mapped in the same way, and not clipped.

    Args:
        low: the value for the lower bound; a number, or a tensor that broadcasts to the shape of an action.
        high: the value for the upper bound, above ``low`` everywhere.

    Raises:
        ValueError: when applied: if the action space is not a bounded floating-point Box, the bounds do not broadcast to its shape, or
            ``low`` is not below ``high``.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("Pendulum-v1"), action_scale())
        >>> env.action_space.high, funrl.transforms.parent(env).action_space.high
        (tensor([1.]), tensor([2.]))
    """

    def apply(env: AnyEnv) -> AnyEnv:
        below = _bounded("action_scale", env.action_space)
        space = Box(low, high, below.shape, below.dtype)
        if not bool((space.low < space.high).all()):
            raise ValueError(f"action_scale: expected low < high everywhere, got low={low}, high={high}; move them apart")

        def act(action: torch.Tensor) -> torch.Tensor:
            space.check(action, "action_scale: action")
            (start, end), (least, greatest) = space.bounds(action), below.bounds(action)
            part = (action - start) / (end - start)
            return (1 - part) * least + part * greatest

        return stateless(env, label("action_scale", low=low, high=high), act=act, action_space=space)

    return apply


def action_discretize(bins: int | Sequence[int]) -> Transform:
    """Discretise actions: an integer selects the centre of an interval. The space is Discrete for one number, MultiDiscrete for several.

    Args:
        bins: the number of equal intervals between the bounds of each number, at least 1; one integer for all, or one for each.

    Raises:
        TypeError: if ``bins`` are not integers.
        ValueError: if one is less than 1; when applied: if the action space is not a bounded floating-point Box, or has another number
            of elements than ``bins``.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("Pendulum-v1"), action_discretize(5))
        >>> env.action_space
        Discrete(n=5, start=0)

    Reference: gymnasium's DiscretizeAction: M. Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning
    Environments", 2024, arXiv:2407.17032.
    """
    for number in (bins,) if not isinstance(bins, Sequence) else bins:
        _check.integer("action_discretize: bins", number, 1)

    def apply(env: AnyEnv) -> AnyEnv:
        below = _bounded("action_discretize", env.action_space)
        number = below.low.numel()
        nvec = tuple(bins) if isinstance(bins, Sequence) else (bins,) * number
        if len(nvec) != number:
            raise misfit("action_discretize", "the action", f"{len(nvec)} numbers, as many as bins", below, "give a count for each")
        space = Discrete(nvec[0]) if number == 1 else MultiDiscrete(nvec)

        def act(action: torch.Tensor) -> torch.Tensor:
            space.check(action, "action_discretize: action")
            low, high = below.low.to(action.device), below.high.to(action.device)
            part = (action.reshape(number).to(below.dtype) + 0.5) / torch.tensor(nvec, dtype=below.dtype, device=action.device)
            return low + part.reshape(below.shape) * (high - low)

        shown = label("action_discretize", bins=list(bins) if isinstance(bins, Sequence) else bins)
        return stateless(env, shown, act=act, action_space=space)

    return apply


def action_mask(in_key: str = "action_mask") -> Transform:
    """Add a mask of allowed actions to the observation, and replace each forbidden action by an allowed one, drawn uniformly.

    So random actions are uniform over the allowed ones, and no policy can take a forbidden one. A learning policy should mask its
    logits with the mask in the observation; otherwise its log-probabilities are not those of the executed actions. If no action is
    allowed, the first one is taken.

    The mask [n] is an entry of the observation, or otherwise of ``info``, from which it is added to the observation: a plain observation
    becomes the entry ``"observation"`` of a dict. ``own`` of the state: the mask of the next action, bool [n].

    Args:
        in_key: the name of the mask: true (or not 0) where the action is allowed.

    Raises:
        TypeError: if ``in_key`` is not a string.
        ValueError: when applied: if the action space is not Discrete, or the entry does not fit; when it resets: if there is no such
            entry in ``info``, or it is not [n].

    Example:
        >>> import funrl
        >>> from funrl.env import Timestep
        >>> def reset(key, env_params):
        ...     zero, no = torch.tensor(0.0), torch.tensor(False)
        ...     return (), Timestep(zero, zero, no, no, {"action_mask": torch.tensor([True, False, True])})
        >>> def step(key, state, action, env_params):
        ...     state, timestep = reset(key, env_params)
        ...     return state, timestep.replace(reward=action.float())
        >>> env = funrl.envs.make("Pendulum-v1")._replace(
        ...     observation_space=Box(0.0, 0.0, ()), action_space=Discrete(3), reset=reset, step=step)
        >>> env = funrl.transforms.compose(env, action_mask())
        >>> state, timestep = env.reset(funrl.random.key(0))
        >>> timestep.observation["action_mask"]
        tensor([ True, False,  True])
        >>> env.step(funrl.random.key(1), state, torch.tensor(1))[1].reward in (0, 2)
        True
    """

    def apply(env: AnyEnv) -> AnyEnv:
        actions = env.action_space
        if not isinstance(actions, Discrete):
            raise misfit("action_mask", "the action", "Discrete", actions, "put action_discretize before it")
        read, entry = signal(env, "action_mask", in_key)
        put, space = (lambda timestep, mask: timestep), env.observation_space
        if entry is None:
            put, space = add_entry(env, "action_mask", in_key, Binary((actions.n,)))
        elif not isinstance(entry, (Binary, Box, MultiDiscrete)) or entry.shape != (actions.n,):
            raise misfit("action_mask", f"observation[{in_key!r}]", f"a mask [{actions.n}]", entry, "name the mask with in_key")

        def show(timestep: Timestep) -> tuple[torch.Tensor, Timestep]:
            mask = read(timestep)
            if tuple(mask.shape) != (actions.n,):
                raise ValueError(f"action_mask: info[{in_key!r}]: expected a mask [{actions.n}], got {list(mask.shape)}")
            mask = mask != 0
            return mask, put(timestep, mask)

        def act(noise: torch.Tensor, mask: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            actions.check(action, "action_mask: action")
            chosen = tree.one_hot(action - actions.start, actions.n)
            other = torch.where(mask, noise, -torch.inf).argmax() + actions.start
            return mask, torch.where((chosen & mask).any(), action, other)

        return stateful(
            env,
            label("action_mask", in_key=in_key),
            start=show,
            act=act,
            finish=lambda mask, timestep: show(timestep),
            draw=lambda key: random.gumbel(key, (actions.n,)),
            observation_space=space,
        )

    return apply


@tree.dataclass
class LastAction:
    """State of :func:`sticky_actions`.

    Attributes:
        action: the last executed action, an element of the action space; before the first step the element nearest to 0.
        taken: bool [], whether there was a step.
    """

    action: Any
    taken: torch.Tensor


def sticky_actions(probability: float = 0.25) -> Transform:
    """Repeat the action of the previous step with a given probability, instead of the new one.

    The first action of an episode is always executed. ``own`` of the state: :class:`LastAction`.

    Args:
        probability: in [0, 1].

    Raises:
        TypeError: if ``probability`` is not a number.
        ValueError: if it is not in [0, 1].

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("CartPole-v1"), sticky_actions(1.0))
        >>> state, _ = env.reset(funrl.random.key(0))
        >>> for action in (1, 0, 0):
        ...     state, _ = env.step(funrl.random.key(1), state, torch.tensor(action))
        >>> state.own
        LastAction(action=tensor(1), taken=tensor(True))

    Reference: M. Machado et al., "Revisiting the Arcade Learning Environment", 2018, arXiv:1709.06009, section 5.2.
    """
    _check.number("sticky_actions: probability", probability, "[0, 1]")

    def apply(env: AnyEnv) -> AnyEnv:
        def start(timestep: Timestep) -> tuple[LastAction, Timestep]:
            rest = neutral(env.action_space, timestep.reward.dtype, timestep.reward.device)
            return LastAction(rest, torch.zeros_like(timestep.terminated)), timestep

        def act(repeat: torch.Tensor, last: LastAction, action: Any) -> tuple[LastAction, Any]:
            env.action_space.check(action, "sticky_actions: action")
            action = tree.where(repeat & last.taken, last.action, tree.map(lambda x, old: x.to(old.dtype), action, last.action))
            return LastAction(action, torch.ones_like(last.taken)), action

        def draw(key: torch.Tensor) -> torch.Tensor:
            return random.bernoulli(key, probability)

        return stateful(env, label("sticky_actions", probability=probability), start=start, act=act, draw=draw)

    return apply


def _bounded(transform: str, space: Any) -> Box:
    """Check that the action space is a bounded floating-point Box, and return it."""
    if not isinstance(space, Box) or not space.dtype.is_floating_point:
        raise misfit(transform, "the action", "floating-point numbers (a Box)", space, "leave it as it is")
    if not bool((space.low.isfinite() & space.high.isfinite()).all()):
        raise ValueError(
            f"{transform}: the action: expected finite bounds, got low={space.low.tolist()}, high={space.high.tolist()} for "
            f"{describe(space)}; give the environment a bounded action space"
        )
    return space
