"""Two levels: a manager sets a goal every k steps, and a worker learns to reach any goal, with hindsight."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from funrl import _check, acting, buffers, random, tree
from funrl.acting import Memory
from funrl.algos import (
    ActorParams,
    Algorithm,
    LearnerState,
    State,
    collecting,
    configure,
    dqn,
    in_dtype_of,
    receiving,
    sac,
    start_state,
)
from funrl.env import Env, Transition
from funrl.envs import reach
from funrl.optim import Optimizer
from funrl.policies import StatefulPolicy
from funrl.spaces import Box, Dict, Discrete
from funrl.transforms import VecNormParams
from funrl.typing import Metrics

__all__ = ["FeudalConfig", "make"]

Achieved = Callable[[Any], torch.Tensor]


@tree.dataclass
class FeudalConfig(tree.Replaceable):
    """The options of :func:`make`. Manager and worker have the same ones.

    The fields from ``learning_rate`` on are hyperparameters: ``learner.hparams`` holds them as tensors.

    Attributes:
        num_envs: B, number of environments.
        num_steps: T, steps of each environment in one update; a multiple of k.
        goal_steps: k, the number of steps between two choices of the manager.
        goal_radius: a goal is reached within this Euclidean distance; above 0.
        hindsight_ratio: relabelled transitions for one with its own goal, as for :func:`funrl.buffers.hindsight`.
        num_updates: gradient steps of each level in one update.
        batch_size: transitions in a gradient step.
        buffer_size: capacity of each level's replay buffer, in steps of the environment: that of the manager has two items for k of them.
        learning_starts: environment steps with random actions and goals, before the first gradient step.
        num_cells: widths of the hidden layers of every network.
        activation: activation of the hidden layers, as for :func:`funrl.nn.mlp`.
        learning_rate: learning rate of Adam, at least 0.
        anneal_steps: number of environment steps over which the learning rate falls linearly to 0; infinity: it is constant.
        gamma: discount of one step, in [0, 1]; that of the manager's steps is gamma^m after m steps.
        tau: step size of the target networks, in [0, 1].
        epsilon_end: final probability of a random goal, and of a random discrete action, in [0, 1]; the initial one is 1.
        epsilon_steps: number of environment steps over which it falls linearly.
    """

    num_envs: int = tree.static(default=8)
    num_steps: int = tree.static(default=16)
    goal_steps: int = tree.static(default=8)
    goal_radius: float = tree.static(default=0.5)
    hindsight_ratio: float = tree.static(default=4.0)
    num_updates: int = tree.static(default=16)
    batch_size: int = tree.static(default=128)
    buffer_size: int = tree.static(default=65_536)
    learning_starts: int = tree.static(default=1_000)
    num_cells: tuple = tree.static(default=(64, 64))
    activation: str = tree.static(default="relu")
    learning_rate: Any = 1e-3
    anneal_steps: Any = math.inf
    gamma: Any = 0.99
    tau: Any = 0.01
    epsilon_end: Any = 0.1
    epsilon_steps: Any = 10_000.0


@tree.dataclass
class Levels(tree.Replaceable):
    """A pair of one part for each level, such as their parameters.

    Attributes:
        manager: the part of the manager.
        worker: the part of the worker.
    """

    manager: Any
    worker: Any


@tree.dataclass
class Goal(tree.Replaceable):
    """The state of the policy.

    Attributes:
        index: int64 [], the number of the goal.
        count: int64 [], the number of steps so far.
    """

    index: torch.Tensor
    count: torch.Tensor


def make(
    env: Env,
    *,
    goals: torch.Tensor | None = None,
    achieved: Achieved | None = None,
    optimizer: Optimizer | None = None,
    **options: Any,
) -> Algorithm:
    r"""Make a two-level learner: the manager chooses one of G goals every k steps, and the worker is rewarded for reaching it.

    The manager is double DQN (:func:`funrl.algos.dqn.make`) over goals. Its transition lasts m = k steps, or fewer at the end of an
    episode, with the reward :math:`\sum_{i<m} \gamma^i r_i` and the discount :math:`\gamma^m`. It also sets a goal at the start of an
    episode; it learns from those goals that it set at every k-th step. Each transition is stored twice: with the goal that was set, and
    with the one that its last state achieved, if there is one within ``goal_radius``.

    The worker is double DQN for discrete actions, SAC for continuous ones. It sees observation and goal, has the reward 0 where it reaches
    its goal and -1 elsewhere, and learns with goals of hindsight (:func:`funrl.buffers.hindsight`). An episode that ends does not end the
    worker's return, unless the goal is reached there.

    The worker does not see the rewards of the environment. If they change, only the manager has to learn again.

    Args:
        env: a pure environment, not batched, with observations that are vectors or dicts of vectors.
        goals: floating point [G, D]; None: for FourRooms all of its tiles.
        achieved: ``achieved(observation) -> [D]``, a pure function of a single observation: the goal that it achieves. None: the entry
            ``achieved_goal`` of a dict, the position in FourRooms, and elsewhere the whole observation.
        optimizer: as for :func:`funrl.algos.dqn.make`; each network of both levels has a state of it.
        **options: fields of :class:`FeudalConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`, in which ``state.learner.params.network`` and ``random`` are :class:`Levels` of those of
        two learners, and ``state.learner.target`` a :class:`Levels` of the rest of two learners. ``act`` and
        ``greedy`` are stateful policies, whose state is a :class:`Goal`; they have no ``init``.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment, or ``goals`` do not fit ``achieved``.
        TypeError: if an option has another type than its default, or ``env`` or ``goals`` are of another kind.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("FourRooms-misc"), num_steps=8, goal_steps=4, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"], state.actor.memory.state.index.shape
        (tensor(64), torch.Size([8]))

    Reference: P. Dayan, G. Hinton, "Feudal Reinforcement Learning", 1993 (no arXiv id); the two levels are those of T. D. Kulkarni,
        K. R. Narasimhan, A. Saeedi, J. B. Tenenbaum, "Hierarchical Deep Reinforcement Learning", 2016, arXiv:1604.06057. Deviations: a goal
        lasts k steps, also if it is reached; the worker learns with hindsight, arXiv:1707.01495, and the manager from achieved goals,
        the hindsight action transitions of
        A. Levy, G. Konidaris, R. Platt, K. Saenko, "Learning Multi-Level Hierarchies with Hindsight", 2017, arXiv:1712.00948.
    """
    config, given = configure(FeudalConfig, options, optimizer=optimizer)
    goals, achieved = _goals(env, goals, achieved)
    _check_config(config, env)
    levels, receive = _levels(config, env, goals, achieved, optimizer), receiving(env, config, "goal")

    def init(key: torch.Tensor, hparams: Mapping[str, torch.Tensor] = MappingProxyType({})) -> State:
        env_key, manager_key, worker_key = random.split(key, 3).unbind(0)
        manager, worker = levels.manager.init(manager_key).learner, levels.worker.init(worker_key).learner
        params, count = _join(manager.params, worker.params), worker.num_updates.clone()
        own = {"params": params, "target": _rest(manager, worker), "num_updates": count}
        state = start_state(env_key, env, config, hparams, lambda *args: own)
        actor = acting.with_memory(params, state.actor, env=env, policy=policy)
        return tree.map(torch.Tensor.contiguous, state.replace(actor=actor))

    def learn(key: torch.Tensor, learner: LearnerState, transitions: Transition) -> tuple[LearnerState, Metrics]:
        learner, samples, metrics = receive(learner, transitions)
        manager_key, worker_key = random.split(key).unbind(0)
        manager, worker = _whole(learner, config)
        data, reached = _for_worker(config, samples, goals, achieved)
        worker, worker_metrics = levels.worker.learn(worker_key, worker, data)
        data = _for_manager(config, samples, learner.hparams.gamma, goals, achieved)
        manager, manager_metrics = levels.manager.learn(manager_key, manager, data)
        params, target = _join(manager.params, worker.params), _rest(manager, worker)
        learner = learner.replace(params=params, target=target, num_steps=metrics["steps"], num_updates=worker.num_updates.clone())
        shown = {"manager": manager_metrics, "worker": worker_metrics}
        parts = {f"{level}_{name}": x[name] for level, x in shown.items() for name in ("critic_loss", "q_mean", "td_error")}
        own = {"reached": reached, "updates": worker.num_updates}
        if optimizer is None:
            own["learning_rate"] = worker_metrics["learning_rate"]
        return learner, {**metrics, **parts, **own}

    policy = _policy(levels.manager.act, levels.worker.act, config, goals, achieved)
    greedy = _policy(levels.manager.greedy, levels.worker.greedy, config, goals, achieved, draws=False)
    return Algorithm("feudal", env, config, init, collecting(env, policy, config.num_steps), learn, policy, greedy, given)


def _policy(decide: Any, move: Any, config: FeudalConfig, goals: torch.Tensor, achieved: Achieved, *, draws: bool = True) -> StatefulPolicy:
    """Return the policy of both levels: ``decide`` is the manager's, which chooses a goal, and ``move`` the worker's.

    Without ``draws`` neither of them uses its key, so that the policy needs none, and can be exported.
    """

    def act(params: ActorParams, key: torch.Tensor, goal: Goal, observation: Any, reset: torch.Tensor) -> tuple[Goal, Any, Any]:
        goal_key, action_key = random.split(key).unbind(0) if draws else (key, key)
        observation = in_dtype_of(params, observation)
        new, _ = decide(_part(params, "manager"), goal_key, observation)
        index = torch.where((goal.count % config.goal_steps == 0) | reset, new, goal.index)
        action, _ = move(_part(params, "worker"), action_key, _with_goal(achieved, observation, tree.rows(goals.to(index.device), index)))
        return Goal(index, goal.count + 1), action, {"goal": index, "memory": Memory(goal, reset)}

    def start(params: ActorParams, observation: Any) -> Goal:
        zero = torch.zeros_like(params.random.manager, dtype=torch.int64)
        return Goal(zero, zero.clone())

    # No init: the parameters of both levels come from ``algo.init``, and a policy travels to workers without its environment.
    without: Any = None
    return StatefulPolicy(without, start, act)


def _levels(config: FeudalConfig, env: Env, goals: torch.Tensor, achieved: Achieved, optimizer: Optimizer | None) -> Levels:
    """Return the learners of the levels, whose environments are only reset: experience comes from ``env``."""
    space = Box(float("-inf"), float("inf"), (goals.shape[1],))

    def above(key: torch.Tensor, env_params: Any = env.default_params) -> tuple[Any, Any]:
        state, timestep = env.reset(key, env_params)
        return state, timestep.replace(discount=torch.ones_like(timestep.reward))

    def below(key: torch.Tensor, env_params: Any = env.default_params) -> tuple[Any, Any]:
        state, timestep = env.reset(key, env_params)
        return state, timestep.replace(observation=_with_goal(achieved, timestep.observation, goals[0].to(timestep.reward)))

    def reward(x: torch.Tensor, goal: torch.Tensor, action: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return reach(x, goal, config.goal_radius)

    names = ("num_envs", "num_updates", "batch_size", "num_cells", "activation", "gamma", "tau")
    shared = {name: getattr(config, name) for name in names}

    def shared_by(steps: float) -> dict[str, Any]:
        """Return the options of a level with ``steps`` transitions for each step of the environment."""
        rates = {"learning_rate": config.learning_rate, "anneal_steps": config.anneal_steps * steps}
        return {**shared, **(rates if optimizer is None else {"optimizer": optimizer})}

    explore = {"epsilon_end": config.epsilon_end, "huber_delta": math.inf, "target_period": 1}
    k = config.goal_steps
    manager = dqn.make(
        env._replace(reset=above, action_space=Discrete(len(goals))), num_steps=2 * config.num_steps // k,
        buffer_size=2 * config.buffer_size // k, learning_starts=-(-2 * config.learning_starts // k),
        epsilon_steps=2 * config.epsilon_steps / k, **shared_by(2 / k), **explore,
    )  # fmt: skip
    spaces = Dict({"observation": env.observation_space, "achieved_goal": space, "desired_goal": space})
    discrete = isinstance(env.action_space, Discrete)
    worker = (dqn if discrete else sac).make(
        env._replace(reset=below, observation_space=spaces), num_steps=config.num_steps, learning_starts=config.learning_starts,
        buffer=buffers.hindsight(config.buffer_size, reward, num_envs=config.num_envs, ratio=config.hindsight_ratio),
        **shared_by(1), **({**explore, "epsilon_steps": config.epsilon_steps} if discrete else {}),
    )  # fmt: skip
    return Levels(manager, worker)


def _whole(learner: LearnerState, config: FeudalConfig) -> tuple[LearnerState, LearnerState]:
    """Return the learners of the two levels, with the hyperparameters of the whole."""
    own, k = learner.hparams, config.goal_steps / 2  # the manager has two transitions for k steps
    result = []
    for params, rest, each in (
        (_part(learner.params, "manager"), learner.target.manager, k),
        (_part(learner.params, "worker"), learner.target.worker, 1),
    ):
        new = {name: getattr(own, name) for name in ("learning_rate", "gamma", "tau")} | {"anneal_steps": own.anneal_steps / each}
        if hasattr(rest.hparams, "epsilon_end"):
            new |= {"epsilon_end": own.epsilon_end, "epsilon_steps": own.epsilon_steps / each}
        result.append(rest.replace(params=params, hparams=rest.hparams.replace(**new), env_params=learner.env_params))
    return result[0], result[1]


def _join(manager: ActorParams, worker: ActorParams) -> ActorParams:
    """Return the parameters of both levels."""
    return ActorParams(Levels(manager.network, worker.network), random=Levels(manager.random, worker.random))


def _part(params: ActorParams, level: str) -> ActorParams:
    """Return the parameters of one level; neither DQN nor SAC has others."""
    return ActorParams(getattr(params.network, level), random=getattr(params.random, level))


def _rest(manager: LearnerState, worker: LearnerState) -> Levels:
    """Return the learners of the two levels without what the whole learner has."""
    return Levels(*(each.replace(params=(), env_params=()) for each in (manager, worker)))


def _for_manager(config: FeudalConfig, samples: Transition, gamma: torch.Tensor, goals: torch.Tensor, achieved: Achieved) -> Transition:
    """Return the manager's transitions [2 T / k, B], from every k-th step to the end of its goal or of the episode: with the goals that it
    set, and with those that were achieved.
    """
    joined = buffers.n_step(samples.replace(action=samples.extras["goal"], extras={}, place=()), n=config.goal_steps, gamma=gamma)
    rows = joined.transition.replace(extras={"discount": joined.discount})
    rows = tree.map(lambda x: x[:: config.goal_steps], rows)
    end = torch.func.vmap(torch.func.vmap(achieved))(rows.next_observation)
    distance = (end.unsqueeze(-2) - goals.to(end)).square().sum(-1)
    instead = torch.where(distance.min(-1).values < config.goal_radius**2, distance.argmin(-1), rows.action)
    return tree.cat([rows, rows.replace(action=instead)])


def _for_worker(config: FeudalConfig, samples: Transition, goals: torch.Tensor, achieved: Achieved) -> tuple[Transition, torch.Tensor]:
    """Return the worker's transitions [T, B], and the share [] of steps that reach their goals."""
    goal = tree.rows(goals.to(samples.reward), samples.extras["goal"])
    see = torch.func.vmap(torch.func.vmap(lambda x, g: _with_goal(achieved, x, g)))
    observation, after = see(samples.observation, goal), see(samples.next_observation, goal)
    reward, reached = torch.func.vmap(torch.func.vmap(lambda x, g: reach(x, g, config.goal_radius)))(after["achieved_goal"], goal)
    rows = Transition(observation, samples.action, reward, reached, samples.done, after, {}, samples.place)
    return rows, reached.to(reward.dtype).mean()


