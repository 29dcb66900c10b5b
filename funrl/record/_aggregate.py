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
