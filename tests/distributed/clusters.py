"""Clusters of Ray on the loopback interface, whose nodes can be killed, and which leave nothing behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from tests.distributed import ranks


class Cluster:
    """Nodes as ``ray start`` makes them: the first is the head. ``mark`` is in the environment of all their processes."""

    def __init__(self):
        self.port, self.nodes, self.mark = ranks.free_port(), [], f"funrl-test-{uuid.uuid4()}"
        self.address = f"127.0.0.1:{self.port}"
        # For all who may come to this cluster.
        self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.mark, "RAY_worker_niceness": "0"}

    def start(self, num_cpus=2):
        """Start one more node; it is ready after some seconds."""
        role = [f"--address={self.address}"] if self.nodes else ["--head", f"--port={self.port}", "--include-dashboard=false"]
        command = [Path(sys.executable).with_name("ray"), "start", "--block", f"--num-cpus={num_cpus}", "--disable-usage-stats"]
        command += ["--object-store-memory=80000000", *role]
        path = os.pathsep.join([os.getcwd(), *sys.path])
        variables = {**os.environ, **self.variables, "PYTHONPATH": path, "FUNRL_TEST": self.mark}
        with tempfile.NamedTemporaryFile() as told:
            self.nodes.append(subprocess.Popen(command, env=variables, start_new_session=True, stdout=told, stderr=told))
            if len(self.nodes) == 1:
                self._wait_for_head(told)

    def _wait_for_head(self, told):
        """Wait until Ray says that its head runs; it listens at its port long before, and may still fail on a busy machine."""
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in (text := Path(told.name).read_text()):
            assert self.nodes[0].poll() is None and time.monotonic() < deadline, f"the head of Ray did not start: {text}"
            time.sleep(0.2)

    def kill(self, node):
        """Kill all processes of a node at once, as if its machine were lost."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.nodes[node].pid, signal.SIGKILL)
        self.nodes[node].wait()

    def processes(self):
        """Return the ids of the processes that came from its nodes and still live."""
        found = []
        for place in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError):
                if place.name.isdecimal() and self.mark.encode() in (place / "environ").read_bytes():
                    if (place / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                        found.append(int(place.name))
        return found

    def is_gone(self, seconds=60.0):
        """Wait until no process is left, and nothing listens at its port; return whether that is so."""
        deadline = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(("127.0.0.1", self.port))
        return True

    def close(self):
        """Kill whatever is left."""
        for node in range(len(self.nodes)):
            self.kill(node)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
