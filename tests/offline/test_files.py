"""Data sets in files: D4RL's, OGBench's and Minari's layouts, folders of arrays, and streams; whole, truncated and damaged."""

import json
import pathlib

import numpy as np
import pytest
import torch

import funrl
from funrl import offline, random, tree
from funrl.env import Transition
from funrl.offline import datasets
from funrl.spaces import Box, Dict
from tests.offline.data import SPACES, dataset, episodes

h5py = pytest.importorskip("h5py", reason="the extra minari is not installed")


def d4rl_file(path, **changes):
    """Write what D4RL's files have, without successors: a truncated episode has no row after its last."""
    columns = episodes(ends="tuu")
    arrays = {
        "observations": columns["observation"],
        "actions": columns["action"],
        "rewards": columns["reward"],
        "terminals": columns["terminated"],
        "timeouts": columns["truncated"],
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, x in arrays.items():
            if x is not None:
                file.create_dataset(name, data=x)
    return columns


def test_timeouts_and_terminals_are_told_apart(tmp_path):
    """The file ends with a timeout. Rows of timeouts are dropped, as their successors are not there."""
    columns = d4rl_file(tmp_path / "a.hdf5")
    data = datasets.d4rl(tmp_path / "a.hdf5", spaces=SPACES)
    kept = [0, 1, 2, 3, 4, 6, 7]
    assert data.notes == ("2 of 9 rows were dropped, as their successors are not in the data",)
    assert np.array_equal(data.transition.observation, columns["observation"][kept])
    assert data.transition.terminated.tolist() == [False, False, False, True, False, False, False]
    assert data.end.tolist() == [False, False, False, True, True, False, True]
    inside = ~data.transition.terminated
    assert np.array_equal(data.transition.next_observation[inside], columns["observation"][[1, 2, 3, 5, 7, 8]])

    d4rl_file(tmp_path / "b.hdf5", next_observations=columns["next_observation"])
    whole = datasets.d4rl(tmp_path / "b.hdf5", spaces=SPACES)
    assert whole.size == 9 and not whole.notes and whole.end.tolist() == columns["end"].tolist()
    assert np.array_equal(whole.transition.next_observation, columns["next_observation"])


def test_files_of_mixed_dtypes(tmp_path):
    columns = episodes(ends="tuu")
    numbers = {"rewards": columns["reward"].astype(">f8")[:, None], "terminals": columns["terminated"].astype(np.float32)}
    d4rl_file(
        tmp_path / "a.hdf5",
        observations=columns["observation"].astype(np.float64),
        timeouts=columns["truncated"].astype(np.uint8),
        **numbers,
    )
    data = datasets.d4rl(tmp_path / "a.hdf5", spaces=SPACES)
    assert {x.dtype for x in tree.leaves(data.transition)} == {torch.float32, torch.bool}
    assert np.array_equal(data.transition.reward, columns["reward"][[0, 1, 2, 3, 4, 6, 7]])
    assert datasets.d4rl(tmp_path / "a.hdf5", spaces=SPACES, dtype=None).transition.reward.dtype == torch.float64


def test_a_truncated_file_names_the_place(tmp_path):
    path = tmp_path / "a.hdf5"
    d4rl_file(path)
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a\.hdf5: the file is truncated, damaged or no HDF5 file"):
            datasets.d4rl(path)
    d4rl_file(path, rewards=None)
    with pytest.raises(ValueError, match=r"a\.hdf5: expected a column 'rewards'.*got only actions, observations, terminals, timeouts"):
        datasets.d4rl(path)
    d4rl_file(path, actions=np.zeros((5, 2), np.float32))
    with pytest.raises(ValueError, match=r"a\.hdf5: action: expected 9 rows, as the rewards have, got 5"):
        datasets.d4rl(path)
    with pytest.raises(FileNotFoundError):
        datasets.d4rl(tmp_path / "nowhere.hdf5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminals": np.full(9, np.nan)}, "terminated: expected 0 or 1 in each row, got nan in row 0"),
        ({"timeouts": np.arange(9)}, "truncated: expected 0 or 1 in each row, got 2 in row 2"),
        (
            {"observations": np.zeros((9, 3), np.complex64)},
            "observation: expected bool, uint8, signed integers or real numbers, got .* complex64",
        ),
        ({"actions": np.zeros(9, np.uint64)}, "action: expected bool, uint8, signed integers or real numbers, got an array of uint64"),
        ({"terminals": np.zeros((9, 2))}, r"terminated: expected .*, got \[9, 2\]"),
        ({"rewards": np.ones((9, 2))}, r"reward: expected .*, got \[9, 2\]"),
    ],
)
def test_columns_that_are_no_data(tmp_path, changes, message):
    columns = d4rl_file(tmp_path / "a.hdf5", **changes)
    names = {"observations": "observation", "actions": "action", "rewards": "reward", "terminals": "terminated", "timeouts": "truncated"}
    np.savez(tmp_path / "a.npz", **{name: columns[ours] for name, ours in names.items()} | changes)
    for name in ("a.hdf5", "a.npz"):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            datasets.open_dataset(tmp_path / name)


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "a.hdf5"
    d4rl_file(path, actions=None, rewards=np.float32(1))  # a single number is no column
    with h5py.File(path, "a") as file:
        file["actions"] = h5py.ExternalLink("nowhere.hdf5", "/actions")
    with pytest.raises(ValueError, match=r"a\.hdf5: actions leads nowhere"):
        datasets.d4rl(path)
    with h5py.File(path, "a") as file:
        del file["actions"]
        file["actions/left"] = np.zeros((9, 1))
    with pytest.raises(ValueError, match=r"a\.hdf5: expected a column 'rewards'"):
        datasets.d4rl(path)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file["rewards/left"] = np.zeros(9)
    with pytest.raises(ValueError, match=r"a\.hdf5: reward: expected a column \[N\], .* got a group with \['left'\]"):
        datasets.d4rl(path)
    with pytest.raises(ValueError, match="d4rl: rows: expected"):
        datasets.d4rl(path, rows=0)
    np.savez(tmp_path / "a.npz", **{"observations": np.ones((2, 1)), "observations/a": np.ones((2, 1))})
    with pytest.raises(ValueError, match=r"a\.npz: expected 'observations' to be a column or a dict"):
        datasets.open_dataset(tmp_path / "a.npz")


