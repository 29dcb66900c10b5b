"""Replay buffers: pure functions over a state, in memory or in files, and functions that prepare trajectories for them.

>>> import torch
>>> from funrl import buffers, random
>>> buffer = buffers.uniform(1000)
>>> state = buffer.init({"observation": torch.zeros(4), "reward": torch.zeros(())})
>>> state = buffer.extend(state, {"observation": torch.ones(64, 4), "reward": torch.ones(64)})
>>> buffer.sample(random.key(0), state, 32).batch["observation"].shape
torch.Size([32, 4])
"""

from funrl.buffers._buffer import Buffer, Sample, Storage, in_place
from funrl.buffers._disk import files, follow, reopen
from funrl.buffers._frames import frame_stacks
from funrl.buffers._hindsight import hindsight
from funrl.buffers._objects import objects
from funrl.buffers._priorities import Exponents
from funrl.buffers._prioritized import prioritized
from funrl.buffers._ring import memory
from funrl.buffers._saving import load, save
from funrl.buffers._sequence import SequenceSample, prioritized_sequence, sequence
from funrl.buffers._trajectories import NStep, Trajectories, n_step, split_trajectories
from funrl.buffers._uniform import first_in_first_out, uniform, without_replacement

__all__ = [
    "Buffer",
    "Exponents",
    "NStep",
    "Sample",
    "SequenceSample",
    "Storage",
    "Trajectories",
    "files",
    "first_in_first_out",
    "follow",
    "frame_stacks",
    "hindsight",
    "in_place",
    "load",
    "memory",
    "n_step",
    "objects",
    "prioritized",
    "prioritized_sequence",
    "reopen",
    "save",
    "sequence",
    "split_trajectories",
    "uniform",
    "without_replacement",
]
