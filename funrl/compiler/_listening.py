"""Who is told what a first call is doing."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

_STATE = threading.local()


class Timer:
    """Tell listeners which part of a first call begins, and how long the last one took."""

    def __init__(self, name: str, backend: str) -> None:
        self.name, self.backend, self.part, self.begin = name, backend, "", time.perf_counter()

    def __call__(self, part: str) -> None:
        now = time.perf_counter()
        for listener in getattr(_STATE, "listeners", ()):
            listener(self.name, self.part, now - self.begin, part)
        self.part, self.begin = part, now


@contextlib.contextmanager
def listening(listener: Callable[[str, str, float, str], None]) -> Iterator[None]:
    """Within the context, call ``listener(name, ended, seconds, begins)`` as first calls of this thread go on.

    ``ended`` and ``begins`` are "tracing", "lowering", "compiling" or "loading" (from disk), or "" before the first and after the last.

    Example:
        >>> import torch
        >>> from funrl import compiler
        >>> parts = []
        >>> with listening(lambda name, ended, seconds, begins: parts.append(begins)):
        ...     compiler.compile(lambda x: x + 1)(torch.ones(2))
        tensor([2., 2.])
        >>> parts[0], parts[-1]
        ('tracing', '')
    """
    listeners = _STATE.listeners = [*getattr(_STATE, "listeners", ()), listener]
    try:
        yield
    finally:
        _STATE.listeners = [x for x in listeners if x is not listener]
