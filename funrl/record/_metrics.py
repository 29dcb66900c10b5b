"""Metrics in a CSV file, with a row for each agent and update."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from funrl._files import naming, write_atomic
from funrl._locks import append, open_to_append


class MetricsFile:
    """A CSV file to which rows are appended; the first column is ``update`` or ``step``, an integer that never decreases.

    Opening an existing file removes the rows after update ``keep`` and an incomplete last row, so that a run that resumes from a
    checkpoint has no update twice. The removed rows are moved to the end of ``PATH.cut``. One object at a time may write a file.

    Args:
        path: the file; it is created if missing.
        columns: the names of the columns; the first is ``update`` or ``step``.
        keep: the last update, or step, whose rows remain.

    Raises:
        ValueError: if the first column is neither ``update`` nor ``step``, or the file has other columns or is being written already,
            or a damaged or later row precedes one that ``keep`` retains.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = MetricsFile(f"{folder}/metrics.csv", ["update", "loss"])
        ...     file.append([[1, 0.5], [2, 0.25]])
        ...     file.close()
        ...     MetricsFile(f"{folder}/metrics.csv", ["update", "loss"], keep=1).close()
        ...     print(Path(folder, "metrics.csv").read_text())
        update,loss
        1,0.5
    """

    def __init__(self, path: str | os.PathLike, columns: Sequence[str], *, keep: int = 0) -> None:
        if not columns or columns[0] not in ("update", "step"):
            raise ValueError(f"MetricsFile: columns: expected 'update' or 'step' first, got {list(columns)}")
        self.path, self.columns = Path(path), tuple(columns)
        self._file = open_to_append(path)
        try:
            end = _end_of(self._file, self.path, self.columns, keep)
            cut(self._file, end)
            if not end:
                append(self._file, _line(self.columns))
        except BaseException:
            self._file.close()
            raise

    def append(self, rows: Iterable[Sequence[int | float]]) -> None:
        """Append rows of numbers, in the order of the columns. The operating system has them when this returns."""
        append(self._file, "".join([_line([_text(x) for x in row]) for row in rows]))

    def add_columns(self, names: Sequence[str]) -> None:
        """Add columns, with NaN in the existing rows. The file is rewritten atomically."""
        if wrong := [name for name in names if name in self.columns]:
            raise ValueError(f"MetricsFile: add_columns: names: expected new ones, got {wrong[0]!r}, which exists already")
        self._file.seek(0)
        lines = iter(self._file)
        next(lines)
        columns = (*self.columns, *names)
        more = b",nan" * len(names) + b"\n"

        def write(file: BinaryIO) -> None:
            file.write(_line(columns).encode())
            file.writelines(line[:-1] + more for line in lines)

        write_atomic(self.path, write)
        old, self._file, self.columns = self._file, open_to_append(self.path), columns
        old.close()

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        with naming(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with naming(self.path):
            self._file.close()


def read_metrics(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a file of :class:`MetricsFile`.

    Args:
        path: the file.

    Returns:
        A dict of the columns, float64 [rows]; an incomplete last row is left out.

    Raises:
        ValueError: if a row does not have a number for each column of the first line, or the file was not written by
            :class:`MetricsFile`.
        OSError: if the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = MetricsFile(f"{folder}/metrics.csv", ["update", "loss"])
        ...     file.append([[1, 0.5], [2, float("nan")]])
        ...     file.close()
        ...     read_metrics(f"{folder}/metrics.csv")["loss"]
        array([0.5, nan])
    """
    try:
        lines = Path(path).read_bytes().decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text, got bytes that are not UTF-8 ({error.reason}); restore a copy") from None
    columns = lines[0].rstrip("\r").split(",") if lines else []
    if len(set(columns)) < len(columns):
        raise ValueError(f"{path}: expected names of columns, each once, got {lines[0][:200]!r}; restore a copy")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            row = [_number(x) for x in line.rstrip("\r").split(",")]
        except ValueError:
            row = []
        if len(row) != len(columns):
            raise ValueError(f"{path}: line {number}: expected {len(columns)} numbers, got {line[:200]!r}")
        rows.append(row)
    table = np.asarray(rows, dtype=np.float64).reshape(len(rows), len(columns))
    return {name: table[:, i] for i, name in enumerate(columns)}


