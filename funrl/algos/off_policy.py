"""The skeleton of off-policy learners: act, write transitions to a replay buffer, and learn from what is sampled from it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import acting, buffers, optim, random, tree
from funrl.algos import episodes
from funrl.algos.algorithm import (
    Algorithm,
    annealed,
    check_copies,
    check_experience,
    check_range,
    collecting,
    in_dtype_of,
    make_hparams,
    statistics,
)
from funrl.algos.images import advice
from funrl.algos.state import ActorParams, LearnerState, State
from funrl.compiler import scan
from funrl.env import Env, Transition
from funrl.spaces import Binary, Box, Discrete

__all__ = [
    "Learned",
    "Learner",
    "OffPolicyConfig",
    "apply_gradients",
    "check",
    "make",
    "start_adam",
]


@tree.dataclass
class OffPolicyConfig(tree.Replaceable):
    """The options of every off-policy learner. Those from ``learning_rate`` on are hyperparameters, which ``learner.hparams`` has as
    tensors.

    A hyperparameter of exploration that is replaced acts one step later.

    Attributes:
        num_envs: B, environments side by side.
        num_steps: T, steps of each between two stretches of learning.
        num_updates: gradient steps in each stretch; T * B of them are one for each environment step.
        batch_size: transitions in a gradient step.
        buffer_size: transitions that are remembered.
        learning_starts: environment steps with random actions, before anything is learned.
        num_cells: widths of the hidden layers of every network.
        activation: their activation, as for :func:`funrl.nn.mlp`.
        learning_rate: of Adam, at least 0.
        anneal_steps: the learning rate falls linearly to 0 over so many environment steps; infinity: it stays.
        gamma: discount, in [0, 1].
    """

    num_envs: int = tree.static(default=1)
    num_steps: int = tree.static(default=32)
    num_updates: int = tree.static(default=32)
    batch_size: int = tree.static(default=256)
    buffer_size: int = tree.static(default=100_000)
    learning_starts: int = tree.static(default=1_000)
    num_cells: tuple = tree.static(default=(64, 64))
    activation: str = tree.static(default="relu")
    learning_rate: Any = 1e-3
    anneal_steps: Any = math.inf
    gamma: Any = 0.99


@tree.dataclass
class Learned(tree.Replaceable):
    """The part of a learner that a gradient step changes.

    Attributes:
        network: the parameters.
        target: those that follow them, unaliased, or what else targets are made of.
        optimizer: the state of the optimizers.
        num_updates: int64 [], gradient steps so far.
    """

    network: Any
    target: Any
    optimizer: Any
    num_updates: torch.Tensor


class Learner(NamedTuple):
    """The parts in which off-policy algorithms differ.

    Attributes:
        init: ``init(key, observation) -> (network, target, optimizer state)``.
        learn: ``learn(key, learned, batch, gamma, weight, hparams) -> (learned, metrics)``: one gradient step on a
            :class:`~funrl.env.Transition` of leaves [N, ...]; ``gamma`` is [N]. Metrics are tensors [], but ``td_error`` [N].
        sample: ``sample(params, key, observation) -> action`` of :class:`~funrl.algos.state.ActorParams`, as it explores by itself; in the
            units of the buffer.
        greedy: the same signature, without exploration.
        schedule: ``schedule(hparams, num_steps) -> (random, noise)`` of :class:`~funrl.algos.state.ActorParams`, once ``learning_starts``
            is over.
        delayed: an update after every ``delay``-th gradient step, on its batch: the signature of ``learn``. Its metrics have other
            names, and ``td_error`` is not among them.
        delay: as above; divides ``num_updates``.
    """

    init: Callable[..., Any]
    learn: Callable[..., Any]
    sample: Callable[..., Any]
    greedy: Callable[..., Any]
    schedule: Callable[..., Any]
    delayed: Callable[..., Any] | None = None
    delay: int = 1


def make(name: str, env: Env, config: Any, spec: Learner, buffer: buffers.Buffer, *, n_step: int = 1) -> Algorithm:
    """Make an :class:`~funrl.algos.algorithm.Algorithm` of a :class:`Learner`.

    An update writes T steps of B environments to the buffer, samples ``num_updates`` batches from it and scans over them.
    Priorities, where the buffer has them, change after the last of these (of an item that was sampled twice, to one of its errors).
    Nothing is learned before ``learning_starts``, and priorities stay: until then metrics only say what the losses are.

    In an environment on the host a step is a loop of Python around two programs; it can be neither compiled nor vmapped, and uses
    the given state up, as the environment does: the buffer is written in place.

    Args:
        name: what ``python -m funrl train`` knows it by.
        env: a pure environment, or a batched one of ``num_envs`` copies, which may run on the host.
        config: an :class:`OffPolicyConfig`.
        spec: the parts that are particular to the algorithm.
        buffer: of ``config.buffer_size`` items; with ``update_priority``, ``td_error`` goes there.
        n_step: over how many steps rewards are summed up before the bootstrap.

    Returns:
        The algorithm.

    Raises:
        ValueError: if ``spec.delay`` does not divide ``num_updates``.

    Example:
        >>> import funrl
        >>> spec = Learner(  # of the mean reward
        ...     init=lambda key, observation: (torch.zeros(()), torch.zeros(()), ()),
        ...     learn=lambda key, learned, batch, gamma, weight, hparams: (
        ...         learned.replace(network=batch.reward.mean()), {"td_error": batch.reward - learned.network}
        ...     ),
        ...     sample=lambda params, key, observation: torch.tensor(0),
        ...     greedy=lambda params, key, observation: torch.tensor(1),
        ...     schedule=lambda hparams, num_steps: (torch.zeros(()), ()),
        ... )
        >>> config = funrl.algos.crossq.CrossQConfig(num_steps=8, num_updates=2, learning_starts=0)
        >>> algo = make("mean", funrl.envs.make("CartPole-v1"), config, spec, buffers.uniform(100))
        >>> state, _ = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> state.learner.params.network, algo.greedy(state.learner.params, funrl.random.key(0), None)
        (tensor(1.), (tensor(1), {}))
    """
    num_rows = config.num_envs * config.num_steps
    moved = statistics(env)
    if config.num_updates % spec.delay:
        raise ValueError(f"num_updates: expected a multiple of policy_delay, {spec.delay}, got {config.num_updates}; change either")
    # In the buffer, discrete actions are counted from 0.
    start = env.action_space.start if isinstance(env.action_space, Discrete) else 0
    space = Discrete(env.action_space.n) if isinstance(env.action_space, Discrete) else env.action_space

    def act(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        sample_key, uniform_key, coin_key = random.split(key, 3).unbind(0)
        action = spec.sample(params, sample_key, in_dtype_of(params, observation))
        uniform = space.sample(uniform_key).to(action.dtype)
        action = torch.where(random.uniform(coin_key, (), dtype=params.random.dtype) < params.random, uniform, action)
        return action + start if start else action, {}

    def greedy(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        action = spec.greedy(params, key, in_dtype_of(params, observation))
        return action + start if start else action, {}

    def exploration(hparams: Any, num_steps: torch.Tensor) -> dict[str, Any]:
        share, noise = spec.schedule(hparams, num_steps)
        # No alias of a hyperparameter.
        return {"random": torch.where(num_steps < config.learning_starts, 1.0, share), "noise": tree.map(torch.clone, noise)}

    def rows(samples: Transition, hparams: Any) -> Transition:
        """Return rows for the buffer, leaves [T * B, ...]; over several steps, each with its discount."""
        samples = samples.replace(action=samples.action - start if start else samples.action, extras={}, place=())
        if n_step > 1:
            joined = buffers.n_step(samples, n=n_step, gamma=hparams.gamma)
            samples = joined.transition.replace(extras={"discount": joined.discount})
        return tree.reshape(samples, (num_rows,), batch_dims=2)

    def init(key: torch.Tensor) -> State:
        network_key, env_key = random.split(key).unbind(0)
        env_params = tree.map(torch.clone, tree.to(env.default_params, key.device))
        actor = acting.start(env_key, env_params, env=env, num_envs=config.num_envs if env.num_envs is None else None)
        reward = actor.timestep.reward
        observation, zero = tree.to(actor.timestep.observation[0], reward.dtype), torch.zeros_like(reward[0])
        hparams, count = make_hparams(config, zero), torch.zeros((), dtype=torch.int64, device=key.device)
        network, target, optimizer = spec.init(network_key, actor.timestep.observation[0].to(zero.dtype))
        action = torch.zeros(space.shape, dtype=torch.int64 if isinstance(space, Discrete) else zero.dtype, device=key.device)
        flag = torch.zeros_like(zero, dtype=torch.bool)
        example = Transition(observation, action, zero, flag, flag, observation, {"discount": zero} if n_step > 1 else {})
        learner = LearnerState(
            params=ActorParams(network, **exploration(hparams, count)),
            target=target,
            optimizer=optimizer,
            buffer=buffer.init(example),
            hparams=hparams,
            num_steps=count,
            num_updates=count.clone(),
            env_params=env_params,
            episodes=episodes.start(reward),
        )
        # As a checkpoint brings it back: the last bits of a product depend on strides.
        return tree.map(torch.Tensor.contiguous, State(actor, learner))

    def learn(key: torch.Tensor, learner: LearnerState, transitions: Transition) -> tuple[LearnerState, dict[str, torch.Tensor]]:
        check_experience(learner, transitions, config)
        samples = in_dtype_of(learner.params, transitions)
        sums, episode_metrics = episodes.record(learner.episodes, samples)
        memory = buffer.extend(learner.buffer, rows(samples, learner.hparams))
        sample_keys, learn_keys = random.split(key, (2, config.num_updates)).unbind(0)
        batches = torch.func.vmap(lambda key: buffer.sample(key, memory, config.batch_size))(sample_keys)

        learning_rate = annealed(learner.hparams, learner.num_steps)
        before = Learned(learner.params.network, learner.target, learner.optimizer, learner.num_updates)
        after, metrics = fit(before, learn_keys, batches, learner.hparams.replace(learning_rate=learning_rate))
        num_steps = learner.num_steps + num_rows
        learning = num_steps >= config.learning_starts
        after, error = tree.where(learning, after, before), metrics.pop("td_error")
        if buffer.update_priority is not None:
            priority = torch.where(learning, error, memory.exponents.greatest)  # until then all items have the greatest
            memory = buffer.update_priority(memory, batches.indices.reshape(-1), priority.reshape(-1))
        learner = learner.replace(
            params=ActorParams(after.network, **exploration(learner.hparams, num_steps)),
            target=after.target,
            optimizer=after.optimizer,
            buffer=memory,
            num_steps=num_steps,
            num_updates=after.num_updates,
            env_params=moved(learner.env_params, samples),
            episodes=sums,
        )
        means = {name: x.mean(0) for name, x in metrics.items()}
        further = {"td_error": error.mean(), "updates": after.num_updates, "learning_rate": learning_rate}
        return learner, {"steps": num_steps, **episode_metrics, **means, **further}

    def fit(learned: Learned, keys: torch.Tensor, batches: buffers.Sample, hparams: Any) -> tuple[Learned, dict[str, torch.Tensor]]:
        """Take a gradient step on each batch; return what is learned, and metrics with a row for each step."""

        def applied(update: Any, key: torch.Tensor, learned: Learned, sample: buffers.Sample) -> tuple[Learned, dict[str, torch.Tensor]]:
            batch = sample.batch
            gamma = batch.extras["discount"] if n_step > 1 else hparams.gamma.expand(batch.reward.shape)
            return update(key, learned, batch, gamma, sample.weights.to(batch.reward.dtype), hparams)

        def once(learned: Learned, x: Any) -> tuple[Learned, dict[str, torch.Tensor]]:
            learned, metrics = applied(spec.learn, x[0], learned, x[1])
            return learned.replace(num_updates=learned.num_updates + 1), metrics

        def several(learned: Learned, x: Any) -> tuple[Learned, Any]:
            keys, samples = x
            learned, metrics = scan(once, learned, (keys[:-1], samples))
            learned, further = applied(spec.delayed, keys[-1], learned, tree.index(samples, -1))
            return learned, (metrics, further)

        if spec.delayed is None:
            return scan(once, learned, (keys, batches))
        num_groups = config.num_updates // spec.delay
        grouped = tree.reshape(batches, (num_groups, spec.delay), batch_dims=1)
        keys = torch.func.vmap(lambda key: random.split(key, spec.delay + 1))(keys[:num_groups])
        learned, (metrics, further) = scan(several, learned, (keys, grouped))
        return learned, {**tree.map(lambda x: x.flatten(0, 1), metrics), **further}

    return Algorithm(name, env, config, init, collecting(env, act, config.num_steps), learn, act, greedy)


def start_adam(network: Any, *parts: str) -> Any:
    """Return the state of Adam over a network as one vector or, where parts of it move apart, a dict of one for each.

    Example:
        >>> from funrl.losses import ActorCritic
        >>> network = ActorCritic(torch.zeros(3, 2), torch.zeros(2))
        >>> start_adam(network).mean.shape, start_adam(network, "actor", "critic")["actor"].mean.shape
        (torch.Size([8]), torch.Size([6]))
    """
    if parts:
        return {part: start_adam(getattr(network, part)) for part in parts}
    return _adam(0.0).init(network)


def apply_gradients(learned: Learned, gradient: Any, learning_rate: torch.Tensor, part: str | None = None) -> Learned:
    """Take a step of Adam with the whole network, or with a part that has an optimizer state of its own.

    Example:
        >>> learned = Learned(torch.ones(1), torch.ones(1), start_adam(torch.ones(1)), torch.tensor(0))
        >>> apply_gradients(learned, torch.ones(1), torch.tensor(0.5)).network
        tensor([0.5000])
    """
    network, optimizer = learned.network, learned.optimizer
    if part is None:
        updates, optimizer = _adam(learning_rate).update(gradient, optimizer, network)
        return learned.replace(network=optim.apply_updates(network, updates), optimizer=optimizer)
    params = getattr(network, part)
    updates, moved = _adam(learning_rate).update(gradient, optimizer[part], params)
    network = network.replace(**{part: optim.apply_updates(params, updates)})
    return learned.replace(network=network, optimizer={**optimizer, part: moved})


def _adam(learning_rate: Any) -> optim.Optimizer:
    return optim.flatten(optim.adam(learning_rate))


def check(name: str, env: Env, config: Any, *, discrete: bool, images: bool = False) -> None:
    """Raise a ValueError unless the environment and what all off-policy configurations share fit a learner called ``name``.

    Example:
        >>> import funrl
        >>> check("DQN", funrl.envs.make("Pendulum-v1"), OffPolicyConfig(), discrete=True)
        Traceback (most recent call last):
        ...
        ValueError: env: DQN expects Discrete actions, got Box(...); for continuous ones take ddpg, td3 or sac
    """
    check_copies(config, env)
    check_range(config, ("num_envs", "num_steps", "num_updates", "batch_size", "buffer_size"), 1)
    check_range(config, ("learning_starts", "learning_rate"), 0)
    check_range(config, ("anneal_steps",), 0, open_low=True, infinite=True)
    check_range(config, ("gamma",), 0, 1)
    actions, space = env.action_space, env.observation_space
    if discrete and not isinstance(actions, Discrete):
        raise ValueError(f"env: {name} expects Discrete actions, got {actions}; for continuous ones take ddpg, td3 or sac")
    if not discrete and isinstance(actions, Discrete):
        raise ValueError(f"env: {name} expects a Box of actions, got {actions}; for discrete ones take dqn or sac_discrete")
    if not discrete:
        box = actions if isinstance(actions, Box) and actions.dtype.is_floating_point and len(actions.shape) == 1 else None
        if box is None or not all(map(math.isfinite, [*box.low.tolist(), *box.high.tolist()])):
            raise ValueError(f"env: {name} expects a floating-point Box of actions of shape [A] with finite ends, got {actions}")
    vector = isinstance(space, Box) and len(space.shape) == 1 and space.dtype.is_floating_point
    image = images and isinstance(space, Box | Binary) and len(space.shape) == 3
    if not vector and not image:
        also = " or images (a Box or Binary of shape [H, W, C] or [C, H, W])" if images else ""
        raise ValueError(
            f"env: {name} expects observations that are vectors (a floating-point Box of shape [D]){also}, got {space}{advice(space)}"
        )
    if config.num_envs * config.num_steps > config.buffer_size:
        raise ValueError(
            f"buffer_size: {config.buffer_size} is less than the {config.num_envs} * {config.num_steps} transitions of one step; raise it"
        )
