"""Training of populations, in chunks that fit into the memory and on all devices; the results are one table."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from funrl import _check, compiler, random, tree
from funrl.algos import Algorithm
from funrl.compiler import compile
from funrl.env import on_host
from funrl.populations._hparams import begin, check_algo
from funrl.populations._population import Exchange, Population, PopulationState, advance, first_hparams
from funrl.populations._table import Table, final_scores, first_true, join, not_finite

# The bytes of an agent outside of its program: its key, hyperparameters, and row of the table.
_ROW_BYTES = 128


class Chunk(NamedTuple):
    """Agents that are trained as one program.

    Attributes:
        number: its number, from 0.
        algo: the algorithm.
        keys: int64 [C], the agents' keys.
        hparams: their first hyperparameters, float64 [C] by name.
        exchange: of the population, which is then a single chunk; None: none.
        static: the values of the static fields in which the run's algorithms differ.
    """

    number: int
    algo: Algorithm
    keys: torch.Tensor
    hparams: dict[str, torch.Tensor]
    exchange: Exchange | None
    static: dict[str, Any]


class Records(NamedTuple):
    """Records of the agents of a chunk.

    Attributes:
        curves: ``episode_return`` float64 [U, C].
        diverged: int64 [C], the first update at which a loss was not finite; 0: none.
        history: further metrics [U, C] by name.
    """

    curves: np.ndarray
    diverged: np.ndarray
    history: Mapping[str, np.ndarray] = MappingProxyType({})


def run(
    populations: Population | Sequence[Population],
    key: torch.Tensor,
    total_steps: int,
    *,
    chunk: int | None = None,
    devices: Sequence[torch.device | str] | None = None,
    threads: int = 1,
    backend: str = "auto",
    train: Callable[[Chunk], Records] | None = None,
) -> Table:
    """Train all agents of a population, or of several, and return a table with a row for each.

    Agent k of all N has the key ``split(key, N)[k]``. Its first state is ``init(fold_in(agent_key, 0), hparams)``, and its update i = 1, 2,
    ... is ``algo.step(fold_in(agent_key, i), state)``, as in :func:`funrl.train`. So neither the other agents nor the chunks change what
    it does, up to the rounding of compiled programs of different sizes. Several populations draw their hyperparameters with the same
    key, so that each value of a static field meets the same configurations.

    An agent that diverges continues with numbers that are not finite; it does not affect the others.

    Args:
        populations: a population, or several, such as one for each algorithm of :func:`by_value`.
        key: int64 [].
        total_steps: environment steps of each agent, rounded down to whole updates.
        chunk: how many agents a program trains at once. None: as many as fit into the free memory, by :func:`agent_bytes`.
        devices: where to train, a chunk on each at a time; None: the key's device, or all GPUs if it is one.
        threads: the threads on the CPU. That many chunks are trained at the same time, each on a thread of its own; a single chunk has them
            all, as for :func:`funrl.compile`.
        backend: as for :func:`funrl.compile`.
        train: a function that trains a chunk; None: in memory. ``python -m funrl sweep`` passes one that writes a folder for each chunk.

    Returns:
        A :class:`Table`.

    Raises:
        ValueError: if an argument is out of its range, an environment runs on the host, or the agents of a population with an exchange, or
            a single agent, do not fit into the memory. Nothing has been trained then.

    Example:
        >>> import funrl
        >>> from funrl import populations
        >>> algo = funrl.algos.a2c.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> rates = populations.sweep(algo, {"learning_rate": [1e-3, 1e-2]}, 4, method="grid", num_seeds=2)
        >>> table = run(rates, random.key(0), 48, backend="eager")
        >>> table.curves.shape, table.configuration, table.diverged
        ((4, 3), array([0, 0, 1, 1]), array([0, 0, 0, 0]))
    """
    several = [populations] if isinstance(populations, Population) else populations
    _check_arguments(several, key, total_steps)
    if devices is not None and (isinstance(devices, str) or not isinstance(devices, Sequence) or not devices):
        raise ValueError(f"run: devices: expected a list of at least one device, such as ['cuda:0', 'cuda:1'], got {devices!r}")
    if train is not None:
        _check.function("run: train", train)
    places = _devices(key) if devices is None else [_device(x) for x in devices]
    _check.integer("run: threads", threads, 1)
    on_cpu = places == [torch.device("cpu")]
    size = chunk_size(several, chunk, places[0])
    pieces = chunks_of(several, key, size)
    if on_cpu and chunk is None and len(pieces) > len(several) and not any(population.exchange for population in several):
        pieces = chunks_of(several, key, max(1, size // threads))  # that many of them share the memory
    if train is not None:
        return table_of(pieces, [train(piece) for piece in pieces])
    records: list[Records] = []
    at_once = min(threads, len(pieces)) if on_cpu else 1
    program, lanes = programs(threads if at_once == 1 else 1, backend), places * at_once
    with compiler.lanes(at_once, backend) as together:
        for i in range(0, len(pieces), len(lanes)):
            some = [_at_device(piece, place) for piece, place in zip(pieces[i : i + len(lanes)], lanes, strict=False)]
            records += train_together(some, total_steps, program, together)
    return table_of(pieces, records)


def table_of(pieces: Sequence[Chunk], records: Sequence[Records]) -> Table:
    """Return the table of all chunks."""
    parts = []
    for piece, record in zip(pieces, records, strict=True):
        static = {name: np.array([str(x) if isinstance(x, tuple) else x] * len(piece.keys)) for name, x in piece.static.items()}
        hparams = {name: x.cpu().numpy() for name, x in piece.hparams.items()}
        steps = np.arange(1, len(record.curves) + 1) * piece.algo.steps_per_update
        parts.append(({**hparams, **static}, piece.keys.cpu().numpy(), steps, record.curves.T, record.diverged))
    table = join(parts)
    names = set.intersection(*({*record.history} for record in records))
    same = all(len(record.curves) == len(records[0].curves) for record in records)
    history = {name: np.concatenate([record.history[name].T for record in records]) for name in sorted(names)} if same else {}
    lost = table.diverged * ("parent" not in history)  # an agent that diverged may have copied another one's parameters since then
    return table._replace(history=history, scores=final_scores(table.curves, lost))


def chunk_size(populations: Sequence[Population], chunk: int | None, device: torch.device) -> int:
    """Return how many agents a program trains at most: ``chunk``, or as many as fit into the memory.

    Raises:
        ValueError: if not even one agent fits, or the agents of a population with an exchange do not fit together.

    Example:
        >>> import funrl
        >>> from funrl import populations
        >>> algo = funrl.algos.a2c.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> chunk_size([populations.seeds(algo, 3)], None, torch.device("cpu"))
        3
    """
    if chunk is not None:
        _check.integer("run: chunk", chunk, 1)
    free, total = free_bytes(device), sum(population.num_agents for population in populations)
    if _ROW_BYTES * total > free:
        raise ValueError(
            f"run: the keys and results of {total:,} agents need about {_ROW_BYTES * total / 2**20:,.0f} MiB, and {free / 2**20:,.0f} are "
            "free; take fewer agents"
        )
    sizes = []
    for population in populations:
        each, together = agent_bytes(population.algo), population.num_agents if population.exchange is not None else 1
        sizes.append(min(int(free // each), population.num_agents))
        if chunk is not None and chunk < together:
            raise ValueError(
                f"run: chunk: the {together} agents exchange parameters and have to be in one program, got {chunk}; leave it out"
            )
        if sizes[-1] < (1 if chunk is not None else together):
            needed = 1 if chunk is not None else together
            many, name = ("agents", population.algo.name + " need") if needed > 1 else ("agent", population.algo.name + " needs")
            raise ValueError(
                f"run: {needed} {many} of {name} about {needed * each / 2**20:,.0f} MiB, and {free / 2**20:,.0f} are free; take fewer "
                "agents, a smaller buffer_size, num_envs or num_steps"
            )
    if chunk is not None:
        return chunk
    return min(size if size < p.num_agents else max(p.num_agents for p in populations) for size, p in zip(sizes, populations, strict=True))


def chunks_of(populations: Sequence[Population], key: torch.Tensor, size: int) -> list[Chunk]:
    """Divide populations into chunks of at most so many agents, of nearly equal sizes."""
    keys, start, pieces = random.split(key, sum(p.num_agents for p in populations)), 0, []
    differing = _differing([p.algo for p in populations])
    for population in populations:
        hparams = first_hparams(population, key)
        static = {name: getattr(population.algo.config, name) for name in differing}
        for some in torch.arange(population.num_agents).tensor_split(-(-population.num_agents // size)):
            mine = {name: x[some] for name, x in hparams.items()}
            pieces.append(Chunk(len(pieces), population.algo, keys[start + some], mine, population.exchange, static))
        start += population.num_agents
    return pieces


def agent_bytes(algo: Algorithm) -> int:
    """Estimate the bytes that an agent needs as its program runs: three times its state, and eight times the data that it learns from.

    These data are a rollout or, for learners with a replay buffer, the batches of an update.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"))
        >>> 100_000 < agent_bytes(algo) < 10_000_000
        True
    """
    state = check_algo("agent_bytes", algo).init(random.key(0))
    config = algo.config
    observation = tree.nbytes(state.actor.timestep.observation) if hasattr(state.actor, "timestep") else 0
    row = 2 * observation + 64 * getattr(config, "num_envs", 1)
    rows = getattr(config, "num_steps", 1) * row
    batches = getattr(config, "num_updates", 0) * getattr(config, "batch_size", 0) * row // max(getattr(config, "num_envs", 1), 1)
    return 3 * tree.nbytes(state) + 8 * (rows + batches)


def free_bytes(device: torch.device) -> float:
    """Return the free memory of a device; for the CPU, the limit of the container counts too."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if hasattr(os, "sysconf") else float(1 << 32)
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        free = 1024.0 * int(fields["MemAvailable"].split()[0])
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            free = min(free, float(limit.read()) - float(used.read()))
    except (OSError, KeyError, ValueError):  # not Linux, or no limit ("max")
        pass
    return free


