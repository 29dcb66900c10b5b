"""The choice of a backend for programs, and contexts that change it."""

import contextlib
import functools
import importlib.util
import os
import threading
from collections.abc import Iterator

import torch

__all__ = ["BACKENDS", "STATE", "backend", "chosen", "eager", "has_jax", "using"]

BACKENDS = ("auto", "xla", "inductor", "aot_eager", "eager")
# For each thread: the chosen backend, and the number of entered ``eager`` contexts.
STATE = threading.local()


def backend(device: str | torch.device = "cpu") -> tuple[str, str]:
    """Return the backend of ``funrl.compile`` for programs on a device, and the reason.

    Args:
        device: the device of the program.

    Returns:
        "xla", "inductor" or "eager", and a sentence with the reason.

    Raises:
        ValueError: if ``FUNRL_BACKEND`` is not a backend.

    Example:
        >>> name, why = backend("cuda")
        >>> name, why
        ('inductor', 'xla is for programs on the CPU, and this one is on cuda')
    """
    return chosen("auto", torch.device(device))


def chosen(asked: str, device: torch.device) -> tuple[str, str]:
    """Return the backend for ``asked``, which may be "auto", and the reason."""
    if asked != "auto":
        return asked, "it was asked for"
    if getattr(STATE, "backend", None) is not None:
        return STATE.backend, "it was chosen for this run"
    named = os.environ.get("FUNRL_BACKEND") or "auto"
    if named not in BACKENDS:
        raise ValueError(f"FUNRL_BACKEND is {named!r}; expected one of {', '.join(BACKENDS)}")
    if named != "auto":
        return named, "FUNRL_BACKEND says so"
    if device.type != "cpu":
        return "inductor", f"xla is for programs on the CPU, and this one is on {device.type}"
    if not has_jax():
        return "inductor", "jax is not installed: pip install 'funrl[xla]' for programs that start in seconds"
    return "xla", "jax is installed, and the program is on the CPU"


@functools.cache
def has_jax() -> bool:
    """Return whether jax is installed, without importing it."""
    return importlib.util.find_spec("jax") is not None and importlib.util.find_spec("jaxlib") is not None


@contextlib.contextmanager
def using(backend: str) -> Iterator[None]:
    """Context in which programs of this thread with ``backend="auto"`` use this backend.

    Args:
        backend: "xla", "inductor", "aot_eager" or "eager"; "auto" changes nothing.

    Raises:
        ValueError: if it is none of these.

    Example:
        >>> with using("eager"):
        ...     print(backend("cpu"))
        ('eager', 'it was chosen for this run')
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(map(repr, BACKENDS))}")
    before = getattr(STATE, "backend", None)
    STATE.backend = before if backend == "auto" else backend
    try:
        yield
    finally:
        STATE.backend = before


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Context in which compiled functions of this thread run without compiling, for a debugger or ``print``.

    Example:
        >>> import torch
        >>> from funrl import compiler
        >>> double = compiler.compile(lambda x: 2 * x)
        >>> with eager():
        ...     double(torch.ones(1))
        tensor([2.])
    """
    STATE.eager = getattr(STATE, "eager", 0) + 1
    try:
        yield
    finally:
        STATE.eager -= 1
