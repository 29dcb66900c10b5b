"""Networks as pairs of pure functions: ``params = net.init(key, example)`` and ``y = net.apply(params, x)``."""

from funrl.nn.conv import conv, squash_dims
from funrl.nn.heads import dueling, noisy_linear
from funrl.nn.initializers import orthogonal, torch_default, variance_scaling
from funrl.nn.mlp import mlp
from funrl.nn.net import Net
from funrl.nn.norm import BatchNorm, BatchNormState, batch_norm, dropout, layer_norm
from funrl.nn.recurrent import LSTMCarry, Recurrent, gru, linear_recurrence, lstm, min_gru

__all__ = [
    "BatchNorm",
    "BatchNormState",
    "LSTMCarry",
    "Net",
    "Recurrent",
    "batch_norm",
    "conv",
    "dropout",
    "dueling",
    "gru",
    "layer_norm",
    "linear_recurrence",
    "lstm",
    "min_gru",
    "mlp",
    "noisy_linear",
    "orthogonal",
    "squash_dims",
    "torch_default",
    "variance_scaling",
]