def programs(threads: int, backend: str) -> Callable[[Algorithm, Exchange | None], Any]:
    """Return a function from an algorithm to its compiled update of a chunk, ``update(keys, number, state)``: once for each."""
    made: dict[tuple[int, int], Any] = {}

    def program(algo: Algorithm, exchange: Exchange | None) -> Any:
        if (id(algo), id(exchange)) not in made:

            def update(keys: torch.Tensor, number: torch.Tensor, state: PopulationState) -> Any:
                return advance(algo, exchange, torch.func.vmap(lambda k: random.fold_in(k, number))(keys), state)

            made[id(algo), id(exchange)] = (compile(update, donate=2, threads=threads, backend=backend), algo, exchange)
        return made[id(algo), id(exchange)][0]

    return program


class _Running:
    """A chunk in training: its state, and its records so far."""

    def __init__(self, piece: Chunk, program: Any, state: PopulationState | None = None) -> None:
        agents = begin(piece.algo, piece.keys, piece.hparams) if state is None else state.agents
        memory = () if piece.exchange is None else piece.exchange.init(agents)
        self.state = PopulationState(agents, memory) if state is None else state
        self.piece, self.program, self.metrics = piece, program, []

    def step(self, number: int) -> None:
        self.state, metrics = self.program(self.piece.keys, torch.tensor(number, device=self.piece.keys.device), self.state)
        kept = {name: x for name, x in metrics.items() if name in ("episode_return", "parent") or name.startswith("hparams.")}
        self.metrics.append({**kept, "not_finite": not_finite(metrics)})

    def records(self) -> Records:
        table = {name: torch.stack([x[name] for x in self.metrics]).cpu().numpy() for name in self.metrics[0]}
        flags = table.pop("not_finite")
        params = tree.leaves(self.state.agents.learner.params)
        for bad in [(~x.isfinite()).reshape(x.shape[0], -1).any(1).cpu().numpy() for x in params if x.is_floating_point()]:
            flags[-1] |= bad  # as for train
        curves = table.pop("episode_return", np.full(flags.shape, np.nan)).astype(np.float64)
        return Records(curves, first_true(flags), table)


