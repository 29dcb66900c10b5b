"""Networks as pairs of pure functions: ``params = net.init(key, example)`` and ``y = net.apply(params, x)``."""

from funrl.nn.compose import Chain, Keyed, chain, ensemble, keyed, sequential
from funrl.nn.conv import conv, squash_dims
from funrl.nn.heads import dueling, noisy_linear
from funrl.nn.initializers import orthogonal, torch_default, variance_scaling
from funrl.nn.mlp import mlp
from funrl.nn.module import Module, from_module
from funrl.nn.net import Net
from funrl.nn.norm import BatchNorm, BatchNormState, batch_norm, dropout, layer_norm
from funrl.nn.recurrent import LSTMCarry, Recurrent, gru, linear_recurrence, lstm, min_gru
from funrl.tree import describe

__all__ = [
    "BatchNorm",
    "BatchNormState",
    "Chain",
    "Keyed",
    "LSTMCarry",
    "Module",
    "Net",
    "Recurrent",
    "batch_norm",
    "chain",
    "conv",
    "describe",
    "dropout",
    "dueling",
    "ensemble",
    "from_module",
    "gru",
    "keyed",
    "layer_norm",
    "linear_recurrence",
    "lstm",
    "min_gru",
    "mlp",
    "noisy_linear",
    "orthogonal",
    "sequential",
    "squash_dims",
    "torch_default",
    "variance_scaling",
]
