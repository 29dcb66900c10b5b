"""Archives of MAP-Elites: the best solution for each cell of a space of descriptors."""

from collections.abc import Sequence
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.compiler import scan


@tree.dataclass
class Archive(tree.Replaceable):
    """The best solution of each of C cells; a cell is empty where its fitness is -infinity.

    Attributes:
        params: the tree of the solutions with leaves [C, ...]; an empty cell holds the first parameters.
        fitness: floating point [C].
        descriptors: floating point [C, M], of the solutions; NaN in empty cells.
        cells: floating point [C, M], the centres of the cells.
    """

    params: Any
    fitness: torch.Tensor
    descriptors: torch.Tensor
    cells: torch.Tensor

    @property
    def filled(self) -> torch.Tensor:
        """Which cells hold a solution, bool [C]."""
        return self.fitness > -torch.inf


def grid_cells(low: Sequence[float], high: Sequence[float], shape: Sequence[int]) -> torch.Tensor:
    """Return the centres [C, M] of the cells of a regular grid over a box of descriptors.

    The nearest centre of a descriptor is that of the box's cell in which it lies; beyond the box it is one at the border.

    Args:
        low: the lower bounds of the M descriptors.
        high: their upper bounds, each above the lower one.
        shape: the number of cells along each, at least 1.

    Returns:
        float32 [C, M] with C = prod(shape), the last descriptor fastest.

    Raises:
        ValueError: if the arguments differ in length, a bound is not below the other, or a number is below 1.

    Example:
        >>> grid_cells([0.0, -1.0], [1.0, 1.0], [2, 2])
        tensor([[ 0.2500, -0.5000],
                [ 0.2500,  0.5000],
                [ 0.7500, -0.5000],
                [ 0.7500,  0.5000]])
    """
    _check_bounds("grid_cells", low, high)
    _check.integers("grid_cells: shape", shape, 1)
    if not len(low) == len(high) == len(shape) or not len(low):
        raise ValueError(f"grid_cells: expected low, high and shape of one length, got {len(low)}, {len(high)} and {len(shape)}")
    if not all(a < b for a, b in zip(low, high, strict=True)):
        raise ValueError(f"grid_cells: low, high: expected low < high for each descriptor, got {list(low)} and {list(high)}")
    axes = [a + (torch.arange(n) + 0.5) * ((b - a) / n) for a, b, n in zip(low, high, shape, strict=True)]
    return torch.cartesian_prod(*axes).reshape(-1, len(shape))


def cvt_cells(
    key: torch.Tensor, low: Sequence[float], high: Sequence[float], num_cells: int, *, num_samples: int = 10_000, num_iterations: int = 30
) -> torch.Tensor:
    """Return the centres [C, M] of cells of about equal size over a box of descriptors: a centroidal Voronoi tessellation.

    Lloyd's iterations move C centres to the means of the nearest of some random points. For few descriptors a grid does as well;
    the number of cells of a grid grows exponentially with M.

    Args:
        key: a key [].
        low: the lower bounds of the M descriptors.
        high: their upper bounds, each above the lower one.
        num_cells: C, at least 1.
        num_samples: the number of random points, at least C.
        num_iterations: at least 1.

    Returns:
        float32 [C, M].

    Raises:
        ValueError: if a number is outside its range.

    Example:
        >>> low, high = cvt_cells(random.key(0), [0.0], [1.0], 2).sort(0).values.flatten().tolist()
        >>> abs(low - 0.25) < 0.02, abs(high - 0.75) < 0.02
        (True, True)

    Reference: V. Vassiliades, K. Chatzilygeroudis, J.-B. Mouret, "Using Centroidal Voronoi Tessellations to Scale Up the
        Multidimensional Archive of Phenotypic Elites Algorithm", 2016, arXiv:1610.05729.
    """
    _check_bounds("cvt_cells", low, high)
    for name, x in (("num_cells", num_cells), ("num_samples", num_samples), ("num_iterations", num_iterations)):
        _check.integer(f"cvt_cells: {name}", x, 1)
    _check.key("cvt_cells: key", key)
    if len(low) != len(high) or not len(low) or not all(a < b for a, b in zip(low, high, strict=True)):
        raise ValueError(f"cvt_cells: low, high: expected two sequences of one length, low < high, got {list(low)} and {list(high)}")
    if not 1 <= num_cells <= num_samples:
        raise ValueError(f"cvt_cells: num_cells: expected 1 to num_samples = {num_samples}, got {num_cells}")
    bounds = torch.tensor([list(low), list(high)], device=key.device)
    points = random.uniform(key, (num_samples, len(low)))
    points = bounds[0] + (bounds[1] - bounds[0]) * points

    def move(centres: torch.Tensor, _: Any) -> tuple[torch.Tensor, Any]:
        mine = tree.one_hot(nearest(points, centres), num_cells, points)
        count = mine.sum(0)[:, None]
        return torch.where(count > 0, mine.T @ points / count.clamp(min=1), centres), ()

    return scan(move, points[:num_cells].clone(), torch.arange(num_iterations, device=points.device))[0]


def _check_bounds(what: str, low: Any, high: Any) -> None:
    for name, bounds in (("low", low), ("high", high)):
        for x in _check.instance(f"{what}: {name}", bounds, (list, tuple), "give one number for each descriptor", "a list"):
            _check.number(f"{what}: {name}", x)


