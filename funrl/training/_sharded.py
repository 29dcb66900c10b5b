"""The training of agents in chunks, which several processes share: each trains its chunks, and they meet from time to time."""

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from funrl import compiler, random, runs, tree
from funrl.acting import Evaluation
from funrl.checkpoint import CheckpointError
from funrl.compiler import compile
from funrl.distributed import Group, alone, seconds_of_exchanges, share
from funrl.populations import begin
from funrl.runs import RunError, checking, finish_parts, load_part, read_manifest, save_part
from funrl.training._agents import evaluate_agents
from funrl.training._begin import Job, Result, Start, anneal_longer, begin_log, enter, finish
from funrl.training._interrupt import Interrupt
from funrl.training._log import Log, bad_parameters

# The processes meet about twice a second.
_MEET_SECONDS = 0.5
# A process is slow if within a minute it computes so many times as long as the median, and so many seconds longer; it is named once.
_SLOW, _SLOW_SECONDS, _SLOW_WINDOW = 1.5, 3.0, 60.0


class _Report(NamedTuple):
    """Report of a process at a meeting.

    Attributes:
        metrics: of the updates since the last meeting, [U, n] by name, for its n agents.
        bad: the result of :func:`bad_parameters` for these agents.
        asked: whether Ctrl-C was pressed.
        seconds: the seconds of these updates.
        busy: those without the exchanges within updates, in which one process waits for others.
    """

    metrics: dict[str, torch.Tensor]
    bad: list[str]
    asked: bool
    seconds: float
    busy: float


class _Verdict(NamedTuple):
    """Decision of rank 0 at a meeting: whether to save a checkpoint, to end, and the update of the next meeting."""

    save: bool
    end: bool
    next: int


def train_sharded(job: Job, group: Group | None, chunk: int | None) -> Result:
    """Train the agents of this process, as :func:`funrl.train` describes."""
    group, algo, key, num_agents = group or alone(), job.algo, job.key, job.agents.num_agents
    whole = "processes" in algo.given
    size, mine = (1, [group.rank]) if whole else _chunks(num_agents, chunk, group)
    # The processes of one agent have the same key, and each the part of its environments.
    keys = key.flatten()[:1].expand(group.size) if whole else key if key.ndim else random.split(key, num_agents)
    _check_alike(group, job, keys, size)
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:

        def open_folder() -> tuple[Start, str, list[Any]]:
            known, paths = job.with_backend(), []
            own = {"processes": group.size} if whole else {"chunk": size}
            start = enter(known, own, Start(None, diverged=[0] * num_agents), stack, functools.partial(_read, job, paths))
            return start, known.backend, paths

        start, backend, paths = group.first(open_folder)
        mute = {"folder": None, "progress": False} if group.rank else {}  # rank 0 writes and prints
        job = job._replace(backend=backend)
        stack.enter_context(compiler.using(backend))
        states = _states(job, keys, mine, size, start, paths)
        log = begin_log(job._replace(**mute), start, stack)
        shards = _Shards(job, group, log, start, started, keys, mine, size)
        threads = min(torch.get_num_threads(), len(states)) if key.device.type == "cpu" else 1
        together = stack.enter_context(compiler.lanes(threads, backend))
        states, metrics, update, compiling = shards.train(states, together)
        seconds = shards.seconds()
        evaluation = _evaluate(job, states, keys, mine, size, group) if job.evaluate_episodes else None
        finish(job._replace(**mute), evaluation, log)
        lost = group.first(lambda: tuple(log.diverged or ()))
    state, total = tree.cat(states), start.compile_seconds + compiling
    if num_agents == 1:
        state, metrics = tree.index((state, metrics), 0)
    return Result(state, metrics, evaluation, update, update * algo.steps_per_update, seconds, total, None, lost)


def _check_alike(group: Group, job: Job, keys: torch.Tensor, size: int) -> None:
    """Raise a RunError if another process was called with other arguments, whose agents would not be those of one process."""
    config = runs.describe(job.algo, keys[0], job.total_steps, job.agents.num_agents)
    own = {name: config[name] for name in ("algorithm", "env", "num_agents", "total_steps", "options")}
    own |= {"key": keys.tolist(), "chunk": size, "evaluate_episodes": job.evaluate_episodes}
    own |= {"hparams": {name: x.tolist() for name, x in job.agents.hparams.items()}}
    first, *others = group.gather(own)
    for rank, other in enumerate(others, 1):
        for name, expected, got in runs.differences(first, other, own):
            shown = "" if name in ("key", "hparams") else f", {got!r} instead of {expected!r}"
            raise RunError(
                f"group: rank {rank} has another {name} than rank 0{shown}; each process has to call train with the same arguments"
            )


