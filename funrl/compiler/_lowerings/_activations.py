"""Activation functions and their backward operators."""

import math

import torch
from jax import lax

from funrl.compiler._lowerings._operands import at_least, at_most, enter, like, operands, where
from funrl.compiler._lowerings._table import constant, lowers

aten = torch.ops.aten


def _times(x, factor):
    return x if factor == 1 else lax.mul(x, like(x, factor))


enter(
    {
        aten.relu.default: lambda x: at_least(x, 0),
        aten.silu.default: lambda x: lax.mul(x, lax.logistic(x)),
        aten.mish.default: lambda x: lax.mul(x, lax.tanh(lax.log1p(lax.exp(x)))),
        aten.sigmoid_backward.default: lambda grad, y: lax.mul(grad, lax.mul(lax.sub(like(y, 1), y), y)),
        aten.tanh_backward.default: lambda grad, y: lax.mul(grad, lax.sub(like(y, 1), lax.mul(y, y))),
    }
)


@lowers(aten.threshold_backward.default)
def _threshold_backward(out, grad, x, threshold):
    grad, x = operands(out, grad, x)
    return where(lax.le(x, like(x, threshold)), 0, grad)


@lowers(aten.softplus.default)
def _softplus(out, x, beta=1, threshold=20):
    (x,) = operands(out, x)
    scaled = _times(x, beta)
    soft = lax.log1p(lax.exp(scaled))
    soft = soft if beta == 1 else lax.div(soft, like(x, beta))
    return where(lax.gt(scaled, like(x, threshold)), x, soft)


@lowers(aten.softplus_backward.default)
def _softplus_backward(out, grad, x, beta, threshold):
    grad, x = operands(out, grad, x)
    scaled = _times(x, beta)
    return where(lax.gt(scaled, like(x, threshold)), grad, lax.mul(grad, lax.logistic(scaled)))


# The exponential linear units


@lowers(aten.elu.default)
def _elu(out, x, alpha=1, scale=1, input_scale=1):
    (x,) = operands(out, x)
    negative = _times(lax.expm1(_times(x, input_scale)), alpha * scale)
    return where(lax.le(x, like(x, 0)), negative, _times(x, scale))


@lowers(aten.elu_backward.default)
def _elu_backward(out, grad, alpha, scale, input_scale, is_result, x):
    grad, x = operands(out, grad, x)
    if is_result:
        slope = _times(lax.add(x, like(x, alpha * scale)), input_scale)
    else:
        slope = _times(lax.exp(_times(x, input_scale)), alpha * scale * input_scale)
    return where(lax.le(x, like(x, 0)), lax.mul(grad, slope), _times(grad, scale))


@lowers(aten.celu.default)
def _celu(out, x, alpha=1.0):
    return _elu(out, x, alpha, 1, 1 / alpha)


# Bent and clipped lines


@lowers(aten.leaky_relu.default)
def _leaky_relu(out, x, negative_slope=0.01):
    (x,) = operands(out, x)
    return where(lax.gt(x, like(x, 0)), x, _times(x, negative_slope))


@lowers(aten.leaky_relu_backward.default)
def _leaky_relu_backward(out, grad, x, negative_slope, self_is_result):
    grad, x = operands(out, grad, x)
    return where(lax.gt(x, like(x, 0)), grad, _times(grad, negative_slope))


@lowers(aten.hardtanh.default)
def _hardtanh(out, x, min_val=-1, max_val=1):
    (x,) = operands(out, x)
    return at_most(at_least(x, min_val), max_val)


@lowers(aten.hardtanh_backward.default)
def _hardtanh_backward(out, grad, x, min_val, max_val):
    grad, x = operands(out, grad, x)
    return where(lax.bitwise_or(lax.le(x, like(x, min_val)), lax.ge(x, like(x, max_val))), 0, grad)


@lowers(aten.hardshrink_backward.default, aten.softshrink_backward.default)
def _shrink_backward(out, grad, x, lambd):
    grad, x = operands(out, grad, x)
    return where(lax.le(lax.abs(x), like(x, lambd)), 0, grad)


@lowers(aten.softshrink.default)
def _softshrink(out, x, lambd=0.5):
    (x,) = operands(out, x)
    line = like(x, lambd)
    return where(lax.gt(x, line), lax.sub(x, line), where(lax.lt(x, lax.neg(line)), lax.add(x, line), where(lax.ne(x, x), x, 0)))


# Gated units


def _normal_cdf(x):
    return _times(lax.add(lax.erf(_times(x, 0.5**0.5)), like(x, 1)), 0.5)


def _gelu_tanh(x):
    """Return tanh(k * (x + 0.044715 * x ** 3)), with which GELU is approximated, and the slope of the bracket times k."""
    k = (2 / math.pi) ** 0.5
    squared = lax.mul(x, x)
    inner = _times(lax.mul(x, lax.add(_times(squared, 0.044715), like(x, 1))), k)
    return lax.tanh(inner), _times(lax.add(_times(squared, 3 * 0.044715), like(x, 1)), k)


@lowers(aten.gelu.default)
def _gelu(out, x, approximate="none"):
    (x,) = operands(out, x)
    if approximate == "none":
        return lax.mul(x, _normal_cdf(x))
    return lax.mul(_times(x, 0.5), lax.add(_gelu_tanh(x)[0], like(x, 1)))


@lowers(aten.gelu_backward.default)
def _gelu_backward(out, grad, x, approximate="none"):
    grad, x = operands(out, grad, x)
    if approximate == "none":
        density = _times(lax.exp(_times(lax.mul(x, x), -0.5)), (2 * math.pi) ** -0.5)
        return lax.mul(grad, lax.add(_normal_cdf(x), lax.mul(x, density)))
    y, slope = _gelu_tanh(x)
    one = like(x, 1)
    left = _times(lax.add(y, one), 0.5)
    right = lax.mul(_times(x, 0.5), lax.mul(lax.sub(one, lax.mul(y, y)), slope))
    return lax.mul(grad, lax.add(left, right))


@lowers(aten.log_sigmoid_forward.default)
def _log_sigmoid(out, x):
    """Return log(sigmoid(x)) and the buffer of torch's backward operator, which ours does not read."""
    (x,) = operands(out[0], x)
    z = lax.exp(lax.neg(lax.abs(x)))
    buffer = z if tuple(out[1].shape) == x.shape else constant(0, out[1].dtype, tuple(out[1].shape))
    return lax.sub(lax.min(x, like(x, 0)), lax.log1p(z)), buffer


@lowers(aten.log_sigmoid_backward.default)
def _log_sigmoid_backward(out, grad, x, buffer):
    grad, x = operands(out, grad, x)
    return lax.mul(grad, lax.logistic(lax.neg(x)))
