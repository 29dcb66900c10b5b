"""Videos: frames written as mp4 or gif, and episodes of a policy with the copies of an environment side by side.

Imageio is imported when a film is written.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from funrl import _check, envs
from funrl.acting import Evaluation, evaluate
from funrl.compiler import compile
from funrl.env import AnyEnv, Env, Timestep, VectorEnv, on_host
from funrl.policies import StatefulPolicy
from funrl.typing import Act

SUFFIXES = (".mp4", ".gif")

# Rendering is compiled once it has taken as many seconds as a compilation takes; short videos are drawn without compilation.
_SECONDS_TO_COMPILE = 5.0
_SECONDS_BETWEEN_MESSAGES = 5.0


def video(path: str | os.PathLike, frames: Iterable[Any], *, frames_per_second: float = 30.0) -> None:
    """Write frames as a video. An existing file is replaced once the new one is complete.

    An mp4 (H.264) is written frame by frame. A gif is stored in memory until the last frame, one byte per pixel and frame; it has 256
    colours per frame, and the time between frames is rounded to hundredths of a second.

    Args:
        path: the file, which ends in ``.mp4`` or ``.gif``; its folder is created.
        frames: pictures, uint8 [H, W, 3], tensors or arrays of the same size; or batches [B, H, W, 3], which :func:`grid` joins to one
            picture.
        frames_per_second: above 0; a gif has at most 50.

    Raises:
        ModuleNotFoundError: if imageio, its ffmpeg or pillow is not installed.
        TypeError: if a frame is neither a tensor nor an array.
        ValueError: if there are no frames, one has another dtype, shape or size, or another argument is out of its range.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> frames = torch.arange(0, 250, 10, dtype=torch.uint8)[:, None, None, None].expand(-1, 32, 48, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     video(f"{folder}/brighter.gif", frames)
        ...     Path(folder, "brighter.gif").read_bytes()[:6]
        b'GIF89a'
    """
    with _writing("video", path, frames_per_second) as append:
        for frame in frames:
            append(frame)


def film(
    path: str | os.PathLike,
    params: Any,
    key: torch.Tensor,
    env_params: Any,
    *,
    env: AnyEnv,
    act: Act | StatefulPolicy | None = None,
    num_episodes: int = 1,
    max_steps: int | None = None,
    frames_per_second: float = 30.0,
    progress: bool = False,
) -> Evaluation:
    """Record whole episodes of a policy as a video.

    The copies of the environment are shown side by side. Each copy plays its part of the episodes one after another, and is dimmed
    when it has finished them. A pure environment has one copy for each episode. A host environment has the copies that it was made
    with, and its episodes are those of :func:`funrl.evaluate` with the same key. To record a run during training, call this function
    in a hook that returns nothing.

    Args:
        path: the file, which ends in ``.mp4`` or ``.gif``; see :func:`video`.
        params: the parameters of ``act``.
        key: a key [].
        env_params: the physical constants.
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv`, pure or on the host. It has to have ``render``:
            gymnasium's do with ``render_mode="rgb_array"``.
        act: ``act(params, key, observation) -> (action, extras)`` or a :class:`funrl.policies.StatefulPolicy`, such as the ``greedy`` of
            an algorithm. None: random actions.
        num_episodes: N >= 1.
        max_steps: the maximum length of an episode; ``env.max_episode_steps`` by default.
        frames_per_second: a frame is a step of the environment; see :func:`video`.
        progress: whether to print the progress on stderr every five seconds.

    Returns:
        The :class:`funrl.acting.Evaluation` of the episodes, leaves [N].

    Raises:
        ModuleNotFoundError: if imageio, its ffmpeg or pillow is not installed.
        ValueError: if the environment has no ``render``, or an argument is out of its range.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile, funrl
        >>> env = funrl.envs.make("Catch-bsuite")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = film(f"{folder}/random.gif", None, funrl.random.key(0), env.default_params, env=env, num_episodes=2)
        >>> result.episode_length
        tensor([9, 9])
    """
    if env.render is None:
        remedy = 'make it with render_mode="rgb_array"' if on_host(env) else "give it a function render(state, env_params)"
        raise ValueError(f"film: env: {env.name} has no pictures; {remedy}")
    _check.integer("film: num_episodes", num_episodes, 1)
    if isinstance(env, Env):
        env = envs.vectorize(env, num_episodes)
    with _writing("film", path, frames_per_second) as append:
        if progress:
            append = _with_progress(
                append, f"{num_episodes} episodes of {env.name}, of at most {max_steps or env.max_episode_steps:,} steps each"
            )
        return evaluate(
            params, key, env_params, env=_filmed(env, num_episodes, append), act=act, num_episodes=num_episodes, max_steps=max_steps
        )


def _with_progress(append: Callable[[Any], None], what: str) -> Callable[[Any], None]:
    """Return ``append`` that prints the number of frames from time to time."""
    print(f"filming {what} ...", file=sys.stderr, flush=True)
    count, last = 0, time.monotonic()

    def counted(frame: Any) -> None:
        nonlocal count, last
        append(frame)
        count += 1
        if time.monotonic() - last >= _SECONDS_BETWEEN_MESSAGES:
            last = time.monotonic()
            print(f"{count:,} frames", file=sys.stderr, flush=True)

    return counted


def grid(pictures: Any, columns: int | None = None) -> np.ndarray:
    """Put pictures side by side, row by row, with a thin black line between them.

    Args:
        pictures: uint8 [B, H, W, 3], a tensor or an array.
        columns: the number of pictures in a row; by default the whole is about square, or wider than high.

    Returns:
        uint8 [H', W', 3]; unused places are black.

    Raises:
        TypeError: if ``pictures`` is neither a tensor nor an array.
        ValueError: if it has another dtype or shape, or ``columns`` is less than 1.

    Example:
        >>> grid(torch.zeros(3, 40, 60, 3, dtype=torch.uint8)).shape
        (82, 122, 3)
    """
    pictures = _picture("grid", "pictures", pictures, 4)
    count, height, width, _ = pictures.shape
    if columns is None:
        columns = min((c for c in range(1, count + 1) if c * width >= math.ceil(count / c) * height), default=count)
    columns = _check.integer("grid: columns", columns, 1)
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height + 2, width + 2, 3), np.uint8)
    cells[:count, :height, :width] = pictures
    whole = cells.reshape(rows, columns, height + 2, width + 2, 3).swapaxes(1, 2).reshape(rows * (height + 2), columns * (width + 2), 3)
    return whole[:-2, :-2]


def _filmed(env: VectorEnv, num_episodes: int, append: Callable[[torch.Tensor], None]) -> VectorEnv:
    """Return the environment with functions that pass a picture to ``append`` after each reset and step.

    The result is on the host, even for a pure one: each picture is written at once, so that a video need not fit into memory.
    """
    shares = [len(range(copy, num_episodes, env.num_envs)) for copy in range(min(env.num_envs, num_episodes))]  # as evaluate does
    playing = [-1] * len(shares)  # the index of each copy's running episode
    shown: torch.Tensor | None = None
    render = _renderer(env)

    def over() -> torch.Tensor:
        return torch.tensor([number >= share for number, share in zip(playing, shares, strict=True)])

    def show(state: Any, env_params: Any) -> None:
        nonlocal shown
        new = render(state, env_params).cpu()[: len(shares)]
        shown = new if shown is None else torch.where(over()[:, None, None, None], shown, new)
        append(shown)

    def begin(where: list[bool], state: Any, env_params: Any) -> None:
        nonlocal shown
        before = over()
        for copy in range(len(shares)):
            playing[copy] += where[copy]
        if shown is not None:
            shown = torch.where((over() & ~before)[:, None, None, None], shown // 2, shown)
        if any(where[copy] and playing[copy] < share for copy, share in enumerate(shares)):
            show(state, env_params)

    def reset(key: torch.Tensor, env_params: Any, state: Any = None, where: torch.Tensor | None = None) -> tuple[Any, Timestep]:
        state, timestep = env.reset(key, env_params, state, where)
        begin([True] * env.num_envs if where is None else where.tolist(), state, env_params)
        return state, timestep

    def step(key: torch.Tensor, state: Any, action: Any, env_params: Any) -> tuple[Any, Timestep]:
        state, timestep = env.step(key, state, action, env_params)
        show(state, env_params)
        return state, timestep

    return env._replace(reset=reset, step=step, host=True)


def _renderer(env: VectorEnv) -> Callable[[Any, Any], torch.Tensor]:
    """Return ``env.render`` that compiles itself once it has been called long enough."""
    if env.host:
        return env.render
    seconds, compiled = 0.0, None

    def render(state: Any, env_params: Any) -> torch.Tensor:
        nonlocal seconds, compiled
        if compiled is None and seconds >= _SECONDS_TO_COMPILE:
            compiled = compile(env.render)
        if compiled is not None:
            return compiled(state, env_params)
        start = time.perf_counter()
        picture = env.render(state, env_params)
        seconds += time.perf_counter() - start
        return picture

    return render


@contextlib.contextmanager
def _writing(what: str, path: str | os.PathLike, frames_per_second: float) -> Iterator[Callable[[Any], None]]:
    """Yield a function that appends a frame to the video; move the video to its path if there was no error."""
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        _check.fail(ValueError, f"{what}: path", f"a name that ends in {' or '.join(SUFFIXES)}", repr(str(path)))
    most = 50 if kind == ".gif" else math.inf
    if not 0 < frames_per_second <= most or frames_per_second == math.inf:
        limit = "at most 50 for a gif" if kind == ".gif" else "finite"
        raise ValueError(f"{what}: frames_per_second: expected a number above 0, {limit}, got {frames_per_second!r}")
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401 (imageio looks for it only once there are frames)
    except ModuleNotFoundError:
        raise ModuleNotFoundError('a film needs imageio, its ffmpeg and pillow; install them with: pip install "funrl[video]"') from None
    size: tuple[int, ...] | None = None

    def append(frame: Any) -> None:
        nonlocal size
        picture = _picture(what, "frames", frame, 3 if len(getattr(frame, "shape", ())) == 3 else 4)
        picture = picture if picture.ndim == 3 else grid(picture)
        if size not in (None, picture.shape):
            raise ValueError(f"{what}: frames: expected all of one size, got {list(size)} and {list(picture.shape)}")
        size = picture.shape
        if kind == ".mp4":  # the codec requires even sizes
            picture = np.pad(picture, [(0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)], mode="edge")
        writer.append_data(picture)

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.partial{kind}")
    options: dict[str, Any]
    if kind == ".mp4":
        options = dict(format="FFMPEG", fps=frames_per_second, macro_block_size=2, ffmpeg_log_level="error")
    else:
        options = dict(duration=1000 / frames_per_second, loop=0, bits=8)
    try:
        with contextlib.closing(imageio.get_writer(temporary, mode="I", **options)) as writer:
            yield append
        if size is None:
            raise ValueError(f"{what}: frames: expected at least one, got none")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _picture(what: str, name: str, x: Any, ndim: int) -> np.ndarray:
    """Return pixels [H, W, 3] or, with ``ndim`` 4, [B, H, W, 3] as an array."""
    if not isinstance(x, (torch.Tensor, np.ndarray)):
        raise TypeError(f"{what}: {name}: expected pictures as tensors or arrays, got {type(x).__name__}")
    array = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x
    if array.dtype != np.uint8 or array.ndim != ndim or array.shape[-1] != 3 or array.size == 0:
        expected = "[B, H, W, 3]" if ndim == 4 else "[H, W, 3]"
        raise ValueError(f"{what}: {name}: expected uint8 {expected}, got {array.dtype} {list(array.shape)}")
    return array
