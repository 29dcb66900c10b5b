"""Processes that are missing, killed or slow: an error in time, never a hang, and runs that go on."""

import contextlib
import functools
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from funrl import algos, distributed, envs, optim, random, record, runs, training, tree
from funrl.__main__ import main
from funrl.training._sharded import _Shards
from tests.distributed import ranks
from tests.support import same

RUN = ["--env", "CartPole-v1", "--num-agents", "4", "--chunk", "1", "--backend", "eager"]
SMALL = [f"--set={option}" for option in ("num_envs=2", "num_steps=4", "num_cells=8")]


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "WORLD_SIZE: it is not set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, "MASTER_ADDR: it is not set, so the processes do not know where rank 0 is"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "MASTER_PORT: it is not set"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "RANK: it is not set"),
        ({"RANK": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "RANK: expected a whole number, got 'x'"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "RANK: expected a number from 0 to 1"),
        ({"RANK": "0", "WORLD_SIZE": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "WORLD_SIZE: expected at least 1, got 0"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"},
            "MASTER_PORT: expected a number from 1 to 65535",
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "a"}, "SLURM_JOB_ID: expected a whole number, got 'a'"),
    ],
)
def test_variables_that_are_missing_or_wrong(given, message):
    with pytest.raises(distributed.DistributedError, match=message), distributed.join(variables=given):
        pass


