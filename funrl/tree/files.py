"""Files that are whole or not there, and what is read from those that anyone may have written."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["check_path", "naming", "read_json", "say", "write_atomic"]


def read_json(text: bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: if it is no JSON, no UTF-8, nested too deep, or has a number with thousands of digits.

    Example:
        >>> read_json(b'[1, {"a": null}]')
        [1, {'a': None}]
    """
    try:
        return json.loads(text.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def say(text: str, file: Any = None) -> None:
    r"""Print a line at once, with escapes for what the file cannot encode, as a terminal in the C locale cannot "é".

    Args:
        text: the line.
        file: an open text file; None: the standard output.

    Example:
        >>> import io
        >>> say("é", file := io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
        >>> file.buffer.getvalue()
        b'\\xe9\n'
    """
    file = sys.stdout if file is None else file
    encoding = getattr(file, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Let an OSError inside name the file, as that of a full disk does not.

    Example:
        >>> with naming("some/file"):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        ...
        OSError: [Errno 28] No space left on device: 'some/file'
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def write_atomic(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Make the file ``path`` of what ``write(file)`` writes, or leave everything as it was.

    Args:
        path: the file; its folder is made where it is missing.
        write: writes to a binary file.

    Raises:
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomic(f"{folder}/note", lambda file: file.write(b"done"))
        ...     Path(folder, "note").read_text()
        'done'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name, not a random one: what a killed process left there is written over by the next.
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with naming(path):
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name itself has to reach the disk
        finally:
            os.close(folder)


def check_path(what: str, path: Any) -> None:
    """Raise a TypeError unless ``path`` is a path: what is saved comes before it, and the two are easily swapped.

    Example:
        >>> check_path("tree.save", {"a": 1})
        Traceback (most recent call last):
        ...
        TypeError: tree.save: path: expected a str or os.PathLike, got dict; give what to save first, and then where: tree.save(value, path)
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"{what}: path: expected a str or os.PathLike, got {type(path).__name__}; give what to save first, and then where: "
            f"{what}(value, path)"
        )
