"""A worker: it owns an environment, and on request writes a batch of steps into memory."""

import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch

from funrl import _check, envs, random, transforms, tree
from funrl.acting import ActorState, Drawn, draw, host_chooser, host_steps, start, with_discount
from funrl.collectors._collector import constants
from funrl.collectors._memory import Shared, Spec, copies, size, spec, tensor_views, write
from funrl.collectors._traced import Traced
from funrl.collectors._tracker import ResumePoint
from funrl.env import AnyEnv, Env, HostError, Timestep, Transition, VectorEnv, seed_globals
from funrl.policies import StatefulPolicy


class WorkerSpec(NamedTuple):
    """Specification of a worker, the first message to it.

    Attributes:
        index: the index of the worker.
        create_env: a function that returns its environment.
        act: the acting function, as for :func:`funrl.rollout`.
        key: int64 [], the source of all its random numbers.
        params: the parameters, a tree of Spec.
        device: the device of the policy.
        max_frames: the number of steps after which it truncates an episode; -1: never.
        env_params: the physical constants of its environment; None: its default_params.
    """

    index: int
    create_env: Callable[[], AnyEnv]
    act: Any
    key: torch.Tensor
    params: Any
    device: torch.device | None
    max_frames: int
    env_params: Any


class Facts(NamedTuple):
    """Facts about a worker's environment. The leaves of the trees are Specs, with the shapes of one copy.

    Attributes:
        name: the name of the environment.
        num_envs: the number of copies.
        max_episode_steps: the maximum length of an episode.
        transition: a Transition.
        after: a dict of ``observation``, the next input of the policy, and ``memory``, its recurrent state.
    """

    name: str
    num_envs: int
    max_episode_steps: int
    transition: Any
    after: Any


def slot_specs(facts: Facts, steps: int) -> dict[str, Any]:
    """Return the layout of one batch in memory, a tree of Spec."""
    return {"transition": spec(facts.transition, (steps, facts.num_envs)), "after": spec(facts.after, (facts.num_envs,))}


class Memories:
    """Shared memory of a worker: a heartbeat that counts its steps, and ``num_slots`` batches.

    Attributes:
        heartbeat: a memoryview of one integer.
        slots: a dict of ``transition`` [T, ...] and ``after`` for each batch.
    """

    def __init__(self, facts: Facts, steps: int, num_slots: int, *, handle: int | None = None):
        specs = {"heartbeat": Spec((1,), torch.int64), "slots": [slot_specs(facts, steps) for _ in range(num_slots)]}
        self.shared = Shared(size(specs), handle)
        tensors = tensor_views(specs, self.shared.bytes)
        self.heartbeat = memoryview(tensors["heartbeat"].numpy())
        self.slots = tensors["slots"]


def describe(error: BaseException) -> str:
    """Return the text of an exception in a worker, for messages."""
    return str(error) if isinstance(error, HostError) else f"{type(error).__name__}: {error}"


class Answer(NamedTuple):
    """The answer to a request: its ``value``; or ``lost``, how the worker ended; or ``failed``, its exception, and the ``trace`` of it."""

    value: Any = None
    lost: str = ""
    failed: str = ""
    trace: str = ""


class _Held:
    """The latest parameters that a worker has received, as bytes."""

    def __init__(self, specs: Any, version: int, memory: np.ndarray):
        self.specs, self.version, self.bytes = specs, version, torch.from_numpy(np.array(memory))

    def read(self, device: torch.device | None = None) -> tuple[int, Any]:
        return self.version, copies(tensor_views(self.specs, self.bytes), device)


