"""Statistics of a few runs: the interquartile mean, and its confidence interval by a stratified bootstrap."""

from collections.abc import Callable

import numpy as np
import torch

from funrl import _check, random

# The number of values resampled at a time, which bounds the memory.
_CHUNK = 1 << 22


def interquartile_mean(scores: torch.Tensor) -> torch.Tensor:
    r"""Return the mean of the middle half of scores: more robust than the mean, more efficient than the median.

    .. math:: \mathrm{IQM}(x) = \frac{1}{N - 2k} \sum_{i = k + 1}^{N - k} x_{(i)}, \quad k = \lfloor N / 4 \rfloor

    Up to three scores this is their mean.

    Args:
        scores: floating point [N, ...], N >= 1.

    Returns:
        [...].

    Raises:
        TypeError: if ``scores`` is not floating point.
        ValueError: if there are none.

    Example:
        >>> interquartile_mean(torch.tensor([0.0, 10.0, 20.0, 1000.0]))
        tensor(15.)

    Reference: R. Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", 2021, arXiv:2108.13264.
    """
    _check_scores("interquartile_mean", scores, 1)
    cut = scores.shape[0] // 4
    return scores.sort(0).values[cut : scores.shape[0] - cut].mean(0)


def optimality_gap(scores: torch.Tensor, *, target: float = 1.0) -> torch.Tensor:
    r"""Return the mean distance of scores below a target; a score above the target counts as the target.

    .. math:: \frac{1}{N} \sum_n \left( \gamma - \min(x_n, \gamma) \right)

    Args:
        scores: floating point [N, ...], N >= 1, usually normalised so that 1 is optimal.
        target: gamma.

    Returns:
        [...]. It is a ``statistic`` of :func:`bootstrap_interval`.

    Raises:
        TypeError: if ``scores`` is not floating point.
        ValueError: if there are none.

    Example:
        >>> optimality_gap(torch.tensor([0.5, 1.0, 3.0, 0.5]))
        tensor(0.2500)

    Reference: R. Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", 2021, arXiv:2108.13264.
    """
    _check_scores("optimality_gap", scores, 1)
    return (target - scores.clamp(max=target)).mean(0)


