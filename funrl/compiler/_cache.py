"""Executables on disk, so that another process need not compile a program again."""

import functools
import hashlib
import os
import pathlib
import platform
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from funrl.compiler._graph import Graph, Loop, Node

_MAGIC = b"funrl-xla-1\n"


def folder() -> pathlib.Path | None:
    """Return the folder of executables: ``FUNRL_CACHE``, or a folder in the user's cache; None if it is switched off ("0")."""
    named = os.environ.get("FUNRL_CACHE")
    if named is not None:
        return None if named in ("", "0") else pathlib.Path(named) / "xla"
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "funrl" / "xla"


def loaded(
    graph: Graph, layouts: Any, donated: Any, options: Any, num_arrays: int, build: Callable[[], Any], note: Callable[[str], Any]
) -> Any:
    """Return the executable of a graph, from disk, or else build it and write it to the disk.

    A file has the digest of its contents, and its name depends on the graph, the versions and the machine. A file that is truncated,
    changed or from another machine is never run; the executable is built again.
    """
    import jax
    from jax.experimental import serialize_executable

    place = folder()
    if place is None:
        return build()
    entry = place / f"{_key(graph, layouts, donated, options)}.bin"
    trees = jax.tree.structure(((0,) * num_arrays, {})), jax.tree.structure([0] * len(layouts[1].avals()))
    payload = _read(entry)
    if payload is not None:
        note("loading")
        if b"lapack_" in payload:
            _start_lapack()
        try:
            return serialize_executable.deserialize_and_load(payload, *trees)
        except Exception:  # another version may have written anything
            pass
    compiled = build()
    try:
        _write(entry, serialize_executable.serialize(compiled)[0])
    except (OSError, ValueError, RuntimeError):  # the folder cannot be written, or the program cannot be stored
        pass
    return compiled


@functools.cache
def _start_lapack() -> None:
    """Let jax find its LAPACK, as it does when it lowers a factorisation: an executable that calls it without crashes."""
    import jax

    jax.jit(jax.lax.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), "float32"))


def _read(entry: pathlib.Path) -> bytes | None:
    try:
        status = entry.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:  # others may have written it
            return None
        data = entry.read_bytes()
    except (OSError, AttributeError):
        return None
    payload = data[len(_MAGIC) + 32 :]
    whole = data.startswith(_MAGIC) and hashlib.sha256(payload + entry.stem.encode()).digest() == data[len(_MAGIC) : len(_MAGIC) + 32]
    return payload if whole else None


def _write(entry: pathlib.Path, payload: bytes) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest = hashlib.sha256(payload + entry.stem.encode()).digest()
    descriptor, temporary = tempfile.mkstemp(dir=entry.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + digest + payload)
        os.replace(temporary, entry)
    except OSError:
        os.unlink(temporary)
        raise


def _key(graph: Graph, layouts: Any, donated: Any, options: Any) -> str:
    digest = hashlib.sha256(_world())
    digest.update(
        repr((layouts[0].avals(), layouts[0].vectors, layouts[1].vectors, layouts[1].single, donated, sorted(options.items()))).encode()
    )
    _enter(digest, graph)
    return digest.hexdigest()


def _enter(digest: Any, graph: Graph) -> None:
    numbers = {id(node): i for i, node in enumerate(graph.inputs)}
    lines = [f"{x.meta.dtype}{tuple(x.meta.shape)}" for x in graph.inputs]

    def named(value: Any) -> str:
        if isinstance(value, Node):
            return f"#{value.args[0]}" if value.op == "number" else f"%{numbers[id(value)]}"
        if isinstance(value, (list, tuple)):
            return f"[{','.join([named(item) for item in value])}]"
        if isinstance(value, dict):
            return f"{{{','.join([f'{k}:{named(x)}' for k, x in value.items()])}}}"
        return repr(value)

    for node in graph.live():
        numbers[id(node)] = len(numbers)
        if node.op == "constant":
            x = node.args[0].contiguous()
            lines.append(f"constant {x.dtype}{tuple(x.shape)}")
            digest.update(x.reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(node.op, Loop):
            loop = node.op
            lines.append(f"loop {loop.num_carries} {loop.num_columns} {loop.length} {loop.reverse} {named(node.args)}")
            _enter(digest, loop.body)
        else:
            meta = node.meta
            shapes = [(x.dtype, tuple(x.shape)) for x in (meta if isinstance(meta, (tuple, list)) else [meta]) if x is not None]
            lines.append(f"{node.op} {named(node.args)} {named(node.kwargs)} {shapes}")
    lines.append(named(graph.outputs))
    digest.update("\n".join(lines).encode())


@functools.cache
def _world() -> bytes:
    """Return everything that an executable depends on except its graph: versions, this code, and the processor of the machine."""
    import jax
    import jaxlib

    digest = hashlib.sha256(
        repr((jax.__version__, jaxlib.__version__, torch.__version__, platform.machine(), os.environ.get("XLA_FLAGS"))).encode()  # pyright: ignore
    )
    here = pathlib.Path(__file__).parent
    for path in (*sorted((here / "_lowerings").glob("*.py")), here / "_xla.py", here / "_cache.py", here / "_constants.py"):
        digest.update(path.read_bytes())
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            digest.update("".join(sorted({line for line in file if line.startswith(("flags", "model name", "Features"))})).encode())
    except OSError:
        digest.update(platform.processor().encode())
    return digest.digest()
