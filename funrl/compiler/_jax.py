"""jax for the programs of this process: supported versions, number of threads, and settings that differ from the user's."""

import atexit
import contextlib
import functools
import os
import pathlib
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any


@functools.cache
def load() -> Any:
    """Return jax.

    Raises:
        ImportError: if it is missing, or funrl does not support its version; the message names the extra.
    """
    try:
        import jax
    except ImportError:
        raise ImportError("backend='xla' needs jax: pip install 'funrl[xla]' (or compile with backend='inductor')") from None
    version = tuple(int(part) for part in jax.__version__.split(".")[:2])
    if not (0, 8) <= version < (0, 12):
        raise ImportError(
            f"funrl knows jax 0.8 to 0.11, and {jax.__version__} is installed: pip install 'funrl[xla]', or use backend='inductor'"
        )
    return jax


# The number of threads of jax's programs, one number for the whole process; and the numbers that were asked for too late, with a warning.
POOL: list[int] = []
_TOLD: set[int] = set()


def start(threads: int, lanes: bool = False) -> Any:
    """Return jax; if its CPU backend has not been started, start it with this number of threads.

    With ``lanes`` the threads are for as many programs of one thread each, and a jax that runs already is kept without a word.
    """
    jax = load()
    with _STARTING:
        if not POOL:
            before = os.environ.get("PJRT_NPROC")
            running = _num_threads()
            os.environ.setdefault("PJRT_NPROC", str(threads))
            try:
                jax.devices("cpu")
            finally:
                size = os.environ["PJRT_NPROC"]
                if before is None:
                    del os.environ["PJRT_NPROC"]
            POOL.append(running or int(size))
            atexit.register(_rest)
        if lanes:
            _TOLD.update({1} if POOL[0] == threads else ())
            return jax
        unheard = POOL[0] != threads and threads not in _TOLD
        _TOLD.add(threads)
    if unheard:
        warnings.warn(
            f"funrl.compile: threads={threads}, but jax was started with {POOL[0]}, for the first program of this process or by another "
            "library, and keeps that number; compile the program of most threads first, or set PJRT_NPROC before",
            RuntimeWarning,
            stacklevel=6,
        )
    return jax


def _num_threads() -> int:
    """Return the number of threads of jax's CPU backend in this process, as far as the system reports it: 0 before its start."""
    names = []
    for task in pathlib.Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has ended
            names.append(task.read_text())
    return sum(name.startswith("tf_XLAEigen") for name in names)


_STARTING = threading.Lock()


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Context in which jax has the settings of funrl, whatever settings the user has chosen for other code."""
    jax = load()
    with (
        jax.enable_x64(True),
        jax.default_device(jax.devices("cpu")[0]),
        jax.disable_jit(False),
        jax.debug_nans(False),
        jax.debug_infs(False),
    ):
        yield


def in_settings() -> Any:
    """Return the context of a call, which does nothing if the user has not changed any of these settings."""
    jax = load()
    config = jax.config
    if config.jax_default_device is None and not (config.jax_disable_jit or config.jax_debug_nans or config.jax_debug_infs):
        return jax.enable_x64(True)
    return settings()


def _rest() -> None:
    """Wait until no program runs and its threads have released their arguments, for which they need the interpreter."""
    jax = load()
    jax.block_until_ready(jax.live_arrays("cpu"))
    time.sleep(0.05)
