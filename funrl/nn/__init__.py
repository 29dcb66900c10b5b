"""Networks as pairs of pure functions: ``params = net.init(key, example)`` and ``y = net.apply(params, x)``."""

from funrl.nn._compose import Keyed, chain, ensemble, keyed, sequential
from funrl.nn._conv import conv, squash_dims
from funrl.nn._heads import dueling, dueling_of as dueling_of, noisy_linear, universal
from funrl.nn._initializers import orthogonal, torch_default, variance_scaling
from funrl.nn._mlp import activation_function as activation_function, mlp
from funrl.nn._module import Module, OwnNet as OwnNet, from_module
from funrl.nn._net import Net
from funrl.nn._norm import BatchNorm, batch_norm, dropout, layer_norm
from funrl.nn._plain import from_state_dict, to_module, to_state_dict
from funrl.nn._popart import PopArt, PopArtState as PopArtState, popart, select_task as select_task
from funrl.nn._recurrent import LSTMCarry as LSTMCarry, Recurrent, gru, linear_recurrence, lstm, min_gru
from funrl.tree import describe

__all__ = [
    "BatchNorm",
    "Keyed",
    "Module",
    "Net",
    "PopArt",
    "Recurrent",
    "batch_norm",
    "chain",
    "conv",
    "describe",
    "dropout",
    "dueling",
    "ensemble",
    "from_module",
    "from_state_dict",
    "gru",
    "keyed",
    "layer_norm",
    "linear_recurrence",
    "lstm",
    "min_gru",
    "mlp",
    "noisy_linear",
    "orthogonal",
    "popart",
    "sequential",
    "squash_dims",
    "to_module",
    "to_state_dict",
    "torch_default",
    "universal",
    "variance_scaling",
]
