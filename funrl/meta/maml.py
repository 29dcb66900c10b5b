"""MAML for policies: initial parameters from which a few policy-gradient steps learn a task."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from funrl import _check, acting, random, tree
from funrl.acting import ActorState, rollout
from funrl.algos import ActorParams, Algorithm, State, configure, in_dtype_of, on_policy
from funrl.env import AnyEnv, Env, Transition
from funrl.envs.tasks import Tasks
from funrl.meta._adaptation import MetaParams, adapt, adapt_first_order, reptile_gradient
from funrl.meta._estimators import dice_loss, surrogate_loss
from funrl.meta._trials import tasks_of
from funrl.nn import Net
from funrl.optim import Optimizer
from funrl.returns import reward_to_go
from funrl.typing import Metrics

__all__ = ["MAMLConfig", "make", "returns"]

_ESTIMATORS = {"surrogate": surrogate_loss, "dice": dice_loss}


@tree.dataclass
class MAMLConfig(on_policy.OnPolicyConfig):
    """The options of :func:`make`: those of :class:`funrl.algos.on_policy.OnPolicyConfig`, with other defaults, and these.

    Attributes:
        num_envs: B, environments side by side: each of the N tasks has B / N of them.
        num_steps: T, steps of each environment in an update: the same number before the first inner step, between two of them and after the
            last; divisible by ``inner_steps`` + 1.
        num_tasks: N, tasks of an update; divides ``num_envs``.
        inner_steps: K, gradient steps in each task, at least 1.
        estimator: of the inner steps: ``"surrogate"``, :func:`funrl.meta.surrogate_loss`, or ``"dice"``, :func:`funrl.meta.dice_loss`.
        first_order: whether inner gradients count as constants, :func:`funrl.meta.adapt_first_order`.
        reptile: whether theta moves towards the learned parameters, :func:`funrl.meta.reptile_gradient`; the last batch is then
            one more inner step. It learns no step sizes.
        learn_step_size: whether the step size of each tensor of parameters is learned, too.
        initial_log_std: continuous actions only: the logarithm of the first standard deviation.
        inner_learning_rate: the first step size, above 0.
    """

    num_envs: int = tree.static(default=400)
    num_steps: int = tree.static(default=200)
    num_tasks: int = tree.static(default=20)
    inner_steps: int = tree.static(default=1)
    estimator: str = tree.static(default="surrogate")
    first_order: bool = tree.static(default=False)
    reptile: bool = tree.static(default=False)
    learn_step_size: bool = tree.static(default=True)
    initial_log_std: float = tree.static(default=0.0)
    inner_learning_rate: Any = 0.1


def make(
    env: AnyEnv, *, tasks: Tasks | None = None, network: Net | None = None, optimizer: Optimizer | None = None, **options: Any
) -> Algorithm:
    r"""Make MAML for an environment with tasks, vectors as observations, and discrete or continuous actions.

    An update draws N tasks. In each of them K + 1 batches of episodes are played; after each batch but the last the policy takes a step of
    policy gradients. One step of Adam follows along the gradient of the last batches, through the inner steps:

    .. math:: \nabla_{\theta, \alpha} \frac1N \sum_i L^i_K(\theta^i_K), \qquad
        \theta^i_{k+1} = \theta^i_k - \alpha \nabla L^i_k(\theta^i_k), \quad \theta^i_0 = \theta

    The losses are policy gradients with advantages that are rewards to go less a baseline, linear in the observation, its square and the
    time, fitted to each batch; they have mean 0 and standard deviation 1. The inner losses are differentiated twice, as ``estimator`` says.
    The effect of theta on the choice of episodes for the inner steps is ignored, as in the paper. An episode ends with its batch at the
    latest.

    ``act`` and ``greedy`` are the policy before any inner step; :func:`returns` and :func:`funrl.meta.evaluate_adaptation` measure the
    adapted policies. ``params.network`` is a :class:`funrl.meta.MetaParams`.

    Args:
        env: a pure environment, not batched, that :func:`funrl.envs.tasks.of` has tasks for.
        tasks: a distribution of tasks to use instead of these.
        network: a net from observations [N, D] to features [N, F], instead of the hidden layers.
        optimizer: any :class:`funrl.optim.Optimizer`, which takes the place of ``learning_rate``, ``anneal_steps`` and ``max_grad_norm``;
            None: Adam with these.
        **options: fields of :class:`MAMLConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; its metrics are ``steps``, ``episode_return`` and the like (of all batches together),
        ``return_before`` and ``return_after`` the inner steps (the means over episodes), ``policy_loss``, ``step_size`` (the mean),
        ``gradient_norm`` and ``learning_rate``. Its ``learn`` needs the transitions of its own ``collect``, whose environments are ordered
        by tasks.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment, or there are no tasks for it.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("PointRobot-misc"), num_tasks=2, num_envs=8, num_steps=10)
        >>> state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        >>> metrics["steps"]
        tensor(80)

    Reference: C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017, arXiv:1703.03400,
        algorithm 3. Deviations: Adam instead of TRPO, and step sizes are learned unless ``learn_step_size`` is false. ``reptile`` is of
        A. Nichol, J. Achiam, J. Schulman, "On First-Order Meta-Learning Algorithms", 2018, arXiv:1803.02999.
    """
    config, given = configure(MAMLConfig, options, network=network, optimizer=optimizer)
    parts = _parts(env, config, tasks, network)
    inner = adapt_first_order if config.first_order else adapt

    def initial(key: torch.Tensor, observation: torch.Tensor) -> MetaParams:
        params = parts.init(key, observation)
        size = next(x for x in tree.leaves(params)).new_full((), config.inner_learning_rate)
        return MetaParams(params, tree.map(lambda x: size.clone(), params))

    def prepare(meta: MetaParams, samples: Transition, hparams: MAMLConfig) -> tuple[Any, Metrics]:
        """Return rows [N, K + 1, ...], and the mean returns of the first and the last batches."""
        shape = (config.inner_steps + 1, -1, config.num_tasks, config.num_envs // config.num_tasks)
        batches = tree.map(lambda x: x.reshape(*shape, *x.shape[2:]).movedim(2, 0), samples.replace(extras={}))  # [N, K + 1, T, R, ...]
        rows = torch.func.vmap(torch.func.vmap(lambda batch: parts.prepare(batch, hparams.gamma)))(batches)
        each = {"return_before": 0, "return_after": -1}
        return rows, {name: _mean_return(tree.index(batches, (slice(None), k))) for name, k in each.items()}

    def after_steps(meta: MetaParams, rows: Any) -> torch.Tensor:
        """Return the mean loss of the last batches of all tasks, each after the inner steps on the batches before it."""

        def one(rows: Any) -> torch.Tensor:
            params = inner(meta, tree.index(rows, slice(None, -1)), loss=parts.inner_loss)
            return parts.outer_loss(params, tree.index(rows, -1))

        return torch.func.vmap(one)(rows).mean()

    def loss(meta: MetaParams, batch: tuple[Any, Metrics], hparams: MAMLConfig) -> tuple[torch.Tensor, Metrics]:
        rows, metrics = batch
        if not config.learn_step_size:
            meta = meta.replace(step_size=tree.map(torch.detach, meta.step_size))
        metrics = {**metrics, "policy_loss": after_steps(meta, rows), "step_size": torch.stack(tree.leaves(meta.step_size)).mean()}
        value = metrics["policy_loss"]
        if config.reptile:  # a sum whose gradient is that vector
            toward = reptile_gradient(meta, rows, loss=parts.inner_loss)
            value = torch.stack(tree.leaves(tree.map(lambda x, g: (x * g).sum(), meta.params, toward))).sum()
        return value, tree.map(torch.detach, metrics)

    spec = on_policy.Learner(initial, parts.act, parts.greedy, prepare, loss)
    algo = on_policy.make("maml", env, config, spec, given)

    def init(key: torch.Tensor, hparams: Mapping[str, torch.Tensor] = MappingProxyType({})) -> State:
        state = algo.init(key, hparams)
        if isinstance(state.actor.timestep.discount, torch.Tensor):
            raise ValueError(f"env: MAML expects steps that all have the discount gamma, got {env.name} with discounts of its own")
        rate = state.learner.hparams.inner_learning_rate
        sizes = tree.map(lambda x: rate.clone(), state.learner.params.network.step_size)
        return tree.update(state, ("learner", "params", "network", "step_size"), sizes)

    def collect(key: torch.Tensor, state: State) -> tuple[ActorState, Transition]:
        return _collect(parts, config, key, state)

    return algo._replace(init=init, collect=collect)


def _collect(parts: "_Parts", config: MAMLConfig, key: torch.Tensor, state: State) -> tuple[ActorState, Transition]:
    """Draw N tasks; in each, play K + 1 batches, and take an inner step after each but the last. Transitions are [T, B, ...]."""
    meta, learner, size = state.learner.params.network, state.learner, config.num_envs // config.num_tasks
    task_key, key = random.split(key).unbind(0)
    held_out = torch.zeros(config.num_tasks, dtype=torch.bool, device=key.device)
    drawn = torch.func.vmap(parts.tasks.draw, (0, None, 0))(random.split(task_key, config.num_tasks), learner.env_params, held_out)
    params, batches, envs = tree.map(lambda x: x.expand(config.num_tasks, *x.shape), meta.params), [], state.actor
    for k, step_key in enumerate(random.split(key, config.inner_steps + 1).unbind(0)):
        keys = random.split(step_key, config.num_tasks)
        envs, samples = torch.func.vmap(lambda p, k, t: parts.play(p, k, t, size))(params, keys, drawn)
        batches.append(samples)
        if k < config.inner_steps:
            step = torch.func.vmap(lambda p, batch: parts.improve(meta.replace(params=p), batch, learner.hparams.gamma))
            params = step(params, samples)
    samples = tree.map(lambda *xs: torch.cat([x.transpose(0, 1).flatten(1, 2) for x in xs]), *batches)
    return tree.map(lambda x: x.flatten(0, 1), envs), samples


def returns(algo: Algorithm, *, num_steps: int, tasks: Tasks | None = None) -> Callable[..., torch.Tensor]:
    """Return a function that learns a task by gradient steps, for :func:`funrl.meta.evaluate_adaptation`.

    Args:
        algo: the result of :func:`make` without a network of your own.
        num_steps: S, the number of inner steps, which may be more than ``inner_steps``.
        tasks: as given to :func:`make`.

    Returns:
        ``play(params, key, env_params) -> [S + 1]``: the mean returns of the episodes before the first step and after each.

    Raises:
        TypeError: if ``algo`` is of another kind.
        ValueError: if ``num_steps`` is negative.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("PointRobot-misc"), num_tasks=2, num_envs=8, num_steps=10)
        >>> play = returns(algo, num_steps=3)
        >>> play(algo.init(random.key(0)).learner.params, random.key(1), algo.env.default_params).shape
        torch.Size([4])
    """
    config = _check.instance("maml.returns: algo", getattr(algo, "config", algo), MAMLConfig, "maml.make makes one", "one of maml.make")
    _check.integer("maml.returns: num_steps", num_steps, 0)
    parts = _parts(algo.env, config, tasks, algo.given.get("network"))
    size = config.num_envs // config.num_tasks

    def play(params: ActorParams, key: torch.Tensor, env_params: Any) -> torch.Tensor:
        meta, found = params.network, []
        for step_key in random.split(key, num_steps + 1).unbind(0):
            _, samples = parts.play(meta.params, step_key, env_params, size)
            found.append(_mean_return(samples))
            gamma = torch.full_like(samples.reward[0, 0], config.gamma)
            meta = meta.replace(params=parts.improve(meta, samples, gamma))
        return torch.stack(found)

    return play


class _Parts(NamedTuple):
    """The functions of a policy and its inner steps; ``play(params, key, env_params, size)`` is a batch of episodes of one task."""

    tasks: Tasks
    init: Callable[..., Any]
    act: Any
    greedy: Any
    play: Callable[..., Any]
    prepare: Callable[..., Any]
    inner_loss: Callable[..., torch.Tensor]
    outer_loss: Callable[..., torch.Tensor]
    improve: Callable[..., Any]


def _parts(env: AnyEnv, config: MAMLConfig, tasks: Tasks | None, network: Any) -> _Parts:
    _check_config(env, config)
    shared = {name: getattr(config, name) for name in ("num_cells", "activation", "initial_log_std")}
    policy_config = on_policy.ActorCriticConfig(num_envs=config.num_envs, num_steps=config.num_steps, **shared)
    on_policy.check_actor_critic(policy_config, env, network)
    nets = on_policy.networks(policy_config, env, network)
    act, greedy = on_policy.stochastic(nets)
    estimator, horizon = _ESTIMATORS[config.estimator], config.num_steps // (config.inner_steps + 1)

    def init(key: torch.Tensor, observation: torch.Tensor) -> dict[str, Any]:
        return {name: part for name, part in nets.init(key, observation).items() if name != "value"}

    def play(params: Any, key: torch.Tensor, env_params: Any, size: int) -> tuple[ActorState, Transition]:
        start_key, key = random.split(key).unbind(0)
        envs = acting.start(start_key, env_params, env=env, num_envs=size)
        envs, samples = rollout(ActorParams(params), key, envs, env_params, env=env, act=act, num_steps=horizon)
        last = torch.arange(horizon, device=key.device)[:, None] == horizon - 1
        return envs, samples.replace(truncated=samples.truncated | (last & ~samples.terminated))

    def prepare(batch: Transition, gamma: torch.Tensor) -> tuple[Any, ...]:
        """Return the arguments of a loss: observations, actions, advantages and ends [T, R, ...] of a batch."""
        to_go = reward_to_go(batch.reward, batch.terminated, batch.truncated, gamma=gamma)
        advantage = to_go - _baseline(batch.observation, to_go, batch.done)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        return batch.observation, batch.action, advantage.detach(), batch.done

    def log_prob(params: Any, observation: Any, action: Any) -> torch.Tensor:
        def density(distribution: Any, value: Any, key: Any) -> tuple[Any, dict[str, Any]]:
            return distribution.log_prob(action), {}

        return nets.policy(density)(ActorParams(params), None, observation)[0]

    def inner_loss(params: Any, rows: tuple[Any, ...]) -> torch.Tensor:
        observation, action, advantage, done = rows
        return estimator(log_prob(params, observation, action), advantage, done)

    def outer_loss(params: Any, rows: tuple[Any, ...]) -> torch.Tensor:
        observation, action, advantage, done = rows
        return surrogate_loss(log_prob(params, observation, action), advantage, done)

    def improve(meta: MetaParams, samples: Transition, gamma: torch.Tensor) -> Any:
        samples = in_dtype_of(meta, samples.replace(action=samples.extras["unclipped_action"], extras={}))
        rows = tree.map(lambda x: x.detach(), prepare(samples, gamma))
        return adapt_first_order(meta, rows, loss=inner_loss, num_steps=1)

    def of_meta(policy: Any) -> Callable[..., Any]:
        return lambda params, key, observation: policy(params.replace(network=params.network.params), key, observation)

    return _Parts(tasks_of(env, tasks), init, of_meta(act), of_meta(greedy), play, prepare, inner_loss, outer_loss, improve)


def _check_config(env: AnyEnv, config: MAMLConfig) -> None:
    _check.fields(config, "[1, inf)", "num_tasks", "inner_steps")
    on_policy.check(config, env)
    _check.fields(config, "(0, inf)", "inner_learning_rate")
    if not isinstance(env, Env):
        raise ValueError(f"env: MAML plays many tasks of a pure environment at once, got {env}; give a single one of torch")
    if len(getattr(env.observation_space, "shape", ()) or ()) != 1:
        raise ValueError(f"env: MAML needs vectors as observations, but {env.name} has {env.observation_space}")
    if config.reptile and config.learn_step_size:
        raise ValueError("reptile: learns no step sizes; set learn_step_size=False")
    _check.one_of("estimator", config.estimator, _ESTIMATORS)
    _check.divisor("num_tasks", config.num_tasks, config.num_envs, "num_envs")
    if config.num_steps % (config.inner_steps + 1):
        raise ValueError(f"num_steps: expected a multiple of inner_steps + 1 = {config.inner_steps + 1}, got {config.num_steps}")
    if config.num_envs == config.num_tasks and config.num_steps == config.inner_steps + 1:
        raise ValueError("num_envs, num_steps: expected at least two samples in each batch, whose advantages are normalised, got one")


def _baseline(observation: torch.Tensor, to_go: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
    """Return the ridge regression [T, R] of rewards to go on observations [T, R, D], their squares and powers of the time."""
    steps = torch.arange(len(done), device=done.device)[:, None]
    last = torch.where(done, steps, -1).cummax(0).values
    begin = torch.cat([torch.zeros_like(last[:1]), last[:-1] + 1])
    time = ((steps - begin).to(to_go.dtype) / len(done)).unsqueeze(-1)
    x = torch.cat([observation, observation.square(), time, time.square(), time**3, torch.ones_like(time)], -1).flatten(0, 1)
    gram = x.T @ x / len(x) + 1e-4 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ to_go.flatten() / len(x))
    return (x @ weight).reshape(to_go.shape)


def _mean_return(samples: Transition) -> torch.Tensor:
    """Return the mean return [] of the episodes in a batch, all of which end in it."""
    return samples.reward.sum() / samples.done.sum()
