"""Locks of files and folders that one process at a time may write; they end with the process, however it ends."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from funrl.tree.files import naming

fcntl: Any
try:
    import fcntl
except ModuleNotFoundError:  # Windows, where files are not locked
    fcntl = None

__all__ = ["Busy", "append", "hold", "open_to_append"]

_NAME = ".lock"
_OTHERS = (errno.EACCES, errno.EAGAIN)  # what a lock that another one holds gives; all else says that there are no locks here
_held: set[Path] = set()  # by this process, for which its own locks are none


class Busy(Exception):
    """Who holds a lock, in words such as "process 17"."""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder: a file in it, of a process that is alive, which is removed at the end.

    Args:
        folder: is there.

    Raises:
        Busy: if another process holds it, or another part of this one.
        OSError: if nothing can be written there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, hold(Path(folder)):
        ...     try:
        ...         with hold(Path(folder)):
        ...             pass
        ...     except Busy as error:
        ...         print(error)
        this process
    """
    path = folder.resolve() / _NAME
    if path in _held:
        raise Busy("this process")
    if fcntl is None:
        yield
        return
    file, mine = _take(path), os.getpid()
    _held.add(path)
    try:
        yield
    finally:
        if os.getpid() == mine:  # and not that of a process that was forked meanwhile
            _held.discard(path)
            path.unlink(missing_ok=True)
            os.close(file)


def _take(path: Path) -> int:
    # Locks of lockf are the process's own: a process that it forked, and that outlives it, does not have them.
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _OTHERS:
                owner = os.read(file, 20).decode("ascii", "replace")
                os.close(file)
                raise Busy(f"process {owner}" if owner.isdigit() else "another process") from None
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            break
        os.close(file)  # its holder has removed it since it was opened
    with contextlib.suppress(OSError):  # of a full disk: the number is for messages only
        os.ftruncate(file, 0)
        os.write(file, str(os.getpid()).encode())
    return file


def open_to_append(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading and for writing at its end, which one process at a time may do, and in it one object.

    Args:
        path: the file; it is made where it is missing.

    Raises:
        ValueError: if it is open so already.
        OSError: if it cannot be opened.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, open_to_append(f"{folder}/a") as file:
        ...     file.write(b"text")
        4
    """
    file = open(path, "ab+")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _OTHERS:
                file.close()
                raise ValueError(f"{path}: it is being written already, here or by another process; write elsewhere") from None
    return file


def append(file: BinaryIO, text: str) -> None:
    """Write text to the end of a file; it reaches the operating system before this returns.

    Raises:
        OSError: that names the file, if it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, open_to_append(f"{folder}/a") as file:
        ...     append(file, "text")
        ...     file.tell()
        4
    """
    with naming(file.name):
        file.write(text.encode())
        file.flush()