def nearest(descriptors: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Return the index of the nearest cell, int64 [N], of descriptors [N, M]; the first of equals."""
    return (descriptors[:, None] - cells).square().sum(-1).argmin(-1)


def empty(params: Any, cells: torch.Tensor) -> Archive:
    """Return an archive without solutions; ``params`` is an example of them."""
    num_cells, like = cells.shape[0], tree.leaves(params)[0]
    cells = cells.to(dtype=like.dtype, device=like.device, copy=True)
    return Archive(
        params=tree.map(lambda x: x.expand(num_cells, *x.shape).clone(memory_format=torch.contiguous_format), params),
        fitness=torch.full_like(cells[:, 0], -torch.inf),
        descriptors=torch.full_like(cells, torch.nan),
        cells=cells,
    )


def insert(archive: Archive, candidates: Any, fitness: torch.Tensor, descriptors: torch.Tensor) -> Archive:
    """Put candidates into an archive where they are better than what their cell holds.

    Args:
        archive: an :class:`Archive` of C cells.
        candidates: a tree with leaves [N, ...].
        fitness: floating point [N]; a candidate whose fitness or descriptor is not finite enters no cell.
        descriptors: floating point [N, M].

    Returns:
        The archive. Of several candidates in a cell the best enters, of equal ones the first; one that is as good as the
        solution before does not.

    Raises:
        ValueError: if shapes do not fit.

    Example:
        >>> import torch
        >>> archive = empty({"x": torch.zeros(1)}, grid_cells([0.0], [1.0], [2]))
        >>> candidates = {"x": torch.tensor([[1.0], [2.0], [3.0]])}
        >>> archive = insert(archive, candidates, torch.tensor([5.0, 7.0, 1.0]), torch.tensor([[0.1], [0.2], [0.3]]))
        >>> archive.params["x"].flatten(), archive.fitness
        (tensor([2., 0.]), tensor([7., -inf]))

    Reference: J.-B. Mouret, J. Clune, "Illuminating search spaces by mapping elites", 2015, arXiv:1504.04909.
    """
    n, num_measures = _check.floating("insert: fitness", fitness, shape=("N",)).shape[0], _known("insert", archive).cells.shape[1]
    _check.floating("insert: descriptors", descriptors)
    if descriptors.shape != (n, num_measures):
        raise ValueError(f"insert: descriptors: expected [{n}, {num_measures}], got {list(descriptors.shape)}; one row for each candidate")
    fitness, descriptors = fitness.to(archive.fitness.dtype), descriptors.to(archive.cells.dtype)
    valid = fitness.isfinite() & descriptors.isfinite().all(-1)
    cell = nearest(torch.where(valid[:, None], descriptors, 0.0), archive.cells)
    here = tree.one_hot(cell, archive.cells.shape[0]) & valid[:, None]
    offered = torch.where(here, fitness[:, None], -torch.inf)
    best = offered.amax(0)
    number = torch.arange(n, device=cell.device)[:, None]
    winner = torch.where(here & (offered == best), number, n - 1).amin(0)
    better = best > archive.fitness
    new = (tree.index(candidates, winner), best, descriptors[winner])
    params, fitness, descriptors = torch.func.vmap(tree.where)(better, new, (archive.params, archive.fitness, archive.descriptors))
    return Archive(params, fitness, descriptors, archive.cells)


def coverage(archive: Archive) -> torch.Tensor:
    """Return the share [] of the cells that hold a solution.

    Example:
        >>> import torch
        >>> coverage(empty({"x": torch.zeros(1)}, grid_cells([0.0], [1.0], [2])))
        tensor(0.)
    """
    return _known("coverage", archive).filled.to(archive.fitness.dtype).mean()


def qd_score(archive: Archive, least: float | torch.Tensor = 0.0) -> torch.Tensor:
    """Return the sum [] of the fitness of all solutions above ``least``, the lowest fitness that is possible.

    Example:
        >>> import torch
        >>> archive = empty({"x": torch.zeros(1)}, grid_cells([0.0], [1.0], [2]))
        >>> archive = insert(archive, {"x": torch.ones(1, 1)}, torch.tensor([5.0]), torch.tensor([[0.1]]))
        >>> qd_score(archive, least=1.0)
        tensor(4.)

    Reference: J. K. Pugh, L. B. Soros, K. O. Stanley, "Quality Diversity: A New Frontier for Evolutionary Computation", 2016,
        doi:10.3389/frobt.2016.00040 (no arXiv id).
    """
    return torch.where(_known("qd_score", archive).filled, archive.fitness - least, 0.0).sum()


def _known(what: str, archive: Any) -> Archive:
    return _check.instance(f"{what}: archive", archive, Archive, "state.archive of map_elites is one")


def elite(archive: Archive) -> Any:
    """Return the parameters of the solution of the largest fitness."""
    return tree.index(archive.params, archive.fitness.argmax())


def draw(key: torch.Tensor, archive: Archive, n: int) -> Any:
    """Return n solutions, leaves [n, ...], drawn uniformly from the filled cells; from all where none is filled."""
    order = torch.where(archive.filled, 0, 1).sort(stable=True).indices  # the filled cells come first
    count = archive.filled.sum()
    bound = torch.where(count > 0, count, order.shape[0])
    u = random.uniform(key, (n,), dtype=torch.float64)
    return tree.index(archive.params, order[(u * bound).to(torch.int64)])
