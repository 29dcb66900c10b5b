"""Policies as torch modules, and files of them for other programs."""

import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from funrl import _check, tree
from funrl.nn import to_module as module_of
from funrl.policies._policy import StatefulPolicy

_SUFFIXES = (".onnx", ".pt2")


def to_module(act: Callable[..., Any] | StatefulPolicy, params: Any) -> torch.nn.Module:
    """Make a torch module of a policy without noise: it maps a batch of observations to their actions.

    Args:
        act: ``act(params, key, observation) -> (action, extras)`` that needs no key, such as ``algo.greedy``; or a
            :class:`StatefulPolicy`.
        params: its parameters, such as ``state.learner.params``.

    Returns:
        A module with ``module(observation [B, ...]) -> action [B, ...]``; its parameters are named as by :func:`funrl.nn.to_module`. Of a
        StatefulPolicy ``module(state [B, ...], observation [B, ...], reset [B]) -> (state, action)``.

    Raises:
        TypeError: if ``act`` is neither a function nor a StatefulPolicy; from the module, if the policy needs a key.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> module = to_module(algo.greedy, algo.init(funrl.random.key(0)).learner.params)
        >>> module(torch.zeros(5, 4)).shape
        torch.Size([5])
    """
    if isinstance(act, StatefulPolicy):
        return module_of(_batched(lambda params, *one: act.act(params, None, *one)[:2]), params)
    _check.function("policies.to_module: act", act, expected="a function act(params, key, observation) or a StatefulPolicy")
    return module_of(_batched(lambda params, one: act(params, None, one)[0]), params)


def _batched(choose: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function over batches of inputs; without a key a policy that draws random numbers fails."""

    def apply(params: Any, *inputs: Any) -> Any:
        try:
            return torch.func.vmap(lambda *one: choose(params, *one))(*inputs)
        except TypeError as error:
            if "key: expected" not in str(error):
                raise
            raise TypeError(
                "policies.to_module: act: expected a policy that draws no random numbers, such as algo.greedy of ppo, dqn or sac; got one "
                "that needs a key"
            ) from error

    return apply


def export(
    path: str | os.PathLike, act: Callable[..., Any] | StatefulPolicy, params: Any, observation: Any, *, batch_size: int | None = None
) -> None:
    """Write a policy to a file that runs without funrl: ONNX, or a program of ``torch.export``.

    The file computes :func:`to_module` for batches of any size B >= 1, or of one fixed size. Its inputs and outputs are tensors: the leaves
    of a tree, in the order of :func:`funrl.tree.leaves`. In an ONNX file they are named ``observation`` and ``action``, or ``state``,
    ``observation``, ``reset``, ``next_state`` and ``action`` for a StatefulPolicy; the leaf of a tree has its path behind that, such as
    ``state.hidden``.

    Args:
        path: the file, which ends in ``.onnx`` (with the extra ``onnx``) or ``.pt2``; its folder is created.
        act: as for :func:`to_module`.
        params: as for :func:`to_module`.
        observation: an example of one observation, without a batch dimension; only shapes and dtypes matter.
        batch_size: B, the only size of batches that the file accepts; None: any. Policies with images or dicts as observations need one.

    Raises:
        TypeError: as for :func:`to_module`.
        ValueError: if the suffix is none of these, the policy fails on such an observation (with the parameters of several agents, for
            instance), or ``torch.export`` finds that it needs a fixed ``batch_size``.
        ModuleNotFoundError: if onnx or onnxscript is not installed.

    Example:
        >>> import tempfile, funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(f"{folder}/policy.pt2", algo.greedy, algo.init(funrl.random.key(0)).learner.params, torch.zeros(4))
        ...     torch.export.load(f"{folder}/policy.pt2").module()(torch.zeros(5, 4)).shape
        torch.Size([5])
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"policies.export: path: expected a name that ends in {' or '.join(_SUFFIXES)}, got {str(path)!r}")
    inputs: dict[str, Any] = {"observation": observation}
    if isinstance(act, StatefulPolicy):
        inputs = {"state": act.start(params, observation), **inputs, "reset": torch.tensor(False)}
    names = [name + place for name, value in inputs.items() for place in _places(value)]
    leaves, form = tree.flatten(tuple(inputs.values()))
    module, shown = to_module(act, params), []
    _try(module, form, leaves)

    def flat(_: Any, *leaves: torch.Tensor) -> Any:
        output = module(*tree.unflatten(form, leaves))
        pairs = zip(("next_state", "action"), output, strict=True) if "state" in inputs else [("action", output)]
        found = {name + place: x for name, value in pairs for place, x in zip(_places(value), tree.leaves(value), strict=True)}
        shown[:] = found
        return tuple(found.values()) if len(found) > 1 else next(iter(found.values()))

    whole = module_of(flat, ())
    whole.add_module("policy", module)
    program = _program(whole, leaves, batch_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".pt2":
        torch.export.save(program, path)
    else:
        _write_onnx(path, program, names, shown)


def _try(module: torch.nn.Module, form: Any, leaves: list[torch.Tensor]) -> None:
    """Let the module act once, as errors of ``torch.export`` would not show which argument is wrong."""
    try:
        with torch.no_grad():
            module(*tree.unflatten(form, [torch.stack([x, x]) for x in leaves]))
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            "policies.export: params, observation: expected the parameters of one agent and an observation without a batch dimension, got "
            f"some with which the policy fails ({str(error).splitlines()[0]}); of several agents choose one with tree.index(params, 0)"
        ) from error


def _program(module: torch.nn.Module, leaves: list[torch.Tensor], batch_size: int | None) -> Any:
    """Return the program of a module for inputs like ``leaves``, with a batch dimension of the given size, or of any."""
    if batch_size is not None:
        _check.integer("policies.export: batch_size", batch_size, 1)
        with torch.no_grad():
            return torch.export.export(module, tuple(torch.stack([x] * batch_size) for x in leaves))
    examples = tuple(torch.stack([x, x]) for x in leaves)  # the sizes 0 and 1 would be fixed
    try:
        with torch.no_grad():
            return torch.export.export(module, examples, dynamic_shapes=(({0: torch.export.Dim("batch")},) * len(leaves),))
    except Exception as error:
        if "Constraints violated" not in str(error):
            raise
        raise ValueError(
            "policies.export: batch_size: expected a size for this policy, as torch.export cannot leave it open (it is so with images and "
            "dicts), got None; give batch_size=1, or that of your batches"
        ) from error


def _write_onnx(path: Path, program: Any, inputs: list[str], outputs: list[str]) -> None:
    if importlib.util.find_spec("onnxscript") is None or importlib.util.find_spec("onnx") is None:
        raise ModuleNotFoundError('a policy as ONNX needs onnxscript; install it with: pip install "funrl[onnx]"')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter uses names that torch has deprecated
        torch.onnx.export(program, f=path, input_names=inputs, output_names=outputs, external_data=False, verbose=False)


def _places(value: Any) -> list[str]:
    """Return the place of each leaf of an input or output, "" if it is a tensor."""
    return [""] if isinstance(value, torch.Tensor) else tree.paths(value)
