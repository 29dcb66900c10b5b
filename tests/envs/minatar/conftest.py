"""The oracle of the MinAtar games: the minatar package, with each state copied in and the random draws of funrl replayed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from minatar import Environment
from torch.func import vmap

from funrl import envs, random, tree


class Replay:
    """Stands for numpy's RandomState: gives out what integers in [0, n) and numbers in [0, 1) are made from, in turn."""

    def __init__(self, numbers):
        self.numbers = list(numbers)

    def rand(self, *size):
        number = self.numbers.pop(0)
        assert np.shape(number) == size
        return number

    def randint(self, low, high=None, size=None):
        low, high = (0, low) if high is None else (low, high)
        number = np.asarray(self.rand(*(() if size is None else (size,))), np.float32)
        integer = low + np.floor(number * np.float32(high - low)).astype(np.int64)
        return integer if size else int(integer)


class Oracle:
    """Both sides of one game.

    Args:
        name: what minatar calls the game.
        module: the game's module of funrl.
        attributes: state (a tree of NumPy arrays without batch) and params -> the attributes of minatar's game, in plain Python and NumPy.
        script: u [K], the draws of one step, and minatar's game -> the numbers that the game asks for, in turn.
    """

    def __init__(self, name, module, attributes, script):
        self.name, self.module, self.attributes, self.script = name, module, attributes, script
        self.env = envs.make(module.NAME)

    def starts(self, n, env_params=None, seed=0):
        return vmap(self.env.reset, (0, None))(random.split(random.key(seed), n), env_params or self.env.default_params)

    def walk(self, state, policy, steps, env_params=None, seed=0):
        """Step both sides from states [N], each walker for some steps, with a fresh reset after the end of an episode.

        Args:
            state: of funrl, [N].
            policy: state [N], generator -> actions, int64 [N].
            steps: how many.
            env_params: without batch.

        Returns:
            before and after (states), reward and terminated, each [steps * N].
        """
        params = env_params or self.env.default_params
        numbers = torch.Generator().manual_seed(seed)
        step, n = vmap(self.env.step, (0, 0, 0, None)), len(state.time)
        theirs = Environment(self.name, float(params.sticky_action_prob), bool(getattr(params, "ramping", torch.tensor(True))))
        rows = []
        for i in range(steps):
            keys = random.split(random.fold_in(random.key(seed), i), n)
            action = policy(state, numbers)
            draws = vmap(self.module._draws)(keys)
            after, timestep = step(keys, state, action, params)
            self._compare(theirs, state, action, draws, after, timestep, params)
            rows.append(dict(before=state, after=after, reward=timestep.reward, terminated=timestep.terminated))
            fresh, _ = self.starts(n, params, seed=1000 * seed + i + 1)
            state = tree.map(lambda x, y, done=timestep.done: torch.where(done.reshape(-1, *[1] * (x.ndim - 1)), x, y), fresh, after)
        return SimpleNamespace(**tree.map(lambda *x: torch.cat(x), *rows))

    def _compare(self, theirs, state, action, draws, after, timestep, params):
        before_rows, after_rows, step_rows = (tree.map(lambda x: x.numpy(), tree_) for tree_ in (state, after, timestep))
        for i in range(len(action)):
            before, new, mine = (tree.map(lambda x, i=i: x[i], rows) for rows in (before_rows, after_rows, step_rows))
            game, u = theirs.env, np.atleast_1d(draws[i].numpy())
            vars(game).update(self.attributes(before, params), terminal=False)
            theirs.last_action = int(before.last_action)
            theirs.random, game.random = Replay(u[:1]), Replay(self.script(u, game))
            reward, terminated = theirs.act(int(action[i]))
            assert (float(mine.reward), bool(mine.terminated)) == (float(reward), bool(terminated)), before
            assert np.array_equal(mine.observation, game.state()), before
            self._alike(game, new, params, before)

    def _alike(self, game, state, params, before=None):
        for name, value in self.attributes(state, params).items():
            its = getattr(game, name)
            same = np.array_equal(its, value) if isinstance(value, np.ndarray) else its == value
            assert same, f"{name} is {value}, and {its} in minatar; before: {before}"

    def begins(self, script, n=50, params=None):
        """Compare resets: ``script`` takes a key, and gives the numbers that minatar's reset asks for."""
        params = params or self.env.default_params
        keys = random.split(random.key(7), n)
        state, timestep = vmap(self.env.reset, (0, None))(keys, params)
        assert not timestep.done.any() and not timestep.reward.any()
        game = Environment(self.name).env
        for i in range(n):
            game.random = Replay(script(keys[i]))
            game.reset()
            np.testing.assert_array_equal(timestep.observation[i], game.state())
            self._alike(game, tree.map(lambda x, i=i: x[i].numpy(), state), params)


@pytest.fixture
def oracle():
    return Oracle
