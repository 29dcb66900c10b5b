"""A worker: it owns an environment, and on request writes a batch of steps into memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _check, envs, random, transforms, tree
from funrl.acting import ActorState, Drawn, draw, host_chooser, host_steps, start, with_discount
from funrl.collectors._collector import constants
from funrl.collectors._memory import Shared, Spec, size, spec, tensor_views, write
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
    """Facts about a worker's environment. The trees hold a Spec for each leaf, of one copy.

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


class Worker:
    """An environment, its present state, and the parameters of the policy that acts in it.

    Args:
        worker_spec: its specification.
        published: the parameters, with ``version`` and ``read`` as those of :class:`Published`.
    """

    def __init__(self, worker_spec: WorkerSpec, published: Any):
        self.spec, self.published, self.steps = worker_spec, published, 0
        self.heartbeat = memoryview(bytearray(8)).cast("q")
        key = random.fold_in(worker_spec.key, worker_spec.index)
        seed_globals(int(key) & 0xFFFF_FFFF)
        env = worker_spec.create_env()
        expected = "a function that returns an Env or a VectorEnv"
        _check.instance("create_env", env, (Env, VectorEnv), "funrl.envs makes it", expected)
        env = envs.vectorize(env, 1) if isinstance(env, Env) else env
        self.env_params = constants("collectors", env, worker_spec.env_params, worker_spec.device)
        if worker_spec.max_frames > 0:
            env = transforms.compose(env, transforms.time_limit(worker_spec.max_frames))
        self.env = self._watched(env)
        self.act = worker_spec.act
        if worker_spec.act is not None:
            stateful = isinstance(worker_spec.act, StatefulPolicy)
            self.act = worker_spec.act._replace(act=Traced(worker_spec.act.act)) if stateful else Traced(worker_spec.act)
        self.version, self.params = self.published.read(worker_spec.device)
        self.reset_key, self.key = random.split(key.to(worker_spec.device)).unbind(0)
        self.actor = self._start()
        self.ahead: tuple[int, Drawn] | None = None  # a batch's number and its random numbers

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

    def facts(self) -> Facts:
        """Return the facts about the environment."""
        env, timestep, memory = self.env, self.actor.timestep, self.actor.memory
        (choice,) = draw(self.key, env=env, act=self.act, num_steps=1).choices
        _, action, extras = host_chooser(self.params, self.act)(choice, memory, timestep.observation)
        seen = timestep.observation
        example = Transition(seen, action, timestep.reward, timestep.terminated, timestep.truncated, seen, with_discount(extras, timestep))
        after = {"observation": seen, "memory": memory}
        return Facts(env.name, env.num_envs, env.max_episode_steps, spec(example, drop=1), spec(after, drop=1))

    def collect(self, slot: dict[str, Any], number: int) -> None:
        """Collect the batch of a number and write it into memory."""
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
        """Draw the random numbers of the batch of a number already now."""
        self.ahead = number, self._draw(number)

    def _draw(self, number: int) -> Drawn:
        return draw(random.fold_in(self.key, number), env=self.env, act=self.act, num_steps=self.steps)

    def _after(self) -> dict[str, Any]:
        return {"observation": self.actor.timestep.observation, "memory": self.actor.memory}

    def restore(self, part: ResumePoint) -> None:
        """Bring the environment to a resume point: reset it, and replay the actions of the running episodes."""
        self.version = -1  # the parameters are read again, as those of an earlier version may have another number now
        if not part.batches:
            self.actor = self._start()
            return
        now, steps, actions = int(part.batches) * self.steps, part.steps, part.actions
        if self.spec.device is not None:
            part = tree.to(part, self.spec.device)
        longest = int(steps.max())
        env_state, timestep = self._replay(now, steps, actions)
        if not tree.equal(timestep.observation, part.after["observation"]):
            raise HostError(
                f"{self.env.name}: replaying the running episodes, up to {longest} steps from their resets, led to another observation "
                "than before: the environment is not deterministic, and cannot be resumed in a new process; start a new collection"
            )
        self.actor = ActorState(env_state, timestep, part.after["memory"])

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
