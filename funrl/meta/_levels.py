"""A buffer of levels with their scores, from which levels are drawn by what there is to learn in them."""

from typing import Any

import torch

from funrl import _check, random, tree

__all__ = ["LevelState", "insert_levels", "level_probabilities", "level_score", "sample_levels", "start_levels", "update_levels"]


@tree.dataclass
class LevelState(tree.Replaceable):
    """A buffer of at most N levels.

    Attributes:
        levels: ``env_params`` with leaves [N, ...].
        score: floating point [N]; -inf: the place is empty.
        seen: int64 [N], the time at which each level was last played.
        time: int64 [], the number of batches that have been scored so far.
    """

    levels: Any
    score: torch.Tensor
    seen: torch.Tensor
    time: torch.Tensor


def start_levels(level: Any, capacity: int) -> LevelState:
    """Return an empty buffer for ``capacity`` levels like ``level``, an ``env_params``.

    Example:
        >>> import funrl
        >>> state = start_levels(funrl.envs.maze().default_params, 100)
        >>> state.levels.walls.shape, state.score[0]
        (torch.Size([100, 9, 9]), tensor(-inf))
    """
    _check.integer("start_levels: capacity", capacity, 1)
    numbers = [x for x in tree.leaves(level) if isinstance(x, torch.Tensor) and x.is_floating_point() and x.numel()]
    like = _check.some("start_levels: level", numbers, "floating-point tensor", "give the env_params of an environment")[0].reshape(-1)[0]
    seen = torch.zeros(capacity, dtype=torch.int64, device=like.device)
    levels = tree.map(lambda x: x.new_zeros(capacity, *x.shape), level)
    return LevelState(levels, torch.full_like(seen, -torch.inf, dtype=like.dtype), seen, seen[0].clone())


def level_score(advantage: torch.Tensor, kind: str = "magnitude") -> torch.Tensor:
    r"""Return the score of each of B levels, from the advantages of the steps in it: what there is to learn.

    .. math:: S = \frac{1}{T} \sum_t \left| \hat A_t \right| \quad \text{or} \quad \frac{1}{T} \sum_t \max(\hat A_t, 0)

    Args:
        advantage: generalized advantages, floating point [T, B], by :func:`funrl.returns.gae`.
        kind: ``"magnitude"`` or ``"positive"``.

    Returns:
        Scores [B].

    Raises:
        ValueError: if the kind is unknown.

    Example:
        >>> level_score(torch.tensor([[1.0, 0.0], [-3.0, 1.0]])), level_score(torch.tensor([[1.0], [-3.0]]), "positive")
        (tensor([2.0000, 0.5000]), tensor([0.5000]))

    Reference: the L1 value loss of arXiv:2010.03934, table 1, and the positive value loss of M. Jiang et al., "Replay-Guided Adversarial
        Environment Design", 2021, arXiv:2110.02439.
    """
    _check.one_of("level_score: kind", kind, ("magnitude", "positive"))
    _check.floating("level_score: advantage", advantage, shape=("T", "B"))
    return (advantage.abs() if kind == "magnitude" else advantage.clamp(min=0)).mean(0)


def level_probabilities(
    state: LevelState,
    *,
    prioritization: str = "rank",
    temperature: float | torch.Tensor = 0.1,
    staleness_weight: float | torch.Tensor = 0.1,
) -> torch.Tensor:
    r"""Return the probabilities of levels in a replay, by their scores and by the time since they were played.

    .. math:: P_i = (1 - \rho) \frac{h_i^{1/\beta}}{\sum_j h_j^{1/\beta}} + \rho \frac{c - C_i}{\sum_j (c - C_j)}, \qquad
        h_i = \frac{1}{\mathrm{rank}(S_i)} \;\text{or}\; S_i

    with the highest score at rank 1, the time c and the time C_i at which the level was played. Empty places have probability 0. If all
    levels were played just now, only scores count.

    Args:
        state: the buffer.
        prioritization: ``"rank"`` or ``"proportional"``; the latter needs scores of at least 0.
        temperature: beta, above 0, a number or a tensor [].
        staleness_weight: rho, in [0, 1], a number or a tensor [].

    Returns:
        Floating point [N]; all 0 in an empty buffer.

    Raises:
        ValueError: if a Python number is out of its range, or the prioritization is unknown.

    Example:
        >>> import funrl
        >>> state = start_levels(funrl.envs.maze().default_params, 3)
        >>> state = state.replace(score=torch.tensor([1.0, 3.0, -torch.inf]), seen=torch.tensor([1, 3, 0]), time=torch.tensor(4))
        >>> level_probabilities(state, temperature=1.0, staleness_weight=0.0)
        tensor([0.3333, 0.6667, 0.0000])
        >>> level_probabilities(state, temperature=1.0, staleness_weight=1.0)
        tensor([0.7500, 0.2500, 0.0000])

    Reference: M. Jiang, E. Grefenstette, T. Rocktäschel, "Prioritized Level Replay", 2020, arXiv:2010.03934, equations 1 to 4.
    """
    _check.one_of("level_probabilities: prioritization", prioritization, ("rank", "proportional"))
    _check.number("level_probabilities: temperature", temperature, "(0, inf)", tensor=True)
    _check.number("level_probabilities: staleness_weight", staleness_weight, "[0, 1]", tensor=True)
    score = state.score
    filled = score > -torch.inf
    if prioritization == "rank":
        rank = torch.argsort(torch.argsort(score, descending=True, stable=True)) + 1
        weight = -rank.to(score.dtype).log()
    else:
        weight = score.clamp(min=torch.finfo(score.dtype).tiny).log()
    weight = torch.where(filled, weight / temperature, -torch.inf)
    top = weight.amax()
    by_score = _shares(torch.where(filled, (weight - torch.where(top.isinf(), 0.0, top)).exp(), 0.0))
    age = torch.where(filled, state.time - state.seen, 0).to(score.dtype)
    by_age = torch.where(age.sum() > 0, _shares(age), by_score)
    return (1 - staleness_weight) * by_score + staleness_weight * by_age


