"""Compositions of networks: sequences, networks over the entries of a dict, and ensembles."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from funrl import _check, random, tree
from funrl.nn._net import Net

Key = str | tuple[str, ...]


def sequential(*parts: Any) -> Net:
    """Make a network of several parts, each of which takes the output of the one before it.

    Args:
        *parts: nets, and elementwise or other functions of one tensor, which have no parameters. The first may take several inputs.

    Returns:
        A :class:`Net` whose parameters are a tuple of those of the parts, () for a function. It is noisy if a part is; each
        noisy part gets a separate key.

    Raises:
        TypeError: if a part is neither a net nor a function.
        ValueError: if there is no part.

    Example:
        >>> import torch
        >>> from funrl import nn, random
        >>> net = sequential(nn.conv((16, 32), (8, 4), (4, 2)), nn.mlp((64,), activation="relu"), nn.dueling((32,), 4))
        >>> params = net.init(random.key(0), torch.zeros(3, 84, 84))
        >>> net.apply(params, torch.zeros(5, 3, 84, 84)).shape
        torch.Size([5, 4])
    """
    nets = [_as_net("sequential", part) for part in parts]
    _check.some("sequential", nets, "part")

    def init(key: torch.Tensor, *inputs: Any) -> tuple[Any, ...]:
        params = []
        for net, (init_key, noise_key) in zip(nets, random.split(key, (len(nets), 2)), strict=True):
            params.append(net.init(init_key, *inputs))
            inputs = (_call(net, params[-1], inputs, noise_key),)
        return tuple(params)

    def apply(params: tuple[Any, ...], *inputs: Any, key: torch.Tensor | None = None) -> Any:
        _check.count("sequential: params", params, len(nets), "parts", "make them with this net's init")
        keys = [None] * len(nets) if key is None else random.split(key, len(nets)).unbind(0)
        for net, part, noise_key in zip(nets, params, keys, strict=True):
            inputs = (_call(net, part, inputs, noise_key),)
        return inputs[0]

    return Net(init, apply, any(net.noisy for net in nets))


class Keyed(NamedTuple):
    """A network over the entries of a dict.

    Attributes:
        init: ``init(key, entries) -> params``.
        apply: ``apply(params, entries) -> entries``: a new dict with the outputs of the network added; the given one is not changed.
        in_keys: the entries that it reads, in order.
        out_keys: the entries that it writes.
        noisy: whether ``apply(params, entries, key=key)`` uses its key.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    in_keys: tuple[Key, ...]
    out_keys: tuple[Key, ...]
    noisy: bool = False


def keyed(net: Any, in_keys: Sequence[Key] | str, out_keys: Sequence[Key] | str) -> Keyed:
    """Make a network over entries, which reads its inputs from the entries of a dict and adds its outputs to them.

    Args:
        net: a net, or a function without parameters.
        in_keys: one key for each input, in order. A tuple of strings is the path of a nested entry: ``("agent", "position")``.
        out_keys: one key for the output. If the output is a tuple or list, one key for each item; if it is a dict, the entries of it
            to write.

    Returns:
        A :class:`Keyed`.

    Raises:
        TypeError: if ``net`` is neither, or a key is not a string or tuple of strings.
        ValueError: if there is no key or one is repeated; from ``apply``, if an entry is missing, or the output has other parts.

    Example:
        >>> import torch
        >>> from funrl import nn, random
        >>> part = keyed(nn.mlp((), 4), ["key 1"], ["key 2"])
        >>> entries = {"key 1": torch.zeros(10, 3)}
        >>> params = part.init(random.key(0), entries)
        >>> tree.map(lambda x: x.shape, part.apply(params, entries))
        {'key 1': torch.Size([10, 3]), 'key 2': torch.Size([10, 4])}
    """
    net = _as_net("keyed", net)
    in_keys, out_keys = _keys("in_keys", in_keys), _keys("out_keys", out_keys)

    def init(key: torch.Tensor, entries: dict[str, Any]) -> Any:
        return net.init(key, *(_read(entries, k, "keyed.init") for k in in_keys))

    def apply(params: Any, entries: dict[str, Any], *, key: torch.Tensor | None = None) -> dict[str, Any]:
        output = _call(net, params, [_read(entries, k, "keyed.apply") for k in in_keys], key)
        for k, x in zip(out_keys, _outputs(output, out_keys), strict=True):
            entries = _write(entries, _path(k), x)
        return entries

    return Keyed(init, apply, in_keys, out_keys, net.noisy)


