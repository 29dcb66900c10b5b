"""Modules of torch as pure functions."""

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from funrl import _check, random, tree
from funrl.compiler import transformed
from funrl.nn._initializers import Initializer
from funrl.nn._net import Net


class Module(NamedTuple):
    """A torch module as pure functions: a net, with its buffers as a state in training.

    Attributes:
        init: ``init(key, *examples) -> params``, a dict from names to tensors.
        start: ``start() -> state``, the buffers (running statistics and the like) as a dict from names to tensors.
        apply: ``apply(params, *inputs, state=None) -> output``, as the module in ``eval()``. Without a state it uses the buffers of the
            original module.
        train: ``train(params, state, *inputs, key=None) -> (state, output)``, as the module in ``train()``; dropout uses the key.
        noisy: False: ``apply`` takes no key.
    """

    init: Callable[..., Any]
    start: Callable[..., Any]
    apply: Callable[..., Any]
    train: Callable[..., Any]
    noisy: bool = False


OwnNet: TypeAlias = Net | Module | None
"""A network of the user's own; None: the default one."""


def from_module(module: torch.nn.Module, *, init: Initializer | None = None) -> Module:
    """Convert a torch module to a pair of pure functions, init and apply.

    The result shares no memory with the module: it has copies of its values, and of its structure, without values, for ``eval()`` and
    ``train()``. Outputs that are mappings (as in Hugging Face's models) become dicts.

    Random numbers come from the key in dropout layers of all kinds and in the attention dropout of
    ``torch.nn.MultiheadAttention``. ``train`` raises for other modules that use torch's global generator (RReLU, and dropout
    inside ``torch.nn.GRU`` and similar modules). Direct calls of ``torch.nn.functional.dropout`` cannot be detected, and still use it.

    Args:
        module: any module, with all parameters initialised (run lazy ones once).
        init: initialiser of its parameters with two or more dimensions; the others have the module's values. None: all have the
            module's values, so that ``init(key)`` does not depend on the key, and the members of an :func:`ensemble` start equal.

    Returns:
        A :class:`Module`. Further keyword arguments of ``apply`` and ``train`` go to the module.

    Raises:
        TypeError: if ``module`` is not a torch module.
        ValueError: if a parameter is not initialised; from ``train``, if dropout needs a key and none is given; from ``apply`` and
            ``train``, if parameters or state have other names than the module's.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
        >>> net = from_module(module)
        >>> params, state = net.init(random.key(0)), net.start()
        >>> list(params), net.apply(params, torch.zeros(7, 3)).shape
        (['0.weight', '0.bias', '1.weight', '1.bias'], torch.Size([7, 4]))
        >>> state, y = net.train(params, state, torch.zeros(7, 3), key=random.key(1))
        >>> state["1.num_batches_tracked"]
        tensor(1)
    """
    _check.instance("from_module: module", module, torch.nn.Module, expected="a torch.nn.Module")
    for name, x in (*module.named_parameters(), *module.named_buffers()):
        if torch.nn.parameter.is_lazy(x):
            raise ValueError(
                f"from_module: module: expected parameters with values, but {name} has none; run the module on an example first"
            )
    values = {name: x.detach().clone() for name, x in module.named_parameters()}
    buffers = {name: x.detach().clone() for name, x in module.named_buffers()}
    evaluated, trained = _evaluated(module), _trained(module)
    draws = tuple(name for name, part in trained.named_modules() if isinstance(part, _Dropout | _Attention))
    unkeyed = next(
        (f"{type(part).__name__} ({name or 'the module itself'})" for name, part in trained.named_modules() if _unkeyed(part)), None
    )

    def init_params(key: Any = None, *examples: Any) -> dict[str, torch.Tensor]:
        if init is None:
            return tree.map(torch.clone, values)
        keys = random.split(key, len(values)).unbind(0)
        return {
            name: init(k, tuple(x.shape), x.dtype, x.device) if x.ndim > 1 else x.clone()
            for k, (name, x) in zip(keys, values.items(), strict=True)
        }

    def start(*examples: Any) -> dict[str, torch.Tensor]:
        return tree.map(torch.clone, buffers)

    def apply(params: dict[str, torch.Tensor], *inputs: Any, state: dict[str, torch.Tensor] | None = None, **options: Any) -> Any:
        state = buffers if state is None else state
        _check_names("apply", params, values, state, buffers)
        return _run(evaluated, {**params, **state}, inputs, options)

    def train(
        params: dict[str, torch.Tensor], state: dict[str, torch.Tensor], *inputs: Any, key: Any = None, **options: Any
    ) -> tuple[dict[str, torch.Tensor], Any]:
        _check_names("train", params, values, state, buffers)
        if unkeyed is not None:
            raise ValueError(f"from_module.train: {unkeyed} draws from torch's global generator; use apply, or remove its noise")
        if draws and key is None:
            raise ValueError(
                f"from_module.train: key: expected a key for the dropout in {', '.join(draws)}, got None; use apply for evaluation"
            )
        state = tree.map(torch.clone, state)  # the module writes into it
        noise = {}
        if draws:
            for name, k in zip(draws, random.split(key, len(draws)).unbind(0), strict=True):
                noise |= {f"{name}.noise_key".lstrip("."): k, f"{name}.noise_count".lstrip("."): torch.zeros_like(k)}
        return state, _run(trained, {**params, **state, **noise}, inputs, options)

    return Module(init_params, start, apply, train)


