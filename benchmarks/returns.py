"""Generalized advantage estimation, compared with rlax under jit and TorchRL.

Each library computes on arrays [T, B] of its own kind, with the threads that it takes by default (funrl's programs: one). rlax returns
advantages alone, and is compared with our advantages alone too; of TorchRL's two functions both are measured, and the faster one counts.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Case, Library, speed

SHAPES = ((2048, 128), (128, 64), (128, 4))
GAMMA, LAMBDA = 0.99, 0.95


def funrl(steps: int, copies: int, seconds: float) -> dict[str, list[float]]:
    """Time funrl eagerly and compiled."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)

    from funrl.returns import gae

    keys, shape = funrl.random.split(funrl.random.key(0), 5), (steps, copies)
    arrays = [funrl.random.normal(key, shape) for key in keys[:3]] + [funrl.random.bernoulli(key, 0.01, shape) for key in keys[3:]]

    def estimate(*arrays: Any) -> Any:
        return gae(*arrays, gamma=GAMMA, lambda_=LAMBDA)

    forms = {
        "": funrl.compile(estimate),
        ", two threads": funrl.compile(estimate, threads=2),
        ", advantages alone": funrl.compile(lambda *arrays: estimate(*arrays)[0]),
        ", not compiled": estimate,
    }
    return {_row(steps, copies) + name: _time(lambda form=form: form(*arrays), seconds) for name, form in forms.items()}


def rlax(steps: int, copies: int, seconds: float) -> dict[str, list[float]]:
    """Time rlax's function, batched by vmap, under jit."""
    warnings.simplefilter("ignore")
    import jax
    import numpy as np
    import rlax

    @jax.jit
    def advantages(reward: Any, values: Any, terminated: Any) -> Any:
        discount = GAMMA * (1.0 - terminated.astype(reward.dtype))
        return jax.vmap(rlax.truncated_generalized_advantage_estimation, (1, 1, None, 1), 1)(reward, discount, LAMBDA, values)

    @jax.jit
    def both(reward: Any, values: Any, terminated: Any) -> Any:
        advantage = advantages(reward, values, terminated)
        return advantage, advantage + values[:-1]

    numbers = np.random.default_rng(0)
    arrays = [numbers.normal(size=(steps + extra, copies)).astype(np.float32) for extra in (0, 1)]
    arrays = [jax.numpy.asarray(x) for x in (*arrays, numbers.random((steps, copies)) < 0.01)]
    forms = {"": both, ", advantages alone": advantages}
    return {_row(steps, copies) + name: _time(lambda f=f: jax.block_until_ready(f(*arrays)), seconds) for name, f in forms.items()}


def torchrl(steps: int, copies: int, seconds: float) -> dict[str, list[float]]:
    """Time the faster one of TorchRL's two functions, the loop and the vectorised one."""
    warnings.simplefilter("ignore")
    import torch
    from torchrl.objectives.value.functional import generalized_advantage_estimate, vec_generalized_advantage_estimate

    torch.manual_seed(0)
    reward, value, next_value = torch.randn(3, copies, steps, 1).unbind(0)
    done, terminated = (torch.rand(2, copies, steps, 1) < 0.01).unbind(0)
    arguments = GAMMA, LAMBDA, value, next_value, reward, done | terminated, terminated
    forms = (generalized_advantage_estimate, vec_generalized_advantage_estimate)
    fastest = min((_time(lambda f=f: f(*arguments), seconds) for f in forms), key=statistics.median)
    return {_row(steps, copies) + name: fastest for name in ("", ", two threads", ", not compiled")}


def _row(steps: int, copies: int) -> str:
    return f"GAE [{steps}, {copies}]"


def _time(f: Callable[[], Any], seconds: float) -> list[float]:
    """Return the median time of a call in microseconds."""
    f(), f()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return [1e6 * statistics.median(times)]


LIBRARIES = {"funrl": Library(funrl), "torchrl": Library(torchrl, "torchrl"), "rlax": Library(rlax, "rlax")}
BENCHMARK = speed(
    "returns",
    "Generalized advantage estimation of rewards [T, B], compiled in one thread where nothing else is said.",
    [Case(_row(*shape), shape, LIBRARIES, quick=shape == SHAPES[0]) for shape in SHAPES],
    unit="µs",
    lower=True,
    targets={(_row(*SHAPES[0]), "torchrl"): 5.0, (f"{_row(*SHAPES[0])}, advantages alone", "rlax"): 1.0},
    seconds=0.5,
    rounds=3,
)
