"""Shared by tests of many files: comparisons of trees, and how many programs were traced."""

import contextlib

import torch

import funrl
from funrl import tree

_PARTS = []
_LISTENING = funrl.compiler.listening(lambda name, ended, seconds, begins: _PARTS.append(begins))
_LISTENING.__enter__()


def traced():
    """Return how many programs this thread has traced."""
    return _PARTS.count("tracing")


@contextlib.contextmanager
def compilations(expected):
    """Fail unless the block traces ``expected`` programs."""
    before = traced()
    yield
    assert traced() - before == expected, f"{traced() - before} programs were traced, expected {expected}"


def operators(compiled):
    """Return how many operators the program of a compiled function has, with those of the bodies of its loops."""

    def size(graph):
        return sum(1 + (size(node.op.body) if hasattr(node.op, "body") else 0) for node in graph.live())

    (program,) = compiled.programs.values()
    return size(program.executable.graph)


def scratch(compiled):
    """Return how many bytes the XLA program of a compiled function takes for what is neither argument nor result."""
    (program,) = compiled.programs.values()
    return program.executable.compiled.memory_analysis().temp_size_in_bytes


def counted(env):
    """Return an environment whose steps are counted, and the list that gets an item at each step."""
    steps = []

    def step(*args):
        steps.append(None)
        return env.step(*args)

    return env._replace(step=step), steps


def same(one, other, **tolerances):
    """Fail unless two trees have the same structure and leaves that are close (exactly, with rtol=0, atol=0); it names the leaf."""
    assert tree.structure(one) == tree.structure(other)
    for path, x, y in zip(tree.paths(one), tree.leaves(one), tree.leaves(other), strict=True):
        torch.testing.assert_close(x, y, equal_nan=True, msg=lambda text, path=path: f"{path}: {text}", **tolerances)
