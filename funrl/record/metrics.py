"""Metrics as rows of a CSV file, one for each agent and update."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["MetricsFile", "read_metrics"]


class MetricsFile:
    """A CSV file that only grows; the first column is ``update`` or ``step``, a whole number that never falls.

    Opening a file that is there cuts off the rows after update ``keep``, and a row that was not written to its end; so
    a run that goes on from a checkpoint has no update twice.

    Args:
        path: the file; it is made where it is missing.
        columns: the names of the columns; the first is ``update`` or ``step``.
        keep: the last update, or step, whose rows stay.

    Raises:
        ValueError: if the first column is neither ``update`` nor ``step``, or the file has other columns.
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
        self.columns = tuple(columns)
        path = Path(path)
        if path.exists() and (end := _end_of(path, self.columns, keep)):
            os.truncate(path, end)
            self._file = open(path, "a", encoding="utf-8", newline="")
        else:
            self._file = open(path, "w", encoding="utf-8", newline="")
            self._file.write(",".join(self.columns) + "\n")
            self._file.flush()

    def append(self, rows: Iterable[Sequence[int | float]]) -> None:
        """Add rows of numbers, in the order of the columns; they reach the operating system before this returns."""
        self._file.write("".join([",".join([_text(x) for x in row]) + "\n" for row in rows]))
        self._file.flush()

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read what :class:`MetricsFile` wrote.

    Args:
        path: the file.

    Returns:
        For each column, float64 [rows]; a last row that was not written to its end is left out.

    Raises:
        ValueError: if a row has another number of columns than the first line, or something else than numbers.
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
    lines = Path(path).read_text(encoding="utf-8").split("\n")[:-1]
    columns = lines[0].split(",") if lines else []
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            row = [float(x) for x in line.split(",")]
        except ValueError:
            row = []
        if len(row) != len(columns):
            raise ValueError(f"{path}: line {number}: expected {len(columns)} numbers, got {line!r}")
        rows.append(row)
    table = np.asarray(rows, dtype=np.float64).reshape(len(rows), len(columns))
    return {name: table[:, i] for i, name in enumerate(columns)}


def _end_of(path: Path, columns: tuple[str, ...], keep: int) -> int:
    """Return how many bytes hold the header and the rows up to update ``keep``; 0 where the header is not whole."""
    with open(path, "rb") as file:
        header = file.readline()
        if not header.endswith(b"\n"):
            return 0
        if header.decode("utf-8", "replace").rstrip("\r\n") != ",".join(columns):
            raise ValueError(
                f"{path}: expected the columns {','.join(columns)}, got {header.decode('utf-8', 'replace').strip()[:200]}; move it away"
            )
        return rows_end(file, keep, _first_column)


def rows_end(file: BinaryIO, keep: int, number: Callable[[bytes], int | None]) -> int:
    """Return where the rows end that are whole and count up to ``keep``.

    Args:
        file: open for reading in binary; it stands at the first row.
        keep: the last number of a row that stays.
        number: ``number(line)``: what a row counts, or None where it is no row.

    Returns:
        The offset in bytes from the beginning of the file.

    Example:
        >>> import io
        >>> rows_end(io.BytesIO(b"1 a\\n2 b\\n3 c\\n"), 2, lambda line: int(line.split()[0]))
        8
    """
    end = file.tell()
    for line in file:
        count = number(line)
        if not line.endswith(b"\n") or count is None or count > keep:
            break
        end += len(line)
    return end


def _first_column(line: bytes) -> int | None:
    first = line.split(b",", 1)[0]
    return int(first) if first.isdigit() else None


def _text(x: Any) -> str:
    # Nine digits tell all float32 apart.
    return str(x) if isinstance(x, int) else f"{x:.9g}"
