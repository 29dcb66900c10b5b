"""MAP-Elites: fill an archive with the best solution of each kind."""

from typing import Any

import torch

from funrl import _check, random, tree
from funrl.evolution import _archive
from funrl.evolution._archive import Archive
from funrl.evolution._strategy import Number, Strategy, checked, guarded, like_rows, rows, start


@tree.dataclass
class MAPElitesState(tree.Replaceable):
    """State of :func:`map_elites`.

    Attributes:
        archive: the :class:`Archive`.
    """

    archive: Archive


def map_elites(
    num_candidates: int, cells: torch.Tensor, *, sigma: Number = 0.1, line_sigma: Number = 0.0, spread: Number = 1.0
) -> Strategy:
    r"""Make MAP-Elites: mutate solutions of an archive that holds the best of each cell. Fitness is maximised.

    .. math:: x = \theta_1 + \sigma \epsilon + \sigma_l\, z\, (\theta_2 - \theta_1), \qquad
        \epsilon \sim \mathcal N(0, I), \quad z \sim \mathcal N(0, 1)

    Both parents are drawn uniformly from the filled cells. With ``line_sigma`` 0 this is the mutation of the paper; above it is the
    directional variation of Vassiliades and Mouret. As long as the archive is empty, candidates are ``params`` with noise of the
    deviation ``spread``.

    Args:
        num_candidates: N, at least 1.
        cells: floating point [C, M], the centres of the cells, from :func:`grid_cells` or :func:`cvt_cells`.
        sigma: at least 0: a number, or a tensor [].
        line_sigma: sigma_l, at least 0: a number, or a tensor [].
        spread: the deviation of the first candidates, above 0: a number, or a tensor [].

    Returns:
        A :class:`Strategy` whose state is a :class:`MAPElitesState`. Its ``tell(state, candidates, fitness, descriptors)`` also takes
        the descriptors [N, M] of the candidates' behaviour. Its ``best`` is the solution of the largest fitness.

    Raises:
        ValueError: if a number is outside its range; from ``tell``, if the shape of an argument is not as above.
        TypeError: if an argument is of another type.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> from funrl.evolution import coverage, grid_cells
        >>> strategy = map_elites(32, grid_cells([-2.0], [2.0], [16]), sigma=0.5)
        >>> state = strategy.init(random.key(0), {"x": torch.zeros(2)})
        >>> for key in random.split(random.key(1), 50).unbind(0):
        ...     candidates, state = strategy.ask(key, state)
        ...     x, y = candidates["x"].unbind(-1)  # for each x, the best y is 0
        ...     state = strategy.tell(state, candidates, -y.square(), x[:, None])
        >>> coverage(state.archive), bool(state.archive.fitness.min() > -0.1)
        (tensor(1.), True)

    Reference: J.-B. Mouret, J. Clune, "Illuminating search spaces by mapping elites", 2015, arXiv:1504.04909; directional variation:
        V. Vassiliades, J.-B. Mouret, "Discovering the Elite Hypervolume by Leveraging Interspecies Correlation", 2018,
        arXiv:1804.03906.
    """
    check_variation("map_elites", num_candidates, cells, sigma, line_sigma, spread)

    def init(key: torch.Tensor, params: Any) -> MAPElitesState:
        return MAPElitesState(_archive.empty(start("map_elites", params), cells))

    def ask(key: torch.Tensor, state: MAPElitesState) -> tuple[Any, MAPElitesState]:
        return varied(key, state.archive, num_candidates, sigma, line_sigma, spread), state

    def tell(state: MAPElitesState, candidates: Any, fitness: torch.Tensor, descriptors: torch.Tensor) -> MAPElitesState:
        return MAPElitesState(add("map_elites", state.archive, candidates, fitness, descriptors))

    return guarded("map_elites", MAPElitesState, init, ask, tell, lambda state: _archive.elite(state.archive))


def check_variation(what: str, num_candidates: int, cells: Any, sigma: Number, line_sigma: Number, spread: Number) -> None:
    """Raise unless the arguments of a strategy with an archive are in their ranges."""
    _check.integer(f"{what}: num_candidates", num_candidates, 1)
    if not isinstance(cells, torch.Tensor) or not cells.is_floating_point() or cells.ndim != 2 or not cells.numel():
        _check.fail(TypeError, f"{what}: cells", "floating point [C, M]", _check.describe(cells), "grid_cells or cvt_cells make them")
    for name, value, interval in (("sigma", sigma, "[0, inf)"), ("line_sigma", line_sigma, "[0, inf)"), ("spread", spread, "(0, inf)")):
        _check.number(f"{what}: {name}", value, interval, tensor=True)


def varied(key: torch.Tensor, archive: Archive, n: int, sigma: Number, line_sigma: Number, spread: Number) -> Any:
    """Return n mutations of an archive's solutions, leaves [n, ...]."""
    parent_key, noise_key, line_key = random.split(key, 3).unbind(0)
    first, second = rows(_archive.draw(parent_key, archive, 2 * n)).split(n)
    noise = random.normal(noise_key, tuple(first.shape), dtype=first.dtype)
    line = random.normal(line_key, (n, 1), dtype=first.dtype)
    deviation = torch.where(archive.filled.any(), torch.as_tensor(sigma, dtype=first.dtype), torch.as_tensor(spread, dtype=first.dtype))
    return like_rows(first + deviation * noise + line_sigma * line * (second - first), tree.index(archive.params, 0))


def add(what: str, archive: Archive, candidates: Any, fitness: Any, descriptors: Any) -> Archive:
    """Insert candidates into an archive, after the checks that all strategies make."""
    example = tree.index(archive.params, 0)
    checked(what, example, candidates, fitness, tree.leaves(candidates)[0].shape[0])
    _check.floating(f"{what}: descriptors", descriptors, expected=f"floating point [N, {archive.cells.shape[1]}]")
    return _archive.insert(archive, candidates, fitness, descriptors)
