"""Data sets in memory: their checks, returns, windows and other views."""

import numpy as np
import pytest
import torch

import funrl
from funrl import buffers, offline, random, tree
from funrl.env import Place, Transition
from funrl.offline import datasets
from funrl.spaces import Box, Dict, Discrete
from tests.offline.data import SPACES, dataset, episodes


def rows(**changes):
    columns = {name: torch.from_numpy(x) for name, x in episodes().items()}
    del columns["end"]
    return Transition(**{**columns, **changes}, extras={})


def test_returns_and_places_are_those_of_a_loop():
    data, columns = dataset(), episodes()
    to_go, step, discounted = [], [], []
    for i in range(9):
        last = next(j for j in range(i, 9) if columns["end"][j])
        to_go.append(sum(float(x) for x in columns["reward"][i : last + 1]))
        discounted.append(sum(0.9**k * float(x) for k, x in enumerate(columns["reward"][i : last + 1])))
        step.append(i - max((j + 1 for j in range(i) if columns["end"][j]), default=0))
    np.testing.assert_allclose(data.return_to_go, to_go, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(data.discounted_return(0.9), discounted, rtol=1e-6, atol=1e-6)
    assert data.step.tolist() == step and data.begins.tolist() == [0, 4, 6]
    np.testing.assert_allclose(data.episode_return, [to_go[0], to_go[4], to_go[6]], rtol=1e-6)


def test_bad_data_is_named():
    reward = torch.from_numpy(episodes()["reward"]).clone()
    reward[[2, 5]] = torch.nan
    with pytest.raises(ValueError, match="reward: 2 of 9 rows are not finite, the first is row 2"):
        datasets.from_transitions(rows(reward=reward), spaces=SPACES)
    seen = torch.zeros(9, 3)
    seen[7, 1] = torch.inf
    with pytest.raises(ValueError, match="next_observation: 1 of 9 rows are not finite, the first is row 7"):
        datasets.from_transitions(rows(next_observation=seen), spaces=SPACES)
    empty = tree.map(lambda x: x[:0], rows())
    with pytest.raises(ValueError, match="it is empty"):
        datasets.from_transitions(empty, spaces=SPACES)
    with pytest.raises(ValueError, match=r"observation: expected rows of shape \[3\]"):
        datasets.from_transitions(rows(observation=torch.zeros(9, 4)), spaces=SPACES)
    with pytest.raises(ValueError, match="action: expected 9 rows, as the reward has"):
        datasets.from_transitions(rows(action=torch.zeros(8, 2)), spaces=SPACES)
    with pytest.raises(ValueError, match=r"reward: expected the shape \[N\], one number a row, got \[9, 1\]"):
        datasets.from_transitions(rows(reward=torch.zeros(9, 1)), spaces=SPACES)
    with pytest.raises(TypeError, match="terminated: expected bool"):
        datasets.from_transitions(rows(terminated=torch.zeros(9)), spaces=SPACES)
    with pytest.raises(ValueError, match="action: 1 of 9 rows are outside Discrete"):
        chosen = torch.tensor([0, 1, 0, 1, 5, 0, 0, 1, 1])
        datasets.from_transitions(rows(action=chosen), spaces=(SPACES[0], Discrete(2)))


@pytest.mark.parametrize("odd", [None, 3, [], torch.tensor(1.0), {}])
def test_odd_arguments_are_named(odd, tmp_path):
    """Whatever stands in the place of an argument: the message begins with the function and the argument, and no file is opened."""
    data, env, key = dataset(), funrl.envs.make("Pendulum-v1"), random.key(0)
    one = torch.tensor([0])
    functions = {
        **{name: getattr(datasets, name) for name in ("moments", "scale_rewards", "normalize_observations", "merge")},
        "n_step": lambda x: datasets.n_step(x, n=2, gamma=0.9),
        "select": lambda x: datasets.select(x, one),
        "top": lambda x: datasets.top(x, 0.5),
        "windows": lambda x: datasets.windows(x, one, 2),
        "write": lambda x: datasets.write(x, tmp_path / "rows.npz"),
        "to_minari": lambda x: datasets.to_minari(x, tmp_path / "own"),
        "fitted_q_evaluation": lambda x: offline.fitted_q_evaluation(None, key, dataset=x, act=len),
        "mixed_buffer": lambda x: offline.mixed_buffer(x, buffers.uniform(8)),
    }
    calls = {f"{name}: dataset": lambda f=f: f(odd) for name, f in functions.items()}
    places = {
        "datasets.load: folder": datasets.load,
        "datasets.stream: folder": datasets.stream,
        "open_dataset: name": datasets.open_dataset,
    }
    places |= {f"{f.__name__}: path": f for f in (datasets.d4rl, datasets.ogbench, datasets.directory)}
    places |= {"minari: name": datasets.minari, "write: name": lambda x: datasets.write(data, x)}
    calls |= {name: lambda f=f: f(odd) for name, f in places.items()}
    calls |= {
        "datasets.save: ": lambda: datasets.save(odd, tmp_path / "rows"),
        "dataset: transition": lambda: datasets.from_transitions(odd),
        "dataset: batches": lambda: datasets.from_rollouts(odd, spaces=env),
        "record: env": lambda: datasets.record(None, key, env=odd, num_steps=8),
        "record: key": lambda: datasets.record(None, odd, env=env, num_steps=8),
        "from_replay: algo": lambda: datasets.from_replay(odd, odd),
        "mixed_buffer: buffer": lambda: offline.mixed_buffer(data, odd),
        "offline_share": lambda: offline.mixed_buffer(data, buffers.uniform(8), share=odd),
        "hand_over: state": lambda: offline.hand_over(odd, odd),
        "offline.make: name": lambda: offline.make(odd, env, None),
        "select: pieces": lambda: datasets.select(data, odd),
        "top: fraction": lambda: datasets.top(data, odd),
        "windows: index": lambda: datasets.windows(data, odd, 2),
        "tuning_curve: episode_return": lambda: offline.tuning_curve(key, odd),
    }
    for name, call in calls.items():
        with pytest.raises((TypeError, ValueError), match=f"^{name}"):
            call()
    assert not list(tmp_path.iterdir())


def test_what_may_be_meant_is_a_counted_warning():
    action = torch.zeros(9, 2)
    action[[3, 8], 0] = 1.5
    with pytest.warns(UserWarning, match="action: 2 of 9 rows are outside Box.*the first is row 3"):
        datasets.from_transitions(rows(action=action), spaces=SPACES)
    none = torch.zeros(9, dtype=torch.bool)
    with pytest.warns(UserWarning, match="none of 9 rows ends an episode"):
        data = datasets.from_transitions(rows(terminated=none, truncated=none), spaces=SPACES)
    assert data.end.tolist() == [False] * 8 + [True]


def test_observations_may_be_dicts():
    seen = {"position": torch.randn(9, 3), "image": torch.randint(0, 255, (9, 2, 2, 1), dtype=torch.uint8)}
    space = Dict({"position": SPACES[0], "image": Box(0, 255, (2, 2, 1), torch.uint8)})
    data = datasets.from_transitions(rows(observation=seen, next_observation=seen), spaces=(space, SPACES[1]))
    assert data.rows(torch.tensor([[1, 2]])).observation["image"].shape == (1, 2, 2, 2, 1)
    with pytest.raises(ValueError, match="observation: expected a dict with"):
        datasets.from_transitions(rows(observation={"position": seen["position"]}), spaces=(space, SPACES[1]))


def test_rollouts_become_episodes():
    env = funrl.envs.make("CartPole-v1")
    actor = funrl.acting.start(random.key(0), env=env, num_envs=3)
    parts = []
    for i in range(2):
        actor, batch = funrl.rollout(None, random.key(i), actor, env.default_params, env=env, num_steps=30)
        parts.append(batch)
    data = datasets.from_rollouts(parts, spaces=env)
    assert data.size == 180
    inside = ~data.end[:-1]
    assert torch.equal(data.transition.next_observation[:-1][inside], data.transition.observation[1:][inside])
    assert int(data.end.sum()) == int(data.transition.done.sum()) + int((~data.transition.done & data.end).sum())
    assert bool(data.end[[59, 119, 179]].all())

    # Batches of a collector may come in any order, as their steps have places.
    number = torch.arange(3).expand(30, 3)
    placed = [
        x.replace(place=Place(number, torch.arange(30 * i, 30 * (i + 1))[:, None].expand(30, 3), torch.zeros(30, 3)))
        for i, x in enumerate(parts)
    ]
    other = datasets.from_rollouts([placed[1], placed[0]], spaces=env)
    assert tree.equal(other.transition, data.transition) and torch.equal(other.end, data.end)


def test_views():
    data = dataset()
    merged = datasets.merge(data, data)
    assert merged.size == 18 and merged.begins.tolist() == [0, 4, 6, 9, 13, 15]
    best = datasets.top(data, 0.3)
    assert best.size == (4, 2, 3)[int(data.episode_return.argmax())]
    scaled = datasets.scale_rewards(data, how="return_range", scale=10.0)
    spread = scaled.episode_return.max() - scaled.episode_return.min()
    torch.testing.assert_close(spread, torch.tensor(10.0))
    standard = datasets.scale_rewards(data, how="standardize").transition.reward
    torch.testing.assert_close(torch.stack([standard.mean(), standard.std(correction=0)]), torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)
    moments = datasets.moments(data)
    np.testing.assert_allclose(moments.mean, episodes()["observation"].mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.var, episodes()["observation"].var(0), rtol=1e-5)
    with pytest.raises(ValueError, match="expected the same space of actions"):
        datasets.merge(data, data.replace(action_space=Box(-2.0, 2.0, (2,))))


def test_n_steps_stop_at_the_ends_of_pieces():
    data, columns = dataset(), episodes()
    joined = datasets.n_step(data, n=3, gamma=0.5)
    for i in range(9):
        last = next(j for j in range(i, 9) if columns["end"][j])
        m = min(3, last - i + 1)
        expected = sum(0.5**k * float(columns["reward"][i + k]) for k in range(m))
        assert float(joined.transition.reward[i]) == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert float(joined.transition.extras["discount"][i]) == 0.5**m
        assert np.array_equal(joined.transition.next_observation[i], columns["next_observation"][i + m - 1])
        assert bool(joined.transition.terminated[i]) == bool(columns["terminated"][i + m - 1])


def test_windows_are_those_of_a_loop():
    data, columns = dataset(), episodes()
    window = datasets.windows(data, torch.arange(9), 3)
    begins = {i: max((j + 1 for j in range(i) if columns["end"][j]), default=0) for i in range(9)}
    for i in range(9):
        for k in range(3):
            row = i - 2 + k
            there = row >= begins[i]
            assert bool(window.mask[i, k]) == there
            expected = columns["action"][row] if there else np.zeros(2, np.float32)
            assert np.array_equal(window.transition.action[i, k], expected)
            assert float(window.return_to_go[i, k]) == (float(data.return_to_go[row]) if there else 0.0)
            assert int(window.step[i, k]) == (row - begins[i] if there else 0)


def test_recording_gives_whole_steps():
    env = funrl.envs.make("Pendulum-v1")
    data = datasets.record(None, random.key(0), env=env, num_steps=901, num_envs=4)
    assert data.size == 901 and bool(data.transition.truncated.any())
    inside = ~data.end[:-1]
    assert torch.equal(data.transition.next_observation[:-1][inside], data.transition.observation[1:][inside])
    assert tree.equal(datasets.record(None, random.key(0), env=env, num_steps=901, num_envs=4), data)


def test_a_replay_buffer_is_a_data_set():
    algo = funrl.algos.sac.make(funrl.envs.make("Pendulum-v1"), num_envs=3, num_steps=8, buffer_size=60, learning_starts=10_000)
    state, batches = algo.init(random.key(0)), []
    for i in range(4):  # 96 steps, of which the last 60 are there
        batches.append(algo.collect(random.split(random.key(i))[0], state)[1])
        state, _ = algo.step(random.key(i), state)
    data = datasets.from_replay(algo, state)
    whole = tree.cat(batches)
    expected = datasets.from_rollouts(tree.map(lambda x: x[-20:], whole), spaces=algo.env)
    assert tree.equal(data.transition, expected.transition) and torch.equal(data.end, expected.end)
