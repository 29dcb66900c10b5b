import itertools

import numpy as np
import pytest
import torch
from bsuite.environments import memory_chain as bsuite
from torch.func import vmap

from funrl import random
from funrl.envs import memory_chain
from funrl.envs._memory_chain import MemoryChainState


@pytest.mark.parametrize(("length", "bits"), [(1, 1), (2, 2), (5, 3), (20, 4)])
def test_every_transition_is_that_of_bsuite(oracle, length, bits):
    theirs = bsuite.MemoryChain(length, bits)
    contexts = list(itertools.product((0, 1), repeat=bits))
    cases = list(itertools.product(range(length + 1), range(bits), contexts, range(2)))
    expected = []
    for time, query, context, action in cases:
        theirs._timestep, theirs._query, theirs._context, theirs._reset_next_step = time, query, np.array(context), False
        timestep = theirs.step(action)
        expected.append((timestep.observation[0], timestep.reward, timestep.last()))
    observation, reward, last = (np.array(column) for column in zip(*expected, strict=True))

    env = memory_chain(num_bits=bits)
    params = env.default_params.replace(memory_length=torch.tensor(length))
    time, query, context, action = (torch.tensor(column) for column in zip(*cases, strict=True))
    new, timestep = oracle.step(env, MemoryChainState(context, query, time), action, params)
    np.testing.assert_allclose(timestep.observation, observation, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(timestep.reward, reward)
    np.testing.assert_array_equal(timestep.terminated, last)
    assert not timestep.truncated.any() and torch.equal(new.time, time + 1)
    assert len(cases) > 1000 or length < 20


def test_an_episode_begins_as_in_bsuite():
    env = memory_chain(memory_length=7, num_bits=3)
    state, timestep = vmap(env.reset, (0, None))(torch.arange(4000), env.default_params)
    theirs = bsuite.MemoryChain(7, 3)
    for i in range(4000):
        theirs._timestep, theirs._context, theirs._query = 0, state.context[i].numpy(), state.query[i].item()
        np.testing.assert_array_equal(timestep.observation[i], theirs._get_observation()[0])
    combinations = (state.context * torch.tensor([1, 2, 4])).sum(1) + 8 * state.query
    counts = combinations.bincount(minlength=24)
    assert len(counts) == 24 and (counts - 4000 / 24).abs().max() < 5 * (4000 / 24) ** 0.5


def test_the_recall_task_over_twenty_steps():
    """The answer at the end is what was shown first, and no observation in between contains it."""
    env = memory_chain(memory_length=20)
    assert env.max_episode_steps == 21
    seen = {}
    for seed in range(8):
        state, timestep = env.reset(random.key(seed))
        bit = timestep.observation[2].item()
        shown = []
        for _ in range(20):
            state, timestep = env.step(random.key(0), state, torch.tensor(0))
            shown.append(timestep.observation.tolist())
            assert not timestep.done and timestep.reward == 0
        assert shown[0][2] == bit
        seen.setdefault(bit, []).append(shown[1:])
        rewards = [env.step(random.key(0), state, torch.tensor(answer))[1] for answer in (0, 1)]
        assert all(timestep.terminated for timestep in rewards)
        assert [timestep.reward.item() for timestep in rewards] == [-bit, bit]
    assert sorted(seen) == [-1.0, 1.0]
    assert all(later == seen[1.0][0] for runs in seen.values() for later in runs)


def test_lengths_can_be_vmapped():
    env = memory_chain(memory_length=8)
    lengths = torch.arange(1, 9)
    dims = env.default_params.replace(memory_length=0, right_reward=None, wrong_reward=None)
    params = env.default_params.replace(memory_length=lengths)
    state, _ = vmap(env.reset, (None, dims))(random.key(0), params)
    over = torch.zeros(8, dtype=torch.int64)
    for _ in range(9):
        state, timestep = vmap(env.step, (None, 0, None, dims))(random.key(0), state, torch.tensor(0), params)
        over += ~timestep.terminated
    assert torch.equal(over, lengths)