def _check_names(what: str, params: Any, values: dict, state: Any, buffers: dict) -> None:
    for name, given, expected in (("params", params, values), ("state", state, buffers)):
        if not isinstance(given, dict) or given.keys() != expected.keys():
            got = sorted(given) if isinstance(given, dict) else f"a {type(given).__name__}"
            made = "init" if name == "params" else "start"
            raise ValueError(f"from_module.{what}: {name}: expected the entries {sorted(expected)}, got {got}; make them with {made}")


def _run(module: torch.nn.Module, values: dict[str, torch.Tensor], inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    # The fused attention has no rules for vmap and second derivatives.
    plain = transformed(values, [x for x in (*inputs, *options.values()) if isinstance(x, torch.Tensor)])
    with sdpa_kernel(SDPBackend.MATH) if plain else contextlib.nullcontext():
        return _plain(torch.func.functional_call(module, values, inputs, options))


def _plain(output: Any) -> Any:
    """Convert mappings of any kind to dicts."""
    if isinstance(output, Mapping):
        return {name: _plain(x) for name, x in output.items()}
    if type(output) in (tuple, list):
        return type(output)([_plain(x) for x in output])
    return output


def _hollow(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy whose parameters and buffers have shapes but no values."""
    empty: dict[int, Any] = {
        id(x): torch.nn.Parameter(torch.empty_like(x, device="meta"), requires_grad=False) for x in module.parameters()
    }
    empty |= {id(x): torch.empty_like(x, device="meta") for x in module.buffers()}
    return copy.deepcopy(module, empty)


def _evaluated(module: torch.nn.Module) -> torch.nn.Module:
    hollow = _hollow(module).eval()
    for part in hollow.modules():
        # Their fused operators for evaluation do not work under vmap. In training mode they are not used, and nothing else differs.
        if isinstance(part, torch.nn.TransformerEncoderLayer | torch.nn.MultiheadAttention):
            part.training = True
        if isinstance(part, torch.nn.MultiheadAttention):
            part.dropout = 0.0
    return hollow


# Dropout layers: how many last dimensions they drop together (None: all but two), and whether they keep mean and variance.
_DROPOUTS = {
    torch.nn.Dropout: (0, False),
    torch.nn.Dropout1d: (1, False),
    torch.nn.Dropout2d: (2, False),
    torch.nn.Dropout3d: (3, False),
    torch.nn.AlphaDropout: (0, True),
    torch.nn.FeatureAlphaDropout: (None, True),
}


def _trained(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy without values in which all dropout layers read a key, and count their draws from it, in buffers."""
    hollow = _hollow(module).train()
    for part in hollow.modules():
        layer: Any = part
        kind = next((kind for kind in _DROPOUTS if isinstance(part, kind)), None)
        if kind is not None and layer.p > 0:
            layer.__class__, layer.rate, (layer.joint, layer.alpha) = _Dropout, float(layer.p), _DROPOUTS[kind]
        elif isinstance(part, torch.nn.MultiheadAttention) and part.dropout > 0 and part.bias_k is None and not part.add_zero_attn:
            layer.__class__, layer.rate, layer.dropout = _Attention, part.dropout, 0.0
        else:
            continue
        for name in ("noise_key", "noise_count"):
            part.register_buffer(name, torch.zeros((), dtype=torch.int64, device="meta"), persistent=False)
    return hollow


def _unkeyed(part: torch.nn.Module) -> bool:
    """Return whether a module draws random numbers in training and cannot use a key."""
    if isinstance(part, torch.nn.MultiheadAttention):
        return part.dropout > 0 and not isinstance(part, _Attention)
    return isinstance(part, torch.nn.RReLU) or (isinstance(part, torch.nn.RNNBase) and part.dropout > 0)


def _next_key(part: Any) -> torch.Tensor:
    """Return a different key at each call of a forward pass."""
    key = random.fold_in(part.noise_key, part.noise_count)
    part.noise_count.add_(1)
    return key


class _Dropout(torch.nn.Module):
    """A dropout layer of torch that uses a key."""

    rate: float
    joint: int | None
    alpha: bool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joint = x.ndim - 2 if self.joint is None else self.joint
        shape = (*x.shape[: x.ndim - joint], *(1 for _ in range(joint)))
        if self.rate == 1:
            return torch.zeros_like(x)
        keep = random.bernoulli(_next_key(self), 1 - self.rate, shape)
        if not self.alpha:
            return torch.where(keep, x / (1 - self.rate), 0.0)
        low = -1.7580993408473766  # the limit of SELU at -infinity; mean and variance do not change
        scale = ((1 - self.rate) * (1 + self.rate * low * low)) ** -0.5
        return scale * (torch.where(keep, x, low) - self.rate * low)


class _Attention(torch.nn.MultiheadAttention):
    """torch's attention, with dropout of its weights that uses a key."""

    rate: float

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **options: Any) -> Any:
        names = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")
        options = {"need_weights": True, "average_attn_weights": True, **dict(zip(names, args, strict=False)), **options}
        needed = {name: options.pop(name) for name in ("need_weights", "average_attn_weights")}
        weights: Any
        _, weights = super().forward(query, key, value, need_weights=True, average_attn_weights=False, **options)
        keep = random.bernoulli(_next_key(self), 1 - self.rate, tuple(weights.shape))
        weights = torch.where(keep, weights / (1 - self.rate), 0.0)  # [B, heads, L, S], or without B
        weight = self.v_proj_weight if self.in_proj_weight is None else self.in_proj_weight[-self.embed_dim :]
        bias = None if self.in_proj_bias is None else self.in_proj_bias[-self.embed_dim :]
        values = functional.linear(value, weight, bias).unflatten(-1, (self.num_heads, self.head_dim))
        batched_second = value.ndim == 3 and not self.batch_first
        values = values.movedim(0, -2) if value.ndim == 2 or batched_second else values.transpose(-3, -2)  # [B, heads, S, head_dim]
        output = (weights @ values).transpose(-3, -2).flatten(-2)
        output = self.out_proj(output.movedim(0, 1) if batched_second else output)
        if not needed["need_weights"]:
            return output, None
        return output, weights.mean(-3) if needed["average_attn_weights"] else weights
