"""Films are read back by ffmpeg and pillow; what the copies of an environment show is compared with a plain account of their episodes."""

import contextlib
import importlib
import subprocess
import sys

import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
import torch

import funrl
from funrl import distributions, envs, nn, policies, random, tree
from funrl.env import Env, Timestep
from funrl.record import film, grid, video
from funrl.spaces import Box, Discrete

films = importlib.import_module("funrl.record._films")
KEY = random.key(2)


def moving(count, height, width):
    """A white bar that wanders over a grey ground."""
    frames = np.full((count, height, width, 3), 60, np.uint8)
    for i in range(count):
        frames[i, :, 3 * i : 3 * i + 8] = 250
    return frames


def decoded(path, height, width):
    """Return the frames of a film, and what ffmpeg says of it."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough", "-"]
    run = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return np.frombuffer(run.stdout, np.uint8).reshape(-1, height, width, 3), run.stderr.decode()


@pytest.mark.parametrize(("height", "width"), [(48, 64), (51, 77)])
def test_an_mp4_is_what_was_given(tmp_path, height, width):
    frames = moving(12, height, width)
    video(tmp_path / "new" / "bar.mp4", torch.from_numpy(frames), frames_per_second=24)
    read, told = decoded(tmp_path / "new" / "bar.mp4", height + height % 2, width + width % 2)
    assert len(read) == 12 and "Video: h264" in told and "24 fps" in told and "Duration: 00:00:00.50" in told
    assert np.abs(read[:, :height, :width].astype(int) - frames).mean() < 4  # it loses a little; two neighbours differ by 15 and more
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["bar.mp4"]


def test_a_gif_is_what_was_given(tmp_path):
    frames = moving(12, 51, 77)
    video(tmp_path / "bar.GIF", iter(frames), frames_per_second=20)
    np.testing.assert_array_equal(imageio.imread(tmp_path / "bar.GIF", extension=".gif"), frames)
    meta = imageio.immeta(tmp_path / "bar.GIF", extension=".gif")
    assert (meta["duration"], meta["loop"]) == (50, 0)


def test_frames_of_several_pictures_are_grids(tmp_path):
    frames = np.stack([moving(5, 20, 30), 255 - moving(5, 20, 30)], axis=1)
    video(tmp_path / "bar.gif", frames)
    np.testing.assert_array_equal(imageio.imread(tmp_path / "bar.gif"), [grid(x) for x in frames])


@pytest.mark.parametrize(
    ("count", "height", "width", "columns", "shape"),
    [
        (1, 4, 6, None, (1, 1)),
        (2, 4, 8, None, (2, 1)),
        (2, 6, 4, None, (1, 2)),
        (5, 4, 4, None, (2, 3)),
        (9, 4, 4, None, (3, 3)),
        (3, 4, 4, 1, (3, 1)),
        (3, 4, 4, 5, (1, 5)),
    ],
)
def test_grid(count, height, width, columns, shape):
    pictures = np.random.default_rng(0).integers(1, 255, (count, height, width, 3), np.uint8)
    whole = grid(torch.from_numpy(pictures), columns)
    rows, columns = shape
    assert whole.shape == (rows * (height + 2) - 2, columns * (width + 2) - 2, 3) and whole.dtype == np.uint8
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (height + 2), (i % columns) * (width + 2)
        np.testing.assert_array_equal(whole[top : top + height, left : left + width], picture)
    assert np.count_nonzero(whole) == np.count_nonzero(pictures)


@tree.dataclass
class CountState:
    count: torch.Tensor
    limit: torch.Tensor


def counting(shortest=2, longest=8):
    """An environment that counts to a number of its own: its picture is as bright as the count."""

    def reset(key, env_params):
        zero = torch.zeros((), dtype=torch.int64)
        no = torch.zeros((), dtype=torch.bool)
        return CountState(zero, random.randint(key, (), shortest, longest)), Timestep(torch.zeros(1), torch.zeros(()), no, no.clone(), {})

    def step(key, state, action, env_params):
        state = state.replace(count=state.count + 1)
        over = state.count >= state.limit
        return state, Timestep(torch.zeros(1), torch.ones(()), over, torch.zeros_like(over), {})

    def render(state, env_params):
        return (20 * state.count).to(torch.uint8)[None, None, None].expand(4, 4, 3).clone()

    return Env("Counting", reset, step, Box(0.0, 1.0, (1,)), Discrete(2), (), 100, render)


@pytest.fixture
def frames(monkeypatch):
    """The frames that films would write."""
    seen = []

    @contextlib.contextmanager
    def writing(what, path, frames_per_second):
        yield lambda frame: seen.append(frame.numpy().copy())

    monkeypatch.setattr(films, "_writing", writing)
    return seen


def expected(lengths, copies):
    """Return what each copy shows in each frame, [frames, copies], told step by step."""
    panels = [{"left": lengths[copy::copies], "count": 0, "shown": 0} for copy in range(min(copies, len(lengths)))]
    told = [[0] * len(panels)]
    while any(panel["left"] for panel in panels):
        for panel in panels:
            if panel["left"]:
                panel["count"] += 1
                panel["shown"] = 20 * panel["count"]
        told.append([panel["shown"] for panel in panels])
        begun = False
        for panel in panels:
            if panel["left"] and panel["count"] == panel["left"][0]:
                panel["left"] = panel["left"][1:]
                panel["count"] = 0
                panel["shown"] = 0 if panel["left"] else panel["shown"] // 2
                begun = begun or bool(panel["left"])
        if begun:
            told.append([panel["shown"] for panel in panels])
    return told


def brightness(frames):
    assert all(frame.dtype == np.uint8 and (frame == frame[:, :1, :1, :1]).all() for frame in frames)
    return [frame[:, 0, 0, 0].tolist() for frame in frames]


@pytest.mark.parametrize("num_episodes", [1, 4])
@pytest.mark.parametrize("max_steps", [None, 3])
def test_episodes_of_a_pure_environment_stand_side_by_side(frames, num_episodes, max_steps):
    result = film("x.mp4", None, KEY, (), env=counting(), num_episodes=num_episodes, max_steps=max_steps)
    lengths = result.episode_length.tolist()
    assert len(lengths) == num_episodes and (len(set(lengths)) > 1) == (num_episodes > 1 and max_steps is None)
    assert brightness(frames) == expected(lengths, num_episodes) and len(frames) == 1 + max(lengths)


@pytest.mark.parametrize(("copies", "num_episodes"), [(1, 3), (2, 5), (3, 3), (4, 2)])
def test_copies_play_their_shares_one_after_another(frames, copies, num_episodes):
    result = film("x.mp4", None, KEY, (), env=envs.vectorize(counting(), copies), num_episodes=num_episodes)
    assert result.episode_length.shape == (num_episodes,) and bool(result.finished.all())
    assert brightness(frames) == expected(result.episode_length.tolist(), copies)


@pytest.mark.parametrize(("copies", "num_episodes"), [(1, 2), (2, 3)])
def test_episodes_on_the_host_are_those_of_evaluate(frames, copies, num_episodes):
    with envs.make("gymnasium:CartPole-v1", num_envs=copies, render_mode="rgb_array") as env:
        result = film("x.mp4", None, KEY, (), env=env, num_episodes=num_episodes)
        plain = funrl.evaluate(None, KEY, (), env=env, num_episodes=num_episodes)
    assert all(torch.equal(x, y) for x, y in zip(tree.leaves(result), tree.leaves(plain), strict=True))
    assert len(frames) == len(expected(result.episode_length.tolist(), copies))
    assert all(frame.shape == (copies, 400, 600, 3) for frame in frames) and (frames[0] != frames[8]).any()


def test_a_task_of_dm_control(frames):
    with envs.make("dm_control:cartpole-swingup", height=48, width=64) as env:
        film("x.mp4", None, KEY, (), env=env, max_steps=3)
    assert [frame.shape for frame in frames] == [(1, 48, 64, 3)] * 4 and (frames[0] != frames[3]).any()


def test_transforms_and_a_policy_with_memory(frames):
    env = funrl.transforms.compose(envs.make("MemoryChain-bsuite", memory_length=3), funrl.transforms.reward_scale(2.0))
    policy = policies.recurrent(nn.gru(8), policies.stochastic(nn.mlp((), 2), distributions.Categorical))
    state = env.reset(KEY, env.default_params)
    params = policy.init(KEY, state[1].observation)
    result = film("x.mp4", params, KEY, env.default_params, env=env, act=policy, num_episodes=2)
    assert result.episode_length.tolist() == [4, 4] and len(frames) == 5


def test_long_films_are_drawn_by_a_compiled_program(frames, monkeypatch):
    env = envs.make("Catch-bsuite")
    film("x.mp4", None, KEY, env.default_params, env=env, num_episodes=2)
    eager = list(frames)
    frames.clear()
    compiled = []

    def compile(fn):
        compiled.append(fn)
        return funrl.compile(fn, backend="aot_eager")

    monkeypatch.setattr(films, "_SECONDS_TO_COMPILE", 1e-9)
    monkeypatch.setattr(films, "compile", compile)
    film("x.mp4", None, KEY, env.default_params, env=env, num_episodes=2)
    assert len(compiled) == 1 and len(frames) == 10
    np.testing.assert_array_equal(frames, eager)


def test_it_says_what_it_does_if_asked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(films, "_SECONDS_BETWEEN_MESSAGES", 0.0)
    env = envs.make("Catch-bsuite")  # nine steps
    for progress in (False, True):
        film(tmp_path / "x.gif", None, KEY, env.default_params, env=env, num_episodes=2, progress=progress)
        told = capsys.readouterr()
        assert told.out == "" and bool(told.err) == progress
    lines = told.err.splitlines()
    assert lines[0] == "filming 2 episodes of Catch-bsuite, of at most 9 steps each ..." and lines[-1] == "10 frames"


def test_recorder(tmp_path):
    """As a hook of training: now and then a film of what was learned, with the figures of its episodes."""
    env = counting()
    algo = funrl.algos.ppo.make(env, num_envs=2, num_steps=4, num_cells=(8,))
    state, returns = algo.init(KEY), {}

    def record(step, state, metrics):
        result = film(tmp_path / f"{step}.gif", state.learner.params, KEY, env.default_params, env=env, act=algo.greedy, num_episodes=4)
        returns[step] = result.episode_return.mean().item(), result.episode_length.max().item()

    for step in (0, 100):
        record(step, state, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.gif", "100.gif"]
    assert returns[0] == returns[100] and (tmp_path / "0.gif").read_bytes() == (tmp_path / "100.gif").read_bytes()
    frames = imageio.imread(tmp_path / "0.gif")
    assert frames.shape == (int(1 + returns[0][1]), 10, 10, 3)


def test_what_fails_leaves_the_old_film(tmp_path):
    path = tmp_path / "bar.mp4"
    video(path, moving(3, 20, 30))
    before = path.read_bytes()

    def failing():
        yield from moving(3, 20, 30)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        video(path, failing())
    with pytest.raises(ValueError, match="frames: expected at least one, got none"):
        video(path, [])
    with pytest.raises(ValueError, match=r"expected all of one size, got \[20, 30, 3\] and \[10, 30, 3\]"):
        video(path, [*moving(1, 20, 30), *moving(1, 10, 30)])
    with pytest.raises(ValueError, match="frames: expected at least one, got none"):
        video(tmp_path / "bar.gif", [])
    assert [x.name for x in tmp_path.iterdir()] == ["bar.mp4"] and path.read_bytes() == before


def test_errors(tmp_path):
    frames = moving(1, 20, 30)
    for name in ("bar.avi", "bar"):
        with pytest.raises(ValueError, match=r"path: expected a name that ends in \.mp4 or \.gif"):
            video(tmp_path / name, frames)
    for name, rate in (("bar.gif", 60), ("bar.gif", 0), ("bar.mp4", float("inf")), ("bar.mp4", float("nan"))):
        with pytest.raises(ValueError, match="frames_per_second: expected a number above 0"):
            video(tmp_path / name, frames, frames_per_second=rate)
    with pytest.raises(ValueError, match=r"frames: expected uint8 \[B, H, W, 3\], got uint8 \[20, 30\]"):
        video(tmp_path / "bar.gif", frames[0, :, :, 0][None])
    with pytest.raises(ValueError, match=r"frames: expected uint8 \[H, W, 3\], got float32 \[20, 30, 3\]"):
        video(tmp_path / "bar.gif", torch.from_numpy(frames) / 255)
    with pytest.raises(TypeError, match="frames: expected pictures as tensors or arrays, got int"):
        video(tmp_path / "bar.gif", [3])
    with pytest.raises(ValueError, match="columns: expected an integer of at least 1, got 0"):
        grid(frames, 0)
    with pytest.raises(ValueError, match=r'film: env: gymnasium:CartPole-v1 has no pictures; make it with render_mode="rgb_array"'):
        with envs.make("gymnasium:CartPole-v1") as env:
            film(tmp_path / "bar.gif", None, KEY, (), env=env)
    with pytest.raises(ValueError, match="Counting has no pictures; give it a function"):
        film(tmp_path / "bar.gif", None, KEY, (), env=counting()._replace(render=None))
    with pytest.raises(ValueError, match="num_episodes: expected an integer of at least 1, got 0"):
        film(tmp_path / "bar.gif", None, KEY, (), env=counting(), num_episodes=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["imageio.v2", "imageio_ffmpeg"])
def test_a_missing_package(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "funrl\[video\]"'):
        video(tmp_path / "bar.mp4", moving(1, 20, 30))
    assert not list(tmp_path.iterdir())
