"""Programs that run at the same time, each on a thread of its own."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from funrl.compiler._backends import STATE, chosen
from funrl.compiler._jax import start


@contextlib.contextmanager
def lanes(threads: int, backend: str) -> Iterator[Callable[[Sequence[Callable[[], Any]]], list[Any]]]:
    """Context that gives a function, which makes calls and returns their results, up to ``threads`` of them at the same time.

    A program that was compiled before runs without Python's lock, so that two programs take two cores. A call has the caller's backend,
    autocast, grad mode and inference mode, and the bits of a call alone. With one thread the caller's thread makes them, one after another.
    """
    if threads < 2:
        yield lambda calls: [call() for call in calls]
        return
    if chosen(backend, torch.device("cpu"))[0] == "xla":
        start(threads, lanes=True)
    with concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="funrl-lane") as pool:

        def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
            here = dict(STATE.__dict__)  # the backend that this thread has chosen
            cast = {"enabled": torch.is_autocast_enabled("cpu"), "dtype": torch.get_autocast_dtype("cpu")}
            grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

            def run(call: Callable[[], Any]) -> Any:
                STATE.__dict__.update(here)
                with torch.autocast("cpu", **cast), torch.inference_mode(inference), torch.set_grad_enabled(grad):
                    return call()

            return list(pool.map(run, calls))

        yield together