def test_rows_that_do_not_follow_end_a_piece(tmp_path):
    """A file without timeouts, with successors: without this, returns to go and n-step transitions would go on in another episode."""
    columns = d4rl_file(tmp_path / "a.hdf5", timeouts=None)
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["next_observations"] = columns["next_observation"].astype(np.float64)
    text = "1 of 9 rows have another successor than the next row and no flag"
    with pytest.warns(UserWarning, match=rf"a\.hdf5: {text}"):
        data = datasets.d4rl(tmp_path / "a.hdf5", spaces=SPACES)
    assert data.end.tolist() == columns["end"].tolist() and data.notes[0].startswith(text)
    after = np.concatenate([columns["observation"][1:], columns["observation"][:1]])
    d4rl_file(tmp_path / "b.hdf5", next_observations=after)  # flags alone end pieces where each row follows
    assert datasets.d4rl(tmp_path / "b.hdf5", spaces=SPACES).end.nonzero().flatten().tolist() == [3, 5, 8]


def test_a_file_without_ends_is_a_counted_warning(tmp_path):
    d4rl_file(tmp_path / "a.hdf5", terminals=np.zeros(9, bool), timeouts=None)
    with pytest.warns(UserWarning, match="none of 8 rows ends an episode"):
        datasets.d4rl(tmp_path / "a.hdf5", spaces=SPACES)


