"""Prioritised level replay: PPO that plays those levels again in which there is most to learn."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from funrl import _check, acting, envs, random, tree
from funrl.algos import Algorithm, State, configure, ppo
from funrl.env import AnyEnv, Env, Transition, VectorEnv
from funrl.envs.tasks import Tasks
from funrl.losses import PPOBatch
from funrl.meta._levels import LevelState, insert_levels, level_probabilities, level_score, sample_levels, start_levels, update_levels
from funrl.meta._trials import tasks_of
from funrl.nn import Net
from funrl.optim import Optimizer
from funrl.typing import Loss, Metrics

__all__ = ["PLRConfig", "make"]


@tree.dataclass
class PLRConfig(ppo.PPOConfig):
    """The options of :func:`make`: those of :class:`funrl.algos.ppo.PPOConfig`, and these.

    Attributes:
        num_levels: N, the number of levels that are kept, at least ``num_envs``.
        prioritization: by the ``"rank"`` of the score among those of all levels, or ``"proportional"`` to a power of the score.
        score: the mean ``"magnitude"`` of the advantages in a level, or of their ``"positive"`` parts, as for
            :func:`funrl.meta.level_score`.
        replay_probability: the probability with which a copy plays a level of the buffer and not a new one, in [0, 1]; 0: all levels are
            new, which is sampling without prioritisation.
        score_temperature: beta of :func:`funrl.meta.level_probabilities`, above 0.
        staleness_weight: rho of :func:`funrl.meta.level_probabilities`, in [0, 1].
    """

    num_levels: int = tree.static(default=1000)
    prioritization: str = tree.static(default="rank")
    score: str = tree.static(default="magnitude")
    replay_probability: Any = 0.5
    score_temperature: Any = 0.3
    staleness_weight: Any = 0.1


@tree.dataclass
class Curriculum(tree.Replaceable):
    """The ``buffer`` of a learner with prioritised levels; the levels that are played now are its ``env_params``, leaves [B, ...].

    Attributes:
        levels: :class:`LevelState`.
        places: int64 [B], the places of the present levels in it; -1: the level is new.
    """

    levels: LevelState
    places: torch.Tensor


def make(
    env: AnyEnv,
    *,
    tasks: Tasks | None = None,
    network: Net | None = None,
    optimizer: Optimizer | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Algorithm:
    """Make PPO with prioritised level replay.

    In each update every one of the B copies plays one level from its beginning, again and again for T steps. PPO learns from them; then the
    levels are scored by the advantages, estimated with the values before the update, and new levels enter the buffer in the places of those
    with the lowest scores. For the next update each copy gets a level of the buffer, with ``replay_probability``, or a new one. All of it
    is one program.

    Args:
        env: a pure environment that :func:`funrl.envs.tasks.of` has tasks for, such as ``Maze-misc``, or ``num_envs`` copies of it.
        tasks: other tasks than those; the levels are its tasks for training.
        network: as for :func:`funrl.algos.ppo.make`.
        optimizer: as for :func:`funrl.algos.ppo.make`.
        loss: as for :func:`funrl.algos.ppo.make`.
        **options: fields of :class:`PLRConfig`. T, ``num_steps``, should be at least as long as an episode.

    Returns:
        An :class:`~funrl.algos.Algorithm` with the metrics of :func:`funrl.algos.ppo.make`, ``level_score``, the mean score of the levels
        of this update, ``replayed_fraction``, the part of them that came from the buffer, and ``num_levels``, how many it holds. Returns
        are those of the episodes that ended within T steps: a level that is solved soon adds more episodes than one that is not, so that
        they are above those of ``funrl.evaluate`` in the same levels. ``algo.env`` has B copies; its ``env_params`` in ``learner`` are
        the present levels. To evaluate in others, give them to ``funrl.evaluate`` with the single environment. In
        :func:`funrl.distributed.data_parallel` each process has a buffer of its own, whose levels ``num_levels`` counts.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment, or there are no tasks for it.
        TypeError: if ``env`` is no pure environment, or an option has another type than its default.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.flatten_observation()(funrl.envs.maze())
        >>> algo = make(env, num_envs=4, num_steps=16, num_levels=8)
        >>> state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        >>> metrics["num_levels"], state.learner.env_params.walls.shape
        (tensor(4), torch.Size([4, 9, 9]))

    Reference: M. Jiang, E. Grefenstette, T. Rocktäschel, "Prioritized Level Replay", 2020, arXiv:2010.03934. Deviations: levels are
        generated, and so a buffer keeps those with the highest scores; the copies of an update play different levels of it.
    """
    config, given = configure(PLRConfig, options, network=network, optimizer=optimizer, loss=loss)
    _check.instance("env", env, (Env, VectorEnv), "funrl.envs.make makes one", "a funrl.env.Env or VectorEnv")
    single = _single(env)
    _check_config(config)
    if tasks is not None:
        given["tasks"] = tasks
    generator = tasks_of(single, tasks)
    copies = env if isinstance(env, VectorEnv) else envs.vectorize(single, config.num_envs)
    algo = ppo.build("plr", copies, config, given, describe=functools.partial(_scores, config))

    def fresh(key: torch.Tensor) -> Any:
        """Return B new levels."""
        no = torch.zeros(config.num_envs, dtype=torch.bool, device=key.device)
        return torch.func.vmap(generator.draw, (0, None, 0))(
            random.split(key, config.num_envs), tree.to(env.default_params, key.device), no
        )

    def init(key: torch.Tensor, hparams: Mapping[str, torch.Tensor] = MappingProxyType({})) -> State:
        key, level_key = random.split(key).unbind(0)
        state, levels = algo.init(key, hparams), fresh(level_key)
        nowhere = torch.full((config.num_envs,), -1, dtype=torch.int64, device=key.device)
        curriculum = Curriculum(start_levels(tree.index(levels, 0), config.num_levels), nowhere)
        state = state.replace(learner=state.learner.replace(env_params=levels, buffer=curriculum))
        return tree.map(torch.Tensor.contiguous, state)

    def collect(key: torch.Tensor, state: State) -> tuple[Any, Transition]:
        reset_key, key = random.split(key).unbind(0)
        actor = acting.start(reset_key, state.learner.env_params, env=algo.env)
        return algo.collect(key, State(actor, state.learner))

    def learn(key: torch.Tensor, learner: Any, transitions: Transition) -> tuple[Any, Metrics]:
        key, _, fresh_key, draw_key = random.split(key, 4).unbind(0)
        curriculum, learner = learner.buffer, learner.in_new_episodes()
        learned, metrics = algo.learn(key, learner, transitions)
        score = metrics["level_score"]
        is_new = curriculum.places < 0
        levels = update_levels(curriculum.levels, curriculum.places, score)
        levels = insert_levels(levels, learner.env_params, torch.where(is_new, score, -torch.inf))
        places = _drawn(draw_key, levels, config, learner.hparams)  # at the time of this batch, so that its levels are not stale
        played = tree.where(places >= 0, tree.index(levels.levels, places.clamp(min=0)), fresh(fresh_key))
        learned = learned.replace(env_params=played, buffer=Curriculum(levels.replace(time=levels.time + 1), places))
        return learned, {
            **metrics,
            "level_score": score.mean(),
            "replayed_fraction": 1 - is_new.to(score.dtype).mean(),
            "num_levels": (levels.score > -torch.inf).sum(),
        }

    return algo._replace(init=init, collect=collect, learn=learn)


def _scores(config: PLRConfig, batch: PPOBatch) -> Metrics:
    """Return the scores [B] of the levels that were played, by the advantages before they are normalised."""
    return {"level_score": level_score(batch.advantage.reshape(config.num_steps, config.num_envs), config.score)}


def _drawn(key: torch.Tensor, levels: LevelState, config: PLRConfig, hparams: Any) -> torch.Tensor:
    """Return int64 [B]: the places in the buffer of the levels to play, and -1 for new ones."""
    replay_key, place_key = random.split(key).unbind(0)
    probability = level_probabilities(
        levels,
        prioritization=config.prioritization,
        temperature=hparams.score_temperature,
        staleness_weight=hparams.staleness_weight,
    )
    drawn = sample_levels(place_key, levels, probability, config.num_envs)
    again = random.uniform(replay_key, (config.num_envs,), dtype=levels.score.dtype) < hparams.replay_probability
    return torch.where(again, drawn, -1)


def _single(env: Any) -> Any:
    """Return the single environment of which there are copies."""
    while isinstance(env, VectorEnv) and env.below is not None:
        env = env.below
    return env


def _check_config(config: PLRConfig) -> None:
    _check.fields(config, "[1, inf)", "num_levels")
    _check.fields(config, "[0, 1]", "replay_probability", "staleness_weight")
    _check.fields(config, "(0, inf)", "score_temperature")
    _check.one_of("prioritization", config.prioritization, ("rank", "proportional"))
    _check.one_of("score", config.score, ("magnitude", "positive"))
    if config.num_levels < config.num_envs:
        raise ValueError(
            f"num_levels: expected at least num_envs = {config.num_envs}, got {config.num_levels}; copies play different levels"
        )
    if config.recurrent != "none":
        raise ValueError(f"recurrent: expected a policy without memory, 'none', got {config.recurrent!r}")
