"""Views of a data set: statistics, other rewards, n-step transitions, windows, and parts of it."""

from typing import Any

import torch

from funrl import _check, buffers, returns, stats, tree
from funrl.offline._dataset import Dataset, check_dataset
from funrl.offline._files import Stream


@tree.dataclass
class Window(tree.Replaceable):
    """Pieces of episodes, each of K rows that end at one row of the data, padded with zeros at the front.

    Attributes:
        transition: leaves [..., K, *], with zeros where there is no row.
        return_to_go: floating point [..., K].
        step: int64 [..., K], the place of the rows in their episodes; 0 where there is no row.
        mask: bool [..., K], True where there is a row.
    """

    transition: Any
    return_to_go: torch.Tensor
    step: torch.Tensor
    mask: torch.Tensor


def moments(dataset: Dataset | Stream) -> stats.Moments:
    """Return the :class:`funrl.stats.Moments` of all observations, by which learners normalise.

    They are computed in parts of about 4 million numbers, of which a stream has only one in memory.

    Example:
        >>> from funrl.env import Transition
        >>> from funrl.offline.datasets import from_transitions
        >>> flags = torch.tensor([False, True])
        >>> rows = Transition(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 1]), torch.ones(2), flags, ~flags, torch.ones(2, 1), {})
        >>> moments(from_transitions(rows)).mean
        tensor([2.])
    """
    source = dataset.dataset if isinstance(dataset, Stream) else check_dataset("moments", dataset)
    observation, dtype = source.transition.observation, source.transition.reward.dtype
    example = tree.index(observation, 0)
    state = stats.moments(tree.to(example, torch.float64))
    size = max(1, 2**22 // max(1, sum(x.numel() for x in tree.leaves(example))))
    for first in range(0, source.size, size):
        last = min(first + size, source.size)
        if isinstance(dataset, Stream):
            part = tree.index(dataset.rows(torch.arange(first, last)[None]).observation, 0)
        else:
            part = tree.index(observation, slice(first, last))
        state = stats.update(state, tree.to(part, torch.float64))
    return stats.Moments(state.count, tree.to(state.mean, dtype), tree.to(state.var, dtype))


def scale_rewards(dataset: Dataset, *, how: str = "return_range", scale: float = 1000.0) -> Dataset:
    r"""Return the data set with other rewards and returns to go.

    Args:
        dataset: the data.
        how: ``"return_range"``: :math:`r \cdot c / (\max R - \min R)` over the returns R of the pieces (IQL's for locomotion);
            ``"standardize"``: :math:`(r - \bar r) / \sigma_r`; ``"minus_one"``: :math:`r - 1` (mazes with a reward of 1 at the goal).
        scale: c, above 0.

    Raises:
        ValueError: if ``how`` is unknown, ``scale`` is not above 0, or all returns (rewards) are equal.

    Example:
        >>> from funrl.env import Transition
        >>> from funrl.offline.datasets import from_transitions
        >>> flags = torch.tensor([True, True])
        >>> rows = Transition(torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([1.0, 3.0]), flags, ~flags, torch.ones(2, 1), {})
        >>> scale_rewards(from_transitions(rows), scale=10.0).transition.reward
        tensor([ 5., 15.])
    """
    reward = check_dataset("scale_rewards", dataset).transition.reward.double()
    _check.number("scale_rewards: scale", scale, "(0, inf)")
    if how == "return_range":
        total = dataset.episode_return.double()
        width = float(total.max() - total.min())
        reward = reward * scale / width if width else None
    elif how == "standardize":
        width = float(reward.std(correction=0))
        reward = (reward - reward.mean()) / width if width else None
    elif how == "minus_one":
        reward = reward - 1
    else:
        raise ValueError(f"scale_rewards: how: expected 'return_range', 'standardize' or 'minus_one', got {how!r}")
    if reward is None:
        raise ValueError(f"scale_rewards: how: {how!r} divides by the range of returns or rewards, and all of them are equal; leave it out")
    reward = reward.to(dataset.transition.reward.dtype)
    to_go = returns.reward_to_go(reward.double(), dataset.end, torch.zeros_like(dataset.end), gamma=1.0)
    return dataset.replace(transition=dataset.transition.replace(reward=reward), return_to_go=to_go.to(reward.dtype))


def n_step(dataset: Dataset, *, n: int, gamma: float) -> Dataset:
    """Return the data set with n-step transitions, whose ``extras["discount"]`` is the factor of the bootstrap (:func:`buffers.n_step`).

    Learners use this factor instead of their ``gamma``. Returns to go are still sums of single rewards.

    Raises:
        ValueError: if ``n`` is below 1, or ``gamma`` outside [0, 1].

    Example:
        >>> from funrl.env import Transition
        >>> from funrl.offline.datasets import from_transitions
        >>> flags = torch.tensor([False, False, True])
        >>> rows = Transition(torch.zeros(3, 1), torch.tensor([0, 1, 0]), torch.ones(3), flags, flags & False, torch.ones(3, 1), {})
        >>> data = n_step(from_transitions(rows), n=2, gamma=0.5)
        >>> data.transition.reward, data.transition.extras["discount"], data.transition.terminated
        (tensor([1.5000, 1.5000, 1.0000]), tensor([0.2500, 0.2500, 0.5000]), tensor([False,  True,  True]))
    """
    _check.number("n_step: gamma", gamma, "[0, 1]")
    flagged = check_dataset("n_step", dataset).transition.replace(truncated=dataset.end & ~dataset.transition.terminated)
    joined = buffers.n_step(flagged, n=n, gamma=gamma)
    rows = joined.transition
    return dataset.replace(transition=rows.replace(extras={**dataset.transition.extras, "discount": joined.discount}))


def select(dataset: Dataset, pieces: torch.Tensor) -> Dataset:
    """Return the rows of some pieces, bool [E] or their numbers, int64.

    Raises:
        ValueError: if no piece is left.

    Example:
        >>> from funrl.env import Transition
        >>> from funrl.offline.datasets import from_transitions
        >>> flags = torch.tensor([False, True, True])
        >>> rows = Transition(torch.zeros(3, 1), torch.tensor([0, 1, 0]), torch.ones(3), flags, flags & False, torch.ones(3, 1), {})
        >>> select(from_transitions(rows), torch.tensor([True, False])).size
        2
    """
    check_dataset("select", dataset)
    _check.tensor("select: pieces", pieces, "give flags, bool [E], or numbers of pieces, int64")
    if pieces.dtype == torch.bool:
        if pieces.shape != dataset.begins.shape:
            _check.fail(ValueError, "select: pieces", f"one flag for each of {len(dataset.begins)} pieces", list(pieces.shape))
    else:
        _check.whole("select: pieces", pieces, "give flags, bool [E], or numbers of pieces, int64")
        if bool(((pieces < 0) | (pieces >= len(dataset.begins))).any()):
            _check.fail(ValueError, "select: pieces", f"numbers from 0 to {len(dataset.begins) - 1}", pieces.tolist())
    number = torch.cat([torch.zeros_like(dataset.end[:1], dtype=torch.int64), dataset.end[:-1].cumsum(0)])
    chosen = torch.zeros(len(dataset.begins), dtype=torch.bool, device=number.device)
    chosen[pieces] = True
    rows = chosen[number].nonzero().squeeze(-1)
    if not len(rows):
        raise ValueError(f"select: pieces: expected at least one of the {len(chosen)} pieces, got none")
    return tree.map(lambda x: x[rows], dataset)


def merge(*datasets: Dataset) -> Dataset:
    """Return the rows of several data sets, one after another.

    Raises:
        ValueError: if there is none, or their spaces or columns differ.

    Example:
        >>> from funrl.env import Transition
        >>> from funrl.offline.datasets import from_transitions
        >>> flags = torch.tensor([False, True])
        >>> rows = Transition(torch.zeros(2, 1), torch.tensor([0, 1]), torch.ones(2), flags, ~flags, torch.ones(2, 1), {})
        >>> data = from_transitions(rows)
        >>> merge(data, data).size
        4
    """
    for data in _check.some("merge: datasets", datasets, "data set"):
        check_dataset("merge", data)
    first = datasets[0]
    for other in datasets[1:]:
        for kind in ("observation", "action"):
            spaces = [getattr(data, f"{kind}_space") for data in (first, other)]
            if spaces[0] != spaces[1]:
                raise ValueError(f"merge: expected the same space of {kind}s, got {spaces[0]} and {spaces[1]}")
    notes = tuple(dict.fromkeys(note for data in datasets for note in data.notes))
    return tree.cat([data.replace(notes=notes) for data in datasets])


def normalize_observations(dataset: Dataset, state: stats.Moments | None = None) -> Dataset:
    """Return the data set with observations that are normalised by ``state``, or by their own :func:`moments`.

    Learners do so themselves where ``normalize_observation`` says so, and act in the environment's own units; this is for programs of
    your own.

    Example:
        >>> from funrl.env import Transition
        >>> from funrl.offline.datasets import from_transitions
        >>> flags = torch.tensor([False, True])
        >>> rows = Transition(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 1]), torch.ones(2), flags, ~flags, torch.ones(2, 1), {})
        >>> normalize_observations(from_transitions(rows)).transition.observation.squeeze(-1)
        tensor([-1.0000,  1.0000])
    """
    check_dataset("normalize_observations", dataset)
    state = moments(dataset) if state is None else state
    rows = dataset.transition
    kinds = tree.map(lambda x: x.dtype, state.mean)
    before, after = (tree.map(lambda x, kind: x.to(kind), x, kinds) for x in (rows.observation, rows.next_observation))
    seen = {"observation": stats.normalize(state, before, eps=1e-6), "next_observation": stats.normalize(state, after, eps=1e-6)}
    return dataset.replace(transition=rows.replace(**seen), observation_space=None)


def top(dataset: Dataset, fraction: float) -> Dataset:
    """Return the pieces with the greatest returns: ``fraction`` of them, rounded up.

    Raises:
        ValueError: if ``fraction`` is not in (0, 1].

    Example:
        >>> from funrl.env import Transition
        >>> from funrl.offline.datasets import from_transitions
        >>> flags = torch.tensor([True, True])
        >>> rows = Transition(torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([1.0, 3.0]), flags, ~flags, torch.ones(2, 1), {})
        >>> top(from_transitions(rows), 0.5).transition.reward
        tensor([3.])
    """
    _check.number("top: fraction", fraction, "(0, 1]")
    total = check_dataset("top", dataset).episode_return
    count = max(1, -int(-len(total) * fraction // 1))
    return select(dataset, torch.argsort(total, descending=True, stable=True)[:count])


def windows(dataset: Dataset, index: torch.Tensor, length: int, step: torch.Tensor | None = None) -> Window:
    """Return the windows of K rows that end at the given rows; rows of earlier pieces are replaced by padding.

    Args:
        dataset: the data.
        index: int64 [...], the last row of each window.
        length: K, at least 1.
        step: ``dataset.step``, if it was computed before.

    Raises:
        ValueError: if ``length`` is below 1.

    Example:
        >>> from funrl.env import Transition
        >>> from funrl.offline.datasets import from_transitions
        >>> flags = torch.tensor([False, True, True])
        >>> rows = Transition(torch.ones(3, 1), torch.tensor([0, 1, 0]), torch.ones(3), flags, flags & False, torch.ones(3, 1), {})
        >>> window = windows(from_transitions(rows), torch.tensor([1, 2]), 2)
        >>> window.mask, window.return_to_go
        (tensor([[ True,  True],
                [False,  True]]), tensor([[2., 1.],
                [0., 1.]]))
    """
    _check.integer("windows: length", length, 1)
    _check.whole("windows: index", index)
    step = check_dataset("windows", dataset).step if step is None else step
    back = torch.arange(length - 1, -1, -1, device=index.device)
    mask = back <= step[index].unsqueeze(-1)
    rows = torch.where(mask, index.unsqueeze(-1) - back, 0)

    def taken(x: torch.Tensor) -> torch.Tensor:
        y = x[rows]
        return torch.where(mask.reshape(*mask.shape, *[1] * (y.ndim - mask.ndim)), y, torch.zeros((), dtype=y.dtype, device=y.device))

    return Window(tree.map(taken, dataset.transition), taken(dataset.return_to_go), taken(step), mask)
