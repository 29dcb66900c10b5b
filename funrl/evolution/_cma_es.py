"""CMA-ES: evolution strategies that adapt the covariance of their candidates, full or diagonal."""

import math
from collections import namedtuple
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.evolution._strategy import Number, Strategy, around_mean, by_rank, like_vector


@tree.dataclass
class CMAESState(tree.Replaceable):
    """State of :func:`cma_es`. With ``separable`` the covariance is diagonal, and the fields named [D, D] are [D].

    Attributes:
        mean: the tree of parameters at the centre of the candidates.
        sigma: floating point [], the step size.
        covariance: floating point [D, D], C.
        axes: floating point [D, D], the eigenvectors of C as columns; () with ``separable``.
        lengths: floating point [D], the square roots of the eigenvalues of C.
        sigma_path: floating point [D], the evolution path of the step size.
        covariance_path: floating point [D], the evolution path of the covariance.
        count: int64 [], the number of generations so far.
    """

    mean: Any
    sigma: torch.Tensor
    covariance: torch.Tensor
    axes: Any
    lengths: torch.Tensor
    sigma_path: torch.Tensor
    covariance_path: torch.Tensor
    count: torch.Tensor


# The strategy parameters of the tutorial's table 1.
_Constants = namedtuple("_Constants", "weights mu_eff c_c c_1 c_mu c_sigma d_sigma chi")


def cma_es(num_candidates: int, *, sigma: Number = 0.3, learning_rate: Number = 1.0, separable: bool = False) -> Strategy:
    r"""Make CMA-ES, with the full covariance matrix or with its diagonal alone. Fitness is maximised.

    .. math:: x_i = m + \sigma y_i, \quad y_i \sim \mathcal N(0, C), \qquad m \leftarrow m + c_m \sigma \sum_{i \le \mu} w_i y_{i:N}

    .. math:: p_\sigma \leftarrow (1 - c_\sigma) p_\sigma + \sqrt{c_\sigma (2 - c_\sigma) \mu_{eff}}\; C^{-1/2} \langle y \rangle_w,
        \qquad \sigma \leftarrow \sigma \exp\left(\frac{c_\sigma}{d_\sigma} \left(\frac{\lVert p_\sigma \rVert}{\chi_D} - 1\right)\right)

    .. math:: C \leftarrow (1 + c_1 \delta(h_\sigma) - c_1 - c_\mu \textstyle\sum_j w_j)\, C + c_1 p_c p_c^\top
        + c_\mu \sum_i w_i^\circ y_{i:N} y_{i:N}^\top

    The weights of the worse half are negative (active CMA). All strategy parameters are the tutorial's defaults for N and D. The full
    covariance takes an eigendecomposition, O(D^3), in every ``tell``; the diagonal one is for many parameters.

    Args:
        num_candidates: N, at least 4; the tutorial's choice is 4 + floor(3 ln D).
        sigma: the first step size, above 0, about a third of the distance to the optimum: a number, or a tensor [].
        learning_rate: c_m, at least 0, of the mean: a number, or a tensor [].
        separable: whether only the diagonal of C is adapted, with (D + 2) / 3 times the rates c_1 and c_mu.

    Returns:
        A :class:`Strategy` whose state is a :class:`CMAESState`; its ``best`` is the mean.

    Raises:
        ValueError: if a number is outside its range; from ``tell``, if the shape of an argument is not as above.
        TypeError: if an argument is of another type.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> strategy = cma_es(8)
        >>> state = strategy.init(random.key(0), {"x": torch.tensor([3.0, -2.0])})
        >>> for key in random.split(random.key(1), 60).unbind(0):
        ...     candidates, state = strategy.ask(key, state)
        ...     state = strategy.tell(state, candidates, -candidates["x"].square().sum(-1))
        >>> bool(strategy.best(state)["x"].norm() < 1e-3)
        True

    Reference: N. Hansen, "The CMA Evolution Strategy: A Tutorial", 2016, arXiv:1604.00772, appendix A; separable: R. Ros, N. Hansen,
        "A Simple Modification in CMA-ES Achieving Linear Time and Space Complexity", PPSN 2008,
        doi:10.1007/978-3-540-87700-4_30 (no arXiv id). Deviations: candidates of equal fitness share the mean of their weights;
        eigenvalues below 1e-8 (float32: of the largest; float64: 1e-14 of it) are raised to that.
    """
    _check.integer("cma_es: num_candidates", num_candidates, 4)
    _check.instance("cma_es: separable", separable, bool)
    _check.number("cma_es: learning_rate", learning_rate, "[0, inf)", tensor=True)

    def first(mean: Any, vector: torch.Tensor) -> CMAESState:
        one, eye = torch.ones_like(vector), torch.eye(len(vector), dtype=vector.dtype, device=vector.device)
        return CMAESState(
            mean=mean,
            sigma=vector.new_zeros(()) + sigma,
            covariance=one if separable else eye,
            axes=() if separable else eye.clone(),
            lengths=one.clone(),
            sigma_path=torch.zeros_like(vector),
            covariance_path=torch.zeros_like(vector),
            count=torch.zeros((), dtype=torch.int64, device=vector.device),
        )

    def draw(key: torch.Tensor, state: CMAESState, mean: torch.Tensor) -> torch.Tensor:
        noise = state.lengths * random.normal(key, (num_candidates, mean.shape[0]), dtype=mean.dtype)
        return mean + state.sigma * (noise if separable else noise @ state.axes.T)

    def move(state: CMAESState, mean: torch.Tensor, candidates: torch.Tensor, fitness: torch.Tensor) -> CMAESState:
        c = _constants(num_candidates, mean.shape[0], separable)
        table = torch.tensor(c.weights, dtype=mean.dtype, device=mean.device)
        good, bad = by_rank(fitness, table.clamp(min=0)), by_rank(fitness, table.clamp(max=0))
        y = (candidates - mean) / state.sigma
        step = good @ y
        count = state.count + 1
        sigma_path = (1 - c.c_sigma) * state.sigma_path + math.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff) * _whitened(state, step)
        norm = sigma_path.square().sum().sqrt()
        size = state.sigma * torch.exp(c.c_sigma / c.d_sigma * (norm / c.chi - 1))
        going = norm / (1 - (1 - c.c_sigma) ** (2 * count).to(mean.dtype)).sqrt() < (1.4 + 2 / (mean.shape[0] + 1)) * c.chi
        going = going.to(mean.dtype)
        path = (1 - c.c_c) * state.covariance_path + going * math.sqrt(c.c_c * (2 - c.c_c) * c.mu_eff) * step
        weight = good + bad * mean.shape[0] / _whitened(state, y).square().sum(-1).clamp(min=1e-8)
        decay = 1 + c.c_1 * (1 - going) * c.c_c * (2 - c.c_c) - c.c_1 - c.c_mu * sum(c.weights)
        ranks, line = (weight @ y.square(), path.square()) if separable else (y.T @ (weight[:, None] * y), torch.outer(path, path))
        covariance = decay * state.covariance + c.c_1 * line + c.c_mu * ranks
        lengths, axes = _decompose(covariance)
        return CMAESState(
            mean=like_vector(mean + learning_rate * state.sigma * step, state.mean),
            sigma=size,
            covariance=covariance,
            axes=axes,
            lengths=lengths,
            sigma_path=sigma_path,
            covariance_path=path,
            count=count,
        )

    return around_mean("cma_es", CMAESState, num_candidates, sigma, first, draw, move)


