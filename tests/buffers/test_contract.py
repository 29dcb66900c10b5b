"""The contract of every buffer of tensors."""

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import buffers, random, tree
from tests.support import traced


def item(i, dtype=torch.float32):
    """The i-th item, told from all others by each of its leaves."""
    return {"x": torch.tensor([i, -i], dtype=dtype), "n": torch.tensor(i), "flag": torch.tensor(i % 2 == 0)}


def step(i, dtype=torch.float32):
    """The i-th step of two environments."""
    return {
        "x": torch.tensor([[i, -i], [i + 0.5, i]], dtype=dtype),
        "n": torch.tensor([i, 1000 + i]),
        "done": torch.tensor([i % 5 == 4, i % 3 == 2]),
    }


def picture(i, dtype=torch.float32):
    frames = lambda t: torch.stack([torch.full((2, 2), max(t - 2 + k, 0), dtype=dtype) for k in range(3)]).expand(2, 3, 2, 2)  # noqa: E731
    return {"observation": frames(i), "next_observation": frames(i + 1), "done": torch.zeros(2, dtype=torch.bool)}


def goal_item(i, dtype=torch.float32):
    """The i-th transition of an environment with goals."""
    observed = lambda t: {name: torch.tensor([t, -t], dtype=dtype) for name in ("observation", "achieved_goal", "desired_goal")}  # noqa: E731
    flags = {"terminated": torch.tensor(i % 4 == 3), "truncated": torch.tensor(False)}
    x = torch.tensor([i, -i], dtype=dtype)
    return {"x": x, "observation": observed(i), "next_observation": observed(i + 1), "action": torch.tensor(i), "reward": x[0], **flags}


def reach(achieved_goal, goal, action):
    return -(achieved_goal - goal).abs().sum(), (achieved_goal == goal).all()


BUFFERS = {
    "uniform": (buffers.uniform(7), item),
    "without_replacement": (buffers.without_replacement(7), item),
    "first_in_first_out": (buffers.first_in_first_out(7), item),
    "prioritized": (buffers.prioritized(7, 0.7, 0.9), item),
    "sequence": (buffers.sequence(9, 2, burn_in=1), step),
    "sequence masked": (buffers.sequence(9, 3, period=2, slices="masked"), step),
    "prioritized_sequence": (buffers.prioritized_sequence(9, 2, period=1, alpha=0.7), step),
    "hindsight": (buffers.hindsight(7, reach), goal_item),
    "frame_stacks": (buffers.frame_stacks(9, 3), picture),
}


@pytest.fixture(params=BUFFERS)
def case(request):
    return BUFFERS[request.param]


def items(make, start, stop, dtype=torch.float32):
    return tree.stack([make(i, dtype) for i in range(start, stop)])


def filled(case, n=5, dtype=torch.float32):
    buffer, make = case
    return buffer.extend(buffer.init(make(0, dtype)), items(make, 0, n, dtype))


def change(case, key, state, batch):
    """Everything that a buffer can do, once."""
    buffer, _ = case
    state = buffer.extend(state, tree.index(batch, slice(0, -1)))
    state = buffer.add(state, tree.index(batch, -1))
    sample = buffer.sample(key, state, 2)
    if buffer.update_priority is not None:
        state = buffer.update_priority(state, sample.indices, torch.full((2,), 3.0, device=key.device))
    return state, sample, buffer.size(state), buffer.can_sample(state, 2)


def test_inputs_are_left_alone_and_the_same_key_gives_the_same(case):
    state, batch, key = filled(case), items(case[1], 5, 8), random.key(3)
    kept = tree.clone((state, batch, key))
    first = change(case, key, state, batch)
    assert tree.equal((state, batch, key), kept)
    assert tree.equal(change(case, key, state, batch), first)


def test_in_place_does_the_same(case):
    buffer, make = case
    writer = buffers.in_place(buffer)
    state, batch = filled(case), items(make, 5, 8)
    twin = tree.clone(state)
    places = [x.data_ptr() for x in tree.leaves(twin)]
    for i in range(5, 21, 4):  # stacks of frames have to follow each other
        batch = items(make, i, i + 3)
        state = buffer.add(buffer.extend(state, batch), make(i + 3))
        twin = writer.add(writer.extend(twin, batch), make(i + 3))
        if buffer.update_priority is not None:
            index = buffer.sample(random.key(1), state, 3).indices
            priority = index.float() + 2
            state, twin = buffer.update_priority(state, index, priority), writer.update_priority(twin, index, priority)
        if buffer.take is not None:
            (state, one), (twin, other) = buffer.take(state, 2), writer.take(twin, 2)
            assert tree.equal(one, other)
        assert tree.equal(state, twin)
    assert [x.data_ptr() for x in tree.leaves(twin)] == places


def test_add_is_extend_by_one(case):
    buffer, make = case
    one = other = filled(case)
    for i in range(5, 17):
        one = buffer.add(one, make(i))
    other = buffer.extend(other, items(make, 5, 17))
    if hasattr(one, "position"):
        assert tree.equal(one.replace(ring=one.ring.replace(data=0)), other.replace(ring=other.ring.replace(data=0)))
    assert buffer.size(one) == buffer.size(other)
    draw = lambda state: buffer.sample(random.key(0), state, int(buffer.size(state)))  # noqa: E731
    assert tree.equal(draw(one).batch, draw(other).batch)


def test_vmap_equals_a_loop(case):
    states = tree.stack([filled(case, n) for n in (4, 5, 8)])
    batches = tree.stack([items(case[1], n, n + 3) for n in (4, 5, 8)])
    keys = random.split(random.key(0), 3)
    together = vmap(lambda key, state, batch: change(case, key, state, batch))(keys, states, batches)
    alone = tree.stack([change(case, keys[i], tree.index(states, i), tree.index(batches, i)) for i in range(3)])
    assert tree.allclose(together, alone)


