"""Recurrent cells: single steps for acting, and whole sequences for learning.

A *carry* is the state of a cell from step to step. ``reset`` is True where an episode starts: there the carry is replaced by the
initial one before the step, so that no information of the last episode remains.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from funrl import _check, random, tree
from funrl.compiler import scan
from funrl.nn._initializers import Initializer, orthogonal
from funrl.nn._net import check_features, check_input


class Recurrent(NamedTuple):
    """A recurrent cell as pure functions.

    Attributes:
        init: ``init(key, example [..., D]) -> params``.
        start: ``start(example [..., D]) -> carry``, the carry before an episode, with the example's leading dimensions.
        apply: ``apply(params, carry, x [..., D], reset [...]) -> (carry, y [..., H])``: one step. ``reset`` is bool, or None for nowhere.
        unroll: ``unroll(params, carry, xs [T, ..., D], reset [T, ...]) -> (carry, ys [T, ..., H])``: T steps, time first.
    """

    init: Callable[..., Any]
    start: Callable[..., Any]
    apply: Callable[..., Any]
    unroll: Callable[..., Any]


@tree.dataclass
class LSTMCarry:
    """The carry of :func:`lstm`.

    Attributes:
        hidden: floating point [..., H], the last output.
        cell: floating point [..., H], the cell state.
    """

    hidden: torch.Tensor
    cell: torch.Tensor


def gru(size: int, *, init: Initializer | None = None) -> Recurrent:
    r"""Make a gated recurrent unit, with the equations and the layout of torch.nn.GRU.

    .. math::
        r = \sigma(W_r x + b_r + U_r h + c_r), \quad z = \sigma(W_z x + b_z + U_z h + c_z), \quad
        n = \tanh(W_n x + b_n + r \odot (U_n h + c_n)), \quad h' = (1 - z) \odot n + z \odot h

    Args:
        size: H, at least 1.
        init: initialiser of each gate's matrices, ``init(key, shape, dtype, device)``; :func:`orthogonal` unless given.

    Returns:
        A :class:`Recurrent` with carry [..., H]; its parameters are a dict of ``weight_input`` [3H, D], ``weight_hidden`` [3H, H],
        ``bias_input`` [3H] and ``bias_hidden`` [3H] (zeros), for r, z and n one after another. Its output is the new carry.

    Raises:
        ValueError: if ``size`` is below 1; when called: if a shape does not fit.
        TypeError: when called: if an input is not floating point or not of the parameters' dtype, or ``reset`` is not bool.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> cell = gru(8)
        >>> xs, reset = torch.zeros(5, 2, 3), torch.zeros(5, 2, dtype=torch.bool)
        >>> params = cell.init(random.key(0), xs)
        >>> carry, ys = cell.unroll(params, cell.start(xs[0]), xs, reset)
        >>> ys.shape, bool((ys[-1] == carry).all())
        (torch.Size([5, 2, 8]), True)

    Reference: K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
        2014, arXiv:1406.1078; the reset gate is applied after the product, as in cuDNN.
    """
    _check.integer("gru: size", size, 1)

    def step(params: dict[str, torch.Tensor], h: torch.Tensor, gates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r, z, n = gates.chunk(3, -1)
        hidden_r, hidden_z, hidden_n = functional.linear(h, params["weight_hidden"], params["bias_hidden"]).chunk(3, -1)
        r, z = torch.sigmoid(r + hidden_r), torch.sigmoid(z + hidden_z)
        n = torch.tanh(n + r * hidden_n)
        h = n + z * (h - n)
        return h, h

    return _cell("gru", size, 3, init, lambda hidden: hidden, step)


def lstm(size: int, *, init: Initializer | None = None) -> Recurrent:
    r"""Make a long short-term memory, with the equations and the layout of torch.nn.LSTM.

    .. math::
        i = \sigma(W_i x + b_i + U_i h + c_i), \quad f = \sigma(\ldots), \quad g = \tanh(\ldots), \quad o = \sigma(\ldots), \quad
        c' = f \odot c + i \odot g, \quad h' = o \odot \tanh(c')

    Args:
        size: H, at least 1.
        init: initialiser of each gate's matrices, ``init(key, shape, dtype, device)``; :func:`orthogonal` unless given.

    Returns:
        A :class:`Recurrent` with an :class:`LSTMCarry`; its parameters are a dict as that of :func:`gru`, [4H, ...], for i, f, g and
        o one after another. Biases are initially 0, except those of f in ``bias_input``, which are 1, so that the cell state decays
        slowly at first.

    Raises:
        ValueError: if ``size`` is below 1; when called: if a shape does not fit.
        TypeError: when called: if an input is not floating point or not of the parameters' dtype, or ``reset`` is not bool.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> cell = lstm(8)
        >>> x = torch.zeros(3)
        >>> params = cell.init(random.key(0), x)
        >>> carry, y = cell.apply(params, cell.start(x), x)
        >>> y.shape, carry.cell.shape
        (torch.Size([8]), torch.Size([8]))

    Reference: S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 1997; F. A. Gers, J. Schmidhuber, F. Cummins,
        "Learning to Forget: Continual Prediction with LSTM", 2000, for f; R. Jozefowicz, W. Zaremba, I. Sutskever, "An Empirical
        Exploration of Recurrent Network Architectures", ICML 2015, for its bias.
    """
    _check.integer("lstm: size", size, 1)

    def step(params: dict[str, torch.Tensor], carry: LSTMCarry, gates: torch.Tensor) -> tuple[LSTMCarry, torch.Tensor]:
        gates = gates + functional.linear(carry.hidden, params["weight_hidden"], params["bias_hidden"])
        i, f, g, o = gates.chunk(4, -1)
        cell = torch.sigmoid(f) * carry.cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        return LSTMCarry(hidden, cell), hidden

    cell = _cell("lstm", size, 4, init, lambda hidden: LSTMCarry(hidden, torch.zeros_like(hidden)), step)

    def init_params(key: torch.Tensor, example: torch.Tensor) -> dict[str, torch.Tensor]:
        params = cell.init(key, example)
        place = torch.arange(4 * size, device=example.device)
        forget = ((place >= size) & (place < 2 * size)).to(example.dtype)
        return {**params, "bias_input": params["bias_input"] + forget}

    return cell._replace(init=init_params)


def min_gru(size: int, *, init: Initializer | None = None) -> Recurrent:
    r"""Make a minimal gated recurrent unit, whose gates do not depend on the carry, so that a sequence needs no loop.

    .. math:: z = \sigma(W_z x + b_z), \qquad n = W_n x + b_n, \qquad h' = (1 - z) \odot h + z \odot n

    :func:`linear_recurrence` takes T steps in log2(T) rounds.

    Args:
        size: H, at least 1.
        init: initialiser of each gate's matrix, ``init(key, shape, dtype, device)``; :func:`orthogonal` unless given.

    Returns:
        A :class:`Recurrent` with carry [..., H]; its parameters are a dict of ``weight`` [2H, D] and ``bias`` [2H] (zeros), for z and n
        one after the other. Its output is the new carry.

    Raises:
        ValueError: if ``size`` is below 1; when called: if a shape does not fit.
        TypeError: when called: if an input is not floating point or not of the parameters' dtype, or ``reset`` is not bool.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> cell = min_gru(8)
        >>> xs = torch.ones(5, 3)
        >>> params = cell.init(random.key(0), xs)
        >>> carry, ys = cell.unroll(params, cell.start(xs[0]), xs)
        >>> ys.shape
        torch.Size([5, 8])

    Reference: L. Feng et al., "Were RNNs All We Needed?", 2024, arXiv:2410.01201, section 3.1.
    """
    _check.integer("min_gru: size", size, 1)
    make = orthogonal() if init is None else init

    def init_params(key: torch.Tensor, example: torch.Tensor) -> dict[str, torch.Tensor]:
        check_input("min_gru.init: example", example)
        weight = _stacked(make, key, 2, size, example.shape[-1], example)
        return {"weight": weight, "bias": torch.zeros(2 * size, dtype=example.dtype, device=example.device)}

    def terms(params: dict[str, torch.Tensor], x: torch.Tensor, reset: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        z, n = functional.linear(x, params["weight"], params["bias"]).chunk(2, -1)
        z = torch.sigmoid(z)
        decay = 1 - z if reset is None else torch.where(reset.unsqueeze(-1), 0.0, 1 - z)
        return decay, z * n

    def apply(params: dict, carry: torch.Tensor, x: torch.Tensor, reset: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        _check_step("min_gru.apply", params["weight"], carry, x, reset, size)
        decay, new = terms(params, x, reset)
        carry = decay * carry + new
        return carry, carry

    def unroll(params: dict, carry: torch.Tensor, xs: torch.Tensor, reset: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        _check_step("min_gru.unroll", params["weight"], carry, xs, reset, size, steps=True)
        ys = linear_recurrence(*terms(params, xs, reset), carry)
        return ys[-1], ys

    return Recurrent(init_params, lambda example: _start("min_gru.start: example", example, size), apply, unroll)


def linear_recurrence(decay: torch.Tensor, x: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    r"""Compute all steps of a linear recurrence by an associative scan.

    .. math:: h_t = a_t \odot h_{t-1} + x_t

    Each of log2(T) rounds combines every segment of steps with the one before it:
    :math:`(a, x) \circ (a', x') = (a a', a' x + x')`.

    Args:
        decay: a, floating point [T, ...].
        x: floating point [T, ...].
        start: h before the first step, floating point [...].

    Returns:
        h, [T, ...].

    Raises:
        ValueError: if shapes differ, or T is 0.

    Example:
        >>> import torch
        >>> linear_recurrence(torch.full((4,), 0.5), torch.ones(4), torch.tensor(8.0))
        tensor([5.0000, 3.5000, 2.7500, 2.3750])

    Reference: W. D. Hillis, G. L. Steele, "Data parallel algorithms", 1986; G. E. Blelloch, "Prefix Sums and Their Applications", 1990.
    """
    if decay.shape != x.shape or x.shape[1:] != start.shape or x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(
            f"linear_recurrence: expected decay and x of one shape [T, ...] with T at least 1, and start [...], got {list(decay.shape)}, "
            f"{list(x.shape)} and {list(start.shape)}"
        )
    x = torch.cat([x[:1] + decay[:1] * start, x[1:]])
    reach = 1
    while reach < x.shape[0]:
        x = torch.cat([x[:reach], x[reach:] + decay[reach:] * x[:-reach]])
        decay = torch.cat([decay[:reach], decay[reach:] * decay[:-reach]])
        reach *= 2
    return x


def _cell(name: str, size: int, num_gates: int, init: Initializer | None, start: Callable, step: Callable) -> Recurrent:
    """Make a cell whose gates are sums of a product with the input, computed for a whole sequence at once, and one with the carry.

    ``start`` makes a carry of zeros [..., H], and ``step(params, carry, gates) -> (carry, y)`` is one step.
    """
    make = orthogonal() if init is None else init

    def init_params(key: torch.Tensor, example: torch.Tensor) -> dict[str, torch.Tensor]:
        check_input(f"{name}.init: example", example)
        input_key, hidden_key = random.split(key).unbind(0)
        zeros = torch.zeros(num_gates * size, dtype=example.dtype, device=example.device)
        return {
            "weight_input": _stacked(make, input_key, num_gates, size, example.shape[-1], example),
            "weight_hidden": _stacked(make, hidden_key, num_gates, size, size, example),
            "bias_input": zeros,
            "bias_hidden": zeros.clone(),
        }

    def restart(carry: Any, reset: torch.Tensor | None) -> Any:
        return carry if reset is None else tree.where(reset, tree.map(torch.zeros_like, carry), carry)

    def gates(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, params["weight_input"], params["bias_input"])

    def apply(params: dict, carry: Any, x: torch.Tensor, reset: torch.Tensor | None = None) -> tuple[Any, torch.Tensor]:
        _check_step(f"{name}.apply", params["weight_input"], carry, x, reset, size)
        return step(params, restart(carry, reset), gates(params, x))

    def unroll(params: dict, carry: Any, xs: torch.Tensor, reset: torch.Tensor | None = None) -> tuple[Any, torch.Tensor]:
        _check_step(f"{name}.unroll", params["weight_input"], carry, xs, reset, size, steps=True)
        return scan(lambda carry, x: step(params, restart(carry, x[1]), x[0]), carry, (gates(params, xs), reset))

    return Recurrent(init_params, lambda example: start(_start(f"{name}.start: example", example, size)), apply, unroll)


def _stacked(make: Initializer, key: torch.Tensor, number: int, rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """Return the stacked matrices of ``number`` gates, each drawn separately."""
    return torch.cat([make(k, (rows, columns), like.dtype, like.device) for k in random.split(key, number).unbind(0)])


def _start(what: str, example: torch.Tensor, size: int) -> torch.Tensor:
    check_input(what, example)
    return torch.zeros(*example.shape[:-1], size, dtype=example.dtype, device=example.device)


def _check_step(what: str, weight: torch.Tensor, carry: Any, x: Any, reset: Any, size: int, *, steps: bool = False) -> None:
    """Raise unless the shapes of x [..., D], carry [..., H] and reset [...] agree; with ``steps`` x and reset have a dimension T first."""
    check_features(f"{what}: {'xs' if steps else 'x'}", x, weight)
    if steps and x.ndim < 2:
        raise ValueError(f"{what}: xs: expected the shape [T, ..., D], got {list(x.shape)}; use apply for a single step")
    leading = x.shape[1:-1] if steps else x.shape[:-1]
    for path, h in zip(tree.paths(carry), tree.leaves(carry), strict=True):
        if h.shape != (*leading, size) or h.dtype != x.dtype:
            expected = f"{x.dtype} {[*leading, size]}"
            _check.fail(ValueError, f"{what}: carry", expected, f"{h.dtype} {list(h.shape)} at {path}", "make it with start")
    if reset is None:
        return
    _check.flag(f"{what}: reset", reset, "True where an episode begins")
    _check.sized(f"{what}: reset", reset, x.shape[:-1], of="x without its features")
