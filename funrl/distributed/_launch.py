"""The start of a job from Python: processes on this machine."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from funrl import _check
from funrl.distributed._group import DistributedError, end_with_parent, join

__all__ = ["launch"]

_BOOT = """
import sys
sys.path[:] = sys.argv[3:]
from funrl.distributed._launch import main
main(sys.argv[1], int(sys.argv[2]))
"""


def launch(f: Callable[..., Any], num_processes: int, *args: Any, timeout: float = 60.0) -> list[Any]:
    """Call ``f(group, *args)`` in several new processes of this machine, which meet on the loopback interface.

    Args:
        f: a function; cloudpickle sends it, so a lambda is allowed. ``group`` is a :class:`Group`.
        num_processes: W >= 1.
        *args: further arguments.
        timeout: as for :func:`join`.

    Returns:
        The results, in the order of the ranks.

    Raises:
        DistributedError: if a process raises or is killed; the others are ended then. The message names the first one.
        TypeError: if ``num_processes`` is not an integer, or ``f`` or an argument cannot be sent to a process.
        ValueError: if it is less than 1.

    Example:
        >>> launch(lambda group, x: group.gather(group.rank * x)[-1], 2, 10)
        [10, 10]
    """
    _check.integer("distributed.launch: num_processes", num_processes, 1)
    _check.function("distributed.launch: f", f, "give lambda group: ...")
    try:
        call = cloudpickle.dumps((f, args, timeout))
    except Exception as error:
        raise TypeError(
            f"distributed.launch: f: it or an argument cannot be sent to a process ({type(error).__name__}: {error}); make it in f"
        ) from error
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="funrl-") as folder:
        Path(folder, "call").write_bytes(call)
        processes = []
        try:
            for rank in range(num_processes):
                names = {"RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                variables = {**os.environ, **{name: str(x) for name, x in names.items()}}
                processes.append(
                    subprocess.Popen([sys.executable, "-c", _BOOT, folder, str(os.getpid()), *sys.path], env=variables, process_group=0)
                )
            codes = _wait(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return _results(folder, codes)


def _wait(processes: list[Any]) -> list[int | None]:
    """Wait until all processes have ended, or until 5 seconds after one has failed; return their exit codes, None: it still runs."""
    failed = None
    while any(process.poll() is None for process in processes):
        if failed is None and any(process.returncode for process in processes):
            failed = time.monotonic()
        if failed is not None and time.monotonic() - failed > 5.0:
            break
        time.sleep(0.02)
    return [process.returncode for process in processes]


def _results(folder: str, codes: list[int | None]) -> list[Any]:
    results = []
    for rank, code in enumerate(codes):
        path = Path(folder, f"result-{rank}")
        story = "it did not end" if code is None else f"it ended with exit code {code}"
        results.append(cloudpickle.loads(path.read_bytes()) if path.exists() else (None, story))
    # That other ranks miss one, or do not end, is a consequence.
    faults = [
        (code is None, fault.startswith("DistributedError"), rank, fault)
        for rank, (code, (_, fault)) in enumerate(zip(codes, results, strict=True))
        if fault is not None
    ]
    if faults:
        _, _, rank, fault = min(faults)
        raise DistributedError(f"distributed.launch: rank {rank}: {fault}; all {len(codes)} processes are ended")
    return [value for value, _ in results]


def main(folder: str, launcher: int) -> None:
    """Call the function in ``folder`` as one of the processes of a job, and write its result there; end when the launcher has ended."""
    end_with_parent(launcher, folder)
    f, args, timeout = cloudpickle.loads(Path(folder, "call").read_bytes())
    code = 0
    try:
        with join(timeout=timeout) as group:
            result = cloudpickle.dumps((f(group, *args), None))
    except Exception as error:
        result, code = cloudpickle.dumps((None, f"{type(error).__name__}: {error}")), 1
    path = Path(folder, f"result-{os.environ['RANK']}")
    path.with_suffix(".partial").write_bytes(result)
    path.with_suffix(".partial").rename(path)
    sys.exit(code)


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]
