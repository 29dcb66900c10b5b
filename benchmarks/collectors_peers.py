"""Times of the peers of ``benchmarks/collectors.py``.

A sample is the environment steps a second. Starting the workers and two batches come before the clock. All have the workers and copies of
``SETTINGS``. This module imports torch, as the network of a worker is pickled by its name.

``bare``
    As many processes at once, each with gymnasium's ``SyncVectorEnv``, stepped in a loop that does nothing else: all actions are
    drawn before the clock starts, and no transition is kept. It resets its environments itself. A sample is the sum of what they do.
``torchrl-sync``, ``torchrl-async``
    TorchRL's ``MultiSyncCollector`` and ``MultiAsyncCollector`` with a ``SerialEnv`` of ``GymEnv`` in each worker and a policy of two
    layers, which draws around the output with a deviation of 1 and gives the log-probability. Weights are published after each batch.
"""

import multiprocessing
import time
from typing import Any

import torch

from benchmarks.collectors import HIDDEN, SETTINGS

__all__ = ["Net", "bare", "torchrl"]


def _step_alone(name: str, seconds: float, repeats: int, barrier: Any, results: Any) -> None:
    import gymnasium

    envs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(name)] * SETTINGS.num_envs)
    envs.reset(seed=0)
    actions = [envs.action_space.sample() for _ in range(SETTINGS.num_steps)]
    samples = []
    for _ in range(repeats + 1):
        barrier.wait()
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            for action in actions:
                envs.step(action)
            steps += SETTINGS.num_envs * SETTINGS.num_steps
        samples.append(steps / (time.perf_counter() - start))
    results.put(samples[1:])


def bare(name: str, seconds: float, repeats: int = 3) -> list[float]:
    """Time environments that are only stepped."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(SETTINGS.num_workers), context.Queue()
    arguments = (name, seconds, repeats, barrier, results)
    processes = [context.Process(target=_step_alone, args=arguments) for _ in range(SETTINGS.num_workers)]
    for process in processes:
        process.start()
    samples = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return [sum(together) for together in zip(*samples, strict=True)]


class Net(torch.nn.Module):
    """The policy's network in TorchRL, which goes to its workers by pickle."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        sizes = [inputs, *HIDDEN]
        layers = [part for a, b in zip(sizes, HIDDEN, strict=False) for part in (torch.nn.Linear(a, b), torch.nn.Tanh())]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN[-1], outputs))

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return location and scale."""
        loc = self.layers(observation.float())
        return loc, torch.ones_like(loc)


def torchrl(name: str, seconds: float, repeats: int = 3, *, asynchronous: bool) -> list[float]:
    """Time TorchRL's collectors."""
    from tensordict.nn import TensorDictModule
    from torchrl import torchrl_logger
    from torchrl.collectors import MultiAsyncCollector, MultiSyncCollector
    from torchrl.envs import GymEnv, SerialEnv
    from torchrl.modules import IndependentNormal, ProbabilisticActor

    torchrl_logger.setLevel("WARNING")
    torch.set_num_threads(1)
    space = GymEnv(name, device="cpu")
    outputs, inputs = space.action_spec.shape[-1], space.observation_spec["observation"].shape[-1]

    policy = ProbabilisticActor(
        TensorDictModule(Net(inputs, outputs), in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
        return_log_prob=True,
    )
    frames = SETTINGS.num_envs * SETTINGS.num_steps * (1 if asynchronous else SETTINGS.num_workers)
    create_env = [lambda: SerialEnv(SETTINGS.num_envs, lambda: GymEnv(name, device="cpu"))] * SETTINGS.num_workers
    kind = MultiAsyncCollector if asynchronous else MultiSyncCollector
    options = {} if asynchronous else {"cat_results": "stack"}
    collector = kind(create_env, policy, frames_per_batch=frames, total_frames=-1, device="cpu", **options)
    batches = iter(collector)
    for _ in range(2):
        next(batches)
    samples = []
    for _ in range(repeats):
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            steps += next(batches).numel()
            collector.update_policy_weights_()
        samples.append(steps / (time.perf_counter() - start))
    collector.shutdown()
    return samples
