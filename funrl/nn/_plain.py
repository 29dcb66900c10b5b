"""Functions of parameters as plain torch modules, and weights from one layout to the other."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from funrl import _check, tree

# The buffers of torch's layers, which are no weights.
_BUFFERS = {"running_mean", "running_var", "num_batches_tracked"}


class _Plain(torch.nn.Module):
    """A torch module that computes a function of its own parameters."""

    def __init__(self, f: Callable[..., Any], params: Any):
        super().__init__()
        values, self._form = tree.flatten(params)
        self._f, self._places = f, [_place(self, path, x) for path, x in zip(tree.paths(params), values, strict=True)]

    def forward(self, *inputs: Any) -> Any:
        values = [getattr(self.get_submodule(parent), name) for parent, name in self._places]
        return self._f(tree.unflatten(self._form, values), *inputs)


def to_module(f: Callable[..., Any], params: Any) -> torch.nn.Module:
    r"""Make a plain torch module of a function and its parameters: the inverse of :func:`from_module`.

    .. math:: \mathrm{module}(x) = f(\theta, x)

    Its parameters are copies of the leaves of ``params`` and bear their names, such as ``policy.0.weight``, so that optimizers of torch,
    ``state_dict``, ``torch.export`` and ``torch.onnx`` take it as any other module. Leaves that are not floating point are buffers.

    Args:
        f: ``f(params, *inputs) -> output``, such as ``net.apply``.
        params: a tree of tensors.

    Returns:
        A ``torch.nn.Module`` with ``module(*inputs) = f(params, *inputs)``.

    Raises:
        TypeError: if ``f`` is not a function.
        ValueError: if a leaf of ``params`` is not a tensor.

    Example:
        >>> from funrl import nn, random
        >>> net = nn.mlp((8,), 2)
        >>> params = net.init(random.key(0), torch.zeros(3))
        >>> module = to_module(net.apply, params)
        >>> module(torch.zeros(5, 3)).shape, list(module.state_dict())
        (torch.Size([5, 2]), ['0.bias', '0.weight', '1.bias', '1.weight'])
    """
    _check.function("to_module: f", f)
    for path, x in zip(tree.paths(params), tree.leaves(params), strict=True):
        if not isinstance(x, torch.Tensor):
            _check.fail(ValueError, f"to_module: params: {path}", "a tensor", tree.describe_leaf(x), "wrap it in torch.tensor")
    return _Plain(f, params)


def to_state_dict(params: Any, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the ``state_dict`` of a module with the weights of a tree of parameters, for ``module.load_state_dict``.

    The layers of the tree, in the order of :func:`funrl.tree.leaves`, are those of the module in its own order. A layer is all that
    shares a place, such as ``weight`` and ``bias``; its names and shapes have to agree. The module is not changed.

    Args:
        params: the parameters of one network, a tree of tensors.
        module: a torch module with the same layers.

    Returns:
        Copies of the tensors, by the names of ``module.state_dict()``; running statistics are those of the module.

    Raises:
        ValueError: if the numbers of layers, their names or their shapes differ.

    Example:
        >>> from funrl import nn, random
        >>> net, module = nn.mlp((8,), 2), torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> params = net.init(random.key(0), torch.zeros(3))
        >>> _ = module.load_state_dict(to_state_dict(params, module))
        >>> torch.allclose(module(torch.ones(3)), net.apply(params, torch.ones(3)))
        True
    """
    _check.instance("to_state_dict: module", module, torch.nn.Module, expected="a torch.nn.Module")
    theirs = module.state_dict()
    ours = dict(zip(tree.paths(params), tree.leaves(params), strict=True))
    pairs = _pairs("to_state_dict", ours, theirs)
    return {**{name: x.detach().clone() for name, x in theirs.items()}, **{b: ours[a].detach().clone() for a, b in pairs}}


def from_state_dict(state_dict: Mapping[str, torch.Tensor], like: Any) -> Any:
    """Return parameters like ``like`` with the weights of a torch module: the inverse of :func:`to_state_dict`.

    Args:
        state_dict: ``module.state_dict()`` of a module with the layers of the network, in the order of :func:`to_state_dict`.
        like: parameters of the network, whose values do not matter.

    Returns:
        A tree with the structure and the dtypes of ``like``, without shared memory.

    Raises:
        ValueError: as for :func:`to_state_dict`.

    Example:
        >>> from funrl import nn, random
        >>> net, module = nn.mlp((8,), 2), torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> params = from_state_dict(module.state_dict(), net.init(random.key(0), torch.zeros(3)))
        >>> torch.allclose(module(torch.ones(3)), net.apply(params, torch.ones(3)))
        True
    """
    values, form = tree.flatten(like)
    ours = dict(zip(tree.paths(like), values, strict=True))
    pairs = dict(_pairs("from_state_dict", ours, state_dict))
    return tree.unflatten(form, [state_dict[pairs[path]].detach().to(x, copy=True) for path, x in ours.items()])


def _names(path: str) -> list[str]:
    """Return the steps of a path such as ``.network['policy'][0]['bias']``."""
    return re.findall(r"[^.\[\]'\"]+", path) if path[:1] in (".", "[") else ["value"]  # a tree that is a tensor


def _place(root: torch.nn.Module, path: str, x: torch.Tensor) -> tuple[str, str]:
    """Add a leaf to a module at its place; return the names of its parent and of itself."""
    part, parents = root, []
    *above, name = _names(path)
    for step in above:
        there = dict(part.named_children())
        step = step if step in there or not hasattr(part, step) else f"{step}_"
        if step not in there:
            part.add_module(step, torch.nn.Module())
        part, parents = part.get_submodule(step), [*parents, step]
    while hasattr(part, name):
        name += "_"
    if x.is_floating_point():
        part.register_parameter(name, torch.nn.Parameter(x.detach().clone()))
    else:
        part.register_buffer(name, x.detach().clone())
    return ".".join(parents), name


def _pairs(what: str, ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> list[tuple[str, str]]:
    """Return the path of each of our leaves with the name of theirs."""
    mine, other = _layers({path: _names(path) for path in ours}), _layers({name: name.split(".") for name in theirs})
    if len(mine) != len(other):
        _check.fail(ValueError, what, f"as many layers in both, {len(mine)} as in params", len(other), "give the parameters of one network")
    pairs = []
    for (place, leaves), (where, names) in zip(mine.items(), other.items(), strict=True):
        layer = ".".join(where) or "the module"
        if leaves.keys() != names.keys():
            _check.fail(
                ValueError, f"{what}: {layer}", f"the tensors {sorted(leaves)}", sorted(names), "compare the layers of both in order"
            )
        for name, path in leaves.items():
            ours_shape, theirs_shape = list(ours[path].shape), list(theirs[names[name]].shape)
            if ours_shape != theirs_shape:
                _check.fail(ValueError, f"{what}: {layer}.{name}", f"the shape {ours_shape} of {'.'.join(place)}", theirs_shape)
            pairs.append((path, names[name]))
    return pairs


def _layers(paths: Mapping[str, list[str]]) -> dict[tuple[str, ...], dict[str, str]]:
    """Return, for each place in order, the whole names of its tensors by their last step."""
    layers: dict[tuple[str, ...], dict[str, str]] = {}
    for whole, (*above, name) in paths.items():
        if name not in _BUFFERS:
            layers.setdefault(tuple(above), {})["weight" if name == "scale" else name] = whole  # as torch calls the scale of a norm
    return layers