def sample_levels(key: torch.Tensor, state: LevelState, probability: torch.Tensor, n: int) -> torch.Tensor:
    """Draw the places of n different levels, int64 [n]; -1 where there are not so many.

    Args:
        key: a key [].
        state: the buffer.
        probability: floating point [N], of each level, by :func:`level_probabilities`.
        n: from 1 to N.

    Raises:
        ValueError: if n is out of its range, or there is not one probability for each place.

    Example:
        >>> import funrl
        >>> state = start_levels(funrl.envs.maze().default_params, 3)
        >>> sample_levels(random.key(0), state, torch.tensor([0.0, 0.5, 0.0]), 2)
        tensor([ 1, -1])
    """
    _check.floating("sample_levels: probability", probability, shape=state.score.shape)
    if not 1 <= n <= len(probability):
        raise ValueError(f"sample_levels: n: expected from 1 to the {len(probability)} places of the buffer, got {n}")
    draws = probability.log() + random.gumbel(key, tuple(probability.shape), dtype=probability.dtype)
    places = torch.argsort(draws, descending=True, stable=True)[:n]
    return torch.where(probability[places] > 0, places, -1)


def update_levels(state: LevelState, places: torch.Tensor, score: torch.Tensor) -> LevelState:
    """Return the buffer with new scores of levels that were played now.

    Args:
        state: the buffer.
        places: int64 [B], the places of different levels; -1: of none.
        score: floating point [B].

    Raises:
        ValueError: if there is not one score for each place.

    Example:
        >>> import funrl
        >>> state = start_levels(funrl.envs.maze().default_params, 3)
        >>> update_levels(state, torch.tensor([2, -1]), torch.tensor([5.0, 7.0])).score
        tensor([-inf, -inf, 5.])
    """
    _check.sized("update_levels: score", score, places.shape, of="places")
    chosen = tree.one_hot(places, len(state.score))  # [B, N]
    played = chosen.any(0)
    found = torch.where(chosen, score.to(state.score.dtype)[:, None], 0.0).sum(0)
    return state.replace(score=torch.where(played, found, state.score), seen=torch.where(played, state.time, state.seen))


def insert_levels(state: LevelState, levels: Any, score: torch.Tensor) -> LevelState:
    """Return the buffer with those N of its own and of B new levels that have the highest scores.

    Args:
        state: the buffer.
        levels: ``env_params`` with leaves [B, ...], B at most N.
        score: floating point [B]; -inf: the level is not inserted.

    Raises:
        ValueError: if there are more new levels than places, or not one score for each.

    Example:
        >>> import funrl
        >>> state, level = start_levels(funrl.envs.maze().default_params, 2), funrl.envs.maze().default_params
        >>> for score in (3.0, 1.0, 2.0, 0.5):
        ...     state = insert_levels(state, tree.unsqueeze(level, 0), torch.tensor([score]))
        >>> state.score.sort().values
        tensor([2., 3.])
    """
    size, capacity = len(score), len(state.score)
    if any(x.shape[:1] != score.shape for x in tree.leaves(levels)):
        got = ", ".join(str(list(x.shape)) for x in tree.leaves(levels))
        raise ValueError(f"insert_levels: levels: expected leaves [B, ...] of as many levels as score {list(score.shape)}, got {got}")
    if size > capacity:
        raise ValueError(f"insert_levels: levels: expected at most {capacity}, as many as the buffer has places, got {size}")
    best = torch.argsort(score, descending=True, stable=True)
    places = torch.argsort(state.score, stable=True)[:size]
    better = score[best].to(state.score.dtype) > state.score[places]

    def put(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        keep = better.reshape(-1, *[1] * (old.ndim - 1))
        return old.index_put((places,), torch.where(keep, new, old[places]))

    return LevelState(
        tree.map(lambda old, new: put(old, new[best]), state.levels, levels),
        put(state.score, score[best].to(state.score.dtype)),
        put(state.seen, state.time.expand(size)),
        state.time,
    )


def _shares(x: torch.Tensor) -> torch.Tensor:
    """Return x divided by its sum; zeros remain zeros."""
    total = x.sum()
    return x / torch.where(total > 0, total, 1.0)