def performance_profile(scores: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    r"""Return the share of runs, over all tasks, whose score is above each threshold.

    .. math:: \hat F(\tau) = \frac{1}{M} \sum_m \frac{1}{N} \sum_n 1[x_{nm} > \tau]

    Args:
        scores: floating point [N, M]: N runs on M tasks.
        thresholds: floating point [P].

    Returns:
        [P], from 1 to 0 for thresholds that rise.

    Raises:
        TypeError: if ``scores`` is not floating point.
        ValueError: if there are none, or ``thresholds`` is not [P].

    Example:
        >>> performance_profile(torch.tensor([[0.1], [0.5], [0.9]]), torch.tensor([0.0, 0.5, 0.8]))
        tensor([1.0000, 0.3333, 0.3333])

    Reference: as for :func:`optimality_gap`; the score distribution there, section 4.2.
    """
    _check_scores("performance_profile", scores, 2)
    if not isinstance(thresholds, torch.Tensor) or thresholds.ndim != 1:
        raise ValueError(f"performance_profile: thresholds: expected a tensor [P], got {thresholds!r}; torch.linspace makes one")
    return (scores.flatten()[:, None] > thresholds).to(scores.dtype).mean(0)


def probability_of_improvement(scores: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    r"""Return how likely it is that a run of one algorithm scores higher than a run of another, averaged over tasks.

    .. math:: P(X > Y) = \frac{1}{M} \sum_m \frac{1}{N K} \sum_{n, k} \left( 1[x_{nm} > y_{km}] + \tfrac 1 2 1[x_{nm} = y_{km}] \right)

    Args:
        scores: floating point [N, M]: N runs of X on M tasks.
        others: floating point [K, M]: K runs of Y on the same tasks.

    Returns:
        [], in [0, 1].

    Raises:
        TypeError: if scores are not floating point.
        ValueError: if there are none, or the numbers of tasks differ.

    Example:
        >>> probability_of_improvement(torch.tensor([[2.0], [3.0]]), torch.tensor([[1.0], [2.0]]))
        tensor(0.8750)

    Reference: as for :func:`optimality_gap`, section 4.3.
    """
    _check_scores("probability_of_improvement", scores, 2)
    _check_scores("probability_of_improvement", others, 2)
    if scores.shape[1] != others.shape[1]:
        raise ValueError(f"probability_of_improvement: expected the same tasks, got {scores.shape[1]} and {others.shape[1]}")
    difference = scores[:, None] - others[None]
    return (difference > 0).to(scores.dtype).mean() + 0.5 * (difference == 0).to(scores.dtype).mean()


def bootstrap_interval(
    key: torch.Tensor,
    scores: torch.Tensor,
    *,
    statistic: Callable[[torch.Tensor], torch.Tensor] = interquartile_mean,
    num_resamples: int = 2_000,
    confidence: float = 0.95,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Return a percentile interval of a statistic by the stratified bootstrap, which resamples the runs of each task separately.

    .. math:: x^{*r}_{nm} = x_{I_{rnm}, m}, \quad I_{rnm} \sim U\{1, \dots, N\}, \quad
        \left[ q_{\alpha / 2}, q_{1 - \alpha / 2} \right] \text{ of } T(x^{*1}), \dots, T(x^{*R})

    All points of a curve (further dimensions) use the same resampled runs.

    Args:
        key: a key []; the same key gives the same interval.
        scores: floating point [N, M, ...]: N runs (or agents) on M tasks.
        statistic: a function from [N M, ...], the runs of all tasks, to [...].
        num_resamples: R >= 1.
        confidence: the probability that the interval contains the true value, in (0, 1).

    Returns:
        The lower and the upper end, each [...]. With a single run both are the statistic itself, as there is no spread to estimate.

    Raises:
        TypeError: if ``scores`` is not floating point.
        ValueError: if there are no scores or one is NaN, or another argument is out of its range.

    Example:
        >>> scores = random.normal(random.key(0), (10, 1))
        >>> low, high = bootstrap_interval(random.key(1), scores)
        >>> bool(low < interquartile_mean(scores[:, 0])), bool(high - low < 2)
        (True, True)

    Reference: R. Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", 2021, arXiv:2108.13264.
    """
    _check_scores("bootstrap_interval", scores, 2)
    if bool(scores.isnan().any()):
        raise ValueError("bootstrap_interval: scores: expected numbers, got NaN; leave out runs without a score")
    _check.integer("bootstrap_interval: num_resamples", num_resamples, 1)
    if not 0 < confidence < 1:
        raise ValueError(f"bootstrap_interval: confidence: expected a number between 0 and 1, got {confidence!r}")
    runs, tasks = scores.shape[:2]
    rows = random.randint(key, (num_resamples, runs, tasks), 0, runs)
    columns = torch.arange(tasks, device=scores.device)
    values = [
        statistic(scores[some, columns].flatten(1, 2).movedim(0, 1))  # [N M, some, ...]
        for some in rows.split(max(1, _CHUNK // max(1, scores.numel())))
    ]
    tail = (1 - confidence) / 2
    ends = np.quantile(torch.cat(values).cpu().numpy(), (tail, 1 - tail), axis=0)
    low, high = (torch.as_tensor(x, dtype=scores.dtype, device=scores.device) for x in ends)
    return low, high


def _check_scores(what: str, scores: torch.Tensor, dims: int) -> None:
    _check.floating(f"{what}: scores", scores, "convert it with torch.as_tensor(x).double()")
    if scores.ndim < dims or 0 in scores.shape[:dims]:
        expected = "[N, ...]" if dims == 1 else "[N, M, ...], runs and tasks (of a single task: scores[:, None]),"
        raise ValueError(f"{what}: scores: expected {expected} with at least one score, got {list(scores.shape)}")