def _decompose(covariance: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Return the square roots of the eigenvalues [D], and the eigenvectors [D, D], or () of a diagonal covariance [D]."""
    values, axes = (covariance, ()) if covariance.ndim == 1 else torch.linalg.eigh((covariance + covariance.T) / 2)
    least = (1e-8 if values.dtype != torch.float64 else 1e-14) * values.amax()
    return torch.maximum(values, least).sqrt(), axes


def _whitened(state: CMAESState, y: torch.Tensor) -> torch.Tensor:
    """Return C^(-1/2) y of vectors [..., D]."""
    if state.covariance.ndim == 1:
        return y / state.lengths
    return (y @ state.axes / state.lengths) @ state.axes.T


def _constants(n: int, dim: int, separable: bool) -> _Constants:
    """Return the tutorial's default strategy parameters of n candidates in ``dim`` dimensions, its equations 49 to 58."""
    raw = [math.log((n + 1) / 2) - math.log(i) for i in range(1, n + 1)]
    half = n // 2
    mu_eff, mu_minus = (sum(part) ** 2 / sum(x * x for x in part) for part in (raw[:half], raw[half:]))
    c_c = (4 + mu_eff / dim) / (dim + 4 + 2 * mu_eff / dim)
    c_1 = 2 / ((dim + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, 2 * (mu_eff + 1 / mu_eff - 2) / ((dim + 2) ** 2 + mu_eff))
    if separable:
        c_1, c_mu = (rate * (dim + 2) / 3 for rate in (c_1, c_mu))
        total = max(1.0, c_1 + c_mu)
        c_1, c_mu = c_1 / total, c_mu / total
    scale = max(0.0, min(1 + c_1 / c_mu, 1 + 2 * mu_minus / (mu_eff + 2), (1 - c_1 - c_mu) / (dim * c_mu)))
    positive, negative = sum(x for x in raw if x > 0), -sum(x for x in raw if x < 0)
    weights = [x / positive if x >= 0 else scale * x / negative for x in raw]
    c_sigma = (mu_eff + 2) / (dim + mu_eff + 5)
    d_sigma = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (dim + 1)) - 1) + c_sigma
    chi = math.sqrt(dim) * (1 - 1 / (4 * dim) + 1 / (21 * dim**2))
    return _Constants(weights, mu_eff, c_c, c_1, c_mu, c_sigma, d_sigma, chi)
