"""Replay buffers of other libraries, timed: what ``benchmarks/buffers.py`` holds funrl against.

A sample is the microseconds of a call, which is waited for, on full buffers. A transition is 42 float32 numbers in five tensors
(:data:`FIELDS`).

``torchrl``
    ``TensorDictReplayBuffer`` and, where its compiled extension loads, ``TensorDictPrioritizedReplayBuffer``, over a ``LazyTensorStorage``.
``flashbax``
    ``make_item_buffer`` and ``make_prioritised_item_buffer`` with ``add_batches``, every function compiled, states donated to what
    writes.
"""

import time
from collections.abc import Callable
from typing import Any

__all__ = ["ALPHA", "BATCH", "BETA", "FIELDS", "ROWS", "flashbax", "named", "timed", "torchrl"]

FIELDS = {"observation": (17,), "action": (6,), "reward": (), "next_observation": (17,), "terminated": ()}
BATCH, ROWS, ALPHA, BETA = 256, 64, 0.6, 0.4


def timed(call: Callable[[int], Any], seconds: float, warm: int = 20) -> list[float]:
    """Return the microseconds of each of the calls of so many seconds, after some that are not counted."""
    for i in range(warm):
        call(i)
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call(warm + len(samples))
        samples.append((time.perf_counter() - start) * 1e6)
    return samples


def named(samples: dict[str, list[float]], capacity: int) -> dict[str, list[float]]:
    """Return samples by the names of their rows; in the rows of calls in place other libraries have their usual calls."""
    twins = {f"{call} in place": samples[call] for call in ("extend", "update_priority", "prioritized extend") if call in samples}
    return {f"buffer: {call}, {capacity:,} transitions": found for call, found in {**twins, **samples}.items()}


def torchrl(capacity: int, seconds: float) -> dict[str, list[float]]:
    """Time TorchRL's buffers."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer, TensorDictReplayBuffer

    def rows(n: int) -> Any:
        return TensorDict({name: torch.rand(n, *shape) for name, shape in FIELDS.items()}, batch_size=[n])

    def filled(buffer: Any) -> Any:
        for start in range(0, capacity, 50_000):
            buffer.extend(rows(min(50_000, capacity - start)))
        return buffer

    buffer = filled(TensorDictReplayBuffer(storage=LazyTensorStorage(capacity), batch_size=BATCH))
    few = rows(ROWS)
    result = {"sample": timed(lambda i: buffer.sample(), seconds), "extend": timed(lambda i: buffer.extend(few), seconds)}
    try:
        buffer = filled(TensorDictPrioritizedReplayBuffer(alpha=ALPHA, beta=BETA, storage=LazyTensorStorage(capacity), batch_size=BATCH))
    except (ImportError, RuntimeError, AttributeError, NameError):
        return named(result, capacity)
    result["prioritized sample"] = timed(lambda i: buffer.sample(), seconds)
    index, priority = torch.randint(capacity, (BATCH,)), torch.rand(BATCH)
    result["update_priority"] = timed(lambda i: buffer.update_priority(index, priority), seconds)
    result["prioritized extend"] = timed(lambda i: buffer.extend(few), seconds)
    return named(result, capacity)


def flashbax(capacity: int, seconds: float) -> dict[str, list[float]]:
    """Time flashbax's buffers."""
    import flashbax

    options = dict(max_length=capacity, min_length=1, sample_batch_size=BATCH, add_batches=True)
    result = _flashbax(flashbax.make_item_buffer(**options), capacity, seconds)
    own = _flashbax(flashbax.make_prioritised_item_buffer(**options, priority_exponent=ALPHA), capacity, seconds)
    result["update_priority"] = own.pop("update_priority")
    return named({**result, **{f"prioritized {name}": samples for name, samples in own.items()}}, capacity)


def _flashbax(buffer: Any, capacity: int, seconds: float) -> dict[str, list[float]]:
    import jax
    import jax.numpy as jnp

    def rows(n: int) -> Any:
        return {name: jnp.ones((n, *shape)) for name, shape in FIELDS.items()}

    add, sample = jax.jit(buffer.add, donate_argnums=0), jax.jit(buffer.sample)
    chunk, few = rows(1000), rows(ROWS)
    state = [buffer.init(jax.tree.map(lambda x: x[0], few))]
    for _ in range(capacity // 1000):
        state[0] = add(state[0], chunk)
    keys = [jax.random.PRNGKey(i) for i in range(500)]

    def write(f: Callable[..., Any], *arguments: Any) -> None:
        state[0] = jax.block_until_ready(f(state[0], *arguments))

    result = {"sample": timed(lambda i: jax.block_until_ready(sample(state[0], keys[i % 500])), seconds)}
    if hasattr(buffer, "set_priorities"):
        update = jax.jit(buffer.set_priorities, donate_argnums=0)
        index, priority = jax.random.randint(keys[0], (BATCH,), 0, capacity), jax.random.uniform(keys[1], (BATCH,))
        result["update_priority"] = timed(lambda i: write(update, index, priority), seconds)
    result["extend"] = timed(lambda i: write(add, few), seconds)
    return result
