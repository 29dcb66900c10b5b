"""Minari data sets: reading them, by name or from a folder, and writing them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from funrl import _check, tree
from funrl.env import AnyEnv, Transition
from funrl.offline._dataset import Dataset, check_dataset, follows, from_transitions, spaces_of
from funrl.offline._files import save
from funrl.offline._views import merge


def minari(
    name: str | os.PathLike,
    *,
    spaces: Any = None,
    folder: str | os.PathLike | None = None,
    dtype: torch.dtype | None = torch.float32,
    episodes: int = 500,
) -> Dataset:
    """Read a Minari data set: one of the local folder of Minari by its name, or any by the path of its folder.

    This is also how recordings of gymnasium's environments are read. Gymnasium 1 itself writes videos and statistics, but no steps; its
    recorder is the wrapper ``minari.DataCollector``, whose ``create_dataset`` writes them in this form.

    Args:
        name: its name, such as ``"mujoco/hopper/medium-v0"``, which ``minari download`` fetches; or a folder.
        spaces: as for :func:`funrl.offline.datasets.from_transitions`; None: those of the data set.
        folder: write the rows there, part by part, and return them memory-mapped. None: in memory.
        dtype: of floating-point columns; None: that of the files.
        episodes: the number of episodes in a part.

    Raises:
        FileNotFoundError: if there is no such data set; the message says how to fetch it.
        ValueError: if it is empty or damaged.
        ImportError: without Minari (the extra ``minari``).

    Example:
        >>> minari("/nowhere")
        Traceback (most recent call last):
        ...
        FileNotFoundError: /nowhere: there is no Minari data set; give the folder of one, or a name that `minari list local` shows
    """
    _check.instance("minari: name", name, (str, os.PathLike), "give a name of Minari, or a folder", "a path")
    if not _is_folder(name) and (os.path.isabs(name) or Path(name).exists()):
        raise FileNotFoundError(f"{name}: there is no Minari data set; give the folder of one, or a name that `minari list local` shows")
    package = _package()
    try:
        source = package.MinariDataset(_data(name)) if _is_folder(name) else package.load_dataset(os.fspath(name))
    except (FileNotFoundError, LookupError) as error:
        raise FileNotFoundError(f"{name}: there is no such data set here; fetch it with `minari download {name}` ({error})") from None
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{name}: the data set is damaged ({str(error) or 'its metadata lack an entry'}); fetch it again") from None
    if spaces is None:
        from funrl.envs import gymnasium as bridge  # it takes a tenth of a second

        spaces = tuple(bridge.from_gymnasium(getattr(source, kind), f"{name}: {kind}") for kind in ("observation_space", "action_space"))
    parts = _parts(str(name), source, spaces_of(str(name), spaces), dtype, episodes)
    return save(parts, folder) if folder is not None else merge(*parts)


def _parts(name: str, source: Any, spaces: Any, dtype: torch.dtype | None, episodes: int) -> Iterator[Dataset]:
    number = 0
    rows: list[Any] = []
    ends: list[torch.Tensor] = []
    try:
        iterator = source.iterate_episodes()
        while (episode := next(iterator, None)) is not None:
            rows.append(_rows(f"{name}: episode {number}", episode, spaces, dtype))
            ends.append(torch.arange(len(rows[-1].reward)) == len(rows[-1].reward) - 1)
            number += 1
            if number % episodes == 0:
                yield from_transitions(tree.cat(rows), end=torch.cat(ends), spaces=spaces, what=name)
                rows, ends = [], []
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{name}: episode {number} cannot be read: the data set is truncated or damaged ({error}); fetch it again"
        ) from None
    if rows:
        yield from_transitions(tree.cat(rows), end=torch.cat(ends), spaces=spaces, what=name)
    elif not number:
        raise ValueError(f"{name}: it is empty: expected at least one episode, got none")


def _rows(what: str, episode: Any, spaces: Any, dtype: torch.dtype | None) -> Transition:
    def tensors(x: Any, space: Any) -> Any:
        if isinstance(x, dict):
            return {key: tensors(x[key], space.spaces[key]) for key in space.spaces}
        if isinstance(x, tuple):
            return tuple([tensors(part, inner) for part, inner in zip(x, space.spaces, strict=True)])
        y = torch.from_numpy(np.array(x))
        if space.dtype.is_floating_point:
            return y.to(dtype) if dtype is not None else y
        return y.to(space.dtype)

    seen, action = tensors(episode.observations, spaces[0]), tensors(episode.actions, spaces[1])
    reward = torch.from_numpy(np.array(episode.rewards))
    reward = reward.to(dtype) if dtype is not None or not reward.is_floating_point() else reward
    steps = len(reward)
    lengths = {"observations": (tree.leaves(seen), steps + 1), "actions": (tree.leaves(action), steps)}
    for name, (leaves, expected) in lengths.items():
        for x in leaves:
            if len(x) != expected:
                raise ValueError(f"{what}: {name}: expected {expected} rows of {steps} steps, got {len(x)}; the data set is damaged")
    return Transition(
        observation=tree.map(lambda x: x[:-1], seen),
        action=action,
        reward=reward,
        terminated=torch.from_numpy(np.array(episode.terminations, dtype=bool)),
        truncated=torch.from_numpy(np.array(episode.truncations, dtype=bool)),
        next_observation=tree.map(lambda x: x[1:], seen),
        extras={},
    )


def to_minari(
    dataset: Dataset,
    name: str | os.PathLike,
    *,
    env: AnyEnv | None = None,
    algorithm: str = "",
    author: str = "",
    description: str = "",
) -> None:
    """Write a data set with Minari, such that Minari's own tools and :func:`minari` read it.

    A piece that was cut off where the data ends is an episode that was truncated there.

    Args:
        dataset: the data; in each piece, the successor of a row is the observation of the next one.
        name: a name such as ``"pendulum/medium-v0"``, for Minari's own folder; or the path of a folder, absolute or with ``./`` before it.
        env: the environment, if it is gymnasium's, so that Minari can make it again.
        algorithm: the name of the algorithm that recorded it.
        author: the name of its author.
        description: further text.

    Raises:
        ValueError: if there is a data set of that name, or a piece has gaps: rows whose successor is not the next observation, as those
            of n-step transitions.
        ImportError: without Minari (the extra ``minari``).

    Example:
        >>> from funrl.offline.datasets import n_step
        >>> flags = torch.tensor([False, True])
        >>> rows = Transition(torch.zeros(2, 1), torch.tensor([0, 1]), torch.ones(2), flags, flags & False, torch.ones(2, 1), {})
        >>> to_minari(from_transitions(rows), "./nowhere")
        Traceback (most recent call last):
        ...
        ValueError: to_minari: dataset: expected each successor to be the next observation of its piece, ...
    """
    _check.instance("to_minari: name", name, (str, os.PathLike), "give a name for Minari, or a folder", "a path")
    check_dataset("to_minari", dataset)
    buffers = [_episode(dataset, int(low), int(high)) for low, high in _borders(dataset)]
    package = _package()
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    from funrl.envs import gymnasium as bridge  # it takes a tenth of a second

    folder = _data(name) if _is_path(name) else _named(name)
    if (folder / "metadata.json").exists():
        raise ValueError(f"to_minari: name: there is a data set in {folder}; delete it, or choose another name")
    folder.mkdir(parents=True, exist_ok=True)

    spaces = [bridge.as_gymnasium_space(space) for space in (dataset.observation_space, dataset.action_space)]
    storage = MinariStorage.new(folder, *spaces, env_spec=_spec(env), data_format="hdf5", jpeg_encoding=False)
    storage.update_episodes([EpisodeBuffer(id=number, **buffer) for number, buffer in enumerate(buffers)])
    text = {"algorithm_name": algorithm, "author": {author} if author else None, "description": description}
    called = os.fspath(name) if not _is_path(name) else f"{Path(name).name}-v0".replace("_", "-")
    storage.update_metadata({"dataset_id": called, "minari_version": package.__version__, **{k: v for k, v in text.items() if v}})


def _borders(dataset: Dataset) -> Any:
    begins = dataset.begins
    ends = torch.cat([begins[1:], begins.new_full((1,), dataset.size)])
    broken = ~(follows(dataset.transition) | torch.zeros_like(dataset.end).index_fill(0, ends - 1, True)[:-1])
    if bool(broken.any()):
        raise ValueError(
            f"to_minari: dataset: expected each successor to be the next observation of its piece, got another one in row "
            f"{int(broken.int().argmax())}; write the recorded steps, not n-step transitions or replayed rows"
        )
    return torch.stack([begins, ends], 1).tolist()


def _episode(dataset: Dataset, low: int, high: int) -> dict[str, Any]:
    rows = tree.map(lambda x: x[low:high], dataset.transition)
    seen = tree.map(lambda x, y: torch.cat([x, y[-1:]]).numpy(), rows.observation, rows.next_observation)
    truncated = rows.truncated.clone()
    truncated[-1] = truncated[-1] | ~rows.terminated[-1]
    return {
        "observations": seen,
        "actions": tree.map(lambda x: x.numpy(), rows.action),
        "rewards": rows.reward.numpy(),
        "terminations": rows.terminated.numpy(),
        "truncations": truncated.numpy(),
        "infos": {},
    }


def _spec(env: AnyEnv | None) -> Any:
    if env is None or not env.name.startswith("gymnasium:"):
        return None
    import gymnasium

    return gymnasium.spec(env.name.removeprefix("gymnasium:"))


def _package() -> Any:
    try:
        import minari as package
    except ImportError:
        raise ImportError('Minari data sets need the package minari: pip install "funrl[minari]"') from None
    return package


def _is_path(name: str | os.PathLike) -> bool:
    text = os.fspath(name)
    return not isinstance(name, str) or os.path.isabs(text) or text.startswith(("./", "../", "~"))


def _data(name: str | os.PathLike) -> Path:
    """Return the folder of the files: the given one, or ``data`` in it."""
    path = Path(name).expanduser().resolve()
    return path if (path / "metadata.json").exists() or path.name == "data" else path / "data"


def _is_folder(name: str | os.PathLike) -> bool:
    return (_data(name) / "metadata.json").exists()


def _named(name: str | os.PathLike) -> Path:
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path

    try:
        parse_dataset_id(os.fspath(name))
    except ValueError:
        raise ValueError(f"to_minari: name: expected NAME-v0, perhaps with a folder as in FOLDER/NAME-v0, got {name!r}") from None

    return Path(get_dataset_path(os.fspath(name))) / "data"