@dataclasses.dataclass(frozen=True)
class Chain:
    """A sequence of keyed networks, see :func:`chain`.

    Its parameters are a tuple of those of the parts, so that ``params[i]`` belong to ``chain[i]``, and ``params[a:b]`` to ``chain[a:b]``.

    Attributes:
        parts: the parts, :class:`Keyed` or chains.
    """

    parts: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, i: int | slice) -> Any:
        return chain(*self.parts[i]) if isinstance(i, slice) else self.parts[i]

    @property
    def in_keys(self) -> tuple[Key, ...]:
        """The entries that the caller has to give: those that a part reads and no earlier part writes."""
        needed: list[Key] = []
        written: list[Key] = []
        for part in self.parts:
            needed += [k for k in part.in_keys if k not in needed and not _among(k, written)]
            written += part.out_keys
        return tuple(needed)

    @property
    def out_keys(self) -> tuple[Key, ...]:
        """The entries that the parts write, each key once, in order."""
        return tuple(dict.fromkeys(k for part in self.parts for k in part.out_keys))

    @property
    def noisy(self) -> bool:
        """True if a part uses a key."""
        return any(part.noisy for part in self.parts)

    def init(self, key: torch.Tensor, entries: dict[str, Any]) -> tuple[Any, ...]:
        """Return the parameters of all parts; ``entries`` is an example with all ``in_keys``."""
        self._check(entries, "chain.init")
        return sequential(*self.parts).init(key, entries)

    def apply(self, params: tuple[Any, ...], entries: dict[str, Any], *, key: torch.Tensor | None = None) -> dict[str, Any]:
        """Return a new dict of ``entries`` and the outputs of the parts. A noisy part i gets key i of ``random.split(key, len(chain))``."""
        self._check(entries, "chain.apply")
        _check.count("chain.apply: params", params, len(self), "parts", "make them with this chain's init")
        return sequential(*self.parts).apply(params, entries, key=key)

    def _check(self, entries: Any, what: str) -> None:
        for k in self.in_keys:
            place = next(i for i, part in enumerate(self.parts) if k in part.in_keys)
            _read(entries, k, f"{what}: part {place} reads {k!r}, which no part before it writes and the caller did not give")


def chain(*parts: Any) -> Chain:
    """Join networks over entries, each of which can read the outputs of those before it.

    ``chain(a, b)[0]`` is a, and a slice is a chain again; the same index or slice of the parameters belongs to them.

    Args:
        *parts: results of :func:`keyed` or :func:`chain`, at least one.

    Returns:
        A :class:`Chain`, with ``in_keys`` and ``out_keys`` inferred from those of the parts.

    Raises:
        TypeError: if a part is not a network over entries.
        ValueError: if there is no part; from ``init`` and ``apply``, if an entry is missing that no part writes before it is read.

    Example:
        >>> import torch
        >>> from funrl import nn, random
        >>> actor = keyed(nn.mlp((8,), 2), "observation", "action")
        >>> critic = keyed(nn.mlp((8,), 1), ["observation", "action"], "value")
        >>> both = chain(actor, critic)
        >>> both.in_keys, both.out_keys
        (('observation',), ('action', 'value'))
        >>> params = both.init(random.key(0), {"observation": torch.zeros(3)})
        >>> both[1].apply(params[1], both[:1].apply(params[:1], {"observation": torch.zeros(5, 3)}))["value"].shape
        torch.Size([5, 1])
    """
    _check.some("chain", parts, "part")
    for i, part in enumerate(parts):
        _check.has(f"chain: part {i}", part, ("in_keys", "out_keys"), "a net that nn.keyed or nn.chain returned", "wrap it in nn.keyed")
    return Chain(tuple(parts))