def test_the_command_names_the_missing_variable(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert main(["train", "a2c", *RUN]) == 1
    assert capsys.readouterr().err.startswith("funrl: MASTER_ADDR: it is not set")


@pytest.mark.parametrize(
    "hosts, first",
    [("node[003-005,7],other", "node003"), ("a-1,b[1-2]", "a-1"), ("gpu[12,14]", "gpu12"), ("one", "one"), ("", "127.0.0.1")],
)
def test_variables_of_slurm(hosts, first):
    given = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_ID": "70123", "SLURM_STEP_NODELIST": hosts}
    job = distributed._group._job(given)
    assert (job.rank, job.size, job.host, job.port) == (3, 4, first, 20_000 + 70123 % 20_000)
    assert distributed._group._job({**given, "SLURM_NNODES": "1"}).host == "127.0.0.1"
    assert distributed.in_job(given) and not distributed.in_job({**given, "SLURM_NTASKS": "1"})


def errors(f, size, *args, **options):
    found = ranks.results(ranks.start(f, size, *args, **options))
    return [(error or "").splitlines()[0] if error else None for _, error in found]


@pytest.mark.slow
def test_a_rank_that_does_not_come_is_named():
    begun = time.monotonic()
    found = errors(lambda group: None, 3, ranks=(0, 2), timeout=2.0)
    assert all("rank 1 did not come to 127.0.0.1" in error and "start 3 processes" in error for error in found), found
    (found,) = errors(lambda group: None, 2, ranks=(1,), timeout=2.0)  # the one that has the store
    assert "no rendezvous at 127.0.0.1" in found and "check MASTER_ADDR" in found, found
    assert time.monotonic() - begun < 40


def test_an_address_where_something_else_listens():
    """It takes the connection and says nothing, for which torch waits without an end."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        (found,) = errors(lambda group: None, 2, ranks=(1,), timeout=0.5, port=other.getsockname()[1])
    assert "within 2.5 s: no answer; check MASTER_ADDR and MASTER_PORT" in found, found


def test_misuse_of_a_group_is_named():
    class Held(Exception):
        def __init__(self, what, why):
            super().__init__(f"{what} {why}")

    def raises():
        raise Held("no", "disk")

    def f(group):
        with pytest.raises(distributed.DistributedError, match="this process is in a job already"), distributed.join():
            pass
        with pytest.raises(Exception, match="no disk"):  # of a class that cannot be read by another process
            group.first(raises)
        assert not group.mean(torch.ones(2, requires_grad=True)).requires_grad
        train = functools.partial(training.train, algos.a2c.make(envs.make("CartPole-v1"), gamma=0.9 + 0.01 * group.rank))
        with pytest.raises(training.RunError, match=r"rank 1 has another gamma than rank 0, 0.91 instead of 0.9; each process has to"):
            train(random.key(0), 512, num_agents=2, group=group)
        group.mean(torch.ones(2 + group.rank))

    first, second = errors(f, 2)
    assert first.startswith("ValueError: Group.mean: x: rank 1 gives a tensor of another size or dtype than rank 0"), first
    assert second.startswith("DistributedError"), second
    with pytest.raises(distributed.DistributedError, match="its job has ended or never began"):
        distributed.Group(0, 2).mean(torch.ones(1))


def test_two_sizes_of_the_world():
    def f(group):
        return group.size

    port = ranks.free_port()
    running = [one for rank, size in ((0, 2), (1, 3)) for one in ranks.start(f, size, timeout=3.0, ranks=(rank,), port=port)]
    found = [error for _, error in ranks.results(running)]
    assert all(found) and any("WORLD_SIZE: expected one number in all processes, got [2, 3]" in error for error in found), found


def stop(group):
    """Stop rank 1: its connections stay, and nothing comes through them."""
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)


def gathers(group):
    group.gather(0)
    stop(group)
    group.gather(1)


def averages(group):
    env, adam = envs.make("CartPole-v1"), distributed.averaged(optim.adam(1e-3))
    make = lambda count: algos.a2c.make(env, num_envs=count, num_steps=2, num_cells=(2,), optimizer=adam)  # noqa: E731
    algo = distributed.data_parallel(make, 4, group)
    state, _ = algo.step(random.key(1), algo.init(random.key(0)))
    stop(group)
    algo.step(random.key(2), state)


@pytest.mark.parametrize("f", [gathers, averages])
def test_a_rank_that_is_cut_off_is_an_error_in_time(f):
    """As in a partition of the network."""
    found = ranks.results_of_one(ranks.start(f, 2, timeout=2.0), 0)
    assert "DistributedError: rank 0 of 2" in found and "has ended or does not answer (timeout 2 s)" in found, found


def test_a_rank_that_ends_or_hangs_is_named():
    def ends(group):
        group.gather(group.rank)
        if group.rank == 1:
            os._exit(0)
        group.gather(group.rank)

    def hangs(group):
        time.sleep(0 if group.rank == 0 else 4)
        group.gather(group.rank)

    first, second = errors(ends, 2, timeout=20.0)
    assert "rank 1 has ended or does not answer" in first and second is None
    first, _ = errors(hangs, 2, timeout=2.0)
    assert "rank 0 of 2: rank 1 has ended or does not answer (timeout 2 s)" in first


def test_an_error_of_rank_0_is_raised_everywhere_and_printed_once():
    def f(group):
        with pytest.raises(KeyError, match="lost") as caught:
            group.first(lambda: {}["lost"])
        return distributed.raised_on_rank_0(caught.value), group.first(lambda: "found")

    assert ranks.run(f, 2) == [(False, "found"), (True, "found")]


def test_two_processes_of_one_rank():
    def f(group):
        return group.size

    port = ranks.free_port()
    running = [one for rank in (0, 1, 1) for one in ranks.start(f, 2, timeout=3.0, ranks=(rank,), port=port)]
    found = [error for _, error in ranks.results(running) if error]
    assert any("have the rank 1; give each a rank of its own" in error for error in found), found


@pytest.mark.slow
def test_launch_from_python():
    assert distributed.launch(lambda group, x: group.mean(torch.tensor([x * group.rank])).item(), 2, 3.0) == [1.5, 1.5]


def test_a_slow_rank_is_named():
    class Log:
        lines = ()

        def say(self, text):
            self.lines = (*self.lines, text)

    shards, clock = object.__new__(_Shards), [0.0]
    shards.log, shards.since, shards.seconds = Log(), -1e9, lambda: clock[0]
    for busy in [[1.0, 1.4, 1.0]] * 200 + [[0.5, 0.5, 1.0]] * 180:
        clock[0] += 0.5
        shards._name_slow(round(clock[0]), busy)
    first, *others = shards.log.lines
    assert first.startswith("rank 2 is slow: ") and len(others) == 1, shards.log.lines


@pytest.mark.nightly
@pytest.mark.parametrize("one_learner", [False, True])
def test_a_slow_rank_is_named_in_the_log_of_a_run(one_learner):
    """Its environment is slow. Within the updates of one learner the others wait for it, and are not slow themselves."""

    def f(group):
        env, adam = envs.make("CartPole-v1"), distributed.averaged(optim.adam(1e-3))

        def step(*args):
            time.sleep(0.04 * group.rank)
            return env.step(*args)

        make = lambda n: algos.a2c.make(env._replace(step=step), num_envs=n, num_steps=4, num_cells=(2,), optimizer=adam)  # noqa: E731
        algo, agents = (distributed.data_parallel(make, 4, group), {}) if one_learner else (make(2), {"num_agents": 2})
        with contextlib.redirect_stderr(io.StringIO()) as told:
            training.train(algo, random.key(0), 60 * algo.steps_per_update, group=group, backend="eager", evaluate_episodes=0, **agents)
        return re.findall(r"rank \d is slow", told.getvalue())

    assert ranks.run(f, 2, seconds=120.0) == [["rank 1 is slow"], []]


@pytest.mark.nightly
def test_processes_end_with_a_launcher_that_is_killed_before_they_meet(tmp_path):
    """They import for seconds first. Nothing is left of them."""
    code = "import time\nfrom funrl import distributed\ndistributed.launch(lambda group: time.sleep(60), 2)"
    launcher, mine = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}), []
    while len(mine) < 2 and launcher.poll() is None:
        mine = children(launcher.pid, "")
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 30
    while (left := [pid for pid in mine if os.path.exists(f"/proc/{pid}")]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left and not list(tmp_path.iterdir())


def torchrun(out, *more, updates=150, restarts=0, **options):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--max-restarts={restarts}",
        "--nproc-per-node=2",
        f"--master-port={ranks.free_port()}",
    ]
    command += ["-m", "funrl", "train", "a2c", *RUN, *SMALL, "--total-steps", str(updates * 8), "--out", str(out), *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def children(pid, name="funrl"):
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(line.split()[0]) for line in found.splitlines() if name in line]


def checkpoint_time(out):
    manifest = runs.Folder(out).manifest
    return manifest.stat().st_mtime_ns if manifest.exists() else None


def storm(tmp_path, kills, victims=("rank",), updates=150):
    """Kill so many processes at random moments after a checkpoint; return what the run has in the end, and what the last launcher told."""
    out, chance, killed, process, seen = tmp_path / "run", np.random.default_rng(0), 0, None, None
    while True:
        if process is None:
            begun = (out / "config.json").exists()
            process = torchrun(out, *(["--resume"] if begun else []), updates=updates, restarts=kills)
        while killed < kills and process.poll() is None and checkpoint_time(out) == seen:
            time.sleep(0.01)
        seen = checkpoint_time(out)
        if killed == kills or process.poll() is not None:
            try:
                told = process.communicate(timeout=240 + updates // 2)[1]
            finally:
                process.kill()  # its processes end with it
            return out, killed, process.returncode, told
        time.sleep(0.5 * chance.random() * (kills > 1))
        mine = children(process.pid)
        if chance.choice(victims) == "launcher":
            process.kill()
            process.communicate()
            deadline = time.monotonic() + 20
            while any(os.path.exists(f"/proc/{pid}") for pid in mine) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not any(os.path.exists(f"/proc/{pid}") for pid in mine), "its processes outlive the launcher"
            process = None
        elif mine:
            os.kill(mine[chance.integers(len(mine))], signal.SIGKILL)
        killed += process is None or len(mine) > 0


def check_whole(out, updates):
    table = record.read_metrics(out / "metrics.csv")
    assert table["update"].tolist() == [u for u in range(1, updates + 1) for _ in range(4)]
    assert table["agent"].tolist() == [0, 1, 2, 3] * updates
    read = runs.load_run(out)
    assert read.updates == updates
    return tree.leaves(read.state)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kills, victims, updates",
    [
        (1, ("rank",), 30),
        pytest.param(6, ("rank", "launcher"), 600, marks=pytest.mark.nightly),
        pytest.param(30, ("rank",), 3000, marks=pytest.mark.weekly),
        pytest.param(30, ("launcher",), 3000, marks=pytest.mark.weekly),
    ],
)
def test_killed_ranks_go_on_from_the_last_checkpoint(kills, victims, updates, tmp_path, monkeypatch, record_property):
    """Processes of torchrun take seconds to start, after each kill. The bits are those of a run that nobody killed."""
    monkeypatch.chdir(tmp_path)
    out, killed, code, told = storm(tmp_path, kills, victims, updates)
    record_property("killed " + " or ".join(victims), killed)
    assert code == 0 and killed == kills, f"{killed} kills: {told}"
    found = check_whole(out, updates)
    assert re.search(r"continuing after update \d+", told), told
    assert main(["train", "a2c", *RUN, *SMALL, "--total-steps", str(updates * 8), "--out", str(tmp_path / "whole")]) == 0
    same(found, check_whole(tmp_path / "whole", updates), rtol=0, atol=0)
