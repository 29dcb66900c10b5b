import pytest
import torch

from funrl import buffers, random, tree


def test_any_objects_the_oldest_of_which_go():
    buffer = buffers.objects(3)
    things = [{"a": 1}, "two", None, (4,), torch.ones(2)]
    state = buffer.init()
    for i, thing in enumerate(things):
        old, state = state, buffer.add(state, thing)
        assert buffer.size(old) == min(i, 3) and buffer.size(state) == min(i + 1, 3)
    drawn = buffer.sample(random.key(0), state, 50)
    assert {id(x) for x in drawn.batch} == {id(x) for x in things[2:]}
    assert buffer.sample(random.key(0), state, 50).indices.tolist() == drawn.indices.tolist()
    assert drawn.probabilities[0] == pytest.approx(1 / 3) and buffer.can_sample(state, 3) and not buffer.can_sample(state, 4)


def test_the_twin_changes_the_state_and_extend_does_not():
    buffer = buffers.objects(2)
    state = buffer.init()
    assert buffers.in_place(buffer).extend(state, [1, 2, 3]) is state and sorted(state.shelf.items) == [2, 3]
    other = buffer.extend(state, [4])
    assert sorted(state.shelf.items) == [2, 3] and sorted(other.shelf.items) == [3, 4]


def test_postprocess_collates():
    buffer = buffers.objects(5, postprocess=tree.stack)
    state = buffer.extend(buffer.init(), [{"x": torch.full((2,), float(i))} for i in range(3)])
    assert buffer.sample(random.key(0), state, 4).batch["x"].shape == (4, 2)


def test_empty():
    with pytest.raises(ValueError, match=r"buffers.objects: sample: the buffer is empty"):
        buffers.objects(5).sample(random.key(0), buffers.objects(5).init(), 1)