def test_columns_that_may_say_which_rows_are_terminal_are_not_passed_over(tmp_path):
    rows = {"observations": np.zeros((4, 2), np.float32), "actions": np.zeros((4, 1), np.float32), "rewards": np.zeros(4, np.float32)}
    flags = np.array([False, True, False, True])
    np.savez(tmp_path / "a.npz", **rows, done=flags)
    assert datasets.directory(tmp_path / "a.npz").transition.terminated.tolist() == flags.tolist()
    np.savez(tmp_path / "b.npz", **rows, masks=~flags, truncations=flags)
    with pytest.warns(UserWarning, match=r"no column 'terminals' .* no row is terminal; not read: masks"):
        datasets.directory(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", **rows, done=flags[:3])
    with pytest.raises(ValueError, match="terminated: expected 4 rows, as the reward has, got 3"):
        datasets.directory(tmp_path / "c.npz")


def test_parts_of_a_large_file_are_the_whole(tmp_path):
    columns = episodes(lengths=(7, 3, 9, 1, 5, 8), ends="tututc", seed=1)
    arrays = {"observations": "observation", "actions": "action", "rewards": "reward", "terminals": "terminated", "timeouts": "truncated"}
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, ours in arrays.items():
            file[name] = columns[ours]
    whole = datasets.d4rl(tmp_path / "a.hdf5", spaces=SPACES)
    mapped = datasets.d4rl(tmp_path / "a.hdf5", spaces=SPACES, folder=tmp_path / "rows", rows=6)
    assert tree.equal(mapped.transition, whole.transition) and torch.equal(mapped.end, whole.end)
    assert torch.equal(mapped.return_to_go, whole.return_to_go)


def test_ogbench(tmp_path):
    states = np.arange(14, dtype=np.float32).reshape(7, 2)
    path = tmp_path / "play.npz"
    np.savez(path, observations=states, actions=np.zeros((7, 1), np.float32), terminals=[0, 0, 1, 0, 0, 0, 1])
    data = datasets.ogbench(path, reward=lambda x, a, y: (y[:, 0], y[:, 0] > 100))
    assert data.transition.observation[:, 0].tolist() == [0, 2, 6, 8, 10] and data.transition.next_observation[:, 0].tolist() == [
        2,
        4,
        8,
        10,
        12,
    ]
    assert data.transition.truncated.tolist() == [False, True, False, False, True] and not bool(data.transition.terminated.any())
    with pytest.raises(ValueError, match="reward: expected a function, as the file has no rewards"):
        datasets.ogbench(path)
    np.savez(tmp_path / "short.npz", observations=states, actions=states, terminals=[0, 0, 1, 0, 0, 0, 1], rewards=states[:3, 0])
    with pytest.raises(ValueError, match=r"short\.npz: rewards: expected \[7\], as the terminals, got \[3\]"):
        datasets.ogbench(tmp_path / "short.npz")
    with pytest.raises(TypeError, match=r"reward: expected a function that returns rewards .* got one that returns a Tensor"):
        datasets.ogbench(path, reward=lambda x, a, y: y[:, 0])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"play\.npz: the file is truncated, damaged or no npz file"):
        datasets.ogbench(path, reward=lambda *_: None)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_folder_of_arrays(tmp_path, suffix):
    parts = [dataset(seed=0), dataset(seed=1)]
    for i, part in enumerate(parts):
        datasets.write(part, tmp_path / f"{i}{suffix}")
    data = datasets.open_dataset(tmp_path, spaces=SPACES)
    expected = datasets.merge(*parts)
    assert tree.equal(data.transition, expected.transition) and torch.equal(data.end, expected.end)
    mapped = datasets.directory(tmp_path, spaces=SPACES, folder=tmp_path / "rows")
    assert tree.equal(mapped.transition, expected.transition)
    with pytest.raises(FileExistsError):
        datasets.write(parts[0], tmp_path / f"0{suffix}")
    file = tmp_path / f"1{suffix}"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match=rf"1\{suffix}"):
        datasets.directory(tmp_path, spaces=SPACES)


def test_dict_observations_in_files(tmp_path):
    seen = {"a": torch.randn(9, 3), "b": torch.randint(0, 9, (9, 2))}
    space = Dict({"a": SPACES[0], "b": Box(0, 9, (2,), torch.int64)})
    rows = dataset().transition.replace(observation=seen, next_observation=tree.map(lambda x: x.flip(0), seen))
    data = datasets.from_transitions(rows, end=dataset().end, spaces=(space, SPACES[1]))
    for name in ("rows", "rows.npz", "rows.safetensors"):
        datasets.write(data, tmp_path / name)
        other = datasets.open_dataset(tmp_path / name, spaces=(space, SPACES[1]))
        assert tree.equal(other.transition, data.transition) and other.observation_space == space


def test_a_folder_of_files_is_the_data_bit_for_bit(tmp_path):
    data = dataset()
    mapped = datasets.save(data, tmp_path / "rows")
    assert tree.equal(mapped, data) and mapped.observation_space == data.observation_space and mapped.notes == data.notes
    with pytest.raises(ValueError, match="holds a data set already"):
        datasets.save(data, tmp_path / "rows")
    with pytest.raises(ValueError, match="a part has other spaces"):
        datasets.save(iter([data, data.replace(action_space=Box(-2.0, 2.0, (2,)))]), tmp_path / "other")
    with pytest.raises(ValueError, match=r"there is no complete data set here"):
        datasets.load(tmp_path / "other")


