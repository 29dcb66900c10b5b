"""Drivers of B copies of a gymnasium environment: in this process, in worker processes, or in a vector environment with batch wrappers.

A driver has ``num`` copies, the ``layout`` of their observations and the ``action_layout``, ``name_of(i)``, a copy's
name in messages, and

* ``reset(rows, seeds)`` seeds and resets the copies ``rows``, at least one;
* ``step(rows, action)`` steps them, and returns three sequences of B rewards and flags, valid for ``rows`` only;
* ``observe()`` returns the latest observations of all copies, a tree of new arrays [B, ...];
* ``infos`` are the latest infos of all copies, dicts; ``options`` are the options of resets, or None;
* ``render()`` returns the pictures of all copies;
* ``close()`` closes environments and ends processes.

Errors are a :class:`~funrl.env.HostError` that names the copy.
"""

import contextlib
import copy
import multiprocessing.connection
import queue
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import optree
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TransformObservation

from funrl.env import HostError, seed_globals
from funrl.envs.gymnasium._pure import PureVectorEnv
from funrl.envs.gymnasium._spaces import Misfit, layout


class _Driver:
    """The common part of drivers: the latest observation and info of each copy, and the spaces."""

    def __init__(self, num: int, name: str, observation_space: Any, action_space: Any):
        self.num, self.name = num, name
        self.layout = layout(observation_space, f"{name}: observation_space")
        self.action_layout = layout(action_space, f"{name}: action_space")
        self.latest: list[Any] = [None] * num
        self.infos: list[dict[str, Any]] = [{}] * num
        self.options: dict[str, Any] | None = None

    def name_of(self, i: int) -> str:
        return f"{self.name}: copy {i}"

    def observe(self) -> Any:
        try:
            return self.layout.stack(self.latest)
        except Misfit:
            for i, observation in enumerate(self.latest):
                try:
                    self.layout.stack([observation])
                except Misfit as error:
                    raise HostError(f"{self.name_of(i)} returned an observation {error}") from None
            raise


class Copies(_Driver):
    """Driver of environments in this process, stepped one after another."""

    def __init__(self, envs: list[gymnasium.Env], name: str, close: Callable[[], None]):
        super().__init__(len(envs), name, envs[0].observation_space, envs[0].action_space)
        self.envs, self.close, self.steps = envs, close, [env.step for env in envs]

    def name_of(self, i: int) -> str:
        return self.name if self.num == 1 else super().name_of(i)

    def reset(self, rows: list[int], seeds: dict[int, int]) -> None:
        i = rows[0]
        if len(rows) == self.num:
            seed_globals(seeds[i])
        try:
            for i in rows:
                more = {} if self.options is None else {"options": dict(self.options)}
                self.latest[i], self.infos[i] = self.envs[i].reset(seed=seeds[i], **more)
        except Exception as error:
            raise HostError(f"{self.name_of(i)} raised in reset: {_words(error)}") from error

    def step(self, rows: list[int], action: Any) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        reward: list[Any] = [0.0] * self.num
        terminated, truncated = [False] * self.num, [False] * self.num
        latest, infos, steps, actions, i = self.latest, self.infos, self.steps, self.action_layout.unstack(action), rows[0]
        try:
            for i in rows:
                latest[i], reward[i], terminated[i], truncated[i], infos[i] = steps[i](actions[i])
        except Exception as error:
            raise HostError(f"{self.name_of(i)} raised in step: {_words(error)}") from error
        return reward, terminated, truncated

    def render(self) -> list[Any]:
        return [env.render() for env in self.envs]