def columns_of(path: str | os.PathLike) -> tuple[str, ...]:
    """Return the names of the columns of a file, or none if it is missing or empty.

    Example:
        >>> columns_of("/nowhere/metrics.csv")
        ()
    """
    try:
        with open(path, "rb") as file:
            header = file.readline()
    except FileNotFoundError:
        return ()
    return tuple(header.decode("utf-8", "replace").rstrip("\r\n").split(",")) if header.endswith(b"\n") else ()


def _number(text: str) -> float:
    if "_" in text or text != text.strip() or not text.isascii():  # float() would accept these
        raise ValueError
    return float(text)


def _end_of(file: BinaryIO, path: Path, columns: tuple[str, ...], keep: int) -> int:
    """Return the number of bytes of the header and the rows up to update ``keep``; 0 if the header is incomplete."""
    file.seek(0)
    header = file.readline()
    if not header.endswith(b"\n") and _line(columns).encode().startswith(header):
        return 0
    if header.decode("utf-8", "replace").rstrip("\r\n") != ",".join(columns):
        raise ValueError(
            f"{path}: expected the columns {','.join(columns)}, got {header.decode('utf-8', 'replace').strip()[:200]}; move it away"
        )
    try:
        return rows_end(file, keep, _first_column)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; restore a copy, or move it away") from None


def rows_end(file: BinaryIO, keep: int, number: Callable[[bytes], int | None]) -> int:
    """Return the end of the complete rows with numbers up to ``keep``.

    Args:
        file: a binary file open for reading, positioned at the first row.
        keep: the last number of a row that remains.
        number: ``number(line)``: the update or step of a row, or None if the line is not a row.

    Returns:
        The offset in bytes from the beginning of the file.

    Raises:
        ValueError: if a row up to ``keep`` would be lost, because it comes after a line that is not a row, or after a later one.

    Example:
        >>> import io
        >>> rows_end(io.BytesIO(b"1 a\\n2 b\\n3 c\\n"), 2, lambda line: int(line.split()[0]))
        8
    """
    end, wrong = file.tell(), None
    for i, line in enumerate(file, 1):
        count = number(line)
        if line.endswith(b"\n") and count is not None and count <= keep:
            if wrong is not None:
                raise ValueError(f"row {wrong[0]}: expected a row up to {keep}, as row {i} is, got {wrong[1][:100]!r}")
            end += len(line)
        elif wrong is None:
            wrong = (i, line)
    return end


def cut(file: BinaryIO, end: int) -> None:
    """Move the bytes after ``end`` of a file that :func:`open_to_append` opened to the end of the file ``NAME.cut``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, open_to_append(f"{folder}/a") as file:
        ...     append(file, "1 a\\n2 b\\n3 c")
        ...     cut(file, 4)
        ...     Path(folder, "a.cut").read_bytes()
        b'2 b\\n3 c\\n'
    """
    file.seek(end)
    rest = file.read()
    if rest.strip(b"\0"):  # a power failure can leave zeros
        with open_to_append(f"{file.name}.cut") as other:
            append(other, rest.decode("utf-8", "replace").rstrip("\n") + "\n")
    with naming(file.name):
        file.truncate(end)


def _first_column(line: bytes) -> int | None:
    first = line.split(b",", 1)[0]
    return int(first) if first.isdigit() and len(first) < 19 else None


def _line(parts: Sequence[str]) -> str:
    return ",".join(parts) + "\n"


def _text(x: Any) -> str:
    # Nine digits distinguish all float32 numbers.
    return str(x) if isinstance(x, int) else f"{x:.9g}"
