"""Compilation of whole programs: ``compile`` makes one program of a function, and ``scan`` is a loop inside programs."""

from funrl.compiler._backends import backend, eager, using
from funrl.compiler._effects import (
    effect as effect,
    elementwise_call as elementwise_call,
    from_around_a_loop as from_around_a_loop,
    instances as instances,
)
from funrl.compiler._errors import TraceError
from funrl.compiler._interpreter import operators_of as operators_of
from funrl.compiler._lanes import lanes as lanes
from funrl.compiler._listening import listening as listening
from funrl.compiler._program import clear, compile
from funrl.compiler._scan import scan
from funrl.compiler._trace import tracing, transformed as transformed

__all__ = ["TraceError", "backend", "clear", "compile", "eager", "scan", "tracing", "using"]
