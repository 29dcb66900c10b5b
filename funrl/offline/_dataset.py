"""The data set of offline learners: transitions in the order of their episodes."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from funrl import _check, returns, tree
from funrl.env import AnyEnv, Place, Transition
from funrl.spaces import Binary, Box, Dict, Discrete, Tuple


@tree.dataclass
class Dataset(tree.Replaceable):
    """Transitions of whole episodes or pieces of them, one after another, in memory or in memory-mapped files.

    Attributes:
        transition: a :class:`funrl.env.Transition` of leaves [N, ...]; ``next_observation`` is the true successor in each row, and
            ``extras`` is a dict of further columns [N, ...].
        end: bool [N], True in the last row of a piece: the episode ended there, or the data does.
        return_to_go: floating point [N], the sum of the rewards from this row to the end of its piece, without discount.
        observation_space: the space of observations.
        action_space: the space of actions.
        notes: sentences about changes that a reader made, such as dropped rows.
    """

    transition: Transition
    end: torch.Tensor
    return_to_go: torch.Tensor
    observation_space: Any = tree.static(default=None)
    action_space: Any = tree.static(default=None)
    notes: tuple[str, ...] = tree.static(default=())

    @property
    def size(self) -> int:
        """N, the number of transitions."""
        return self.end.shape[0]

    @property
    def begins(self) -> torch.Tensor:
        """Int64 [E], the first rows of the E pieces."""
        ends = self.end.nonzero().squeeze(-1)
        return torch.cat([ends.new_zeros(1), ends[:-1] + 1])

    @property
    def episode_return(self) -> torch.Tensor:
        """Floating point [E], the sum of the rewards of each piece."""
        return self.return_to_go[self.begins]

    @property
    def step(self) -> torch.Tensor:
        """Int64 [N], the number of earlier rows of the same piece."""
        row = torch.arange(self.size, device=self.end.device)
        first = torch.cat([torch.ones_like(self.end[:1]), self.end[:-1]])
        return row - torch.where(first, row, 0).cummax(0).values

    def discounted_return(self, gamma: float) -> torch.Tensor:
        r"""Return the discounted return to go [N]; that of a piece that was not terminated lacks the rewards after its end.

        .. math:: G_t = r_t + \gamma (1 - \mathrm{end}_t) G_{t+1}
        """
        return returns.reward_to_go(self.transition.reward, self.end, torch.zeros_like(self.end), gamma=gamma)

    def rows(self, index: torch.Tensor) -> Transition:
        """Return the transitions of some rows, int64 [...]: leaves [..., *]."""
        return tree.map(lambda x: x[index], self.transition)


def from_transitions(
    transition: Transition, *, end: torch.Tensor | None = None, spaces: Any = None, notes: tuple[str, ...] = (), what: str = "dataset"
) -> Dataset:
    """Make a data set of transitions that are in the order of their episodes, after a check of each column.

    Args:
        transition: a :class:`funrl.env.Transition` of leaves [N, ...] with the true successors.
        end: bool [N], the last rows of episodes or pieces of them; None: where ``terminated`` or ``truncated`` is True. The last row
            always ends a piece.
        spaces: an :class:`funrl.env.Env`, or the pair of the spaces of observations and actions; None: they are inferred from the data.
        notes: sentences about the data.
        what: the beginning of messages.

    Raises:
        ValueError: if there are no rows, the columns have different lengths, elements do not have the shape that the spaces say, a
            reward, an observation or an action is not finite, or an integer action is outside its space; the message names the first row.
        TypeError: if the reward is not floating point, or a flag not bool.

    Warns:
        UserWarning: with their number, if continuous actions are outside their space, or if no row ends an episode.

    Example:
        >>> from funrl.spaces import Box, Discrete
        >>> flags = torch.tensor([False, True, False])
        >>> observation, action = torch.zeros(3, 2), torch.tensor([0, 1, 0])
        >>> rows = Transition(observation, action, torch.ones(3), flags, torch.zeros_like(flags), observation, {})
        >>> data = from_transitions(rows, spaces=(Box(-1.0, 1.0, (2,)), Discrete(2)))
        >>> data.size, data.end, data.return_to_go
        (3, tensor([False,  True,  True]), tensor([2., 1., 1.]))
    """
    _check.instance(f"{what}: transition", transition, Transition, "make one of the columns", "a funrl.env.Transition")
    transition = transition.replace(place=(), extras=transition.extras if isinstance(transition.extras, dict) else {})
    _check_columns(what, transition)
    if spaces is None:
        spaces = (infer_space(transition.observation), infer_space(transition.action, action=True))
    seen, chosen = spaces_of(what, spaces)
    _check_elements(f"{what}: observation", transition.observation, seen)
    _check_elements(f"{what}: next_observation", transition.next_observation, seen)
    _check_elements(f"{what}: action", transition.action, chosen)
    done = transition.done
    if end is None:
        end = done
    _check.flag(f"{what}: end", end, "give one flag a row", shape=done.shape)
    _check_values(what, transition, seen, chosen)
    end = end | done
    if not bool(end.any()):
        warnings.warn(
            f"{what}: none of {len(done)} rows ends an episode; the data counts as one piece that was cut off", UserWarning, stacklevel=3
        )
    end = torch.cat([end[:-1], torch.ones_like(done[:1])])
    reward = transition.reward
    to_go = returns.reward_to_go(reward.double(), end, torch.zeros_like(end), gamma=1.0).to(reward.dtype)
    return Dataset(transition, end, to_go, seen, chosen, tuple(notes))


def from_rollouts(batches: Transition | Iterable[Transition], *, spaces: Any, what: str = "dataset") -> Dataset:
    """Make a data set from the batches of rollouts or collectors.

    Args:
        batches: transitions of leaves [T, B, ...], or several such batches, each of which continues the one before it. Batches of
            asynchronous collectors, whose steps have a ``place``, may come in any order.
        spaces: as for :func:`from_transitions`.
        what: the beginning of messages.

    Raises:
        ValueError, TypeError: as for :func:`from_transitions`; if there is no batch.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> actor = funrl.acting.start(funrl.random.key(0), env=env, num_envs=4)
        >>> _, batch = funrl.rollout(None, funrl.random.key(1), actor, env.default_params, env=env, num_steps=50)
        >>> data = from_rollouts(batch, spaces=env)
        >>> data.size, bool((data.episode_return.sum() == 200))
        (200, True)
    """
    given: Any = [batches] if isinstance(batches, Transition | torch.Tensor) else batches
    remedy = "give what rollout or a collector returns"
    batches = list(_check.instance(f"{what}: batches", given, Iterable, remedy, "batches of transitions"))
    for batch in batches:
        _check.instance(f"{what}: batches", batch, Transition, remedy, "a funrl.env.Transition")
    whole = tree.cat(_check.some(f"{what}: batches", batches, "batch of transitions", "record some steps first"))
    if whole.reward.ndim != 2:
        got = list(whole.reward.shape)
        raise ValueError(f"{what}: batches: expected leaves [T, B, ...], got a reward {got}; tree.unsqueeze gives [T] a dimension B of 1")
    num_steps, num_envs = whole.reward.shape
    rows = tree.flatten_batch(tree.map(lambda x: x.transpose(0, 1), whole))
    if isinstance(rows.place, Place):
        order = torch.argsort(rows.place.step_count, stable=True)
        order = order[torch.argsort(rows.place.number[order], stable=True)]
        rows = tree.index(rows, order)
        place = rows.place
        goes_on = (place.number[1:] == place.number[:-1]) & (place.step_count[1:] == place.step_count[:-1] + 1)
        cut = torch.cat([~goes_on, torch.ones_like(goes_on[:1])]) if len(goes_on) else torch.ones_like(rows.done)
    else:
        cut = (torch.arange(num_steps * num_envs, device=rows.reward.device) + 1) % num_steps == 0
    return from_transitions(rows, end=rows.done | cut, spaces=spaces, what=what)


def check_dataset(what: str, dataset: Any) -> Dataset:
    """Return a data set; raise a TypeError if it is none.

    Example:
        >>> check_dataset("top", "data.npz")
        Traceback (most recent call last):
        ...
        TypeError: top: dataset: expected a Dataset, got a str; datasets.open_dataset opens files, and of a stream give stream.dataset
    """
    return _check.instance(f"{what}: dataset", dataset, Dataset, "datasets.open_dataset opens files, and of a stream give stream.dataset")


def spaces_of(what: str, spaces: Any) -> tuple[Any, Any]:
    """Return the spaces of observations and actions of an environment, or the pair itself.

    Example:
        >>> spaces_of("bc", 3)
        Traceback (most recent call last):
        ...
        TypeError: bc: expected an Env, or the pair of the spaces of observations and actions, got an int; funrl.envs.make makes an Env
    """
    if isinstance(spaces, AnyEnv):
        return spaces.observation_space, spaces.action_space
    kinds = Box | Discrete | Binary | Dict | Tuple
    if isinstance(spaces, tuple) and len(spaces) == 2 and isinstance(spaces[0], kinds) and hasattr(spaces[1], "sample"):
        return spaces
    expected = "an Env, or the pair of the spaces of observations and actions"
    _check.fail(TypeError, what, expected, _check.describe(spaces), "funrl.envs.make makes an Env")


def infer_space(x: Any, *, action: bool = False) -> Any:
    """Return a space that holds the elements [N, ...]: unbounded Boxes of observations, [-1, 1] or wider for actions, or a Discrete.

    Example:
        >>> infer_space(torch.tensor([[0.5], [-0.25]]), action=True), infer_space(torch.tensor([0, 2, 1]), action=True)
        (Box(-1, 1, (1,), torch.float32), Discrete(n=3, start=0))
    """
    if isinstance(x, dict):
        return Dict({name: infer_space(part, action=action) for name, part in x.items()})
    if isinstance(x, tuple):
        return Tuple(tuple([infer_space(part, action=action) for part in x]))
    if x.dtype == torch.bool:
        return Binary(tuple(x.shape[1:]))
    if not x.is_floating_point():
        if action and x.ndim == 1:
            return Discrete(int(x.max()) + 1) if x.numel() else Discrete(1)
        limits = torch.iinfo(x.dtype)
        return Box(limits.min, limits.max, tuple(x.shape[1:]), x.dtype)
    reach = max(1.0, float(x.abs().nan_to_num(0.0, 0.0, 0.0).max())) if action and x.numel() else float("inf")
    return Box(-reach, reach, tuple(x.shape[1:]), x.dtype)


def _check_columns(what: str, transition: Transition) -> None:
    reward = transition.reward
    if not isinstance(reward, torch.Tensor) or not reward.is_floating_point():
        raise TypeError(f"{what}: reward: expected floating point [N], got {tree.describe_leaf(reward)}; cast it with .float()")
    if reward.ndim != 1:
        raise ValueError(f"{what}: reward: expected the shape [N], one number a row, got {list(reward.shape)}; flatten the rows")
    if not len(reward):
        raise ValueError(f"{what}: it is empty: expected at least one transition, got none")
    for name in ("terminated", "truncated"):
        flag = getattr(transition, name)
        if not isinstance(flag, torch.Tensor) or flag.dtype != torch.bool:
            raise TypeError(f"{what}: {name}: expected bool [N], got {tree.describe_leaf(flag)}; cast it with .bool()")
        if flag.shape != reward.shape:
            raise ValueError(f"{what}: {name}: expected the shape {list(reward.shape)}, as the reward has, got {list(flag.shape)}")
    for path, x in zip(tree.paths(transition), tree.leaves(transition), strict=True):
        if not isinstance(x, torch.Tensor) or x.ndim == 0 or len(x) != len(reward):
            raise ValueError(f"{what}: {path}: expected {len(reward)} rows, as the reward has, got {tree.describe_leaf(x)}")


def _check_elements(what: str, elements: Any, space: Any) -> None:
    """Raise unless rows [N, ...] have the structure, shapes and kinds of dtype of a space."""
    for path, part, x in _pairs(what, space, elements):
        if not isinstance(x, torch.Tensor) or tuple(x.shape[1:]) != tuple(part.shape):
            raise ValueError(f"{path}: expected rows of shape {list(part.shape)}, as {part} says, got {tree.describe_leaf(x)}")
        if x.dtype != part.dtype and not (part.dtype.is_floating_point and x.is_floating_point()):
            raise ValueError(f"{path}: expected {part.dtype}, as {part} says, got {x.dtype}; cast it")


def _check_values(what: str, transition: Transition, seen: Any, chosen: Any) -> None:
    for name in ("reward", "observation", "action", "next_observation"):
        part = getattr(transition, name)
        for path, x in zip(tree.paths(part), tree.leaves(part), strict=True):
            if x.is_floating_point():
                bad = ~x.isfinite().reshape(len(x), -1).all(1)
                if bool(bad.any()):
                    where = f"{name} {path}".strip() if isinstance(part, dict | tuple) else name
                    raise ValueError(
                        f"{what}: {where}: {int(bad.sum())} of {len(x)} rows are not finite, the first is row {int(bad.int().argmax())}; "
                        "drop these episodes, or repair them"
                    )
    check_actions(what, chosen, transition.action)


def check_actions(what: str, space: Any, actions: Any) -> None:
    """Raise if integer actions [N, ...] are outside their space, and warn with their number if continuous ones are.

    Example:
        >>> check_actions("bc", Discrete(2), torch.tensor([0, 2]))
        Traceback (most recent call last):
        ...
        ValueError: bc: action: 1 of 2 rows are outside Discrete(n=2, start=0), the first is row 1; give the space that the data has
    """
    for path, part, x in _pairs("action", space, actions):
        outside = _outside(part, x)
        if outside is None or not bool(outside.any()):
            continue
        text = f"{what}: {path}: {int(outside.sum())} of {len(x)} rows are outside {part}, the first is row {int(outside.int().argmax())}"
        if not isinstance(part, Box) or not part.dtype.is_floating_point:
            raise ValueError(f"{text}; give the space that the data has")
        warnings.warn(f"{text}; learners take them as they are: clip them, or give the space that the data has", UserWarning, stacklevel=4)


def follows(rows: Transition, equal: Callable[..., torch.Tensor] = torch.eq) -> torch.Tensor:
    """Return whether the successor of each row but the last is the observation of the next row, bool [N - 1].

    Example:
        >>> flags = torch.tensor([False, False, True])
        >>> seen = torch.tensor([[0.0], [1.0], [5.0]])
        >>> follows(Transition(seen, seen, torch.ones(3), flags, flags, seen + 1, {}))
        tensor([ True, False])
    """
    same = torch.ones_like(rows.terminated[1:])
    for after, before in zip(tree.leaves(rows.next_observation), tree.leaves(rows.observation), strict=True):
        same = same & equal(after[:-1], before[1:]).reshape(len(same), before[0].numel()).all(1)
    return same


def _pairs(path: str, space: Any, x: Any) -> list[tuple[str, Any, torch.Tensor]]:
    """Return the spaces in a space, with their paths and the parts of ``x``; raise unless it has the entries of the space."""
    if isinstance(space, Dict | Tuple):
        space.check_entries(x, path)
        names: Any = list(space.spaces) if isinstance(space, Dict) else range(len(space.spaces))
        return [pair for name in names for pair in _pairs(f"{path}[{name!r}]", space.spaces[name], x[name])]
    return [(path, space, x)]


def _outside(space: Any, x: torch.Tensor) -> torch.Tensor | None:
    """Return which rows are outside a space, bool [N], or None where none can be."""
    if isinstance(space, Box):
        low, high = space.bounds(x)
        slack = 1e-6 * (high - low).abs().clamp(max=1.0) if x.is_floating_point() else 0
        return ((x < low - slack) | (x > high + slack)).reshape(len(x), -1).any(1)
    if isinstance(space, Discrete):
        return (x < space.start) | (x > space.start + space.n - 1)
    if hasattr(space, "nvec"):
        start = torch.as_tensor(space.start)
        return ((x < start) | (x >= start + torch.as_tensor(space.nvec))).reshape(len(x), -1).any(1)
    return None
