"""Which backend a program is compiled by, and contexts that choose it."""

import contextlib
import functools
import importlib.util
import os
import threading
from collections.abc import Iterator

import torch

BACKENDS = ("auto", "xla", "inductor", "aot_eager", "eager")
# Of this thread: the backend chosen for it, and how many contexts of ``eager`` it is in.
STATE = threading.local()


def backend(device: str | torch.device = "cpu") -> tuple[str, str]:
    """Return the backend that ``funrl.compile`` takes for programs on a device, and why.

    Args:
        device: where the program runs.

    Returns:
        "xla", "inductor" or "eager", and a sentence that says why.

    Raises:
        ValueError: if ``FUNRL_BACKEND`` names no backend.

    Example:
        >>> name, why = backend("cuda")
        >>> name, why
        ('inductor', 'xla is for programs on the CPU, and this one is on cuda')
    """
    return chosen("auto", torch.device(device))


def chosen(asked: str, device: torch.device) -> tuple[str, str]:
    """Return the backend for ``asked``, which may be "auto", and why."""
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
    """Within the context, let this thread's programs of ``backend="auto"`` take this backend.

    Args:
        backend: "xla", "inductor", "aot_eager" or "eager"; "auto" leaves the choice as it is.

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
    """Within the context, run this thread's compiled functions as they are, for a debugger or ``print``.

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