class RemoteWorker:
    """An environment, its present state, and the parameters of the policy that acts in it, for the requests of a collector.

    Its batches and parameters are values in requests and answers. A worker of this machine shares memory instead.
    """

    env: Any = None

    def answer(self, method: str, *args: Any) -> Answer:
        """Answer a request for one of the methods below."""
        try:
            return Answer(getattr(self, method)(*args))
        except Exception as error:
            return Answer(failed=describe(error), trace=traceback.format_exc())

    def start(self, serialized: bytes, published: Any) -> Facts:
        """Make the environment of a :class:`WorkerSpec`, which cloudpickle has written, and return the facts about it."""
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        self.spec: WorkerSpec = cloudpickle.loads(serialized)
        self.published = self.parameters(published)
        self.heartbeat = memoryview(bytearray(8)).cast("q")
        key = random.fold_in(self.spec.key, self.spec.index)
        seed_globals(int(key) & 0xFFFF_FFFF)
        env = self.spec.create_env()
        expected = "a function that returns an Env or a VectorEnv"
        _check.instance("create_env", env, (Env, VectorEnv), "funrl.envs.make returns one", expected)
        env = envs.vectorize(env, 1) if isinstance(env, Env) else env
        self.env_params = constants("collectors", env, self.spec.env_params, self.spec.device)
        if self.spec.max_frames > 0:
            env = transforms.compose(env, transforms.time_limit(self.spec.max_frames))
        self.env = self._watched(env)
        self.act = act = self.spec.act
        if act is not None:
            self.act = act._replace(act=Traced(act.act)) if isinstance(act, StatefulPolicy) else Traced(act)
        self.version, self.params = self.published.read(self.spec.device)
        self.reset_key, self.key = random.split(key.to(self.spec.device)).unbind(0)
        self.actor = self._start()
        self.ahead: tuple[int, Drawn] | None = None  # a batch's number and its random numbers
        self.facts = self._facts()
        return self.facts

    def parameters(self, published: Any) -> Any:
        """Return the parameters in a request, with ``version`` and ``read``."""
        return _Held(self.spec.params, *published)

    def allocate(self, steps: int, num_slots: int) -> None:
        """Prepare for ``num_slots`` batches of ``steps`` steps."""
        self.steps, self.layout = steps, slot_specs(self.facts, steps)

    def collect(self, slot: int, number: int, published: Any) -> tuple[int, np.ndarray | None]:
        """Collect the batch of a number; return the version of its parameters, and its bytes."""
        if published[0] != self.version:
            self.published = self.parameters(published)
        memory = torch.empty(size(self.layout), dtype=torch.uint8)
        self._collect(tensor_views(self.layout, memory), number)
        return self.version, memory.numpy()

    def restore(self, point: ResumePoint) -> None:
        """Bring the environment to a resume point: reset it, and replay the actions of the running episodes."""
        self.version = -1  # the parameters are read again, as those of an earlier version may have another number now
        if not point.batches:
            self.actor = self._start()
            return
        now, steps, actions = int(point.batches) * self.steps, point.steps, point.actions
        if self.spec.device is not None:
            point = tree.to(point, self.spec.device)
        longest = int(steps.max())
        env_state, timestep = self._replay(now, steps, actions)
        if not tree.equal(timestep.observation, point.after["observation"]):
            raise HostError(
                f"{self.env.name}: replaying the running episodes, up to {longest} steps from their resets, led to another observation "
                "than before: the environment is not deterministic, and cannot be resumed in a new process; start a new collection"
            )
        self.actor = ActorState(env_state, timestep, point.after["memory"])

    def close(self) -> None:
        """Close the environment."""
        if self.env is not None:
            self.env.close()

    def _watched(self, env: VectorEnv) -> VectorEnv:
        """Return the environment with functions that increase the heartbeat at each call."""

        def counted(f: Any) -> Any:
            def call(*args: Any) -> Any:
                self.heartbeat[0] += 1
                return f(*args)

            return call

        return env._replace(reset=counted(env.reset), step=counted(env.step))

    def _start(self) -> ActorState:
        return start(self.reset_key, self.env_params, env=self.env, act=self.act, params=self.params)

    def _facts(self) -> Facts:
        env, timestep, memory = self.env, self.actor.timestep, self.actor.memory
        (choice,) = draw(self.key, env=env, act=self.act, num_steps=1).choices
        _, action, extras = host_chooser(self.params, self.act)(choice, memory, timestep.observation)
        seen = timestep.observation
        example = Transition(seen, action, timestep.reward, timestep.terminated, timestep.truncated, seen, with_discount(extras, timestep))
        after = {"observation": seen, "memory": memory}
        return Facts(env.name, env.num_envs, env.max_episode_steps, spec(example, drop=1), spec(after, drop=1))

    def _collect(self, slot: dict[str, Any], number: int) -> None:
        """Collect batch ``number``, and write it into ``slot``."""
        if self.published.version != self.version:
            self.version, self.params = self.published.read(self.spec.device)
        drawn = self.ahead[1] if self.ahead is not None and self.ahead[0] == number else self._draw(number)
        self.actor, rows = host_steps(self.params, drawn, self.actor, self.env_params, env=self.env, act=self.act)
        transition = slot["transition"]
        places = [getattr(transition, name) for name in Transition.__dataclass_fields__ if name != "place"]
        for place, column in zip(places, zip(*rows, strict=True), strict=True):
            _write(place, column)
        write(slot["after"], self._after())

    def draw_ahead(self, number: int) -> None:
        """Draw the random numbers of batch ``number`` in advance."""
        self.ahead = number, self._draw(number)

    def _draw(self, number: int) -> Drawn:
        return draw(random.fold_in(self.key, number), env=self.env, act=self.act, num_steps=self.steps)

    def _after(self) -> dict[str, Any]:
        return {"observation": self.actor.timestep.observation, "memory": self.actor.memory}

    def _keys(self, counter: int) -> torch.Tensor:
        """Return the keys of the step ``counter``: to act, to step and to reset."""
        return random.split(random.fold_in(self.key, counter // self.steps), (self.steps, 3))[counter % self.steps]

    def _reset_key(self, first: int) -> torch.Tensor:
        """Return the key of the reset before the step ``first``."""
        return self._keys(first - 1)[2] if first else self.reset_key

    def _replay(self, now: int, steps: torch.Tensor, actions: Any) -> tuple[Any, Timestep]:
        env_state, timestep = self.env.reset(self.reset_key, self.env_params)
        longest = int(steps.max())
        for t in range(now - longest, now + 1):
            starts = now - steps == t
            if t > 0 and bool(starts.any()):
                env_state, new = self.env.reset(self._reset_key(t), self.env_params, env_state, starts)
                timestep = tree.where(starts.to(new.reward.device), new, timestep)
            if t < now:
                going = now - steps <= t
                action = tree.map(lambda x, t=t: x[t - now + longest], actions)
                env_state, new = self.env.step(self._keys(t)[1], env_state, action, self.env_params, going)
                timestep = tree.where(going.to(new.reward.device), new, timestep)
        return env_state, timestep


def _write(place: Any, column: tuple[Any, ...]) -> None:
    """Stack the trees of T steps into memory."""
    if isinstance(place, torch.Tensor):
        if place.device == column[0].device:
            torch.stack(column, out=place)
        else:
            place.copy_(torch.stack(column))
        return
    places = tree.leaves(place)
    if places:
        for inner, values in zip(places, zip(*map(tree.leaves, column), strict=True), strict=True):
            _write(inner, values)
