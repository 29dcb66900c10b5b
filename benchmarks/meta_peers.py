"""MAML on sinusoids in eager torch and in JAX, timed: what ``benchmarks/meta.py`` holds funrl against.

A sample is the number of updates in a second: for each of 64 tasks the inner steps on ten points, and one step of Adam along the gradient
through them, of the loss on ten other points. All have the same network, the same data and the same step sizes.

``loop``
    Eager torch as it is written with higher or learn2learn: a Python loop over tasks, ``torch.autograd.grad(create_graph=True)`` for the
    inner steps, ``backward()`` and ``torch.optim.Adam`` for the outer one.
``jax``
    ``jax.jit`` of ``jax.grad`` around ``jax.vmap`` over tasks, and optax's Adam.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["SETTINGS", "jax", "loop", "points", "rates"]


class Settings(NamedTuple):
    """Settings of every peer (and ``benchmarks/meta.py`` gives to funrl)."""

    tasks: int = 64
    shots: int = 10
    hidden: tuple[int, ...] = (40, 40)
    step_size: float = 0.01
    learning_rate: float = 1e-3


SETTINGS = Settings()


def rates(call: Callable[[], Any], seconds: float, repeats: int = 3) -> list[float]:
    """Return ``repeats`` rates of calls in a second, each over at least ``seconds``, after a warm-up."""
    samples = []
    for sample in range(repeats + 1):
        start, calls = time.perf_counter(), 0
        while calls < 2 or time.perf_counter() - start < seconds:
            call()
            calls += 1
        if sample:
            samples.append(calls / (time.perf_counter() - start))
    return samples


def points() -> tuple[Any, Any]:
    """Return the data of all tasks as arrays of numpy: two pairs of x and y, each [N, K, 1]."""
    import numpy as np

    numbers = np.random.default_rng(0)
    shape = (SETTINGS.tasks, 1, 1)
    amplitude, phase = numbers.uniform(0.1, 5.0, shape), numbers.uniform(0.0, np.pi, shape)
    x = numbers.uniform(-5.0, 5.0, (2, SETTINGS.tasks, SETTINGS.shots, 1))
    y = amplitude * np.sin(x - phase)
    x, y = x.astype("float32"), y.astype("float32")
    return (x[0], y[0]), (x[1], y[1])


def _sizes() -> list[tuple[int, int]]:
    widths = (1, *SETTINGS.hidden, 1)
    return list(itertools.pairwise(widths))


def loop(inner_steps: int, seconds: float) -> list[float]:
    """Time a Python loop over tasks with second derivatives by autograd."""
    import torch

    torch.manual_seed(0)
    params = [x for a, b in _sizes() for x in (torch.randn(b, a) * (2 / a) ** 0.5, torch.zeros(b))]
    params = [x.requires_grad_() for x in params]
    optimizer = torch.optim.Adam(params, SETTINGS.learning_rate)
    support, query = (tuple(map(torch.as_tensor, pair)) for pair in points())

    def loss(params: list[Any], x: Any, y: Any) -> Any:
        for i in range(0, len(params), 2):
            x = torch.nn.functional.linear(x, params[i], params[i + 1])
            x = torch.relu(x) if i < len(params) - 2 else x
        return (x - y).square().mean()

    def update() -> float:
        optimizer.zero_grad()
        total: Any = 0.0
        for i in range(SETTINGS.tasks):
            learned = params
            for _ in range(inner_steps):
                gradient = torch.autograd.grad(loss(learned, support[0][i], support[1][i]), learned, create_graph=True)
                learned = [p - SETTINGS.step_size * g for p, g in zip(learned, gradient, strict=True)]
            total = total + loss(learned, query[0][i], query[1][i])
        (total / SETTINGS.tasks).backward()
        optimizer.step()
        return total.item()

    return rates(update, seconds)


def jax(inner_steps: int, seconds: float) -> list[float]:
    """Time one program of JAX."""
    import jax
    import jax.numpy as jnp
    import optax

    keys = jax.random.split(jax.random.key(0), len(_sizes()))
    params = [(jax.random.normal(k, (a, b)) * (2 / a) ** 0.5, jnp.zeros(b)) for k, (a, b) in zip(keys, _sizes(), strict=True)]
    optimizer = optax.adam(SETTINGS.learning_rate)
    support, query = (tuple(map(jnp.asarray, pair)) for pair in points())

    def loss(params: Any, batch: Any) -> Any:
        x, y = batch
        for i, (weight, bias) in enumerate(params):
            x = x @ weight + bias
            x = jax.nn.relu(x) if i < len(params) - 1 else x
        return jnp.square(x - y).mean()

    def outer(params: Any, support: Any, query: Any) -> Any:
        def one(support: Any, query: Any) -> Any:
            def step(learned: Any, _: Any) -> Any:
                gradient = jax.grad(loss)(learned, support)
                return jax.tree.map(lambda p, g: p - SETTINGS.step_size * g, learned, gradient), None

            learned, _ = jax.lax.scan(step, params, None, length=inner_steps)
            return loss(learned, query)

        return jax.vmap(one)(support, query).mean()

    @jax.jit
    def update(params: Any, state: Any, support: Any, query: Any) -> Any:
        value, gradient = jax.value_and_grad(outer)(params, support, query)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)

    def call() -> None:
        nonlocal params, state
        params, state, value = update(params, state, support, query)
        float(value)

    return rates(call, seconds)
