"""Training from outside the program: compile an algorithm's step, call it, watch it, and keep what it learns."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from funrl import checkpoint, random, record, tree
from funrl.algos import Algorithm
from funrl.interaction import Evaluation, evaluate
from funrl.program import compile
from funrl.record import Folder, RunError

__all__ = ["PRESETS", "Diverged", "Preset", "Result", "Run", "RunError", "evaluate_agents", "load_run", "preset", "train"]


class Preset(NamedTuple):
    """What a pair of algorithm and environment is trained with where nothing else is asked for.

    Attributes:
        total_steps: environment steps of each agent.
        options: of the algorithm, where they differ from its defaults.
    """

    total_steps: int
    options: Mapping[str, Any]


PRESETS: dict[tuple[str, str], Preset] = {
    ("ppo", "CartPole-v1"): Preset(
        500_000,
        {"num_envs": 32, "num_steps": 32, "num_epochs": 8, "gamma": 0.98, "lambda_": 0.8, "entropy_weight": 0.0, "anneal_steps": 5e5},
    ),
    ("ppo", "Acrobot-v1"): Preset(1_000_000, {"num_envs": 16, "anneal_steps": 1e6}),
    ("ppo", "Pendulum-v1"): Preset(
        2_000_000,
        {"num_envs": 16, "num_epochs": 10, "num_minibatches": 8, "gamma": 0.9, "entropy_weight": 0.0, "anneal_steps": 2e6},
    ),
    ("ppo", "MemoryChain-bsuite"): Preset(
        300_000,
        {
            "num_envs": 32,
            "num_steps": 32,
            "num_cells": (32,),
            "recurrent": "gru",
            "recurrent_size": 32,
            "learning_rate": 3e-3,
            "anneal_steps": 3e5,
        },
    ),
    ("ppo", "Breakout-MinAtar"): Preset(
        1_500_000,
        {
            "num_envs": 64,
            "num_minibatches": 8,
            "num_cells": (64,),
            "activation": "relu",
            "trunk": "shared",
            "learning_rate": 2e-3,
            "anneal_steps": 1.5e6,
        },
    ),
    ("dqn", "CartPole-v1"): Preset(100_000, {"learning_rate": 5e-4, "epsilon_steps": 2e4}),
    ("ddpg", "Pendulum-v1"): Preset(50_000, {}),
    ("td3", "Pendulum-v1"): Preset(50_000, {}),
    ("sac", "Pendulum-v1"): Preset(50_000, {}),
    ("redq", "Pendulum-v1"): Preset(12_000, {"num_updates": 160, "policy_delay": 5, "batch_size": 128}),
    ("crossq", "Pendulum-v1"): Preset(50_000, {}),
    ("sac_discrete", "CartPole-v1"): Preset(60_000, {}),
    ("a2c", "CartPole-v1"): Preset(1_000_000, {"num_envs": 16, "learning_rate": 3e-3, "gamma": 0.98, "lambda_": 0.95, "anneal_steps": 1e6}),
    ("reinforce", "CartPole-v1"): Preset(1_000_000, {"num_envs": 16, "num_steps": 256, "learning_rate": 1e-2, "anneal_steps": 1e6}),
    ("impala", "CartPole-v1"): Preset(
        1_000_000, {"num_envs": 64, "num_steps": 16, "learning_rate": 3e-3, "gamma": 0.98, "lambda_": 0.95, "anneal_steps": 1e6}
    ),
    ("pqn", "Breakout-MinAtar"): Preset(
        2_500_000,
        {"num_envs": 128, "num_minibatches": 16, "num_cells": (64,), "epsilon_steps": 2.5e5, "anneal_steps": 2.5e6},
    ),
}


def preset(algorithm: str, env: str) -> Preset:
    """Return the entry of :data:`PRESETS`, or a million steps with the algorithm's defaults; gymnasium's own have those of the pure ones.

    Example:
        >>> preset("ppo", "CartPole-v1").total_steps, preset("ppo", "gymnasium:CartPole-v1").total_steps
        (500000, 500000)
    """
    return PRESETS.get((algorithm, env.removeprefix("gymnasium:")), Preset(1_000_000, {}))


# From how many steps of an episode on it is worth while to compile an evaluation.
_MANY_STEPS = 1_000


class Diverged(FloatingPointError):
    """A loss or a parameter is no longer finite. The message names update, metric and agent, and what is kept."""


class Result(NamedTuple):
    """What :func:`train` returns.

    Attributes:
        state: the algorithm's state; leaves [K, ...] with K > 1 agents.
        metrics: those of the last update, tensors [] or [K]; empty where there was nothing left to do.
        evaluation: :class:`funrl.interaction.Evaluation` with leaves [N] or [K, N]; None without episodes.
        updates: updates so far.
        steps: environment steps of each agent so far.
        seconds: of training, compilation included, that of the runs before a ``resume`` too.
        compile_seconds: how many of them passed until the first update was done.
    """

    state: Any
    metrics: dict[str, torch.Tensor]
    evaluation: Evaluation | None
    updates: int
    steps: int
    seconds: float
    compile_seconds: float


class Run(NamedTuple):
    """What is in the folder of a run.

    Attributes:
        algo: the algorithm, as it was made.
        state: its state at the last checkpoint; leaves [K, ...] with K > 1 agents.
        config: what is in config.json.
        updates: updates until that checkpoint.
    """

    algo: Algorithm
    state: Any
    config: dict[str, Any]
    updates: int


_FLUSH_SECONDS = 0.5
# The columns of metrics.csv where an algorithm has them; others follow in the order of their names.
_COLUMNS = (
    "episode_return", "episode_return_min", "episode_return_max", "episode_length", "episodes", "policy_loss", "value_loss", "entropy",
    "approximate_kl", "clip_fraction", "explained_variance", "learning_rate", "gradient_norm",
)  # fmt: skip


def train(
    algo: Algorithm,
    key: torch.Tensor,
    total_steps: int,
    *,
    num_agents: int = 1,
    out: str | os.PathLike | None = None,
    resume: bool = False,
    evaluate_episodes: int = 100,
    checkpoint_every: float = 10.0,
    progress: bool = True,
    backend: str = "inductor",
    notes: Mapping[str, Any] | None = None,
) -> Result:
    """Train one agent, or K of them as one program, and evaluate what they learned.

    Agent k has the key ``split(key, K)[k]``; it starts from ``algo.init(fold_in(agent_key, 0))``, and update
    i = 1, 2, ... is ``algo.step(fold_in(agent_key, i), state)``. So the random numbers of an agent do not depend on K, and a run that was
    interrupted and resumed ends with the same numbers, bit for bit, as one that was not (on one machine, with one version of torch).
    An environment on the host takes one agent, and a resumed run goes on there with new episodes.

    With ``out`` the run lives in that folder: ``config.json``, ``metrics.csv`` (a row for each update and agent),
    ``checkpoint/state`` and, at the end, ``learning_curve.png`` if matplotlib is there.

    The run stops as soon as a metric that is called ``..._loss``, ``loss_...``, ``entropy``, ``approximate_kl`` or ``gradient_norm`` is
    not finite. Metrics are looked at twice a second and before each checkpoint, and parameters too before each checkpoint, which is so
    always finite.
    Ctrl-C ends the run after the update under way, with a checkpoint; a second Ctrl-C at once.

    Args:
        algo: the algorithm.
        key: a key []; its device is where the agents live.
        total_steps: environment steps of each agent. As many whole updates are done as fit.
        num_agents: K >= 1. With one, no leaf of the state has a dimension for agents.
        out: the folder of the run; it is made. ``None``: nothing is written.
        resume: go on with the run in ``out`` from its last checkpoint. Its configuration has to be the same, but
            ``total_steps`` may be greater, though not beyond ``anneal_steps``, where the algorithm has them: nothing is learned
            there. A run that has all its steps is only evaluated, and one that has no checkpoint yet begins anew.
        evaluate_episodes: how many episodes each agent plays at the end, without exploration; 0: none.
        checkpoint_every: seconds between two checkpoints, at least 0. There is one after the first update and one at the end too.
        progress: whether to show on stderr when the step is compiling, and then a progress bar.
        backend: as for :func:`funrl.compile`.
        notes: further entries for ``config.json`` (such as the seed) that a resumed run has to share.

    Returns:
        A :class:`Result`.

    Raises:
        RunError: a ValueError: if an argument is out of its range, or ``out`` cannot be written, holds another run
            or, with ``resume``, none, one that was configured otherwise, or one that lost its checkpoint. Nothing has been written then.
        funrl.checkpoint.CheckpointError: if the checkpoint to resume from is damaged or not of this run. Nothing has been written.
        KeyboardInterrupt: after Ctrl-C.
        Diverged: if a loss or a parameter is not finite. The last checkpoint stays.
        OSError: if the folder becomes unwritable later.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> result = train(algo, funrl.random.key(0), 48, evaluate_episodes=0, progress=False, backend="eager")
        >>> result.updates, result.steps, sorted(result.metrics)[:2]
        (3, 48, ['approximate_kl', 'clip_fraction'])
    """
    _check_arguments(algo, key, total_steps, num_agents, evaluate_episodes, checkpoint_every, out, resume)
    started = time.perf_counter()
    keys = _agent_keys(key, num_agents)
    state = _over_agents(lambda k: algo.init(random.fold_in(k, 0)), num_agents)(keys)
    state = tree.map(torch.clone, state)  # it is donated, and may share tensors with the environment's default params
    folder, done, past, past_compile = None if out is None else Folder(out), 0, 0.0, 0.0
    if folder is not None:
        config = record.describe(algo, key, total_steps, num_agents, notes)
        if resume:
            folder.check_agrees(config)
            if folder.checkpoint.exists():
                state, meta = _load(folder, state)
                state = _with_new_episodes(algo, keys, meta["update"], state) if algo.env.host else state
                done, past, past_compile = meta["update"], meta["seconds"], meta["compile_seconds"]
            else:
                _check_no_checkpoint_is_lost(folder)
        else:
            folder.check_free()
        folder.check_writable()
        folder.write_config(config)

    def seconds() -> float:
        return past + time.perf_counter() - started

    def advance(k: torch.Tensor, number: torch.Tensor, s: Any) -> Any:
        return algo.step(random.fold_in(k, number), s)

    num_updates = total_steps // algo.steps_per_update
    log = _Log(algo, folder, num_agents, done, progress)
    metrics: dict[str, torch.Tensor] = {}
    if resume and not done:
        log.say("no checkpoint yet: beginning anew")
    if done >= num_updates:
        log.say(f"the run in {folder} is finished: it has {done * algo.steps_per_update:,} steps already; ask for more steps to go on")
    else:
        agents = "1 agent" if num_agents == 1 else f"{num_agents} agents"
        log.say(
            f"training {agents} of {algo.name} on {algo.env.name}, {num_updates * algo.steps_per_update:,} steps each"
            + (f", in {folder}" if folder else "")
        )
        log.say(f"compiling {algo.name} for {algo.env.name} (up to a minute if this machine has not done so before) ...")
    begun, compiling, last_save = seconds(), 0.0, -math.inf
    update = advance if algo.env.host else compile(_over_agents(advance, num_agents, (0, None, 0)), donate=2, backend=backend)
    interrupt = _Interrupt()
    try:
        for number in range(done + 1, num_updates + 1):
            state, metrics = update(keys, torch.tensor(number, device=key.device), state)
            log.add(number, seconds(), metrics)
            if number == done + 1:
                log.flush()
                compiling = seconds() - begun
                log.start_bar(num_updates, compiling)
                interrupt.wait_for_update()
            due = folder is not None and seconds() - last_save >= checkpoint_every
            if due or number == num_updates or interrupt.asked:
                log.flush()
                log.check_parameters(number, state)
                if folder is not None:
                    log.sync()
                    meta = {"update": number, "seconds": seconds(), "compile_seconds": past_compile + compiling}
                    checkpoint.save(folder.checkpoint, state, meta)
                    log.saved, last_save = number, seconds()
            if interrupt.asked:
                raise KeyboardInterrupt
    finally:
        interrupt.restore()
        log.close()

    total = seconds()
    evaluation = evaluate_agents(algo, state, key, evaluate_episodes, num_agents=num_agents) if evaluate_episodes else None
    if folder is not None and folder.metrics.exists():
        _draw(folder, algo, log)
    updates = max(done, num_updates)
    return Result(state, metrics, evaluation, updates, updates * algo.steps_per_update, total, past_compile + compiling)


def evaluate_agents(algo: Algorithm, state: Any, key: torch.Tensor, num_episodes: int, *, num_agents: int = 1) -> Evaluation:
    """Let each agent play whole episodes without exploration.

    Short episodes run eagerly: a second or two of Python costs less than a compilation. Those of more than a thousand steps are compiled.

    Args:
        algo: the algorithm.
        state: its state, leaves [K, ...] with K > 1 agents.
        key: a key []; agent k plays with a key that does not depend on K.
        num_episodes: N >= 1, of each agent.
        num_agents: K >= 1.

    Returns:
        An :class:`funrl.interaction.Evaluation` with leaves [N] or [K, N].

    Raises:
        ValueError: if ``num_episodes`` is less than 1.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("Pendulum-v1"), num_envs=2, num_steps=8)
        >>> algo = algo._replace(env=algo.env._replace(max_episode_steps=10))
        >>> key = funrl.random.key(0)
        >>> evaluate_agents(algo, algo.init(key), key, 5).episode_return.shape
        torch.Size([5])
    """
    env_params = tree.to(algo.env.default_params, key.device)

    def play(params: Any, k: torch.Tensor) -> Evaluation:
        return evaluate(params, random.fold_in(k, -1), env_params, env=algo.env, act=algo.greedy, num_episodes=num_episodes)

    play_all = _over_agents(play, num_agents)
    if algo.env.max_episode_steps > _MANY_STEPS and not algo.env.host:
        play_all = compile(play_all)
    return play_all(state.params, _agent_keys(key, num_agents))


def load_run(out: str | os.PathLike) -> Run:
    """Read the folder of a run.

    Args:
        out: the folder.

    Returns:
        A :class:`Run`; its state is on the CPU.

    Raises:
        RunError: if the folder holds no run, or none that can be read or made again (such as that of an environment with settings or
            transforms, which its name does not tell, or that lacks a package), or there is no checkpoint yet.
        funrl.checkpoint.CheckpointError: if the checkpoint is damaged.

    Example:
        >>> import tempfile, funrl
        >>> algo, key = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8), funrl.random.key(0)
        >>> with tempfile.TemporaryDirectory() as out:  # by hand, what train writes
        ...     folder = Folder(out)
        ...     folder.write_config(record.describe(algo, key, 48, num_agents=1))
        ...     checkpoint.save(folder.checkpoint, algo.init(key), {"update": 0, "seconds": 0.0, "compile_seconds": 0.0})
        ...     run = load_run(out)
        >>> run.updates, run.state.num_steps
        (0, tensor(0))
    """
    folder = Folder(out)
    config = record.read_config(out)
    try:
        algo = record.rebuild(config)
    except (ValueError, TypeError, ImportError) as error:
        raise RunError(f"{folder.config}: cannot make the algorithm again: {error}") from None
    if not folder.checkpoint.exists():
        raise RunError(f"{folder}: the run has no checkpoint yet; wait for its first update, or go on with it (train --resume)")
    like = _over_agents(algo.init, config["num_agents"])(_agent_keys(random.key(0, "cpu"), config["num_agents"]))
    state, meta = _load(folder, like)
    return Run(algo, state, config, meta["update"])


class _Interrupt:
    """Ctrl-C while an update runs waits for its end, so that no work is lost; a second one does not wait.

    Raised at any place, KeyboardInterrupt may also meet one of torch's callbacks, where Python prints and forgets it.
    Handlers other than Python's own, and threads other than the main one, are left alone.
    """

    def __init__(self) -> None:
        self.asked = self._waits = False
        main = threading.current_thread() is threading.main_thread()
        self._installed = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._installed:
            signal.signal(signal.SIGINT, self._handle)

    def wait_for_update(self) -> None:
        """From now on (the program is compiled) wait for the end of an update."""
        self._waits = True

    def restore(self) -> None:
        """Give Ctrl-C back its usual meaning."""
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: Any) -> None:
        again, self.asked = self.asked, True
        if again or not self._waits:
            signal.default_int_handler(number, frame)


class _Log:
    """What a run tells: metrics to their file and to the progress bar, and whether they are finite."""

    def __init__(self, algo: Algorithm, folder: Folder | None, num_agents: int, done: int, progress: bool) -> None:
        self.saved = done or None
        self._algo, self._folder, self._num_agents, self._done, self._progress = algo, folder, num_agents, done, progress
        self._waiting: list[tuple[int, float, dict[str, torch.Tensor]]] = []
        self._flushed = -math.inf
        self._file: record.MetricsFile | None = None
        self._bar: Any = None
        self._return = math.nan

    def say(self, text: str) -> None:
        """Print a line, if there is someone to read it."""
        if self._progress:
            print(text, file=sys.stderr, flush=True)

    def start_bar(self, num_updates: int, compiling: float) -> None:
        """Show the progress bar from the first update on."""
        if not self._progress:
            return
        print(f"compiled in {compiling:.1f} s", file=sys.stderr, flush=True)
        each = self._algo.steps_per_update * self._num_agents
        pause = 0.2 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=num_updates * each,
            initial=(self._done + 1) * each,
            unit=" steps",
            unit_scale=True,
            mininterval=pause,
            dynamic_ncols=True,
            file=sys.stderr,
        )
        self._bar.set_postfix_str(self._shown(), refresh=True)

    def add(self, number: int, seconds: float, metrics: dict[str, torch.Tensor]) -> None:
        """Take the metrics of an update; every now and then pass on all that wait (a copy from a device waits for it)."""
        self._waiting.append((number, seconds, metrics))
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS and number > self._done + 1:
            self.flush()
        if self._bar is not None:
            self._bar.update(self._algo.steps_per_update * self._num_agents)

    def flush(self) -> None:
        """Write the metrics that wait, up to the first update that went wrong; raise if there is one."""
        self._flushed = time.monotonic()
        if not self._waiting:
            return
        numbers, seconds, metrics = zip(*self._waiting, strict=True)
        self._waiting = []
        table = {name: torch.stack([m[name] for m in metrics]).cpu().reshape(len(numbers), self._num_agents) for name in metrics[0]}
        bad = self._first_bad(table)
        last = len(numbers) if bad is None else bad[0] + 1
        if self._folder is not None:
            self._write(numbers[:last], seconds[:last], table)
        if bad is not None:
            row, agent, name = bad
            raise self._diverged(numbers[row], f"{name} of agent {agent} is {table[name][row, agent].item()}")
        if "episode_return" in table:
            self._return = table["episode_return"][-1].double().nanmean().item()
        if self._bar is not None:
            self._bar.set_postfix_str(self._shown(), refresh=False)

    def check_parameters(self, number: int, state: Any) -> None:
        """Raise unless all parameters are finite."""
        for path, x in zip(tree.paths(state.params), tree.leaves(state.params), strict=True):
            if x.is_floating_point() and not bool(x.isfinite().all()):
                bad = (~x.isfinite()).reshape(self._num_agents, -1).any(1)
                raise self._diverged(number, f"the parameter {path} of agent {int(bad.int().argmax())} is not finite")

    def sync(self) -> None:
        """Wait until the metrics are on the disk, so that a checkpoint never knows more than they."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Close the file and the progress bar."""
        if self._file is not None:
            self._file.close()
        if self._bar is not None:
            self._bar.close()

    def _shown(self) -> str:
        return "no episode has ended yet" if math.isnan(self._return) else f"return {self._return:.1f}"

    def _first_bad(self, table: dict[str, torch.Tensor]) -> tuple[int, int, str] | None:
        found = []
        for name, x in table.items():
            if name.endswith("_loss") or name.startswith("loss_") or name in ("entropy", "approximate_kl", "gradient_norm"):
                found += [(row, agent, name) for row, agent in (~x.isfinite()).nonzero()[:1].tolist()]
        return min(found, key=lambda place: place[0], default=None)

    def _diverged(self, number: int, what: str) -> Diverged:
        if self._folder is None:
            kept = "nothing is kept without a folder (out)"
        elif self.saved is None:
            kept = f"there was no checkpoint yet in {self._folder}"
        else:
            kept = f"the checkpoint of update {self.saved} is kept in {self._folder}"
        return Diverged(f"update {number}: {what}, so the run was stopped; {kept}; try a lower learning_rate")

    def _write(self, numbers: Any, seconds: Any, table: dict[str, torch.Tensor]) -> None:
        names = [name for name in _COLUMNS if name in table] + sorted(name for name in table if name not in (*_COLUMNS, "steps"))
        if self._file is None:
            try:
                self._file = record.MetricsFile(self._folder.metrics, ["update", "agent", "steps", "seconds", *names], keep=self._done)
            except ValueError as error:
                raise RunError(str(error)) from None
        columns = [table[name].tolist() for name in names]
        self._file.append(
            [number, agent, number * self._algo.steps_per_update, seconds[row], *(column[row][agent] for column in columns)]
            for row, number in enumerate(numbers)
            for agent in range(self._num_agents)
        )


