r"""The linear recurrence of all returns, y_t = a_t + b_t y_{t+1}, from the last step to the first.

There are two algorithms, which agree up to rounding: step by step, and all steps at once. :func:`solve_recurrence` uses the faster one.
Microseconds of a whole GAE on one thread, the call included (0.2 ms of XLA's, 0.05 of inductor's):

==============  ===============  =============  ==================  ================
shape           xla, sequential  xla, parallel  inductor, seq.      inductor, par.
==============  ===============  =============  ==================  ================
[128, 4]        291              297            230                 54
[128, 64]       295              404            247                 148
[2048, 128]     594              2295           4141                1458
[64, 2048]      329              635            518                 702
==============  ===============  =============  ==================  ================
"""

import torch
from torch.nn.functional import pad

from funrl.compiler import scan, tracing

# Up to this number of elements doubling is faster, because it needs fewer kernels. Above it blocks are faster, because they read and
# write memory only three times.
_SMALL = 1 << 14
_BLOCK = 8


def solve_recurrence(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    r"""Solve a linear recurrence: step by step in a program of XLA, whose loops are cheap, otherwise all steps at once.

    .. math:: y_t = a_t + b_t y_{t+1}, \qquad y_T = 0

    Args:
        a: floating point [T, ...].
        b: floating point [T, ...]; b_{T-1} is not used.

    Returns:
        y [T, ...].

    Example:
        >>> import torch
        >>> solve_recurrence(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.5]))
        tensor([1.7500, 1.5000, 1.0000])
    """
    return sequential_recurrence(a, b) if tracing("xla") else parallel_recurrence(a, b)


def sequential_recurrence(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    r"""Solve a linear recurrence step by step with :func:`funrl.scan`. It needs no memory except its result, and no products of b.

    Arguments and result are those of :func:`solve_recurrence`.

    Example:
        >>> import torch
        >>> sequential_recurrence(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.5]))
        tensor([1.7500, 1.5000, 1.0000])
    """

    def step(later: torch.Tensor, x: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = x
        y = a + b * later
        return y, y

    return scan(step, torch.zeros_like(a[0]), (a, b), reverse=True)[1]


def parallel_recurrence(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    r"""Solve a linear recurrence in O(log T) operations on whole tensors, without a loop.

    .. math:: y_t = a_t + b_t y_{t+1}, \qquad y_T = 0

    Steps are affine maps, whose composition is associative: (a, b) after (a', b') is (a + b a', b b'). For small tensors the number of
    composed steps is doubled in each round. Large ones are divided into blocks of eight steps, and the same recurrence is solved over the
    blocks, so that the work does not grow with log T. The shape decides between the two at tracing.

    Args:
        a: floating point [T, ...].
        b: floating point [T, ...]; products of several of them have to be finite (for the returns of this package they are at most 1).

    Returns:
        y [T, ...].

    Example:
        >>> import torch
        >>> parallel_recurrence(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.5]))
        tensor([1.7500, 1.5000, 1.0000])

    Reference: W. D. Hillis, G. L. Steele, "Data Parallel Algorithms", 1986, doi:10.1145/7902.7903; G. E. Blelloch, "Prefix Sums and
        Their Applications", 1990 (the blocks); neither has an arXiv id.
    """
    steps = a.shape[0]
    if a.numel() <= _SMALL or steps == 1:
        span = 1
        while span < steps:
            a, b, span = *_double(a, b, span), 2 * span
        return a
    size = min(_BLOCK, steps)
    spare = -steps % size
    rows_a, rows_b = (_pad(x, spare).unflatten(0, (-1, size)).unbind(1) for x in (a, b))
    # Each block as one step.
    whole_a, whole_b = rows_a[-1], rows_b[-1]
    for i in reversed(range(size - 1)):
        whole_a, whole_b = rows_a[i] + rows_b[i] * whole_a, rows_b[i] * whole_b
    y = shift(parallel_recurrence(whole_a, whole_b), 1)
    ys = []
    for i in reversed(range(size)):
        y = rows_a[i] + rows_b[i] * y
        ys.append(y)
    return torch.stack(ys[::-1], 1).flatten(0, 1)[:steps]


def n_step_recurrence(a: torch.Tensor, b: torch.Tensor, last: torch.Tensor, n: int) -> torch.Tensor:
    r"""Follow a linear recurrence for n - 1 steps, in O(log n) operations on whole tensors.

    .. math:: y^{(n)}_t = a_t + b_t y^{(n-1)}_{t+1}, \qquad y^{(1)}_t = last_t, \qquad y^{(n)}_T = 0

    Args:
        a: floating point [T, ...].
        b: floating point [T, ...].
        last: floating point [T, ...], the final values of the recurrence.
        n: at least 1.

    Returns:
        y^(n) [T, ...].

    Example:
        >>> import torch
        >>> one = torch.ones(4)
        >>> n_step_recurrence(one, one, 10 * one, 3)
        tensor([12., 12.,  2.,  1.])
    """
    y, span, left = last, 1, min(n - 1, a.shape[0])
    while left:
        if left % 2:
            y = a + b * shift(y, span)
        left //= 2
        if left:
            a, b, span = *_double(a, b, span), 2 * span
    return y


def running_sum(x: torch.Tensor, begins: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    r"""Compute running sums within each episode, in O(log T) operations on whole tensors.

    .. math:: y_t = x_t + \begin{cases} 0 & \mathrm{begins}_t \\ y_{t-1} & \text{otherwise} \end{cases}, \qquad y_{-1} = start

    One episode has no effect on another, neither by rounding errors nor by a NaN. Learners and collectors both use this function, so
    that their sums of the same rows agree to the last bit.

    Args:
        x: floating point [T, ...], such as rewards.
        begins: bool [T, ...], True at the first step of an episode.
        start: floating point [...], the sum of the running episode before the first row.

    Returns:
        y [T, ...].

    Example:
        >>> import torch
        >>> running_sum(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, True, False]), torch.tensor(10.0))
        tensor([11.,  2.,  5.])

    Reference: the segmented scan of G. E. Blelloch, "Prefix Sums and Their Applications", 1990 (no arXiv id).
    """
    y = torch.cat([torch.where(begins[:1], x[:1], x[:1] + start), x[1:]])
    # True where the sum already starts at the first step of its episode, or at the first row.
    whole = torch.cat([torch.ones_like(begins[:1]), begins[1:]])
    span = 1
    while span < len(x):
        y = torch.cat([y[:span], torch.where(whole[span:], y[span:], y[span:] + y[:-span])])
        whole = torch.cat([whole[:span], whole[span:] | whole[:-span]])
        span *= 2
    return y


def _double(a: torch.Tensor, b: torch.Tensor, span: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compose the maps of ``span`` steps with those that follow them."""
    return torch.addcmul(a, b, shift(a, span)), b * shift(b, span)


def shift(x: torch.Tensor, steps: int) -> torch.Tensor:
    """Return x_{t+steps} at t, and 0 where that is beyond the end."""
    return _pad(x[steps:], steps)


def _pad(x: torch.Tensor, rows: int) -> torch.Tensor:
    return pad(x, (0, 0) * (x.ndim - 1) + (0, rows)) if rows else x