def train_chunk(piece: Chunk, state: PopulationState | None, updates: range, program: Any) -> tuple[PopulationState, Records]:
    """Do these updates of a chunk, from a state or from the beginning; return its state and its :class:`Records`."""
    running = _Running(piece, program, state)
    for number in updates:
        running.step(number)
    return running.state, running.records()


def train_together(pieces: Sequence[Chunk], total_steps: int, program: Callable[..., Any], together: Callable[..., Any]) -> list[Records]:
    """Train a chunk on each device or thread, one update of each in turn: a GPU computes while the next one receives its update.

    ``together`` makes the calls of an update, all but the first ones, which compile (:func:`funrl.compiler.lanes`).
    """
    running = [_Running(piece, program(piece.algo, piece.exchange)) for piece in pieces]
    counts = [total_steps // piece.algo.steps_per_update for piece in pieces]
    for number in range(1, max(counts) + 1):
        calls = [functools.partial(one.step, number) for one, count in zip(running, counts, strict=True) if number <= count]
        if number > 1:
            together(calls)
        else:
            for call in calls:
                call()
    return [one.records() for one in running]


def _at_device(piece: Chunk, device: torch.device) -> Chunk:
    return piece._replace(keys=piece.keys.to(device), hparams={name: x.to(device) for name, x in piece.hparams.items()})


def _device(name: Any) -> torch.device:
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"run: devices: {error}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"run: devices: torch finds no GPU here, got {name!r}; leave it out")
    return device


def _devices(key: torch.Tensor) -> list[torch.device]:
    if key.device.type == "cuda":
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [key.device]


def _differing(algos: Iterable[Algorithm]) -> list[str]:
    """Return the static fields in which the algorithms differ, where all have them."""
    configs = [algo.config for algo in algos]
    fields = [field.name for field in dataclasses.fields(configs[0]) if field.metadata.get("static")]
    shared = [name for name in fields if all(hasattr(config, name) for config in configs)]
    return [name for name in shared if len({repr(getattr(config, name)) for config in configs}) > 1]


def _check_arguments(populations: Any, key: Any, total_steps: Any) -> None:
    if not isinstance(populations, Sequence) or not populations or not all(isinstance(p, Population) for p in populations):
        wrong = populations if isinstance(populations, Sequence) else [populations]
        got = next((type(p).__name__ for p in wrong if not isinstance(p, Population)), "none")
        raise TypeError(f"run: populations: expected a Population or a list of them, got {got}; seeds, sweep and pbt make one")
    if not isinstance(key, torch.Tensor) or key.dtype != torch.int64 or key.ndim:
        raise ValueError(f"run: key: expected a key, int64 [], got {tree.describe_leaf(key)}; funrl.random.key(seed) makes one")
    names: Mapping[str, None] = dict.fromkeys(p.algo.env.name for p in populations if on_host(p.algo.env))
    if names:
        raise ValueError(f"run: {next(iter(names))} runs outside torch, so that its agents are not one program; train one after another")
    most = max(p.algo.steps_per_update for p in populations)
    if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < most:
        raise ValueError(f"run: total_steps: expected an integer of at least {most}, the steps of one update, got {total_steps!r}")
