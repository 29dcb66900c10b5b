"""Replay buffers of other libraries, timed: what ``benchmarks/buffers.py`` holds funrl against.

    python -m benchmarks.buffers_peers PEER --capacity 100000 --repeats 300

prints one line of JSON: peer, version, and for each measure its samples in microseconds, one for each call. A transition is 42 float32
numbers in five tensors (:data:`FIELDS`). Buffers are full before the clock starts, and every call is waited for.

``torchrl``
    ``TensorDictReplayBuffer`` and, where its compiled extension loads, ``TensorDictPrioritizedReplayBuffer``, over a ``LazyTensorStorage``.
``flashbax``
    ``make_item_buffer`` and ``make_prioritised_item_buffer`` with ``add_batches``, every function compiled, states donated to what
    writes.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

__all__ = ["ALPHA", "BATCH", "BETA", "FIELDS", "PEERS", "ROWS", "main", "timed"]

FIELDS = {"observation": (17,), "action": (6,), "reward": (), "next_observation": (17,), "terminated": ()}
BATCH, ROWS, ALPHA, BETA = 256, 64, 0.6, 0.4


def timed(call: Callable[[int], Any], repeats: int, warm: int = 20) -> list[float]:
    """Return the microseconds of each of ``repeats`` calls, after some that are not counted."""
    for i in range(warm):
        call(i)
    samples = []
    for i in range(repeats):
        start = time.perf_counter()
        call(warm + i)
        samples.append((time.perf_counter() - start) * 1e6)
    return samples


def torchrl(capacity: int, repeats: int) -> dict[str, list[float]]:
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
    result = {"sample": timed(lambda i: buffer.sample(), repeats), "extend": timed(lambda i: buffer.extend(few), repeats)}
    try:
        buffer = filled(TensorDictPrioritizedReplayBuffer(alpha=ALPHA, beta=BETA, storage=LazyTensorStorage(capacity), batch_size=BATCH))
    except (ImportError, RuntimeError, AttributeError, NameError):
        return result
    result["prioritized sample"] = timed(lambda i: buffer.sample(), repeats)
    index, priority = torch.randint(capacity, (BATCH,)), torch.rand(BATCH)
    result["update_priority"] = timed(lambda i: buffer.update_priority(index, priority), repeats)
    result["prioritized extend"] = timed(lambda i: buffer.extend(few), repeats)
    return result


def flashbax(capacity: int, repeats: int) -> dict[str, list[float]]:
    """Time flashbax's buffers."""
    import flashbax

    options = dict(max_length=capacity, min_length=1, sample_batch_size=BATCH, add_batches=True)
    result = _flashbax(flashbax.make_item_buffer(**options), capacity, repeats)
    own = _flashbax(flashbax.make_prioritised_item_buffer(**options, priority_exponent=ALPHA), capacity, repeats)
    result["update_priority"] = own.pop("update_priority")
    return {**result, **{f"prioritized {name}": samples for name, samples in own.items()}}


def _flashbax(buffer: Any, capacity: int, repeats: int) -> dict[str, list[float]]:
    import jax
    import jax.numpy as jnp

    def rows(n: int) -> Any:
        return {name: jnp.ones((n, *shape)) for name, shape in FIELDS.items()}

    add, sample = jax.jit(buffer.add, donate_argnums=0), jax.jit(buffer.sample)
    chunk, few = rows(1000), rows(ROWS)
    state = [buffer.init(jax.tree.map(lambda x: x[0], few))]
    for _ in range(capacity // 1000):
        state[0] = add(state[0], chunk)
    keys = [jax.random.PRNGKey(i) for i in range(repeats + 20)]

    def write(f: Callable[..., Any], *arguments: Any) -> None:
        state[0] = jax.block_until_ready(f(state[0], *arguments))

    result = {"sample": timed(lambda i: jax.block_until_ready(sample(state[0], keys[i])), repeats)}
    if hasattr(buffer, "set_priorities"):
        update = jax.jit(buffer.set_priorities, donate_argnums=0)
        index, priority = jax.random.randint(keys[0], (BATCH,), 0, capacity), jax.random.uniform(keys[1], (BATCH,))
        result["update_priority"] = timed(lambda i: write(update, index, priority), repeats)
    result["extend"] = timed(lambda i: write(add, few), repeats)
    return result


PEERS = {"torchrl": torchrl, "flashbax": flashbax}


def main() -> None:
    """Time one peer and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--capacity", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=300)
    arguments = parser.parse_args()
    samples = PEERS[arguments.peer](arguments.capacity, arguments.repeats)
    print(json.dumps({"peer": arguments.peer, "version": version(arguments.peer), "samples": samples}))


if __name__ == "__main__":
    main()
