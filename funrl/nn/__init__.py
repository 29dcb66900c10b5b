"""Networks as pairs of pure functions: ``params = net.init(key, example)`` and ``y = net.apply(params, x)``."""

from funrl.nn.mlp import Net, mlp, orthogonal

__all__ = ["Net", "mlp", "orthogonal"]
