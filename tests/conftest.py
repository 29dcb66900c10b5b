"""What all tests share: the thread policy, and small PPO programs that compile once."""

import functools

import funrl  # isort: skip  (before torch: see funrl/__init__.py)
import pytest
import torch

torch.set_num_threads(1)

# One update of every kind of learner in a second or two once it is compiled.
PPO = {
    "discrete": ("CartPole-v1", dict(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, num_cells=(8,))),
    "continuous": (
        "Pendulum-v1",
        dict(
            num_envs=4,
            num_steps=8,
            num_epochs=2,
            num_minibatches=2,
            num_cells=(8,),
            trunk="shared",
            normalize_observation=True,
            normalize_reward=True,
            value_clip=0.2,
        ),
    ),
    "recurrent": (
        "CartPole-v1",
        dict(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, num_cells=(8,), recurrent="gru", recurrent_size=8),
    ),
}


@pytest.fixture(scope="session")
def ppo_program():
    """``ppo_program(kind) -> (algo, compiled vmap(algo.step))`` of a kind in PPO; each is made once a session."""

    @functools.cache
    def program(kind):
        name, options = PPO[kind]
        algo = funrl.algos.ppo.make(funrl.envs.make(name), **options)
        return algo, funrl.compile(torch.func.vmap(algo.step), backend="aot_eager")

    return program
