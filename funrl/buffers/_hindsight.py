"""Hindsight: transitions that are drawn with goals that their episodes achieved."""

from typing import Any, NamedTuple

import torch

from funrl import _check, random, tree
from funrl.buffers._buffer import Buffer, RingState, Sample, Storage, Write, buffer_of, check_batch_size, check_capacity
from funrl.buffers._episodes import done
from funrl.buffers._ring import adding, append, memory, rows, slots, start
from funrl.typing import GoalReward

_STRATEGIES = ("future", "final", "episode")
_OBSERVATIONS = ("observation", "next_observation")
_PARTS = ("observation", "achieved_goal", "desired_goal")
_ACHIEVED = ("next_observation", "achieved_goal")


@tree.dataclass
class HindsightState(tree.Replaceable):
    """Transitions of E environments in turn, and the ends of their episodes.

    Attributes:
        ring: ``(items, episode)``: the transitions, leaves [N, ...], and int64 [N], the numbers of their episodes, which count the episodes
            of an environment from 0.
        ends: int64 [N + E], the time of the newest step of an episode, for the newest N / E + 1 episodes of each environment: that of
            episode i of environment e is at (i mod (N / E + 1)) * E + e.
        time: int64 [], the number of steps of each environment so far.
        over: bool [E], whether the newest step ended its episode.
    """

    ring: RingState
    ends: torch.Tensor
    time: torch.Tensor
    over: torch.Tensor


def hindsight(
    capacity: int,
    reward: GoalReward,
    *,
    num_envs: int = 1,
    strategy: str = "future",
    ratio: float = 4.0,
    storage: Storage = memory,
) -> Buffer:
    r"""Make a buffer that draws transitions uniformly, and replaces goals by goals that were achieved in the same episode.

    For one transition with its own goal there are k with another one: a drawn transition is relabelled with probability k / (k + 1). With
    the achieved goals :math:`m(s_{t+1})` of the episode of steps a to b, the new goal of step t is

    .. math:: g' = m(s_{i+1}), \qquad i = b \text{ (final)}, \quad i \sim U\{t, \dots, b\} \text{ (future)}, \quad
        i \sim U\{a, \dots, b\} \text{ (episode)}

    The new goal replaces ``desired_goal`` in both observations, and ``reward(m(s_{t+1}), g', action)`` replaces ``reward`` and
    ``terminated``. New goals are drawn at each sampling. They come from the part of the episode that is in the buffer: an episode that has
    not ended yet ends with its newest step, and one that was partly overwritten begins with its oldest remaining step.

    Items have the fields or keys ``observation``, ``action``, ``reward``, ``terminated``, ``truncated`` and ``next_observation``,
    as a :class:`funrl.env.Transition` has; the observations are dicts with ``observation``, ``achieved_goal`` and ``desired_goal``, as in
    gymnasium's ``GoalEnv``. ``extend`` takes n transitions of E environments in turn, n a multiple of E: all of the first step, then all of
    the second. Each step continues the episode of the one before it, unless that one was terminated or truncated.

    Args:
        capacity: N, a multiple of E.
        reward: ``reward(achieved_goal, goal, action) -> (reward [], terminated [])``, a pure function of single goals; that of an
            environment of funrl is :func:`funrl.envs.goal_reward`.
        num_envs: E >= 1, the number of environments; that of the learner.
        strategy: "future", "final" or "episode".
        ratio: k, at least 0; infinity: every transition is relabelled.
        storage: as for :func:`uniform`.

    Returns:
        A :class:`Buffer` whose state is a :class:`HindsightState`.

    Raises:
        TypeError: if ``reward`` is not a function, or does not return a floating-point and a bool tensor [].
        ValueError: if an argument is out of its range; from the buffer: as for :func:`uniform`, and if observations have no goals or rows
            are not a multiple of E.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("BitFlip-misc", num_bits=8)
        >>> buffer = hindsight(10_000, funrl.envs.goal_reward(env), num_envs=2)
        >>> algo = funrl.algos.dqn.make(env, buffer=buffer, num_envs=2, num_steps=4, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        >>> buffer.size(state.learner.buffer)
        tensor(8)

    Reference: M. Andrychowicz et al., "Hindsight Experience Replay", 2017, arXiv:1707.01495, algorithm 1 and section 4.5. Deviation: goals
        are drawn when transitions are sampled, and not when they are stored.
    """
    check_capacity("hindsight", capacity=capacity, num_envs=num_envs)
    _check.divisor("buffers.hindsight: num_envs", num_envs, capacity, "capacity", "change either")
    _check.function("buffers.hindsight: reward", reward, "funrl.envs.goal_reward(env) returns one")
    _check.one_of("buffers.hindsight: strategy", strategy, _STRATEGIES)
    _check.number("buffers.hindsight: ratio", ratio, "[0, inf]")
    spec = _Spec(capacity, num_envs, reward, strategy, 1.0 - 1.0 / (1.0 + ratio))

    def kept(item: Any) -> tuple[Any, torch.Tensor]:
        return item, torch.zeros_like(done(item), dtype=torch.int64)

    def init(example: Any) -> HindsightState:
        for name in _OBSERVATIONS:
            x = tree.get(example, name)
            if not isinstance(x, dict) or any(part not in x for part in _PARTS):
                got = sorted(x) if isinstance(x, dict) else _check.describe(x)
                _check.fail(TypeError, f"buffers.hindsight: init: example: {name}", f"a dict with {', '.join(_PARTS)}", got)
        return _empty(spec, start("hindsight", kept(example), capacity, storage))

    def writers(write: Write) -> dict[str, Any]:
        return adding("hindsight", lambda state: state.ring.data[0], lambda state, batch: _write_rows(spec, write, state, batch))

    return buffer_of(
        init=init,
        sample=lambda key, state, batch_size: _sample(spec, key, state, batch_size),
        size=lambda state: state.ring.size,
        restore=lambda ring: _restore(spec, ring),
        capacity=capacity,
        storage=storage,
        kept=kept,
        num_envs=num_envs,
        writers=writers,
    )


