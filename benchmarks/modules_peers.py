"""An ensemble of multilayer perceptrons in torch and tensordict, timed: what ``benchmarks/modules.py`` holds funrl against.

A sample is the milliseconds of one forward and backward pass of all members (:data:`SETTINGS`), each on the same batch. Every peer has
the number of threads that torch takes by default.

``loop``
    A Python loop over torch modules: the loss of each, and its ``backward()``.
``tensordict``
    ``TensorDict.from_modules`` and ``torch.vmap`` over ``params.to_module(net)``, as TorchRL's objectives have their ensembles.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

__all__ = ["SETTINGS", "loop", "tensordict", "timed"]


class Settings(NamedTuple):
    """Settings of every peer (and ``benchmarks/modules.py`` gives to funrl)."""

    members: int = 100
    hidden: tuple[int, ...] = (64, 64)
    batch_size: int = 256
    inputs: int = 4
    outputs: int = 1


SETTINGS = Settings()


def timed(call: Callable[[], Any], seconds: float, repeats: int = 3) -> list[float]:
    """Return ``repeats`` means of the milliseconds of a call, each over at least ``seconds``, after a warm-up."""
    samples = []
    for sample in range(repeats + 1):
        start, calls = time.perf_counter(), 0
        while calls < 3 or time.perf_counter() - start < seconds:
            call()
            calls += 1
        if sample:
            samples.append(1e3 * (time.perf_counter() - start) / calls)
    return samples


def _modules() -> tuple[list[Any], Any]:
    import torch

    def one() -> Any:
        widths = (SETTINGS.inputs, *SETTINGS.hidden)
        layers = [part for a, b in pairwise(widths) for part in (torch.nn.Linear(a, b), torch.nn.Tanh())]
        return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], SETTINGS.outputs))

    torch.manual_seed(0)
    return [one() for _ in range(SETTINGS.members)], torch.randn(SETTINGS.batch_size, SETTINGS.inputs)


def loop(seconds: float) -> list[float]:
    """Time a Python loop over torch modules."""
    modules, x = _modules()

    def call() -> None:
        for module in modules:
            module.zero_grad()
            module(x).square().mean().backward()

    return timed(call, seconds)


def tensordict(seconds: float) -> list[float]:
    """Time torch.vmap over the modules' parameters in a TensorDict."""
    import torch
    from tensordict import TensorDict

    modules, x = _modules()
    params = TensorDict.from_modules(*modules, as_module=True)
    net = modules[0].to("meta")

    def one(params: Any, x: Any) -> Any:
        with params.to_module(net):
            return net(x)

    def call() -> None:
        params.zero_grad()
        torch.vmap(one, (0, None))(params, x).square().mean((-2, -1)).sum().backward()

    return timed(call, seconds)
