"""Rules of matrix products, softmax, normalisation and convolution."""

from typing import Any

import torch

from funrl.compiler._meta._table import check, enter, enter_general, new, probed

aten = torch.ops.aten


def _product(operator: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    dtype = probed(operator, (a, b), {}).dtype
    if a.shape[-1] != b.shape[max(b.ndim - 2, 0)] or a.shape[:-2] != b.shape[:-2]:
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied: {list(a.shape)} and {list(b.shape)}")
    return new((*a.shape[:-1], *b.shape[max(b.ndim - 1, 1) :]), dtype)


def _addmm(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    return _product(aten.mm.default, a, b)


enter_general(_product, "mm", "bmm", "mv", "dot")
enter(_addmm, "addmm")


def _layer_norm(x: torch.Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> tuple[torch.Tensor, ...]:
    check(
        len(shape) > 0 and list(x.shape[x.ndim - len(shape) :]) == list(shape), f"normalized_shape is {list(shape)}, input {list(x.shape)}"
    )
    check(all(w is None or list(w.shape) == list(shape) for w in (weight, bias)), f"weight and bias have to be of shape {list(shape)}")
    rows = [*x.shape[: x.ndim - len(shape)], *(1 for _ in shape)]
    return new(x.shape, x.dtype), new(rows, x.dtype), new(rows, x.dtype)


enter(_layer_norm, "native_layer_norm")


def _layer_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, shape: Any, mean: Any, rstd: Any, weight: Any, bias: Any, wanted: Any
) -> tuple[torch.Tensor | None, ...]:
    ends = (
        new(x.shape, x.dtype),
        None if weight is None else new(weight.shape, weight.dtype),
        None if bias is None else new(bias.shape, bias.dtype),
    )
    return tuple([end if is_wanted else None for end, is_wanted in zip(ends, wanted, strict=True)])


enter(_layer_norm_backward, "native_layer_norm_backward")


def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> torch.Tensor:
    sizes = []
    n = weight.ndim - 2
    stride, padding, dilation, output_padding = (
        list(v) * n if len(v) == 1 else list(v) for v in (stride, padding, dilation, output_padding)
    )
    for i in range(n):
        reach = dilation[i] * (weight.shape[2 + i] - 1)
        if transposed:
            sizes.append((x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach + output_padding[i] + 1)
        else:
            sizes.append((x.shape[2 + i] + 2 * padding[i] - reach - 1) // stride[i] + 1)
    channels = x.shape[1] if x.ndim > 1 else 0
    if (
        x.ndim != n + 2
        or channels != (weight.shape[0] if transposed else weight.shape[1] * groups)
        or min(sizes) < 1
        or x.dtype != weight.dtype
    ):
        raise RuntimeError(
            f"convolution: an input {x.dtype} {list(x.shape)} and a weight {weight.dtype} {list(weight.shape)} of {groups} groups do not "
            "fit together"
        )
    return new((x.shape[0], weight.shape[1] * groups if transposed else weight.shape[0], *sizes), x.dtype)


def _convolution_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias_sizes: Any, *args: Any, output_mask: Any = None
) -> tuple[torch.Tensor | None, ...]:
    wanted = args[-1] if output_mask is None else output_mask
    shapes = (x.shape, weight.shape, bias_sizes if bias_sizes else (grad.shape[1],))
    return tuple([new(shape, grad.dtype) if is_wanted else None for shape, is_wanted in zip(shapes, wanted, strict=True)])


enter(_convolution, "convolution")
enter(_convolution_backward, "convolution_backward")
