"""Python processes for tests, forked from one that has imported torch and funrl: each begins in a moment, and not in three seconds.

:class:`Popen` is subprocess.Popen for ``[sys.executable, "-c", program, ...]`` and ``[sys.executable, "-m", module, ...]``. The process is
a child of the caller, with signals, streams, an environment and an exit of its own; but whatever Python and its libraries read once, when
they start, is that of the first process. A test of imports, threads or such variables starts Python itself.
"""

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import os
import pickle
import runpy
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import types

from funrl.collectors import _local
from funrl.distributed import _launch

_LIBC = ctypes.CDLL(None, use_errno=True)
_SET_CHILD_SUBREAPER = 36  # of prctl: the parent of orphans among its descendants is then the caller, not process 1
_SERVE = "import sys; sys.path[:] = sys.argv[2:]; from tests import preloaded; preloaded.serve(int(sys.argv[1]))"
# With what torch imports at the first gradient of a mapped function, for seconds, and what a run draws its curve with.
PRELOADED = (
    *("funrl.training", "funrl.algos.ppo", "funrl.collectors._worker", "funrl.distributed._launch", "funrl.envs.gymnasium"),
    *("torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg"),
)
_LOCK = threading.Lock()
_SERVER: list = []  # of this process: its socket, the id of this process, and a Popen


def server():
    """Return the socket of this process's server, which is started at the first call."""
    if not _SERVER or _SERVER[1] != os.getpid():
        mine, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-c", _SERVE, str(theirs.fileno()), *sys.path, os.path.dirname(os.path.dirname(__file__))]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], process_group=0, stdin=subprocess.DEVNULL)
        _SERVER[:] = mine, os.getpid(), process
        atexit.register(_end, mine, os.getpid(), process)
    return _SERVER[0]


def _end(mine, pid, process):
    if pid == os.getpid():
        mine.close()
        process.wait()


class Popen(subprocess.Popen):
    """As subprocess.Popen, for Python programs and modules. With ``nested`` its workers and processes are such ones too."""

    def __init__(self, args, *, nested=False, **options):
        self._nested = nested
        super().__init__(args, **options)

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest):
        streams, (session, group) = rest[3:9], rest[-2:]
        assert args[0] == sys.executable and args[1] in ("-c", "-m"), args
        given = [(streams[0], 0), (streams[3], 1), (streams[5], 2), *((fd, fd) for fd in pass_fds)]
        given = [(target if fd == -1 else fd, target) for fd, target in given]
        request = pickle.dumps(
            {
                "kind": args[1],
                "program": args[2],
                "argv": [os.fsdecode(x) for x in args[3:]],
                "cwd": os.fspath(cwd or os.getcwd()),
                "env": dict(os.environ if env is None else env),
                "targets": [target for _, target in given],
                "group": group,
                "session": session,
                "parent": os.getpid(),
                "nested": self._nested,
            }
        )
        with _LOCK:
            requests = server()
            _LIBC.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(requests, [struct.pack("I", len(request))], [fd for fd, _ in given])
                requests.sendall(request)
                (self.pid,) = struct.unpack("i", _exactly(requests, 4))
            finally:
                _LIBC.prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        self._child_created = True
        self._close_pipe_fds(*streams)


def run(args, *, capture_output=False, check=False, timeout=None, **options):
    """As subprocess.run."""
    if capture_output:
        options.update(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with Popen(args, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


class _Subprocess(types.ModuleType):
    """The module subprocess, whose Popen is that of here."""

    def __getattr__(self, name):
        return getattr(subprocess, name)


def use(change=setattr):
    """Let workers of collectors and processes of ``distributed.launch`` be preloaded ones, by ``change``: monkeypatch.setattr."""
    module = _Subprocess("subprocess")
    module.Popen = Popen
    for where in (_local, _launch):
        change(where, "subprocess", module)


def _exactly(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError("the server of preloaded processes has ended")
        data += part
    return data


# In the server


def serve(fd):
    """Fork a process for each request; in the process itself, run its program, and return."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # of an extra
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is there is not touched again, and so stays shared
    _wait_for_requests(socket.socket(fileno=fd))


def _wait_for_requests(requests):
    while True:
        head, fds, _, _ = socket.recv_fds(requests, 4, 64)
        if len(head) < 4:
            os._exit(0)  # its user has ended
        request = pickle.loads(_exactly(requests, struct.unpack("I", head)[0]))
        middle = os.fork()
        if middle == 0:
            if os.fork():
                os._exit(0)
            break
        os.waitpid(middle, 0)
        for fd in fds:
            os.close(fd)
    while os.getppid() != request["parent"]:  # until the one in the middle has ended
        time.sleep(0.0005)
    if request["session"]:
        os.setsid()
    if request["group"] is not None and request["group"] >= 0:
        os.setpgid(0, request["group"])
    requests.sendall(struct.pack("i", os.getpid()))
    requests.close()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in fds]
    for fd in fds:
        os.close(fd)
    for fd, target in zip(high, request["targets"], strict=True):
        os.dup2(fd, target)
        os.close(fd)
    _SERVER.clear()
    if request["nested"]:
        mine, theirs = socket.socketpair()
        if os.fork() == 0:
            mine.close()
            _wait_for_requests(theirs)
            return
        theirs.close()
        _SERVER[:] = mine, os.getpid(), None
        use()
    _begin(request)


def _begin(request):
    """Run the program of this process as Python does at its start."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[:0] = [""] * (sys.path[:1] != [""])
    sys.path[:0] = [x for x in os.environ.get("PYTHONPATH", "").split(os.pathsep) if x and x not in sys.path]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["kind"] == "-m":
        sys.argv = [request["program"], *request["argv"]]
        runpy.run_module(request["program"], run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *request["argv"]]
        main = sys.modules["__main__"]
        for name in [name for name in vars(main) if not name.startswith("__")]:
            delattr(main, name)
        exec(compile(request["program"], "<string>", "exec"), vars(main))