def _with_goal(achieved: Achieved, observation: Any, goal: torch.Tensor) -> dict[str, Any]:
    """Return the observation of the worker."""
    own = achieved(observation)
    return {"observation": observation, "achieved_goal": own.clone(), "desired_goal": goal.to(own)}


def _goals(env: Env, goals: Any, achieved: Any) -> tuple[torch.Tensor, Achieved]:
    """Return the goals [G, D] and the function of observations that achieve them, after checks."""
    _check.instance("env", env, Env, "funrl.envs.make makes one", "a funrl.env.Env")
    rooms = hasattr(env.default_params, "starts") and env.name == "FourRooms-misc" and env.observation_space.shape == (4,)
    if goals is None and rooms and achieved is None:
        goals, achieved = env.default_params.starts.to(torch.float32).contiguous(), lambda observation: observation[:2]
    if goals is None:
        raise ValueError(
            f"feudal: goals: expected a tensor [G, D] for {env.name}, got None; give the goals to choose from, and achieved(observation) "
            "if they are not observations"
        )
    _check.floating("feudal: goals", goals, shape=("G", "D"))
    if achieved is None:
        nested = isinstance(env.observation_space, Dict) and "achieved_goal" in env.observation_space.spaces
        achieved = (lambda observation: observation["achieved_goal"]) if nested else lambda observation: observation
    _check.function("feudal: achieved", achieved)
    found = achieved(env.reset(random.key(0, tree.leaves(env.default_params)[0].device))[1].observation)
    _check.sized("feudal: goals", goals, ("G", *found.shape), "a goal is like what achieved(observation) returns")
    return goals, achieved


def _check_config(config: FeudalConfig, env: Env) -> None:
    if isinstance(env.default_params, VecNormParams):
        raise ValueError("feudal: env: expected one without vec_norm, whose moments the levels would not share; take observation_norm")
    _check.fields(config, "[1, inf)", "num_steps", "goal_steps")
    _check.fields(config, "(0, inf)", "goal_radius")
    _check.fields(config, "[0, inf]", "hindsight_ratio")
    _check.divisor("goal_steps", config.goal_steps, config.num_steps, "num_steps", "change either")
    _check.divisor("goal_steps * num_envs", config.goal_steps * config.num_envs, config.buffer_size, "buffer_size", "change either")
