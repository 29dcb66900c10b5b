"""TorchRL's tutorials of PPO and DDPG, of its parts and with their hyperparameters: ``python redone_peers.py PAGE FRAMES SEED``.

It prints a line for each episode that ends, as CleanRL's files do. Collection is in this process, and without a device but the CPU.
"""

import sys
from typing import Any

import numpy as np
import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import Compose, DoubleToFloat, GymEnv, ObservationNorm, RewardScaling, RewardSum, StepCounter, TransformedEnv
from torchrl.modules import MLP, OrnsteinUhlenbeckProcessModule, ProbabilisticActor, TanhDelta, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss, DDPGLoss, SoftUpdate
from torchrl.objectives.value import GAE


def report(data: Any, frames: int) -> None:
    """Print the returns of the episodes that ended in a batch."""
    done = data["next", "done"].reshape(-1)
    for value in data["next", "episode_reward"].reshape(-1)[done].tolist():
        print(f"global_step={frames}, episodic_return={value}", flush=True)


def ppo(total: int) -> None:
    """Train as the tutorial of PPO does."""
    batch = 1_000
    env = TransformedEnv(
        GymEnv("InvertedDoublePendulum-v5"), Compose(ObservationNorm(in_keys=["observation"]), DoubleToFloat(), StepCounter(), RewardSum())
    )
    env.transform[0].init_stats(num_iter=1_000, reduce_dim=0, cat_dim=0)

    def network(outputs: int) -> MLP:
        return MLP(out_features=outputs, num_cells=[256, 256, 256], activation_class=torch.nn.Tanh)

    size = env.action_spec.shape[-1]
    actor = ProbabilisticActor(
        TensorDictModule(torch.nn.Sequential(network(2 * size), NormalParamExtractor()), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=env.action_spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": env.action_spec.space.low, "high": env.action_spec.space.high},
        return_log_prob=True,
    )
    critic = ValueOperator(network(1), in_keys=["observation"])
    actor(env.reset()), critic(env.reset())
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic, average_gae=True)
    loss = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=1e-4, critic_coeff=1.0, loss_critic_type="smooth_l1")
    optimizer = torch.optim.Adam(loss.parameters(), 3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total // batch, 0.0)
    buffer = ReplayBuffer(storage=LazyTensorStorage(batch), sampler=SamplerWithoutReplacement(), batch_size=64)
    frames = 0
    for data in Collector(env, actor, frames_per_batch=batch, total_frames=total):
        frames += data.numel()
        report(data, frames)
        for _ in range(10):
            with torch.no_grad():
                advantage(data)
            buffer.extend(data.reshape(-1))
            for _ in range(batch // 64):
                terms = loss(buffer.sample())
                (terms["loss_objective"] + terms["loss_critic"] + terms["loss_entropy"]).backward()
                torch.nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        schedule.step()


class Prioritized:
    """TorchRL's ``TensorDictPrioritizedReplayBuffer``, whose compiled part in the wheel of 0.14.1 does not load with torch 2.13."""

    def __init__(self, capacity: int, alpha: float, beta: float) -> None:
        self.storage, self.alpha, self.beta = LazyTensorStorage(capacity), alpha, beta
        self.priority, self.size, self.highest = torch.zeros(capacity), 0, 1.0

    def extend(self, data: Any) -> None:
        """Append rows with the highest priority so far."""
        rows = torch.arange(self.size, self.size + len(data))
        self.storage.set(rows, data)
        self.priority[rows] = self.highest**self.alpha
        self.size += len(data)

    def sample(self, count: int) -> Any:
        """Return rows with probabilities proportional to their priorities, with ``index`` and ``priority_weight``."""
        present = self.priority[: self.size]
        rows = torch.multinomial(present, count, replacement=True)
        data = self.storage.get(rows)
        data["index"], data["priority_weight"] = rows, (present[rows] / present.min()) ** -self.beta
        return data

    def update(self, sample: Any) -> None:
        """Set the priorities of a sample to its errors."""
        errors = sample["td_error"].detach().reshape(-1) + 1e-8
        self.highest = max(self.highest, errors.max().item())
        self.priority[sample["index"]] = errors**self.alpha


def ddpg(total: int) -> None:
    """Train as the tutorial of DDPG does: every 500 steps, 32 gradient steps on batches of 128 with priorities."""
    batch = 500
    env = TransformedEnv(
        GymEnv("HalfCheetah-v5", frame_skip=2),
        Compose(
            RewardScaling(loc=0.0, scale=5.0), ObservationNorm(in_keys=["observation"]), DoubleToFloat(), StepCounter(1_000), RewardSum()
        ),
    )
    env.transform[1].init_stats(num_iter=1_000, reduce_dim=0, cat_dim=0)
    size = env.action_spec.shape[-1]
    actor = ProbabilisticActor(
        TensorDictModule(MLP(out_features=size, num_cells=[64, 64], activation_class=torch.nn.Tanh), ["observation"], ["param"]),
        in_keys=["param"],
        spec=env.action_spec,
        distribution_class=TanhDelta,
        distribution_kwargs={"low": env.action_spec.space.low, "high": env.action_spec.space.high},
    )
    critic = ValueOperator(MLP(out_features=1, num_cells=[64, 64], activation_class=torch.nn.Tanh), in_keys=["observation", "action"])
    critic(actor(env.reset()))
    noise = OrnsteinUhlenbeckProcessModule(annealing_num_steps=500_000, spec=env.action_spec)
    loss = DDPGLoss(actor, critic, loss_function="l2", delay_value=True)
    loss.make_value_estimator(gamma=0.99)
    target = SoftUpdate(loss, tau=0.005)
    optimizers = [torch.optim.Adam(list(x.values(True, True)), 5e-4) for x in (loss.actor_network_params, loss.value_network_params)]
    buffer = Prioritized(total, alpha=0.7, beta=0.5)
    frames = 0
    for data in Collector(env, TensorDictSequential(actor, noise), frames_per_batch=batch, total_frames=total):
        frames += data.numel()
        report(data, frames)
        buffer.extend(data.reshape(-1))
        for _ in range(32):
            sample = buffer.sample(128)
            terms = loss(sample)
            (terms["loss_value"] + terms["loss_actor"]).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            target.step()
            buffer.update(sample)
        noise.step(data.numel())


if __name__ == "__main__":
    page, total, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.manual_seed(seed)
    np.random.seed(seed)
    torch.set_num_threads(1)
    {"torchrl_ppo": ppo, "torchrl_ddpg": ddpg}[page](total)
