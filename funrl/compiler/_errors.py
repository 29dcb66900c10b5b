"""Errors of a trace, which name the line of the user's code."""

import linecache
import os
import sys
from typing import Any

import torch

from funrl._check import describe


class TraceError(RuntimeError):
    """A function that cannot be traced; the message names the line and the remedy."""


def value_asked(x: torch.Tensor, how: str, remedy: str = "") -> TraceError:
    """Return the error for a traced tensor whose value was asked for, by ``how``; ``remedy`` is a sentence for this case."""
    return TraceError(
        f"{line()}the value of a traced tensor ({describe(x)}) was asked for ({how}): while a function is compiled, tensors have shapes "
        f"but no values. {remedy}For `if` use torch.where, for a loop funrl.scan with a mask; keep numbers as tensors instead of int(), "
        "float() or .item(); funrl.debug.print shows values, and `with funrl.compiler.eager():` runs without compiling"
    )


def line() -> str:
    """Return the file and the line of the user's code that is being traced, and its text."""
    frame: Any = sys._getframe(1)
    best = None
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_NOT_THEIRS) and not name.startswith("<frozen"):
            if name.startswith(_COMPILER):
                pass
            elif name.startswith(_FUNRL):
                best = best or frame
            else:
                best = frame
                break
        frame = frame.f_back
    if best is None:
        return ""
    text = linecache.getline(best.f_code.co_filename, best.f_lineno).strip()
    return f"{best.f_code.co_filename}:{best.f_lineno}: " + (f"`{text}`: " if text else "")


_COMPILER = os.path.dirname(__file__)
_FUNRL = os.path.dirname(_COMPILER)
_NOT_THEIRS = (
    os.path.dirname(torch.__file__),
    os.path.dirname(os.__file__) + os.sep + "contextlib",
    os.path.dirname(os.__file__) + os.sep + "copy",
    os.path.dirname(os.__file__) + os.sep + "functools",
)
