"""Progress of first calls: listeners that are called when a part begins."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ["Timer", "listening"]

_STATE = threading.local()


class Timer:
    """Call the listeners when a part of a first call begins, with the duration of the last one."""

    def __init__(self, name: str, backend: str) -> None:
        self.name, self.backend, self.part, self.begin = name, backend, "", time.perf_counter()

    def __call__(self, part: str) -> None:
        now = time.perf_counter()
        for listener in getattr(_STATE, "listeners", ()):
            listener(self.name, self.part, now - self.begin, part)
        self.part, self.begin = part, now


@contextlib.contextmanager
def listening(listener: Callable[[str, str, float, str], None]) -> Iterator[None]:
    """Context in which first calls of this thread call ``listener(name, ended, seconds, begins)`` for each part.

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