def ensemble(net: Any, n: int, *, inputs: str = "shared") -> Net:
    """Make an ensemble of n copies of a network with stacked parameters, which run as one.

    Args:
        net: a net, or a result of :func:`keyed` or :func:`chain`.
        n: the number of members, at least 1.
        inputs: "shared": all members take the same inputs; "each": inputs and examples have a first dimension of size n, one for each
            member.

    Returns:
        A :class:`Net` whose parameters have leaves [n, ...], initialised with a separate key for each member, and whose outputs have
        leaves [n, ...]. If it is noisy, each member gets a separate key.

    Raises:
        TypeError: if ``net`` is not a net.
        ValueError: if ``n`` is below 1, ``inputs`` is unknown, or parameters or inputs have another first dimension.

    Example:
        >>> import torch
        >>> from funrl import nn, random
        >>> critics = ensemble(nn.mlp((8,), 1), 5)
        >>> params = critics.init(random.key(0), torch.zeros(3))
        >>> critics.apply(params, torch.zeros(7, 3)).shape
        torch.Size([5, 7, 1])
    """
    net = _as_net("ensemble", net)
    _check.integer("ensemble: n", n, 1)
    _check.one_of("ensemble: inputs", inputs, ("shared", "each"))
    dim = None if inputs == "shared" else 0

    def init(key: torch.Tensor, *examples: Any) -> Any:
        if dim == 0:
            _check_members("ensemble.init: example", examples, n)
        return torch.func.vmap(net.init, (0, *(dim for _ in examples)))(random.split(key, n), *examples)

    def apply(params: Any, *xs: Any, key: torch.Tensor | None = None) -> Any:
        _check_members("ensemble.apply: params", params, n)
        if dim == 0:
            _check_members("ensemble.apply: x", xs, n)
        keys, each = (None, None) if key is None else (random.split(key, n), 0)
        return torch.func.vmap(lambda key, params, *xs: _call(net, params, xs, key), (each, 0, *(dim for _ in xs)))(keys, params, *xs)

    return Net(init, apply, net.noisy)


def _check_members(what: str, value: Any, n: int) -> None:
    for path, x in zip(tree.paths(value), tree.leaves(value), strict=True):
        if x.ndim == 0 or x.shape[0] != n:
            raise ValueError(f"{what}: expected leaves [{n}, ...], one for each member, got {list(x.shape)} at {path}")


def _as_net(what: str, net: Any) -> Any:
    """Return ``net``; a function is converted to a net without parameters."""
    if hasattr(net, "init") and hasattr(net, "apply") and hasattr(net, "noisy"):
        return net
    if isinstance(net, torch.nn.Module) and any(True for _ in (*net.parameters(), *net.buffers())):
        got = f"{_check.describe(net)} whose parameters would not be learned"
        _check.fail(TypeError, what, "a net or a function", got, "nn.from_module makes a net of it")
    _check.function(what, net, "nn.from_module makes a net of a torch module", "a net or a function")
    return Net(lambda key, *examples: (), lambda params, *inputs, key=None: net(*inputs))


def _call(net: Any, params: Any, inputs: Sequence[Any], key: torch.Tensor | None) -> Any:
    return net.apply(params, *inputs, key=key) if net.noisy else net.apply(params, *inputs)


def _keys(name: str, keys: Any) -> tuple[Key, ...]:
    found = (keys,) if isinstance(keys, str) else tuple(keys) if isinstance(keys, list | tuple) else (keys,)
    for k in found:
        if not isinstance(k, str) and not (isinstance(k, tuple) and k and all(isinstance(part, str) for part in k)):
            raise TypeError(f"keyed: {name}: expected strings, or tuples of strings for nested entries, got {k!r}")
    if not found or len(set(found)) < len(found):
        raise ValueError(f"keyed: {name}: expected at least one key and each once, got {keys!r}")
    return found


def _path(k: Key) -> tuple[str, ...]:
    return k if isinstance(k, tuple) else (k,)


def _among(k: Key, written: list[Key]) -> bool:
    """Return whether ``k``, or an entry that contains it, was written."""
    path = _path(k)
    return any(_path(w) == path[: len(_path(w))] for w in written)


def _read(entries: Any, k: Key, what: str) -> Any:
    _check.instance(what, entries, dict, f"give {{{k!r}: ...}}", expected="a dict of entries")
    try:
        return tree.get(entries, k)
    except ValueError:
        raise ValueError(f"{what}: expected an entry {k!r}, got {sorted(entries)}; give it, or name another in in_keys") from None


def _write(entries: dict[str, Any], path: tuple[str, ...], x: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**entries, path[0]: x}
    below = entries.get(path[0], {})
    _check.instance("keyed.apply: out_keys", below, dict, expected=f"a dict at {path[0]!r} to write {path[1:]!r} in")
    return {**entries, path[0]: _write(below, path[1:], x)}


def _outputs(output: Any, out_keys: tuple[Key, ...]) -> list[Any]:
    """Return one output for each key."""
    if isinstance(output, dict):
        names = [_path(k)[-1] for k in out_keys]
        missing = [name for name in names if name not in output]
        if missing:
            raise ValueError(f"keyed.apply: out_keys: expected entries of the output, which has {sorted(output)}, got {missing[0]!r}")
        return [output[name] for name in names]
    if isinstance(output, list | tuple) and not hasattr(output, "_fields"):
        _check.count("keyed.apply: out_keys", out_keys, len(output), "keys, one for each output")
        return list(output)
    _check.count("keyed.apply: out_keys", out_keys, 1, f"key for the one output, {_check.describe(output)}")
    return [output]
