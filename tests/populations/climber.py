"""An algorithm that costs nothing: its return climbs by its rate, falls by the square of it, and breaks where the rate is above 2."""

from typing import Any

import torch

from funrl import algos, envs, random, tree


@tree.dataclass
class ClimberConfig(tree.Replaceable):
    num_envs: int = tree.static(default=1)
    num_steps: int = tree.static(default=10)
    width: int = tree.static(default=2)
    kind: str = tree.static(default="plain")
    rate: Any = 0.5
    wind: Any = 0.1


def make(env, **options):
    config = algos.make_config(ClimberConfig, options)

    def init(key):
        x = random.normal(key, (config.width,), dtype=torch.float64)
        learner = algos.LearnerState({"x": x}, hparams=algos.make_hparams(config, x[0]), num_steps=torch.zeros((), dtype=torch.int64))
        return algos.State((), learner)

    def learn(key, learner, transitions):
        rate, wind = learner.hparams.rate, learner.hparams.wind
        x = learner.params["x"] + rate - rate.square() / 2 + wind * random.normal(key, (config.width,), dtype=torch.float64)
        x = torch.where(rate > 2, torch.nan, x)
        num_steps = learner.num_steps + 10
        metrics = {"steps": num_steps, "episode_return": x.mean(), "value_loss": x.square().mean()}
        return learner.replace(params={"x": x}, num_steps=num_steps), metrics

    def act(params, key, observation):
        return random.bernoulli(key, 0.5).to(torch.int64), {}

    return algos.Algorithm("climber", env, config, init, lambda key, state: ((), ()), learn, act, act)


def algorithm(**options):
    return make(envs.make("CartPole-v1")._replace(max_episode_steps=4), **options)