def _check_arguments(
    algo: Algorithm, key: Any, total_steps: int, num_agents: int, evaluate_episodes: int, checkpoint_every: float, out: Any, resume: bool
) -> None:
    if not isinstance(algo, Algorithm):
        raise RunError(f"train: algo: expected an Algorithm, got {type(algo).__name__}; funrl.algos.make returns one")
    if not isinstance(key, torch.Tensor) or key.dtype != torch.int64 or key.ndim != 0:
        got = f"{str(key.dtype).removeprefix('torch.')} {list(key.shape)}" if isinstance(key, torch.Tensor) else repr(key)
        raise RunError(f"train: key: expected a key (int64 []), got {got}; funrl.random.key(seed) makes one")
    for name, value, low in (("total_steps", total_steps, 1), ("num_agents", num_agents, 1), ("evaluate_episodes", evaluate_episodes, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise RunError(f"{name}: expected an integer of at least {low}, got {value!r}")
    if total_steps < algo.steps_per_update:
        raise RunError(
            f"total_steps: one update takes {algo.steps_per_update:,} steps, got {total_steps:,}; ask for more, or make updates smaller"
        )
    if algo.env.host and num_agents > 1:
        raise RunError(f"num_agents: {algo.env.name} runs outside torch and takes one agent, got {num_agents}; train one after another")
    if not checkpoint_every >= 0:
        raise RunError(f"checkpoint_every: expected at least 0 seconds, got {checkpoint_every!r}")
    if resume and out is None:
        raise RunError("resume: there is nothing to go on with where out is None; give the folder of the run")


def _agent_keys(key: torch.Tensor, num_agents: int) -> torch.Tensor:
    keys = random.split(key, num_agents)
    return keys if num_agents > 1 else keys[0]


def _over_agents(f: Any, num_agents: int, in_dims: Any = 0) -> Any:
    return torch.func.vmap(f, in_dims) if num_agents > 1 else f


def _with_new_episodes(algo: Algorithm, key: torch.Tensor, update: int, state: Any) -> Any:
    """Return ``state`` at the start of new episodes: those of a host ended with its process."""
    new = algo.init(random.fold_in(random.fold_in(key, -2), update))
    running = {name: getattr(new.episodes, name) for name in ("running_return", "running_length")}
    return state.replace(envs=new.envs, episodes=state.episodes.replace(**running))


def _load(folder: Folder, like: Any) -> tuple[Any, dict[str, Any]]:
    state, meta = checkpoint.load(folder.checkpoint, like)
    for name, kind in (("update", int), ("seconds", float), ("compile_seconds", float)):
        fault = None
        if not isinstance(meta, dict) or name not in meta:
            fault = f"it does not say its {name}"
        elif type(meta[name]) not in (int, kind) or not 0 <= meta[name] < math.inf:
            fault = f"its {name} is {meta[name]!r}"
        if fault:
            raise checkpoint.CheckpointError(f"{folder.checkpoint}: {fault}, so it is not of a run; restore it or start anew")
    return state, meta


def _check_no_checkpoint_is_lost(folder: Folder) -> None:
    """Raise a RunError if there are metrics of more than the one update that precedes the first checkpoint."""
    try:
        count = int(max(record.read_metrics(folder.metrics).get("update", ()), default=0))
    except FileNotFoundError:
        return
    except (ValueError, OverflowError, OSError) as error:
        raise RunError(f"{folder.checkpoint}: missing, and {folder.metrics.name} cannot be read: {error}; restore them") from None
    if count > 1:
        raise RunError(
            f"{folder.checkpoint}: missing, although {folder.metrics.name} has {count:,} updates; restore it, or train in another folder"
        )


def _draw(folder: Folder, algo: Algorithm, log: _Log) -> None:
    """Draw the learning curve, or say why there is none; the run is worth more than its picture."""
    try:
        record.learning_curve(record.read_metrics(folder.metrics), folder.curve, title=f"{algo.name} on {algo.env.name}")
    except (ImportError, ValueError, OSError) as error:
        log.say(f"no {folder.curve.name}: {' '.join(str(error).split())}")
