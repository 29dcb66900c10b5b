"""Replay buffers of funrl, TorchRL and flashbax: time of a call on the CPU, memory held, and a training program on a large buffer."""

from typing import Any

from benchmarks.buffers_peers import ALPHA, BATCH, BETA, FIELDS, ROWS, flashbax, named, timed, torchrl
from benchmarks.harness import Case, Figures, Library, speed

FEW, MANY = 100_000, 1_000_000


def _rows(n: int) -> Any:
    import torch

    return {name: torch.rand(n, *shape) for name, shape in FIELDS.items()}


def _filled(buffer: Any, capacity: int) -> Any:
    from funrl import buffers, tree

    writer = buffers.in_place(buffer)
    state = buffer.init(tree.index(_rows(1), 0))
    for start in range(0, capacity, 50_000):
        state = writer.extend(state, _rows(min(50_000, capacity - start)))
    return state


def calls(capacity: int, seconds: float) -> dict[str, list[float]]:
    """Return the microseconds of single calls: compiled, and in place without compiling."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    from funrl import buffers, random

    keys = list(random.split(random.key(0), 500).unbind(0))
    rows, result = _rows(ROWS), {}
    torch.set_num_threads(1)

    def state_of(program: Any, state: Any, *arguments: Any) -> list[float]:
        box = [state]
        samples = timed(lambda i: box.__setitem__(0, program(box[0], *arguments)), seconds)
        state_of.last = box[0]
        return samples

    for prefix, buffer in (("", buffers.uniform(capacity)), ("prioritized ", buffers.prioritized(capacity, ALPHA, BETA))):
        state = _filled(buffer, capacity)
        if prefix:
            update = funrl.compile(lambda state, index, priority, b=buffer: b.update_priority(state, index, priority), donate=0)
            for start in range(0, capacity, 50_000):
                index = torch.arange(start, min(start + 50_000, capacity))
                state = buffers.in_place(buffer).update_priority(state, index, torch.rand(len(index)))
            index, priority = torch.randint(capacity, (BATCH,)), torch.rand(BATCH)
            result["update_priority"] = state_of(update, state, index, priority)
            result["update_priority in place"] = state_of(buffers.in_place(buffer).update_priority, state_of.last, index, priority)
            state = state_of.last
        sample = funrl.compile(lambda key, state, b=buffer: b.sample(key, state, BATCH))
        result[f"{prefix}sample"] = timed(lambda i, s=sample, state=state: s(keys[i % 500], state), seconds)
        extend = funrl.compile(lambda state, rows, b=buffer: b.extend(state, rows), donate=0)
        result[f"{prefix}extend"] = state_of(extend, state, rows)
        result[f"{prefix}extend in place"] = state_of(buffers.in_place(buffer).extend, state_of.last, rows)
    return named(result, capacity)


def program(capacity: int, seconds: float) -> list[float]:
    """Return the microseconds of writing 64 rows and taking 8 gradient steps on samples of 256."""
    import funrl  # isort: skip
    import torch

    from funrl import buffers, random, tree

    buffer = buffers.uniform(capacity)
    state = _filled(buffer, capacity)

    def loss(params: Any, batch: Any) -> Any:
        hidden = torch.relu(batch["observation"] @ params["w"] + batch["action"] @ params["v"])
        return ((hidden @ params["u"]).squeeze(-1) - batch["reward"]).square().mean()

    def step(key: Any, state: Any, params: Any, rows: Any) -> Any:
        state = buffer.extend(state, rows)

        def one(params: Any, key: Any) -> Any:
            slope, value = torch.func.grad_and_value(loss)(params, buffer.sample(key, state, BATCH).batch)
            return tree.map(lambda p, s: p - 1e-3 * s, params, slope), value

        params, values = funrl.scan(one, params, random.split(key, 8))
        return state, params, values

    compiled = funrl.compile(step, donate=1)
    box = [state, {"w": torch.zeros(17, 64), "v": torch.zeros(6, 64), "u": torch.zeros(64, 1)}]
    keys, rows = list(random.split(random.key(0), 500).unbind(0)), _rows(ROWS)

    def call(i: int) -> None:
        box[0], box[1], _ = compiled(keys[i % 500], box[0], box[1], rows)

    return timed(call, seconds)


def memory(seconds: float) -> dict[str, list[float]]:
    """Return the bytes that a full buffer holds, for each byte of data."""
    from funrl import buffers, tree

    kinds = {"uniform": buffers.uniform(MANY), "prioritized": buffers.prioritized(MANY, ALPHA, BETA)}
    data = MANY * tree.nbytes(_rows(1))
    return {f"{name} buffer (bytes for a byte of data)": [tree.nbytes(_filled(buffer, MANY)) / data] for name, buffer in kinds.items()}


def notes(figures: Figures) -> list[str]:
    """Say what the rows are, and what a larger buffer costs."""
    lines = ["`extend` is compiled with the state donated; `extend in place` is that of `buffers.in_place(buffer)`, without compiling."]

    def growth(few: str, many: str) -> str:
        return f"{figures[many]['funrl'] / figures[few]['funrl']:.2f} x"

    calls = {call: [f"buffer: {call}, {capacity:,} transitions" for capacity in (FEW, MANY)] for call in ("extend", "extend in place")}
    if all(row in figures for rows in calls.values() for row in rows):
        lines.append(
            "Ten times as large a buffer: " + ", ".join(f"`{c}` takes {growth(*rows)}" for c, rows in calls.items()) + " (target 1.2)."
        )
    if all(program in figures for program in PROGRAMS.values()):
        lines.append(f"A training program on a hundred times as large a buffer takes {growth(*PROGRAMS.values())} as long (target 3).")
    return lines


CALLS = {"funrl": Library(calls), "torchrl": Library(torchrl, "torchrl"), "flashbax": Library(flashbax, "flashbax")}
PROGRAMS = {
    capacity: f"buffer: {ROWS} rows written and 8 gradient steps on samples of {BATCH}, {capacity:,} transitions"
    for capacity in (10_000, MANY)
}
GOALS = {
    ("sample", "torchrl"): 1 / 0.6,
    ("sample", "flashbax"): 1.0,
    ("extend in place", "torchrl"): 1 / 0.3,
    ("prioritized sample", "flashbax"): 1.0,
    ("update_priority in place", "flashbax"): 1.0,
}
BENCHMARK = speed(
    "buffers",
    f"Calls on full buffers: samples and priorities of {BATCH} rows, extensions of {ROWS}.",
    [
        Case(f"calls, {FEW:,} transitions", (FEW,), CALLS),
        Case(f"calls, {MANY:,} transitions", (MANY,), CALLS, quick=False),
        *(Case(name, (capacity,), {"funrl": Library(program)}, quick=False) for capacity, name in PROGRAMS.items()),
        Case("memory", (), {"funrl": Library(memory)}, quick=False),
    ],
    unit="µs",
    lower=True,
    targets={
        (f"buffer: {call}, {capacity:,} transitions", library): goal for (call, library), goal in GOALS.items() for capacity in (FEW, MANY)
    },
    seconds=0.2,
    rounds=3,
    notes=notes,
)
