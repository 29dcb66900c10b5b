"""Atomic writes of files, and reading of files that are not trusted."""

import contextlib
import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

# The dtypes of the safetensors format.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


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


def write_json(path: str | os.PathLike, data: Any, indent: int | None = 2) -> None:
    """Write JSON to the file ``path``, as :func:`write_atomic` does."""
    text = json.dumps(data, indent=indent) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


def write_tensors(file: BinaryIO, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write contiguous tensors on the CPU to a file in the safetensors format.

    Raises:
        TypeError: if the format has no dtype for a tensor.
        OSError: if the file cannot be written.

    Example:
        >>> import io, safetensors.torch
        >>> write_tensors(file := io.BytesIO(), {"w": torch.ones(2)})
        >>> safetensors.torch.load(file.getvalue())
        {'w': tensor([1., 1.])}
    """
    # Large elements first, so that all are aligned.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in order:
        x = tensors[name]
        if x.dtype not in _DTYPES:
            raise TypeError(
                f"leaf {name}: a tensor of {x.dtype} cannot be written; convert it, such as a complex one by torch.view_as_real"
            )
        begin, end = end, end + x.nbytes
        header[name] = {"dtype": _DTYPES[x.dtype], "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)))
    file.write(text)
    for name in order:
        file.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
