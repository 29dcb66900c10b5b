"""Atomic writes of files, and reading of files that are not trusted."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO


def read_json(text: bytes) -> Any:
    """Parse JSON that is not trusted.

    Raises:
        ValueError: if it is not JSON or not UTF-8, is nested too deep, or has a number with thousands of digits.

    Example:
        >>> read_json(b'[1, {"a": null}]')
        [1, {'a': None}]
    """
    try:
        return json.loads(text.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def say(text: str, file: Any = None) -> None:
    r"""Print and flush a line, with escapes for characters that the file cannot encode, such as "é" in a terminal with the C locale.

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
    """Add the name of the file to an OSError inside, as the error of a full disk lacks it.

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
    """Write the file ``path`` atomically with ``write(file)``: on an error an old file remains.

    Args:
        path: the file; its folder is created if missing.
        write: a function that writes to a binary file.

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
    # A constant name, so that the next process overwrites the file that a killed one has left.
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
            os.fsync(folder)  # writes the new name to the disk, too
        finally:
            os.close(folder)
