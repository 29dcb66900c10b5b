"""Fitness of parameters: returns of episodes, or the results of whole training runs, all candidates side by side."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, acting, random, tree
from funrl.compiler import scan
from funrl.env import Env, Transition, VectorEnv
from funrl.policies import StatefulPolicy

Fitness = Callable[[torch.Tensor, Any], Any]


def episode_fitness(
    env: Env,
    act: Any,
    *,
    num_episodes: int = 1,
    max_steps: int | None = None,
    env_params: Any = None,
    same_episodes: bool = False,
    describe: Callable[[Transition, torch.Tensor], torch.Tensor] | None = None,
    with_transitions: bool = False,
) -> Fitness:
    """Make a fitness function of policies: the mean return of some episodes of each candidate.

    Args:
        env: a pure environment, not batched.
        act: ``act(params, key, observation) -> (action, extras)`` for a single observation, or a
            :class:`funrl.policies.StatefulPolicy`.
        num_episodes: E, at least 1.
        max_steps: T, after which an episode is cut off; None: ``env.max_episode_steps``.
        env_params: the physical constants; None: ``env.default_params``.
        same_episodes: whether all candidates meet the same random numbers, so that they differ by their parameters alone; each
            has its own otherwise.
        describe: ``describe(transitions, active) -> descriptor [M]`` of one episode: leaves [T, ...], and ``active``, bool [T], True up
            to the end of the episode. The descriptor of a candidate is the mean over its episodes.
        with_transitions: whether the transitions of the episodes are returned too; needs ``describe``.

    Returns:
        ``fitness(key, candidates) -> [N]`` of candidates with leaves [N, ...]. With ``describe`` it returns ``(fitness [N], descriptors
        [N, M])``, which the strategies with an archive take; ``with_transitions`` adds a :class:`funrl.env.Transition` with leaves
        [N * E * T, ...] and ``active``, bool [N * E * T], for :func:`pga_map_elites`.

    Raises:
        ValueError: if a number is below 1, the environment is batched or runs on the host, or ``with_transitions`` comes alone.

    Example:
        >>> import torch, funrl
        >>> from funrl import evolution, nn, policies, random
        >>> env, net = funrl.envs.make("CartPole-v1"), nn.mlp((), 2)
        >>> fitness = evolution.episode_fitness(env, policies.q_value(net).act, num_episodes=2, max_steps=50)
        >>> candidates = torch.func.vmap(net.init, (0, None))(random.split(random.key(0), 3), torch.zeros(4))
        >>> fitness(random.key(1), candidates).shape
        torch.Size([3])
    """
    _check.instance("episode_fitness: env", env, (Env, VectorEnv), "funrl.envs.make makes one", "a funrl.env.Env")
    if not isinstance(act, StatefulPolicy):
        _check.function("episode_fitness: act", act, "give act(params, key, observation) -> (action, extras), or a StatefulPolicy")
    if env_params is not None:
        _check.instance("episode_fitness: env_params", env_params, type(env.default_params), "env.default_params.replace changes some")
    _check.instance("episode_fitness: same_episodes", same_episodes, bool)
    if describe is not None:
        _check.function("episode_fitness: describe", describe)
    steps = env.max_episode_steps if max_steps is None else max_steps
    _check.integer("episode_fitness: num_episodes", num_episodes, 1)
    _check.integer("episode_fitness: max_steps", steps, 1)
    if isinstance(env, VectorEnv):
        kind = "runs on the host" if env.host else f"has {env.num_envs} copies"
        raise ValueError(f"episode_fitness: env: expected a single pure environment, as each candidate has its own, but {env.name} {kind}")
    if with_transitions and describe is None:
        raise ValueError("episode_fitness: with_transitions: expected describe with it, got None; pga_map_elites takes descriptors, too")
    options: dict[str, Any] = {"env": env, "act": act}

    def constants() -> Any:
        return env.default_params if env_params is None else env_params

    def returns(params: Any, key: torch.Tensor) -> torch.Tensor:
        result = acting.evaluate(params, key, constants(), num_episodes=num_episodes, max_steps=steps, **options)
        return result.episode_return.mean()

    def described(params: Any, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Transition]:
        reset_key, step_key = random.split(key).unbind(0)
        actor = acting.start(reset_key, constants(), env=env, num_envs=num_episodes, act=act, params=params)
        _, transitions = acting.rollout(params, step_key, actor, constants(), num_steps=steps, **options)
        active = first_episodes(transitions.done)
        transitions, active = tree.map(lambda x: x.movedim(1, 0), (transitions, active))  # [E, T, ...]
        assert describe is not None
        descriptor = torch.func.vmap(describe)(transitions, active).mean(0)
        fitness = torch.where(active, transitions.reward, 0.0).sum(1).mean()
        return fitness, descriptor, tree.flatten_batch(transitions)

    def fitness(key: torch.Tensor, candidates: Any) -> Any:
        number = tree.leaves(candidates)[0].shape[0]
        keys = key.expand(number) if same_episodes else random.split(key, number)
        if describe is None:
            return torch.func.vmap(returns)(candidates, keys)
        values, descriptors, experience = torch.func.vmap(described)(candidates, keys)
        return (values, descriptors, tree.flatten_batch(experience)) if with_transitions else (values, descriptors)

    return fitness


def first_episodes(done: torch.Tensor) -> torch.Tensor:
    """Return which of T steps belong to the first episode of each environment, bool [T, ...], from ``done`` [T, ...].

    Example:
        >>> import torch
        >>> first_episodes(torch.tensor([False, True, False, True]))
        tensor([ True,  True, False, False])
    """
    _check.flag("first_episodes: done", done)
    return done.to(torch.int64).cumsum(0) - done.to(torch.int64) == 0


def training_fitness(
    make: Callable[[Any], Any],
    *,
    num_updates: int,
    num_seeds: int = 1,
    num_last: int | None = None,
    metric: str = "episode_return",
    prepare: Callable[[Any, Any], Any] | None = None,
    same_seeds: bool = False,
) -> Fitness:
    """Make a fitness function of training runs: how well a new agent learns with each candidate, such as a loss or hyperparameters.

    For each candidate an :class:`funrl.algos.Algorithm` is made, agents are initialised, and ``algo.step`` is scanned over the updates,
    all within one program. A candidate may be the parameters of a loss, a reward, or hyperparameters.

    Args:
        make: ``make(candidate) -> algo``; called once, at tracing. The candidate's leaves are tensors without values, so that it may
            go into functions such as ``loss=``, but not into options, which are numbers.
        num_updates: U, at least 1, of each run.
        num_seeds: the number of runs of each candidate, whose results are averaged, at least 1.
        num_last: over how many of the last updates the metric is averaged; None: all, the area under the learning curve.
        metric: a name among the metrics of ``algo.step``. Updates where it is NaN, as no episode has ended yet, do not count.
        prepare: ``prepare(candidate, state) -> state``, of a new agent, such as one that sets ``learner.hparams``; None: nothing.
        same_seeds: whether all candidates learn from the same keys; each has its own otherwise.

    Returns:
        ``fitness(key, candidates) -> [N]``; NaN where no episode ended.

    Raises:
        ValueError: if a number is outside its range, or, from the function, if there is no such metric.

    Example:
        >>> import torch, funrl
        >>> from funrl import evolution, random, tree
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=16)
        >>> def prepare(candidate, state):
        ...     return tree.update(state, ("learner", "hparams", "learning_rate"), candidate.exp())
        >>> fitness = evolution.training_fitness(lambda candidate: algo, num_updates=2, prepare=prepare)
        >>> fitness(random.key(0), torch.tensor([-7.0, -5.0])).shape
        torch.Size([2])
    """
    last = num_updates if num_last is None else num_last
    for name, value in (("num_updates", num_updates), ("num_seeds", num_seeds), ("num_last", last)):
        _check.integer(f"training_fitness: {name}", value, 1)
    _check.function("training_fitness: make", make, "give make(candidate) -> algo")
    _check.instance("training_fitness: metric", metric, str, "give the name of a metric of algo.step", "a name")
    if prepare is not None:
        _check.function("training_fitness: prepare", prepare)
    if last > num_updates:
        raise ValueError(f"training_fitness: num_last: expected at most num_updates = {num_updates}, got {last}")

    def run(candidate: Any, key: torch.Tensor) -> torch.Tensor:
        algo = make(candidate)
        init_key, step_key = random.split(key).unbind(0)
        state = algo.init(init_key)
        state = state if prepare is None else prepare(candidate, state)

        def update(state: Any, key: torch.Tensor) -> tuple[Any, torch.Tensor]:
            state, metrics = algo.step(key, state)
            if metric not in metrics:
                raise ValueError(f"training_fitness: metric: {algo.name} has no {metric!r}; its metrics are {', '.join(metrics)}")
            return state, metrics[metric]

        _, values = scan(update, state, random.split(step_key, num_updates))
        return values[num_updates - last :].nanmean()

    def fitness(key: torch.Tensor, candidates: Any) -> torch.Tensor:
        number = tree.leaves(candidates)[0].shape[0]
        keys = random.split(key, (num_seeds,) if same_seeds else (number, num_seeds)).expand(number, num_seeds)
        return torch.func.vmap(torch.func.vmap(run, (None, 0)))(candidates, keys).nanmean(-1)

    return fitness
