"""Buffers of stacked frames draw what was observed, whatever the stacks begin with."""

import pytest
import torch

import funrl
from funrl import buffers, random, transforms as T, tree
from funrl.env import Place

BASE = T.compose(funrl.envs.make("CartPole-v1"), T.time_limit(17))


def gathered(*above, num_steps=60):
    env = T.compose(BASE, *above)
    state = torch.func.vmap(env.reset, (0, None))(random.split(random.key(0), 2), env.default_params)
    return funrl.rollout(None, random.key(1), state, env.default_params, env=env, num_steps=num_steps)[1]


def pairs(batch):
    """Observations with their successors, as a set."""
    both = torch.cat([batch.observation.flatten(-2), batch.next_observation.flatten(-2)], -1)
    return {tuple(x) for x in both.reshape(-1, both.shape[-1]).tolist()}


@pytest.mark.parametrize("above", [(T.frame_stack(4),), (T.frame_stack(4, padding="zero"),), (T.frame_stack(4), T.noop_reset(3))])
def test_what_is_drawn_was_observed(above):
    """In parts, in a ring that goes round, in place, compiled, and restored."""
    batch = gathered(*above)
    buffer = buffers.frame_stacks(40, 4)
    state = buffer.init(tree.index(batch, 0))
    twin, extend = tree.clone(state), funrl.compile(buffer.extend, backend="aot_eager")
    traced = tree.clone(state)
    for t in range(0, 60, 15):
        part = tree.index(batch, slice(t, t + 15))
        state, twin, traced = buffer.extend(state, part), buffers.in_place(buffer).extend(twin, part), extend(traced, part)
    assert tree.equal(state, twin) and tree.equal(state, traced)
    for kept in (state, buffer.restore(state.ring)):
        drawn = buffer.sample(random.key(2), kept, 1000)
        assert pairs(drawn.batch) <= pairs(batch) and (drawn.weights == 1).all()
        torch.testing.assert_close(drawn.probabilities, torch.full((1000,), 1 / int(buffer.size(kept))))
    if len(above) == 1:
        assert buffer.size(state) == (40 - 3) * 2


def test_stacks_that_are_not_of_consecutive_frames_are_refused():
    batch = gathered(T.frame_stack(4), T.frame_skip(2))
    buffer = buffers.frame_stacks(100, 4)
    with pytest.raises(ValueError, match="observation: expected stacks of the newest frames of consecutive steps, got others; apply frame"):
        buffer.extend(buffer.init(tree.index(batch, 0)), batch)
    compiled = funrl.compile(buffer.extend, backend="aot_eager")
    state = compiled(buffer.init(tree.index(batch, 0)), batch)  # which cannot look at numbers
    assert buffer.size(state) == 0 and not buffer.can_sample(state, 1)


def test_batches_of_two_workers_in_one_column():
    """Where a batch is of another worker than the one before, there are no frames to make its first stacks of."""
    one = tree.index(gathered(T.frame_stack(4)), (slice(None), slice(0, 1)))
    step = torch.arange(60)[:, None] % 17
    one = one.replace(place=Place(torch.arange(60)[:, None] // 17, step, torch.zeros(60, 1)))
    other = one.replace(observation=one.observation + 100, next_observation=one.next_observation + 100)
    other = other.replace(place=Place(other.place.number + 50, step, torch.zeros(60, 1)))
    buffer = buffers.frame_stacks(200, 4)
    state = buffer.init(tree.index(one, 0))
    for t in range(0, 60, 10):
        for worker in (one, other):
            state = buffer.extend(state, tree.index(worker, slice(t, t + 10)))
    assert pairs(buffer.sample(random.key(0), state, 2000).batch) <= pairs(one) | pairs(other)
    assert buffer.size(state) > 60
