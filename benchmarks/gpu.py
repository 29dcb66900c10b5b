"""PPO on CartPole-v1 on a GPU: whole updates a second of funrl and rejax, in the same precision."""

from benchmarks import ppo, ppo_peers
from benchmarks.harness import Case, Library, speed


def ours(num_envs: int, num_steps: int, num_agents: int, seconds: float) -> list[float]:
    """Return samples of steps a second; matrix products take TF32, as those of JAX do by default."""
    import funrl  # isort: skip  # noqa: F401
    import torch

    torch.set_float32_matmul_precision("high")
    return ppo.throughput(num_envs, num_steps, num_agents, seconds, device="cuda")


def theirs(num_envs: int, num_steps: int, num_agents: int, seconds: float) -> list[float]:
    """Return samples of rejax; one call of its program takes sixteen updates."""
    steps = 16 * num_envs * num_steps * num_agents
    return ppo_peers.rejax(num_envs, num_steps, num_agents, seconds, steps_per_call=steps, device="cuda")


LIBRARIES = {"funrl": Library(ours), "rejax": Library(theirs, "rejax")}
BENCHMARK = speed(
    "gpu",
    "PPO on CartPole-v1 on a GPU: whole updates after compilation.",
    [
        Case("PPO on a GPU, 2,048 environments", (2048, 128, 1), LIBRARIES),
        Case("PPO on a GPU, 64 agents with 64 environments each", (64, 128, 64), LIBRARIES),
    ],
    unit="environment steps/s",
    targets={},
    seconds=3.0,
    rounds=1,
)
