"""Locks of files and folders, so that one process at a time writes them. The system releases them when the process ends."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from funrl._files import naming

fcntl: Any
try:
    import fcntl
except ModuleNotFoundError:  # Windows: files are not locked there
    fcntl = None

_NAME = ".lock"
_OTHERS = (errno.EACCES, errno.EAGAIN)  # errors if another process holds the lock; others mean that the file system has no locks
_held: set[Path] = set()  # paths that this process has locked; a process is never stopped by its own locks


class Busy(Exception):
    """Error: a lock is held. The message is the holder, such as "process 17"."""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Lock a folder with a lock file in it, which is removed at the end.

    Args:
        folder: an existing folder.

    Raises:
        Busy: if another process, or another part of this one, holds the lock.
        OSError: if the lock file cannot be written.

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
        if os.getpid() == mine:  # not in a process that was forked in the meantime
            _held.discard(path)
            path.unlink(missing_ok=True)
            os.close(file)


def _take(path: Path) -> int:
    # Locks of lockf belong to one process: a forked child that outlives it does not hold them.
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
        os.close(file)  # the holder has removed the file since it was opened
    with contextlib.suppress(OSError):  # a full disk: the number is only used in messages
        os.ftruncate(file, 0)
        os.write(file, str(os.getpid()).encode())
    return file


def open_to_append(path: str | os.PathLike) -> BinaryIO:
    """Open a file to read and append. Only one object in one process may do so at a time.

    Args:
        path: the file; it is created if missing.

    Raises:
        ValueError: if it is already open in this way.
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
                raise ValueError(f"{path}: it is being written already, here or by another process; write to another file") from None
    return file


def append(file: BinaryIO, text: str) -> None:
    """Append text to a file. The operating system has the text when this returns.

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