def test_compiled_equals_eager_and_compiles_once(case):
    program = funrl.compile(lambda key, state, batch: change(case, key, state, batch), donate=1, backend="aot_eager")
    state = other = filled(case)
    for i in range(3):
        key, batch = random.key(i), items(case[1], 5 + 3 * i, 8 + 3 * i)
        state, *rest = change(case, key, state, batch)
        before = traced()
        other, *others = program(key, other, batch)
        assert traced() - before == (i == 0)
        assert tree.allclose((state, rest), (other, others))


def test_dtypes_and_gradients(case):
    buffer, make = case
    state = filled(case, dtype=torch.float64)
    batch = buffer.sample(random.key(0), state, 2).batch
    assert {x.dtype for x in tree.leaves(batch) if x.is_floating_point()} == {torch.float64}
    name = "x" if "x" in make(0) else "observation"
    x = make(5, torch.float64)
    x[name] = x[name].clone().requires_grad_()
    for f in (buffer.add, buffers.in_place(buffer).add):
        assert not any(leaf.requires_grad for leaf in tree.leaves(f(state, x)))


def test_other_items_are_refused_and_the_buffer_is_unchanged(case):
    buffer, make = case
    state = filled(case)
    kept = tree.clone(state)
    good = items(make, 0, 2)
    name = "x" if "x" in good else "observation"
    bad = {
        "shape": {**good, name: torch.zeros(2, 3)},
        "dtype": {**good, name: good[name].double()},
        "missing": {key: x for key, x in good.items() if key != name},
        "new": {**good, "more": torch.zeros(2)},
        "number": {**good, name: 1.0},
        "rows": {**good, name: torch.cat([good[name]] * 2)},
        "kind": tuple(good.values()),
    }
    for kind, batch in bad.items():
        for f in (buffer.extend, buffers.in_place(buffer).extend):
            with pytest.raises((ValueError, TypeError), match=r"buffers|tree.get"):
                f(state, batch)
        if kind not in ("rows",):
            with pytest.raises((ValueError, TypeError, AttributeError)):
                buffers.in_place(buffer).add(
                    state, {k: v[0] if isinstance(v, torch.Tensor) else v for k, v in batch.items()} if isinstance(batch, dict) else batch
                )
    assert tree.equal(state, kept)


def test_an_empty_buffer(case):
    buffer, make = case
    state = buffer.init(make(0))
    assert buffer.size(state) == 0 and not buffer.can_sample(state, 1)
    with pytest.raises(ValueError, match="the buffer is empty; add to it, and ask can_sample first"):
        buffer.sample(random.key(0), state, 1)
    for wrong in (0, -1, 1.0, True):
        with pytest.raises((TypeError, ValueError), match="sample: batch_size: expected an integer of at least 1"):
            buffer.sample(random.key(0), filled(case), wrong)


def test_a_key_in_the_place_of_the_state():
    with pytest.raises(TypeError, match=r"buffers.uniform: sample: state: .* write sample\(key, state, batch_size\)"):
        buffers.uniform(4).sample({"x": torch.zeros(1)}, random.key(0), 2)


@pytest.mark.parametrize("name", ["uniform", "without_replacement", "prioritized"])
def test_an_empty_buffer_in_a_compiled_program_gives_rows_that_count_nothing(name):
    buffer, make = BUFFERS[name]
    state = buffer.init(make(0))
    sample = funrl.compile(lambda key, state: buffer.sample(key, state, 3), backend="aot_eager")(random.key(0), state)
    assert sample.weights.tolist() == [0, 0, 0] and all(x.isfinite().all() for x in tree.leaves(sample))


def test_a_batch_of_no_rows(case):
    buffer, make = case
    state = filled(case)
    assert tree.equal(buffer.extend(state, tree.index(items(make, 0, 1), slice(0, 0))), state)


@pytest.mark.parametrize("make", [buffers.uniform, buffers.prioritized, buffers.objects, buffers.first_in_first_out])
def test_capacities(make):
    for n in (0, -1, 1.5, True):
        with pytest.raises((TypeError, ValueError), match="capacity: expected an integer of at least 1"):
            make(n)


def test_examples():
    for example, kind, message in [
        ({}, ValueError, "at least one leaf"),
        ({"a": 1.0}, TypeError, r"leaf \['a'\]: expected a tensor, got a float; .*buffers.objects"),
    ]:
        with pytest.raises(kind, match=message):
            buffers.uniform(3).init(example)


def test_items_of_another_rank_are_refused_with_the_remedy():
    buffer = buffers.uniform(10)
    state = buffer.init({"x": torch.zeros(3)})
    for f, shape, remedy in (
        (buffer.extend, (4, 5, 3), r"first 2: tree\.reshape\(batch, \(-1,\), batch_dims=2\)"),
        (buffer.extend, (3,), "for one item take add"),
        (buffer.add, (4, 3), "for a batch take extend"),
        (buffer.add, (5,), "as the buffer was made for$"),
    ):
        with pytest.raises(ValueError, match=remedy):
            f(state, {"x": torch.zeros(shape)})


def test_in_place_keeps_what_does_not_write_and_refuses_a_buffer_without_writers():
    buffer = buffers.without_replacement(7)._replace(capacity=8)
    assert buffers.in_place(buffer)._replace(add=buffer.add, extend=buffer.extend) == buffer
    with pytest.raises(ValueError, match=r"buffers.in_place: buffer: expected one with writers, .*, got None"):
        buffers.in_place(buffer._replace(writers=None))