def test_damage_of_such_a_folder_is_named(tmp_path):
    datasets.save(dataset(), tmp_path / "rows")
    notes = tmp_path / "rows" / "dataset.json"
    text = notes.read_text()
    column = next(row for row in json.loads(text)["columns"] if row["keys"][-1] == "action")
    file = tmp_path / "rows" / column["file"]
    whole = file.read_bytes()
    file.write_bytes(whole[:20])
    with pytest.raises(ValueError, match=rf"{column['file']}: expected 72 bytes of 9 rows, got 20; row 2 is where it breaks off"):
        datasets.load(tmp_path / "rows")
    file.write_bytes(whole)
    for broken in (
        "",
        "[]",
        text.replace('"size": 9', '"size": -1'),
        text.replace("float32", "nonsense"),
        text.replace('"kind": "Box"', '"kind": "x"'),
    ):
        notes.write_text(broken)
        with pytest.raises(ValueError, match=r"dataset\.json: it is damaged"):
            datasets.load(tmp_path / "rows")
    file.unlink()
    notes.write_text(text)
    with pytest.raises(ValueError, match=f"{column['file']}: it cannot be read"):
        datasets.load(tmp_path / "rows")


def test_a_stream_reads_the_same_rows(tmp_path):
    data = dataset(lengths=(40, 60), ends="tu")
    datasets.save(data, tmp_path / "rows")
    stream = datasets.stream(tmp_path / "rows")
    index = random.randint(random.key(0), (3, 7), 0, 100)
    assert tree.equal(stream.rows(index), data.rows(index))
    assert tree.equal(datasets.moments(stream), datasets.moments(data))


def resident(name):
    """Return the bytes of files in a folder that are mapped and resident in this process."""
    total, ours = 0, False
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            ours = name in line
        elif ours and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


@pytest.mark.skipif(not pathlib.Path("/proc/self/smaps").exists(), reason="the system does not tell which pages are resident")
def test_a_stream_leaves_the_data_in_the_files(tmp_path):
    """A learner that normalises observations reads all of them once, and gives their pages back."""
    no = torch.zeros(20_000, dtype=torch.bool)
    seen = torch.randn(20_000, 300)
    rows = Transition(seen, torch.rand(20_000, 1), torch.rand(20_000), no, no | (torch.arange(20_000) % 100 == 99), seen, {})
    spaces = (Box(-float("inf"), float("inf"), (300,)), Box(-1.0, 1.0, (1,)))
    datasets.save(datasets.from_transitions(rows, spaces=spaces), tmp_path / "rows")
    stream = datasets.stream(tmp_path / "rows")
    algo = offline.td3_bc.make(spaces, stream, num_updates=2, batch_size=8, num_cells=(8,))
    state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
    assert bool(metrics["critic_loss"].isfinite())
    torch.testing.assert_close(state.learner.params.observation.mean, seen.mean(0), atol=1e-5, rtol=1e-5)
    assert resident(str(tmp_path)) < 4e6  # of 48e6 bytes
    assert float(stream.dataset.transition.observation.sum().isfinite()) and resident(str(tmp_path)) > 20e6