def _read(job: Job, paths: list[Any], longer: bool) -> Start | None:
    """Return the point of the last checkpoint, with the new ``anneal_steps`` or None as its state; append its files to ``paths``."""
    if job.folder is None or not job.folder.manifest.exists():
        return None
    found, meta = read_manifest(job.folder)
    paths.extend(found)
    state = job.algo.config.anneal_steps if longer else None
    return Start(state, meta["update"], meta["seconds"], meta["compile_seconds"], diverged=meta.get("diverged"))


def _chunks(num_agents: int, chunk: int | None, group: Group) -> tuple[int, list[int]]:
    """Return the size of a chunk, and the numbers of this process's chunks."""
    one = "give it to distributed.data_parallel, or train several agents"
    remedy = one if num_agents == 1 else "choose another --num-agents, or another number of processes"
    with checking():
        share("num_agents", range(num_agents), group, "agents", remedy)
        size = num_agents // group.size if chunk is None else chunk
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or num_agents % size:
            raise ValueError(f"chunk: expected a divisor of the {num_agents} agents, got {chunk!r}; choose another --chunk")
        fitting = num_agents // group.size
        return size, list(share("chunk", range(num_agents // size), group, "chunks", f"choose a --chunk that divides {fitting}"))


def _states(job: Job, keys: torch.Tensor, mine: list[int], size: int, start: Start, paths: list[Any]) -> list[Any]:
    """Return the states of this process's chunks: the first ones, or those of the checkpoint."""
    states, count = [], len(keys) // size
    if paths and len(paths) != count:
        raise CheckpointError(f"{paths[0].parent}: expected the parts of {count} chunks, got {len(paths)}; restore it, or start a new run")
    for number in mine:
        part = slice(number * size, (number + 1) * size)
        hparams = {name: x[part] if len(x) > 1 else x for name, x in job.agents.hparams.items()}
        with _one_thread():
            state = begin(job.algo, keys[part], hparams)
        if paths:
            state = load_part(paths[number], start.update, state)
            state = state if start.state is None else anneal_longer(state, start.state)
        states.append(state)
    return states


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Context in which torch's operators use one thread, so that their bits are the same in processes with different numbers of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Shards:
    """The chunks of this process, in training."""

    def __init__(
        self, job: Job, group: Group, log: Log, start: Start, started: float, keys: torch.Tensor, mine: list[int], size: int
    ) -> None:
        self.job, self.group, self.log, self.start, self.started = job, group, log, start, started
        self.num_updates, self.mine, self.size = job.num_updates, mine, size
        self.keys = [keys[number * size : (number + 1) * size] for number in mine]
        self.waiting: list[tuple[float, dict[str, torch.Tensor]]] = []
        self.whole = "processes" in job.algo.given
        self.compiling, self.saved = 0.0, -math.inf
        self.busy, self.since, self.named = [0.0] * group.size, -math.inf, False  # of all processes, in this minute

    def seconds(self) -> float:
        """Return the seconds of the run so far."""
        return self.start.seconds + time.perf_counter() - self.started

    def train(self, states: list[Any], together: Callable[..., list[Any]]) -> tuple[list[Any], dict[str, torch.Tensor], int, float]:
        """Do the updates that are left; return the states, the metrics of the last one, its number and the seconds of compiling."""
        step = torch.func.vmap(lambda k, number, state: self.job.algo.step(random.fold_in(k, number), state), (0, None, 0))
        program = compile(step, donate=2, backend=self.job.backend)
        metrics: dict[str, torch.Tensor] = {}
        first = number = self.start.update
        due, begun, interrupt = first + 1, self.seconds(), Interrupt()
        met = time.perf_counter(), seconds_of_exchanges()
        try:
            for number in range(first + 1, self.num_updates + 1):
                now = torch.tensor(number, device=self.keys[0].device)
                calls = [functools.partial(program, keys, now, state) for keys, state in zip(self.keys, states, strict=True)]
                done = together(calls) if number > first + 1 else [call() for call in calls]  # which compiles
                states = [state for state, _ in done]
                self.waiting.append((self.seconds(), {name: torch.cat([m[name] for _, m in done]) for name in done[0][1]}))
                if number == first + 1:
                    self.compiling = self.seconds() - begun
                    interrupt.wait_for_update()
                if number < due:
                    continue
                report = self._report(states, interrupt.asked, time.perf_counter() - met[0], seconds_of_exchanges() - met[1])
                reports = self.group.gather(report)
                verdict = self.group.first(lambda number=number, reports=reports: self._judge(number, reports))
                metrics = self._of_agents(reports, -1)
                self.waiting = []
                if verdict.save:
                    self._save(number, states)
                if verdict.end:
                    raise KeyboardInterrupt
                due, met = verdict.next, (time.perf_counter(), seconds_of_exchanges())
        finally:
            interrupt.restore()
            self.log.close()
        return states, metrics, number, self.compiling

    def _report(self, states: list[Any], asked: bool, seconds: float, exchanging: float) -> _Report:
        metrics = {name: torch.stack([m[name] for _, m in self.waiting]).cpu() for name in self.waiting[0][1]}
        bad = [path for state in states for path in bad_parameters(state.learner.params, self.size)]
        return _Report(metrics, bad, asked, seconds, seconds - exchanging)

    def _judge(self, number: int, reports: list[_Report]) -> _Verdict:
        """Write the metrics of all agents, and decide how to go on; only rank 0 does."""
        begun = number - len(self.waiting)
        for row, (seconds, _) in enumerate(self.waiting):
            self.log.add(begun + row + 1, seconds, self._of_agents(reports, row))
        last = number == self.num_updates
        if begun == self.start.update:
            self.log.flush()
            self.log.start_bar(self.num_updates, self.compiling)
        asked = any(r.asked for r in reports)
        save = asked or last or (self.job.folder is not None and self.seconds() - self.saved >= self.job.checkpoint_every)
        if save or self.job.folder is None:
            self.log.flush()
            self.log.check_parameters(number, [path for r in reports[: 1 if self.whole else None] for path in r.bad], last)
            self.log.sync()
        pace = max(r.seconds for r in reports) / len(self.waiting)
        if begun == self.start.update:
            pace = 0.0  # that was the time of compiling
        else:
            self._name_slow(number, [r.busy for r in reports])
        step = 1 if not pace else max(1, min(int(_MEET_SECONDS / pace), 2 * len(self.waiting)))
        return _Verdict(save and self.job.folder is not None, asked, min(number + step, self.num_updates))

    def _of_agents(self, reports: list[_Report], row: int) -> dict[str, torch.Tensor]:
        """Return the metrics [K] of an update; the processes of one agent have the same."""
        reports = reports[:1] if self.whole else reports
        return {name: torch.cat([r.metrics[name][row] for r in reports]) for name in reports[0].metrics}

    def _name_slow(self, number: int, busy: list[float]) -> None:
        if self.seconds() - self.since > _SLOW_WINDOW:
            self.busy, self.since, self.named = [0.0] * len(busy), self.seconds(), False
        self.busy = [x + y for x, y in zip(self.busy, busy, strict=True)]
        usual, longest = statistics.median_low(self.busy), max(self.busy)
        if not self.named and longest > _SLOW * usual and longest - usual > _SLOW_SECONDS:
            self.named = True
            rank = self.busy.index(longest)
            self.log.say(f"rank {rank} is slow: {longest:.1f} s for the updates up to {number:,}, where the median is {usual:.1f} s")

    def _save(self, number: int, states: list[Any]) -> None:
        folder = self.job.folder
        assert folder is not None  # without a folder rank 0 saves nothing
        for index, state in zip(self.mine, states, strict=True):
            save_part(folder, number, index, state)
        parts = sum(self.group.gather(len(self.mine)))  # all have written theirs

        def finish() -> None:
            meta = {"update": number, "seconds": self.seconds(), "compile_seconds": self.start.compile_seconds + self.compiling}
            meta |= {"processes": self.group.size} if self.whole else {}
            meta |= {"diverged": self.log.diverged} if self.log.diverged is not None else {}
            finish_parts(folder, parts, meta)
            self.log.saved, self.saved = number, self.seconds()

        self.group.first(finish)


def _evaluate(job: Job, states: list[Any], keys: torch.Tensor, mine: list[int], size: int, group: Group) -> Evaluation:
    """Evaluate the agents of each chunk, and return the evaluations of all."""
    algo, num_episodes, parts = job.algo, job.evaluate_episodes, []
    for number, state in zip(mine, states, strict=True):
        some = keys[number * size : (number + 1) * size]
        if size > 1:
            parts.append(evaluate_agents(algo, state, some, num_episodes, num_agents=size))
        else:
            one = evaluate_agents(algo, tree.index(state, 0), some[0], num_episodes)
            if "processes" in algo.given:
                return one  # all have the same parameters
            parts.append(tree.map(lambda x: x.unsqueeze(0), one))
    return tree.cat([part for some in group.gather(parts) for part in some])
