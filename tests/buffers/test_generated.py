"""Buffers in programs of XLA: written in place, whatever their size."""

import torch

import funrl
from funrl import buffers, random, tree
from tests.support import scratch


def example():
    return {"observation": torch.zeros(17), "action": torch.zeros(6), "reward": torch.zeros(()), "next": torch.zeros(18)}


def batch(n):
    return tree.map(lambda x: torch.ones(n, *x.shape), example())


def step(buffer):
    """Write 64 rows, and take 8 gradient steps on samples of 256."""

    def loss(params, batch):
        return ((batch["observation"] @ params["w"] + batch["action"] @ params["v"]).sum(-1) - batch["reward"]).square().mean()

    def update(key, state, params, rows):
        state = buffer.extend(state, rows)

        def one(params, key):
            sample = buffer.sample(key, state, 256)
            slope, value = torch.func.grad_and_value(loss)(params, sample.batch)
            return tree.map(lambda p, s: p - 1e-3 * s, params, slope), value

        params, values = funrl.scan(one, params, random.split(key, 8))
        return state, params, values

    return update


def run(capacity):
    buffer = buffers.uniform(capacity)
    state = buffer.init(example())
    for _ in range(4):
        state = buffers.in_place(buffer).extend(state, batch(2500))
    program = funrl.compile(step(buffer), donate=1, backend="xla")
    params = {"w": torch.zeros(17, 32), "v": torch.zeros(6, 32)}
    eager = step(buffer)(random.key(0), tree.clone(state), params, batch(64)) if capacity == 10_000 else None
    state, *rest = program(random.key(0), state, params, batch(64))
    places = [x.data_ptr() for x in tree.leaves(state.data) if x.nbytes > 1 << 16]
    if eager is not None:
        torch.testing.assert_close(tree.leaves((state, *rest)), tree.leaves(eager), rtol=1e-4, atol=1e-5)
    for i in range(3):
        state, params, _ = program(random.key(i), state, params, batch(64))
    assert [x.data_ptr() for x in tree.leaves(state.data) if x.nbytes > 1 << 16] == places and places
    return scratch(program)


def test_rows_are_written_in_place():
    buffer = buffers.uniform(100_000)
    state, rows = buffer.init(example()), batch(64)
    program = funrl.compile(lambda state, rows: buffer.extend(state, rows), donate=0, backend="xla")
    places = None
    for i in range(30):
        state = program(state, tree.map(lambda x, i=i: x * i, rows))
        places = places or {name: x.data_ptr() for name, x in state.data.items()}
    assert {name: x.data_ptr() for name, x in state.data.items()} == places
    assert state.size == 30 * 64 and torch.equal(state.data["reward"][: 30 * 64], torch.arange(30.0).repeat_interleave(64))
    assert scratch(program) < 100_000 * 4


def test_rows_of_many_agents_are_written_in_place():
    """No buffer of eight, with a cursor of its own, is copied: the program takes less memory than one of their leaves has."""
    buffer, n = buffers.uniform(10_000), 8
    extend = torch.func.vmap(lambda state, rows: buffer.extend(state, rows))
    state = tree.clone(torch.func.vmap(lambda _: buffer.init(example()))(torch.zeros(n)))
    state.cursor.copy_(torch.arange(n) * 1245), state.size.fill_(10_000)  # two of them come to the end of their rings
    rows = tree.map(lambda x: torch.arange(n * 64.0).reshape(n, 64, *[1] * x.ndim).expand(n, 64, *x.shape).clone(), example())
    expected, program = extend(state, rows), funrl.compile(extend, donate=0, backend="xla")
    state = program(state, rows)
    assert tree.allclose(state, expected)
    assert scratch(program) < 8 * 10_000 * 4


def test_a_large_buffer_is_not_copied():
    """Nothing that the program makes grows with the buffer: benchmarks/buffers.py has the times."""
    assert run(200_000) == run(10_000)


def test_priorities_and_sequences_are_set_in_place():
    n = 600_000
    buffer = buffers.prioritized(n)
    state = buffers.in_place(buffer).extend(buffer.init({"x": torch.zeros(4)}), {"x": torch.ones(n, 4)})
    update = funrl.compile(lambda state, i, p: buffer.update_priority(state, i, p), donate=0, backend="xla")
    extend = funrl.compile(lambda state, rows: buffer.extend(state, rows), donate=0, backend="xla")

    def places(state):
        return [x.data_ptr() for x in (state.ring.data["x"], state.priorities.weights, state.priorities.sums[0])]

    index, priority = torch.randperm(n)[:256], torch.rand(256)
    expected = buffer.extend(buffer.update_priority(state, index, priority), {"x": torch.zeros(64, 4)})
    state = extend(update(state, index, priority), {"x": torch.zeros(64, 4)})
    assert tree.allclose(state, expected)
    sample = funrl.compile(lambda key, state: buffer.sample(key, state, 256), backend="xla")(random.key(0), state)
    assert tree.allclose(sample, buffer.sample(random.key(0), state, 256))
    before = places(state)
    for _ in range(3):
        state = extend(update(state, index, priority), {"x": torch.zeros(64, 4)})
        assert places(state) == before
    assert scratch(update) < 4 * n and scratch(extend) < 4 * n