def test_minari_gives_back_every_bit(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari", reason="the extra minari is not installed")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    with funrl.envs.make("gymnasium:CartPole-v1", num_envs=2) as host:
        for env in (funrl.envs.make("Pendulum-v1"), host):
            data = datasets.record(None, random.key(0), env=env, num_steps=430, num_envs=2)
            name = "pendulum/random-v0" if env is not host else "cartpole/random-v0"
            datasets.to_minari(data, name, env=env, algorithm="random", author="funrl")
            back = datasets.minari(name)
            cut = data.end & ~data.transition.done
            expected = data.transition.replace(truncated=data.transition.truncated | cut)  # Minari's episodes have no third end
            assert tree.equal(back.transition, expected) and torch.equal(back.end, data.end)
            assert torch.equal(back.return_to_go, data.return_to_go)
            assert (back.observation_space, back.action_space) == (data.observation_space, data.action_space)
            source = minari.load_dataset(name)
            assert source.total_steps == 430 and source.storage.metadata["algorithm_name"] == "random"
        assert minari.load_dataset("cartpole/random-v0").env_spec.id == "CartPole-v1"
    with pytest.raises(ValueError, match=r"to_minari: name: expected NAME-v0, .* got 'a b'"):
        datasets.to_minari(data, "a b")
    with pytest.raises(ValueError, match="there is a data set in"):
        datasets.to_minari(data, "cartpole/random-v0")


@pytest.mark.filterwarnings("ignore:.*is set to None:UserWarning", "ignore:Implicitly cleaning up:ResourceWarning")  # Minari's own
def test_a_recording_of_a_gymnasium_environment(tmp_path, monkeypatch):
    """By Farama's recorder of steps, Minari's DataCollector around gymnasium's wrappers: episodes that end, are truncated, or break off."""
    minari = pytest.importorskip("minari", reason="the extra minari is not installed")
    import gymnasium
    from gymnasium.wrappers import RecordEpisodeStatistics

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(RecordEpisodeStatistics(gymnasium.make("CartPole-v1", max_episode_steps=15)))
    expected = {name: [] for name in ("observation", "action", "reward", "terminated", "truncated", "next_observation")}
    for seed, actions in enumerate(([0, 1] * 10, [1] * 20, [0, 1, 1])):
        seen, _ = env.reset(seed=seed)
        for action in actions:
            after, reward, terminated, truncated, _ = env.step(action)
            for name, x in zip(expected, (seen, action, reward, terminated, truncated, after), strict=True):
                expected[name].append(x)
            seen = after
            if terminated or truncated:
                break
    env.create_dataset("cartpole/recorded-v0", algorithm_name="by hand")
    env.close()
    data = datasets.open_dataset("minari:cartpole/recorded-v0")
    expected["truncated"][-1] = True  # Minari's mark of an episode that broke off
    for name, rows in expected.items():
        assert np.array_equal(
            getattr(data.transition, name).numpy(), np.stack(rows).astype(getattr(data.transition, name).numpy().dtype)
        ), name
    assert len(data.begins) == 3 and data.transition.terminated.any() and data.action_space.n == 2


def test_minari_by_path_in_parts_and_damaged(tmp_path):
    pytest.importorskip("minari", reason="the extra minari is not installed")
    data = dataset(ends="tut")
    datasets.write(data, f"minari:{tmp_path / 'own'}")
    assert tree.equal(datasets.minari(tmp_path / "own").transition, data.transition)
    mapped = datasets.minari(tmp_path / "own", folder=tmp_path / "rows", episodes=2)
    assert tree.equal(mapped.transition, data.transition) and torch.equal(mapped.end, data.end)
    assert datasets.open_dataset(tmp_path / "own").size == 9
    file = next((tmp_path / "own").rglob("*.hdf5"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged"):
        datasets.minari(tmp_path / "own")
    metadata = next((tmp_path / "own").rglob("metadata.json"))
    metadata.write_text("{}")
    with pytest.raises(ValueError, match="the data set is damaged"):
        datasets.minari(tmp_path / "own")
    with pytest.raises(FileNotFoundError, match="fetch it with `minari download nowhere/none-v0`"):
        datasets.minari("nowhere/none-v0")
    joined = datasets.n_step(data, n=2, gamma=0.9)
    with pytest.raises(ValueError, match="expected each successor to be the next observation"):
        datasets.to_minari(joined, tmp_path / "joined")


def test_minari_with_dict_observations(tmp_path):
    pytest.importorskip("minari", reason="the extra minari is not installed")
    wide, small = torch.randn(10, 3), torch.randint(0, 9, (10, 2))
    take = lambda i, j: {"a": wide[i:j], "b": small[i:j]}  # noqa: E731
    space = Dict({"a": SPACES[0], "b": Box(0, 9, (2,), torch.int64)})
    rows = dataset(lengths=(9,), ends="t").transition.replace(observation=take(0, 9), next_observation=take(1, 10))
    data = datasets.from_transitions(rows, spaces=(space, SPACES[1]))
    datasets.to_minari(data, tmp_path / "own")
    assert tree.equal(datasets.minari(tmp_path / "own").transition, data.transition)
