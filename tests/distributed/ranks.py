"""Jobs of several processes for tests: forked from one server that has imported funrl, so that each begins in a moment."""

import multiprocessing
import os
import socket
import time
import traceback

import cloudpickle

from funrl import distributed

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["torch.distributed", "torch._dynamo", "matplotlib.figure", "funrl.training", "funrl.collectors"])


def free_port():
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def variables(rank, size, port):
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _rank(pipe, names, timeout, call):
    import torch

    torch.set_num_threads(1)
    os.environ.update(names)
    f, args = cloudpickle.loads(call)
    try:
        with distributed.join(timeout=timeout) as group:
            pipe.send_bytes(cloudpickle.dumps((f(group, *args), None)))  # not send, which shares the memory of tensors
    except Exception as error:
        pipe.send_bytes(cloudpickle.dumps((None, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")))


def start(f, size, *args, timeout=30.0, ranks=None, port=None):
    """Start ``f(group, *args)`` in processes; return them with their pipes."""
    port, running = port or free_port(), []
    for rank in range(size) if ranks is None else ranks:
        mine, theirs = _SERVER.Pipe()
        call = cloudpickle.dumps((f, args))
        process = _SERVER.Process(target=_rank, args=(theirs, variables(rank, size, port), timeout, call), daemon=True)
        process.start()
        theirs.close()
        running.append((process, mine))
    return running


def results(running, seconds=60.0):
    """Return for each process its result and the text of its error; (None, None): it was killed. No process is left."""
    found, deadline = [], time.monotonic() + seconds
    for _, pipe in running:
        try:
            there = pipe.poll(max(0.0, deadline - time.monotonic()))
            found.append(cloudpickle.loads(pipe.recv_bytes()) if there else (None, "it hangs"))
        except EOFError:
            found.append((None, None))
    for process, _ in running:
        process.join(max(0.1, deadline - time.monotonic()))
        process.kill()
    return found


def results_of_one(running, which, seconds=60.0):
    """Wait for the text of the error of one process only; the others may be stopped."""
    there = running[which][1].poll(seconds)
    for i, (process, _) in enumerate(running):
        if i != which or not there:
            process.kill()
    return results(running)[which][1]


def run(f, size, *args, seconds=60.0, **options):
    """Return the results of ``f(group, *args)``, in the order of the ranks."""
    found = results(start(f, size, *args, **options), seconds)
    faults = [error for _, error in found if error is not None]
    assert not faults, "\n".join(faults)
    return [value for value, _ in found]
