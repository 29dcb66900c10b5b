"""An algorithm that costs nothing: its parameters shrink and drift by noise, and it can be told to break."""

import dataclasses

import torch

from funrl import algos, envs, random, tree


@dataclasses.dataclass(frozen=True)
class DrifterConfig:
    num_envs: int = 1
    num_steps: int = 10
    width: int = 3
    rate: float = 0.5
    bad_loss_at: int = -1  # the update whose value_loss is NaN
    bad_params_at: int = -1  # the update that leaves infinite parameters
    shape: tuple = (2, 2)
    limit: float = float("inf")
    anneal_steps: float = float("inf")  # it does nothing
    kind: str = "plain"
    noisy: bool = True


@tree.dataclass
class DrifterState:
    params: dict
    count: torch.Tensor


def make(env, **options):
    config = algos.make_config(DrifterConfig, options)
    env = env._replace(max_episode_steps=4)

    def init(key):
        w = random.normal(key, (config.width,))
        learner = DrifterState({"w": w, "b": torch.zeros_like(w[0])}, torch.zeros((), dtype=torch.int64, device=key.device))
        return algos.State((), learner)

    def learn(key, learner, transitions):
        count = learner.count + 1
        noise = random.normal(key, (config.width,))
        w = torch.where(count == config.bad_params_at, torch.inf, config.rate * learner.params["w"] + noise)
        value_loss = torch.where(count == config.bad_loss_at, torch.nan, w.square().clamp(max=1e6).mean())
        metrics = {
            "steps": 10 * count,
            "episode_return": torch.where(count < 3, torch.nan, w.sum().clamp(max=1e6)),
            "episodes": count,
            "value_loss": value_loss,
            "zest": noise[0],
        }
        return DrifterState({"w": w, "b": learner.params["b"] + 1}, count), metrics

    def act(params, key, observation):
        return random.bernoulli(key, 0.5).to(torch.int64), {}

    return algos.Algorithm("drifter", env, config, init, lambda key, state: ((), ()), learn, act, act)


def algorithm(**options):
    return make(envs.make("CartPole-v1"), **options)
