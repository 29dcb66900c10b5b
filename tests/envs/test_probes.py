import numpy as np
import pytest
import torch
from torch.func import vmap

from funrl import random, tree
from funrl.env import check_env
from funrl.envs import probes
from tests.support import counted

KINDS = ["discrete", "continuous"]
GAMMA = 0.8


@pytest.fixture(params=[(name, kind) for name in probes.PROBES for kind in KINDS], ids="-".join)
def probe(request):
    name, kind = request.param
    return probes.PROBES[name](kind)


def play(env, seed, actions):
    """All that is seen in an episode: (observation, reward, terminated, truncated) of the reset and of each step."""
    state, timestep = env.reset(random.key(seed))
    seen = []
    for action in (None, *actions):
        if action is not None:
            state, timestep = env.step(random.key(seed), state, action)
        seen.append((timestep.observation.item(), timestep.reward.item(), timestep.terminated.item(), timestep.truncated.item()))
    return seen


def test_keeps_the_contract(probe):
    counting, steps = counted(probe)
    for seed in range(3):
        check_env(counting, random.key(seed))
    assert len(steps) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_each_episode_is_as_documented(kind):
    envs = {name: probe(kind) for name, probe in probes.PROBES.items()}
    for seed in range(4):
        action = envs["value"].action_space.sample(random.key(seed))
        assert play(envs["value"], seed, [action]) == [(0, 0, False, False), (0, 1, True, False)]
        assert play(envs["discount"], seed, [action] * 2) == [(0, 0, False, False), (1, 0, False, False), (1, 1, True, False)]
        assert play(envs["truncation"], seed, [action] * 2) == [(-1, 0, False, False), (1, 0, False, False), (1, 1, False, True)]
        reward = 2 * action.item() - 1 if kind == "discrete" else 1 - (action.item() - 0.5) ** 2
        (*_, (seen, paid, *flags)) = play(envs["action"], seed, [action])
        assert (seen, flags) == (0, [True, False]) and paid == pytest.approx(reward, abs=1e-6)
        (first, *_), (seen, paid, *flags) = play(envs["observation"], seed, [action])
        assert first in (-1, 1) and (seen, flags) == (first, [True, False])
        right = 1.0 if (action.item() == 1) == (first == 1) else -1.0
        assert paid == pytest.approx(right if kind == "discrete" else 1 - (action.item() - first / 2) ** 2, abs=1e-6)


def test_both_observations_come_equally_often():
    env = probes.observation()
    _, timestep = vmap(env.reset, (0, None))(torch.arange(4000), env.default_params)
    assert abs(timestep.observation.sum()) < 5 * 4000**0.5


def experience(env):
    """Whole episodes with each of a grid of actions: (observation, reward, terminated, done, true successor, what the reset showed)."""
    actions = torch.arange(2) if env.action_space.shape == () else torch.linspace(-1, 1, 9)[:, None]
    rows = []
    for seed in range(6):
        for action in actions:
            state, timestep = env.reset(random.key(seed))
            start = timestep.observation.item()
            while not timestep.done:
                before = timestep.observation.item()
                state, timestep = env.step(random.key(0), state, action)
                ends = timestep.terminated.item(), timestep.done.item()
                rows.append((before, timestep.reward.item(), *ends, timestep.observation.item(), start))
    return rows


def iterate(env, *, gamma=GAMMA, masked="terminated", after_cut="successor"):
    """Value iteration on the experience; the arguments are the faults of learners. Returns the values, lowest observation first."""
    rows, values = experience(env), {}
    for _ in range(120):
        targets = {}
        for before, reward, terminated, done, successor, start in rows:
            ends = {"terminated": terminated, "done": done, "never": False}[masked]
            after = start if done and after_cut == "reset" else successor
            targets.setdefault(before, []).append(reward + (0.0 if ends else gamma * values.get(after, 0.0)))
        values = {place: max(found) for place, found in targets.items()}
    return [values[place] for place in sorted(values)]


def test_value_iteration_finds_the_solution(probe):
    solution = probes.solution(probe, GAMMA)
    np.testing.assert_allclose(iterate(probe), solution.value, rtol=1e-6)
    assert solution.observation.tolist() == sorted(solution.observation.tolist())


def test_the_best_actions_are_those_of_the_solution(probe):
    solution = probes.solution(probe, GAMMA)
    if solution.action is None:
        return
    for observation, value, action in zip(solution.observation, solution.value, solution.action, strict=True):
        seed = next(seed for seed in range(20) if torch.equal(probe.reset(random.key(seed))[1].observation, observation))
        state, _ = probe.reset(random.key(seed))
        probe.action_space.check(action)
        _, timestep = probe.step(random.key(0), state, action)
        assert timestep.reward == value
        for other in torch.tensor([0, 1]) if action.ndim == 0 else torch.tensor([[-1.0], [0.0], [1.0]]):
            _, worse = probe.step(random.key(0), state, other)
            assert worse.reward < value or torch.equal(other, action)


def test_faults_show():
    """Each fault of a learner leads the values of its probe away from the solution, to where the docstring says."""
    long_run = 1 / (1 - GAMMA)
    assert iterate(probes.value(), masked="never") == pytest.approx([long_run])
    assert iterate(probes.discount(), gamma=1.0) == pytest.approx([1.0, 1.0])
    assert iterate(probes.discount(), gamma=0.0) == pytest.approx([0.0, 1.0])
    assert iterate(probes.discount(), masked="never") == pytest.approx([GAMMA * long_run, long_run])
    assert iterate(probes.truncation(), masked="done") == pytest.approx([GAMMA, 1.0])
    assert iterate(probes.truncation(), after_cut="reset") == pytest.approx([GAMMA / (1 - GAMMA**2), 1 / (1 - GAMMA**2)])


def test_values_scale_with_the_reward(probe):
    params = probe.default_params.replace(reward=torch.tensor(3.0, dtype=torch.float64))
    state, _ = probe.reset(random.key(0), params)
    action = probe.action_space.sample(random.key(1))
    _, scaled = probe.step(random.key(0), state, action, params)
    _, single = probe.step(random.key(0), tree.to(state, torch.float32), action)
    assert scaled.reward.dtype == torch.float64 and scaled.reward.item() == pytest.approx(3 * single.reward.item())


def test_a_continuous_action_has_a_gradient():
    env = probes.action("continuous")
    state, _ = env.reset(random.key(0))
    gradient = torch.func.grad(lambda action: env.step(random.key(0), state, action)[1].reward)(torch.tensor([0.2]))
    assert gradient.item() == pytest.approx(0.6)


def test_wrong_arguments_are_clear_errors():
    with pytest.raises(ValueError, match=r"probes\.value: actions: expected discrete or continuous, got 'diskrete'; did you mean discrete"):
        probes.value("diskrete")
    with pytest.raises(ValueError, match=r"gamma: expected a number in \[0, 1\), got 1"):
        probes.solution(probes.value(), 1.0)
    with pytest.raises(ValueError, match="env: expected a probe, got Ball"):
        probes.solution(probes.value()._replace(name="Ball"), 0.9)