class Workers(_Driver):
    """Driver of the processes of gymnasium's AsyncVectorEnv. It sends messages to each process separately, with a timeout for each."""

    def __init__(self, vector: AsyncVectorEnv, name: str, timeout: float):
        super().__init__(vector.num_envs, name, vector.single_observation_space, vector.single_action_space)
        self.vector, self.timeout = vector, timeout
        self.pipes, self.processes = list(vector.parent_pipes), vector.processes
        self.warned = False
        self.all = list(range(self.num))
        self.same_step = vector.autoreset_mode == AutoresetMode.SAME_STEP
        # Without shared memory, gymnasium's worker would reset once more in the step after an explicit reset.
        self.resets_twice = vector.autoreset_mode == AutoresetMode.NEXT_STEP and not vector.shared_memory
        self.over = [False] * self.num
        self.closed = False
        mode = vector.observation_mode if isinstance(vector.observation_mode, str) else "different"
        # A small message first: spaces of pictures exceed the buffer of the pipe, and a send of them waits until the worker reads.
        self._ask("_call", [(i, ("render_mode", (), {})) for i in self.all])
        self._ask("_check_spaces", [(i, (mode, vector.single_observation_space, vector.single_action_space)) for i in self.all])

    def name_of(self, i: int) -> str:
        return f"{self.name}: copy {i} (process {self.processes[i].pid})"

    def reset(self, rows: list[int], seeds: dict[int, int]) -> None:
        if self.resets_twice and any(self.over[i] for i in rows):
            anything = self.vector.single_action_space.sample()
            self._ask("step", [(i, anything) for i in rows if self.over[i]])
        answers = self._ask("reset", [(i, {"seed": seeds[i], "options": self.options}) for i in rows])
        for i, (observation, info) in answers.items():
            self.latest[i], self.infos[i], self.over[i] = self._received(i, observation), info, False

    def step(self, rows: list[int], action: Any) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        reward: list[Any] = [0.0] * self.num
        terminated, truncated = [False] * self.num, [False] * self.num
        actions = self.action_layout.unstack(action)
        for i, answer in self._ask("step", [(i, actions[i]) for i in rows]).items():
            observation, reward[i], terminated[i], truncated[i], self.infos[i] = answer
            before, self.latest[i] = self.latest[i], self._received(i, observation)
            self.over[i] = bool(terminated[i]) or bool(truncated[i])
            if self.over[i] and self.same_step:
                first, self.latest[i], self.infos[i] = self.latest[i], self.infos[i]["final_obs"], self.infos[i]["final_info"]
                self._check_last(i, before, self.latest[i], first)
        return reward, terminated, truncated

    def observe(self) -> Any:
        return super().observe() if self.same_step or not self.vector.shared_memory else copy.deepcopy(self.vector.observations)

    def _received(self, i: int, observation: Any) -> Any:
        """Return the observation of a copy, which is in shared memory or was sent. In SAME_STEP it is copied, as the next one follows."""
        if not (self.same_step and self.vector.shared_memory):
            return observation
        return self.layout.unstack(copy.deepcopy(self.vector.observations))[i]

    def render(self) -> list[Any]:
        answers = self._ask("_call", [(i, ("render", (), {})) for i in self.all])
        return [answers[i] for i in self.all]

    def close(self) -> None:
        self._stop(())

    def _check_last(self, i: int, before: Any, last: Any, first: Any) -> None:
        """Raise if the last observation may be an array that the reset has overwritten; warn once if only one entry may be."""
        if is_written_over(last, first):
            self._stop(())
            raise _overwritten(self.name_of(i))
        if not self.warned and _some_entry_is_written_over(before, last, first):
            self.warned = True
            warnings.warn(f"{_overwritten(self.name_of(i))} (an entry of it, unless by coincidence)", stacklevel=2)

    def _ask(self, command: str, messages: list[tuple[int, Any]]) -> dict[int, Any]:
        """Send a message to each of some workers and return their answers; end all workers if one does not answer in time."""
        if self.closed:
            raise HostError(f"{self.name} is closed; make a new one")
        verb = command.strip("_")
        deadline = time.monotonic() + self.timeout
        waiting: dict[Any, int] = {}
        answers = {}
        try:
            for i, message in messages:
                try:
                    self.pipes[i].send((command, message))
                except OSError:
                    raise self._death(i, verb) from None
                waiting[self.pipes[i]] = i
            while waiting:
                ready: list[Any] = multiprocessing.connection.wait(list(waiting), max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise self._silence(list(waiting.values()), verb)
                for pipe in ready:
                    i = waiting.pop(pipe)
                    try:
                        answers[i], fine = pipe.recv()
                    except (EOFError, OSError):
                        raise self._death(i, verb) from None
                    if not fine:
                        raise self._failure(i, verb)
        except BaseException:  # also an interrupt: later answers could be mistaken for answers to other messages
            self._stop(())
            raise
        return answers

    def _death(self, i: int, verb: str) -> HostError:
        process = self.processes[i]
        process.join(1.0)
        code = process.exitcode
        if code is None:
            how = "closed its connection"
        else:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return HostError(f"{self.name_of(i)} {how} before it answered {verb}; all copies are closed: make a new environment")

    def _silence(self, rows: list[int], verb: str) -> HostError:
        name = " and ".join(self.name_of(i) for i in rows)
        self._stop(rows)
        return HostError(
            f"{name} did not answer {verb} within {self.timeout} s; all copies are closed: make a new environment, "
            "with a longer timeout if it was only slow"
        )

    def _failure(self, i: int, verb: str) -> HostError:
        """Return the error that a worker raised, from the queue into which the worker has put it before its end."""
        text, trace = "its exception could not be sent", None
        try:
            _, kind, value, trace = self.vector.error_queue.get(timeout=1.0)
            text = f"{kind.__name__}: {value}"
        except queue.Empty:
            pass
        except Exception as error:  # the worker's exception cannot be unpickled here
            text = f"an exception that could not be received ({_words(error)})"
        failure = HostError(f"{self.name_of(i)} raised in {verb}: {text}; all copies are closed: make a new environment")
        if trace:
            failure.add_note(f"In the worker process:\n{trace}")
        return failure

    def _stop(self, hung: Any) -> None:
        """End all processes: by a message, or by force those in ``hung`` and those that do not end in time."""
        if self.closed:
            return
        self.closed = self.vector.closed = True
        deadline = time.monotonic() + min(self.timeout, 5.0)
        for i, (pipe, process) in enumerate(zip(self.pipes, self.processes, strict=True)):
            if i in hung:
                process.kill()
            else:
                with contextlib.suppress(OSError):
                    pipe.send(("close", None))
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()  # which changes nothing if it has ended
            process.join(1.0)
            pipe.close()
        self.vector.error_queue.close()


class Vectors(_Driver):
    """Driver of any other vector environment, such as one with wrappers around the whole batch; it can only step all copies at once."""

    def __init__(self, vector: VectorEnv, name: str):
        super().__init__(vector.num_envs, name, vector.single_observation_space, vector.single_action_space)
        self.vector, self.close = vector, vector.close
        self.mode = vector.metadata.get("autoreset_mode")
        self.takes_seeds = isinstance(vector.unwrapped, (SyncVectorEnv, AsyncVectorEnv, PureVectorEnv))
        if not self.takes_seeds and self.mode != AutoresetMode.DISABLED:
            raise ValueError(
                f"wrap: {vector} resets its copies by itself, and cannot reset some of them without a step of the others; "
                f"make it of single environments: funrl.envs.gymnasium.make(id, num_envs={self.num}), or "
                f"gymnasium.make_vec(id, {self.num}, vectorization_mode='sync')"
            )
        if self.mode == AutoresetMode.SAME_STEP and isinstance(vector.unwrapped, SyncVectorEnv):
            # A reset in the same step would overwrite the last observation of an environment that gives the same array each time.
            vector.unwrapped.envs = [TransformObservation(env, copy.deepcopy, env.observation_space) for env in vector.unwrapped.envs]

    def reset(self, rows: list[int], seeds: dict[int, int]) -> None:
        mask = np.zeros(self.num, np.bool_)
        mask[rows] = True
        if mask.all():
            seed_globals(seeds[rows[0]])
        seed: Any = [seeds.get(i) for i in range(self.num)] if self.takes_seeds else seeds[rows[0]]
        try:
            options = {**(self.options or {}), **({} if mask.all() else {"reset_mask": mask})}
            observation, info = self.vector.reset(seed=seed, options=options or None)
        except Exception as error:
            raise HostError(f"{self.name} raised in reset: {_words(error)}") from error
        self._keep(observation)
        for i in rows:
            self.infos[i] = _row(info, i)

    def step(self, rows: list[int], action: Any) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        if len(rows) < self.num:
            raise ValueError(
                f"{self.name}: where: {self.vector} steps all copies or none; wrap each copy and not the batch, "
                "or use the transforms of funrl"
            )
        try:
            observation, reward, terminated, truncated, info = self.vector.step(action)
        except Exception as error:
            raise HostError(f"{self.name} raised in step: {_words(error)}") from error
        self._keep(observation)
        self.infos = [_row(info, i) for i in range(self.num)]
        if self.mode == AutoresetMode.SAME_STEP:
            for i in np.flatnonzero(np.logical_or(terminated, truncated)):
                try:
                    first, self.latest[i] = self.latest[i], info["final_obs"][i]
                    self.infos[i] = _row(info.get("final_info", {}), i)  # pyright: ignore
                except (KeyError, TypeError):
                    raise HostError(f"{self.name}: {self.vector} resets in the same step, but its info has no final_obs") from None
                if isinstance(self.vector.unwrapped, AsyncVectorEnv) and is_written_over(self.latest[i], first):
                    raise _overwritten(self.name_of(int(i)))
        return list(reward), list(terminated), list(truncated)

    def render(self) -> list[Any]:
        return list(self.vector.render() or ())

    def _keep(self, observation: Any) -> None:
        self.latest = self.layout.unstack(observation)
        if len(self.latest) != self.num:
            raise HostError(f"{self.name} returned observations of {len(self.latest)} copies, not {self.num}")


def _row(info: dict[str, Any], i: int) -> dict[str, Any]:
    """Return the info of one copy from that of a vector environment, without the entries whose mask ``_NAME`` excludes the copy."""
    return {
        name: _row(value, i) if isinstance(value, dict) else value[i]
        for name, value in info.items()
        if not name.startswith("_") and (f"_{name}" not in info or info[f"_{name}"][i]) and (isinstance(value, dict) or len(value) > i)
    }


def is_written_over(last: Any, first: Any) -> bool:
    """Return whether all arrays of an episode's last observation equal the first of the next episode, as a reused array would."""
    return any(isinstance(x, np.ndarray) for x in optree.tree_leaves(last)) and data_equivalence(last, first, exact=True)


def _some_entry_is_written_over(before: Any, last: Any, first: Any) -> bool:
    """Return whether a floating-point entry changed in the last step to exactly the first value of the next episode."""
    try:
        entries = list(zip(optree.tree_leaves(before), optree.tree_leaves(last), optree.tree_leaves(first), strict=True))
    except ValueError:  # an observation does not fit its space; another check reports it
        return False
    return any(
        isinstance(x, np.ndarray) and x.dtype.kind == "f" and np.array_equal(x, after) and not np.array_equal(x, earlier)
        for earlier, x, after in entries
    )


def _overwritten(name: str) -> HostError:
    return HostError(
        f"{name}: the last observation of its episode equals the first of the next one. Gymnasium's worker resets in the same step, and if "
        "an environment gives the same array each time, its last observation is lost there: make the vector environment with "
        "autoreset_mode=AutoresetMode.DISABLED, or let the environment return copies"
    )


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
