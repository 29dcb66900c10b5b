"""A layer of torch.nn.LSTM in one direction, as torch calls it on a CPU in float32; it has other operators for all else."""

from typing import Any

import jax
import torch
from jax import lax

from funrl.compiler._lowerings._operands import expanded
from funrl.compiler._lowerings._table import constant, lowers

aten = torch.ops.aten


def _product(x: Any, weight: Any) -> Any:
    return lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)


def _layer(x: Any, weights: tuple[Any, ...], h: Any, c: Any, reverse: bool) -> tuple[Any, Any, Any]:
    """Return the outputs [T, B, H] of a layer for inputs [T, B, F], and its last state."""
    of_input, of_state, *biases = weights
    gates = _product(x, of_input)
    for bias in biases:
        gates = lax.add(gates, expanded(bias, gates.shape))

    def step(carry: tuple[Any, Any], gate: Any) -> tuple[Any, Any]:
        h, c = carry
        i, f, g, o = lax.split(lax.add(gate, _product(h, of_state)), (h.shape[-1],) * 4, axis=1)
        c = lax.add(lax.mul(lax.logistic(f), c), lax.mul(lax.logistic(i), lax.tanh(g)))
        h = lax.mul(lax.logistic(o), lax.tanh(c))
        return (h, c), h

    (last, cell), outputs = lax.scan(step, (h, c), gates, reverse=reverse)
    return outputs, last, cell


@lowers(aten.mkldnn_rnn_layer.default)
def mkldnn_rnn_layer(
    out: Any, x: Any, w: Any, v: Any, b: Any, d: Any, h: Any, c: Any, reverse: bool, batch_sizes: Any, mode: int, size: int, layers: int,
    biased: bool, bidirectional: bool, batch_first: bool, train: bool,
) -> Any:  # fmt: skip
    weights = (w, v, b, d) if biased else (w, v)
    # The last result is torch's workspace, which the lowering of the gradient does not need.
    return (*_layer(x, weights, h, c, reverse), constant(0, out[3].dtype, tuple(out[3].shape)))


@lowers(aten.mkldnn_rnn_layer_backward.default)
def mkldnn_rnn_layer_backward(
    out: Any, x: Any, w: Any, v: Any, b: Any, d: Any, h: Any, c: Any, output: Any, last: Any, cell: Any, of_output: Any, of_last: Any,
    of_cell: Any, reverse: bool, mode: int, size: int, layers: int, biased: bool, train: bool,
    bidirectional: bool, batch_sizes: Any, batch_first: bool, workspace: Any,
) -> Any:  # fmt: skip
    weights = (w, v, b, d) if biased else (w, v)
    _, pull = jax.vjp(lambda x, weights, h, c: _layer(x, weights, h, c, reverse), x, weights, h, c)
    given = ((of_output, output), (of_last, last), (of_cell, cell))
    dx, dw, dh, dc = pull(tuple(lax.full_like(like, 0) if g is None else g for g, like in given))
    if not biased:
        dw = (*dw, lax.full_like(b, 0), lax.full_like(d, 0))
    return dx, *dw, dh, dc
