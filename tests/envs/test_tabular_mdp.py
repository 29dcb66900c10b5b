import torch
from torch.func import vmap

from funrl import random
from funrl.envs import tabular_mdp, tasks
from funrl.envs._tabular_mdp import TabularMDPState

N = 20_000


def test_transitions_and_rewards_have_the_distributions_of_the_tables():
    env = tabular_mdp(num_states=3, num_actions=2)
    drawn = tasks.of(env).sample(random.key(0), 1)
    params = env.default_params.replace(transition=drawn.transition[0], reward=drawn.reward[0], scale=torch.tensor(0.5))
    for number in range(3):
        for action in range(2):
            state = TabularMDPState(torch.tensor(number), torch.tensor(0))
            keys = random.split(random.fold_in(random.key(1), 10 * number + action), N)
            new, timestep = vmap(env.step, (0, None, None, None))(keys, state, torch.tensor(action), params)
            shares = new.number.bincount(minlength=3) / N
            torch.testing.assert_close(shares, params.transition[number, action], rtol=0, atol=0.015)
            torch.testing.assert_close(timestep.reward.mean(), params.reward[number, action], rtol=0, atol=0.015)
            torch.testing.assert_close(timestep.reward.std(), torch.tensor(0.5), rtol=0, atol=0.015)
            assert torch.equal(timestep.observation.argmax(-1), new.number) and (timestep.observation.sum(-1) == 1).all()


def test_the_default_is_a_chain():
    env = tabular_mdp(num_states=4, num_actions=3)
    p = env.default_params
    torch.testing.assert_close(p.transition.sum(-1), torch.ones(4, 3))
    assert (p.transition[:, 0, 0] == 1).all() and torch.allclose(p.transition[2, 2], torch.tensor([0, 0, 0.2, 0.8]))
    assert p.reward[3].tolist() == [torch.tensor(0.1).item(), 1.0, 1.0] and not p.reward[:3, 1:].any()