class _Spec(NamedTuple):
    """The arguments of :func:`hindsight` that its functions need; ``share`` is the probability k / (k + 1) of a new goal."""

    capacity: int
    num_envs: int
    reward: GoalReward
    strategy: str
    share: float

    @property
    def places(self) -> int:
        """The number of episodes of each environment whose ends are stored."""
        return self.capacity // self.num_envs + 1


def _empty(spec: _Spec, ring: RingState) -> HindsightState:
    device = ring.cursor.device
    ends = torch.full((spec.places * spec.num_envs,), -1, dtype=torch.int64, device=device)
    over = torch.ones(spec.num_envs, dtype=torch.bool, device=device)
    return HindsightState(ring, ends, torch.zeros((), dtype=torch.int64, device=device), over)


def _write_rows(spec: _Spec, write: Write, state: HindsightState, batch: Any) -> HindsightState:
    """Append rows, n a multiple of E, and set the ends of their episodes."""
    n, envs, device = tree.leaves(batch)[0].shape[0], spec.num_envs, state.time.device
    _check.divisor("buffers.hindsight: extend: num_envs", envs, n, "rows", "give the same number of steps of each environment")
    if n == 0:
        return state
    over, steps = done(batch).reshape(-1, envs), n // envs
    newest = (state.ring.cursor - envs + torch.arange(envs, device=device)) % spec.capacity
    # The first episode of all has the number 0.
    last = torch.where(state.time > 0, state.ring.data[1].index_select(0, newest), -1)
    episode = last + torch.cat([state.over[None], over[:-1]]).long().cumsum(0)
    time = torch.arange(steps, device=device)[:, None]
    # Each row writes the last step of its episode among the new ones, so that it does not matter which of them is the last to write.
    stop = torch.where(over | (time == steps - 1), time, steps)
    stop = state.time + stop.flip(0).cummin(0).values.flip(0)
    held = slice(-min(n, spec.capacity), None)
    place = (episode % spec.places * envs + torch.arange(envs, device=device)).reshape(-1)[held]
    ring = append(write, state.ring, (batch, episode.reshape(-1)))
    return HindsightState(
        ring,
        write.rows(state.ends, place, stop.reshape(-1)[held]),
        write.value(state.time, state.time + steps),
        write.value(state.over, over[-1].clone()),
    )


def _restore(spec: _Spec, ring: RingState) -> HindsightState:
    """Return the state around transitions that are there already; times are counted from the oldest one."""
    empty, envs, steps = _empty(spec, ring), spec.num_envs, ring.size // spec.num_envs
    age = torch.arange(spec.capacity, device=ring.cursor.device)
    slot = slots(ring, age)
    time = torch.where(age < ring.size, steps - 1 - age // envs, -1)
    place = ring.data[1].index_select(0, slot) % spec.places * envs + slot % envs
    ends = empty.ends.scatter_reduce(0, place, time, "amax")
    newest = rows(ring.data[0], slots(ring, torch.arange(envs - 1, -1, -1, device=age.device)))
    return HindsightState(ring, ends, steps, done(newest) | (ring.size == 0))


def _sample(spec: _Spec, key: torch.Tensor, state: HindsightState, batch_size: int) -> Sample:
    ring, envs = state.ring, spec.num_envs
    check_batch_size("hindsight", batch_size, ring.size, 1)
    row_key, goal_key, coin_key = random.split(key, 3).unbind(0)
    age = (random.uniform(row_key, (batch_size,), dtype=torch.float64) * ring.size).to(torch.int64)
    slot = slots(ring, age)
    items, episode = rows(ring.data, slot)
    time, env = state.time - 1 - age // envs, slot % envs
    end = state.ends.index_select(0, episode % spec.places * envs + env)
    if spec.strategy == "final":
        chosen = end
    else:
        before = state.ends.index_select(0, (episode - 1) % spec.places * envs + env)
        first = time if spec.strategy == "future" else torch.maximum(before + 1, state.time - ring.size // envs)
        u = random.uniform(goal_key, (batch_size,), dtype=torch.float64)
        chosen = first + (u * (end - first + 1)).to(torch.int64)
    source = (ring.cursor - (state.time - chosen) * envs + env) % spec.capacity
    goal = rows(tree.get(ring.data[0], _ACHIEVED), source)
    relabelled = random.uniform(coin_key, (batch_size,), dtype=torch.float64) < spec.share
    there = (ring.size > 0).expand(batch_size)
    weights = there.to(torch.float32)
    return Sample(_relabel(spec, items, goal, relabelled), slot, weights / ring.size.clamp(min=1), weights)


def _relabel(spec: _Spec, items: Any, goal: torch.Tensor, where: torch.Tensor) -> Any:
    """Replace the goals of the items [B] where ``where`` [B] holds, and their rewards and flags."""
    what = "buffers.hindsight: reward"
    judged = torch.func.vmap(spec.reward)(tree.get(items, _ACHIEVED), goal, tree.get(items, "action"))
    reward, terminated = _check.pair(what, judged, "(reward, terminated)")
    _check.flag(f"{what}: terminated", terminated, shape=where.shape)
    _check.floating(what, reward, shape=where.shape)
    new = {"reward": reward, "terminated": terminated, **{(name, "desired_goal"): goal for name in _OBSERVATIONS}}
    changed = items
    for path, x in new.items():
        changed = tree.update(changed, path, x.to(tree.get(items, path)))
    return tree.where(where, changed, items)
