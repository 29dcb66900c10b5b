"""The skeleton of off-policy learners: act, remember, and learn from what is drawn from memory, as one program."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import buffers, nn, optim, random, tree
from funrl.algos.algorithm import (
    Algorithm,
    check_copies,
    check_experience,
    check_range,
    in_dtype_of,
    make_hparams,
    start_environments,
    statistics,
)
from funrl.algos.episodes import Episodes
from funrl.algos.episodes import record as record_episodes
from funrl.algos.episodes import start as start_episodes
from funrl.algos.images import advice
from funrl.compiler import compile, scan
from funrl.env import Env, Timestep, Transition
from funrl.interaction import rollout
from funrl.losses import ActorCritic, SoftActorCritic
from funrl.spaces import Binary, Box, Discrete

__all__ = [
    "Acting",
    "Learned",
    "Learner",
    "OffPolicyConfig",
    "OffPolicyState",
    "check",
    "descend",
    "init_actor_critic",
    "init_soft_actor_critic",
    "make",
    "start_adam",
]


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig:
    """What every off-policy learner has: fixed for a program, save the first values of what its ``state.hparams`` holds.

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

    num_envs: int = 1
    num_steps: int = 32
    num_updates: int = 32
    batch_size: int = 256
    buffer_size: int = 100_000
    learning_starts: int = 1_000
    num_cells: tuple = (64, 64)
    activation: str = "relu"
    learning_rate: float = 1e-3
    anneal_steps: float = math.inf
    gamma: float = 0.99


@tree.dataclass
class Acting:
    """What acting needs.

    Attributes:
        network: the learned parameters.
        random: floating point [], the probability that an action is drawn uniformly.
        noise: floating point [], what else exploration depends on, or ().
    """

    network: Any
    random: torch.Tensor
    noise: Any


@tree.dataclass
class Learned(tree.Replaceable):
    """What a gradient step changes.

    Attributes:
        network: the parameters.
        target: those that follow them, unaliased, or what else targets are made of.
        optimizer: the state of the optimisers.
        num_updates: int64 [], gradient steps so far.
    """

    network: Any
    target: Any
    optimizer: Any
    num_updates: torch.Tensor


@tree.dataclass
class OffPolicyState(tree.Replaceable):
    """All that one learner is.

    Attributes:
        params: :class:`Acting`.
        target: the parameters that targets are made of, or the running statistics of critics without such.
        optimizer: the state of the optimisers.
        buffer: the state of the replay buffer.
        envs: the environments' states and latest timesteps, leaves [B, ...].
        env_params: their physical constants.
        episodes: :class:`funrl.algos.episodes.Episodes`.
        hparams: hyperparameters, each a tensor [].
        num_steps: int64 [], environment steps so far, over all B.
        num_updates: int64 [], gradient steps so far.
    """

    params: Acting
    target: Any
    optimizer: Any
    buffer: Any
    envs: tuple[Any, Timestep]
    env_params: Any
    episodes: Episodes
    hparams: Any
    num_steps: torch.Tensor
    num_updates: torch.Tensor


class Learner(NamedTuple):
    """What tells one off-policy algorithm from another.

    Attributes:
        hparams: the class of its hyperparameters; its fields are the names of floats in the configuration.
        init: ``init(key, observation) -> (network, target, optimizer state)``.
        learn: ``learn(key, learned, batch, gamma, weight, hparams) -> (learned, metrics)``: one gradient step on a
            :class:`~funrl.env.Transition` of leaves [N, ...]; ``gamma`` is [N]. Metrics are tensors [], but ``td_error`` [N].
        sample: ``sample(acting, key, observation) -> action``, as it explores by itself; in the units of the buffer.
        greedy: the same signature, without exploration.
        schedule: ``schedule(hparams, num_steps) -> (random, noise)`` of :class:`Acting`, once ``learning_starts`` is over.
        delayed: what is done after every ``delay``-th gradient step, on its batch: the signature of ``learn``. Its metrics have other
            names, and ``td_error`` is not among them.
        delay: as above; divides ``num_updates``.
    """

    hparams: type
    init: Callable[..., Any]
    learn: Callable[..., Any]
    sample: Callable[..., Any]
    greedy: Callable[..., Any]
    schedule: Callable[..., Any]
    delayed: Callable[..., Any] | None = None
    delay: int = 1


def make(name: str, env: Env, config: Any, learner: Learner, buffer: buffers.Buffer, *, n_step: int = 1) -> Algorithm:
    """Make an :class:`~funrl.algos.algorithm.Algorithm` of a :class:`Learner`.

    A step rolls out T steps of B environments, writes them to the buffer, draws ``num_updates`` batches from it and scans over them.
    Priorities, where the buffer has them, change after the last of these (of an item that was drawn twice, to one of its errors).
    Nothing is learned before ``learning_starts``, and priorities stay: until then metrics only say what the losses are.

    In an environment on the host a step is a loop of Python around two programs; it can be neither compiled nor vmapped, and uses
    the given state up, as the environment does: the buffer is written in place.

    Args:
        name: what ``python -m funrl train`` knows it by.
        env: a pure environment, or a batched one of ``num_envs`` copies, which may run on the host.
        config: an :class:`OffPolicyConfig`.
        learner: what is particular to the algorithm.
        buffer: of ``config.buffer_size`` items; with ``update_priority``, ``td_error`` goes there.
        n_step: over how many steps rewards are summed up before the bootstrap.

    Returns:
        The algorithm; its state is an :class:`OffPolicyState`.

    Raises:
        ValueError: if ``learner.delay`` does not divide ``num_updates``.

    Example:
        >>> import funrl
        >>> learner = Learner(  # of the mean reward
        ...     hparams=funrl.algos.crossq.CrossQHparams,
        ...     init=lambda key, observation: (torch.zeros(()), torch.zeros(()), ()),
        ...     learn=lambda key, learned, batch, gamma, weight, hparams: (
        ...         learned.replace(network=batch.reward.mean()), {"td_error": batch.reward - learned.network}
        ...     ),
        ...     sample=lambda params, key, observation: torch.tensor(0),
        ...     greedy=lambda params, key, observation: torch.tensor(1),
        ...     schedule=lambda hparams, num_steps: (torch.zeros(()), ()),
        ... )
        >>> config = funrl.algos.crossq.CrossQConfig(num_steps=8, num_updates=2, learning_starts=0)
        >>> algo = make("mean", funrl.envs.make("CartPole-v1"), config, learner, buffers.uniform(100))
        >>> state, _ = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> state.params.network, algo.greedy(state.params, funrl.random.key(0), None)
        (tensor(1.), (tensor(1), {}))
    """
    steps_per_update = config.num_envs * config.num_steps
    moved = statistics(env)
    num_groups = config.num_updates // learner.delay
    if config.num_updates % learner.delay:
        raise ValueError(f"num_updates: expected a multiple of policy_delay, {learner.delay}, got {config.num_updates}; change either")
    start = env.action_space.start if isinstance(env.action_space, Discrete) else None
    outer = env
    if start:
        outer = env._replace(step=lambda key, state, action, env_params: env.step(key, state, action + start, env_params))
    space = Discrete(env.action_space.n) if start else env.action_space

    def explore(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        sample_key, uniform_key, coin_key = random.split(key, 3).unbind(0)
        action = learner.sample(params, sample_key, in_dtype_of(params, observation))
        uniform = space.sample(uniform_key).to(action.dtype)
        return torch.where(random.uniform(coin_key, (), dtype=params.random.dtype) < params.random, uniform, action), {}

    def shift(action: torch.Tensor) -> torch.Tensor:
        return action + start if start else action

    def act(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return shift(explore(params, key, observation)[0]), {}

    def greedy(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return shift(learner.greedy(params, key, in_dtype_of(params, observation))), {}

    def exploration(hparams: Any, num_steps: torch.Tensor) -> tuple[torch.Tensor, Any]:
        share, noise = learner.schedule(hparams, num_steps)
        return torch.where(num_steps < config.learning_starts, 1.0, share), tree.map(torch.clone, noise)  # no alias of a hyperparameter

    def remembered(samples: Transition, hparams: Any) -> Transition:
        """Return rows for the buffer, leaves [T * B, ...]; over several steps, with what the bootstrap is multiplied by."""
        samples = samples.replace(extras={})
        if n_step > 1:
            joined = buffers.n_step(samples, n=n_step, gamma=hparams.gamma)
            samples = joined.transition.replace(extras={"discount": joined.discount})
        return tree.reshape(samples, (steps_per_update,), batch_dims=2)

    def init(key: torch.Tensor) -> OffPolicyState:
        network_key, env_key = random.split(key).unbind(0)
        envs, env_params = start_environments(env, config.num_envs, env_key)
        observation, zero = envs[1].observation[0], torch.zeros_like(envs[1].reward[0])
        hparams = make_hparams(learner.hparams, config, zero)
        count = torch.zeros((), dtype=torch.int64, device=key.device)
        network, target, optimizer = learner.init(network_key, observation.to(zero.dtype))
        chance, noise = exploration(hparams, count)
        observation = tree.to(observation, zero.dtype)
        action = torch.zeros(space.shape, dtype=torch.int64 if isinstance(space, Discrete) else zero.dtype, device=key.device)
        flag = torch.zeros_like(zero, dtype=torch.bool)
        extras = {"discount": zero} if n_step > 1 else {}
        return OffPolicyState(
            params=Acting(network, chance, noise),
            target=target,
            optimizer=optimizer,
            buffer=buffer.init(Transition(observation, action, zero, flag, flag, observation, extras)),
            envs=envs,
            env_params=env_params,
            episodes=start_episodes(envs[1].reward),
            hparams=hparams,
            num_steps=count,
            num_updates=count.clone(),
        )

    def step(key: torch.Tensor, state: OffPolicyState) -> tuple[OffPolicyState, dict[str, torch.Tensor]]:
        return advance(key, state, explore, learn_from)

    def host_step(key: torch.Tensor, state: OffPolicyState) -> tuple[OffPolicyState, dict[str, torch.Tensor]]:
        return advance(key, state, compiled_explore, compiled_learn_from)

    def learn(key: torch.Tensor, state: OffPolicyState, transitions: Transition) -> tuple[OffPolicyState, dict[str, torch.Tensor]]:
        check_experience(transitions, config)
        drawn = transitions.replace(action=transitions.action - start) if start else transitions
        new, metrics = learn_from(key, state.replace(envs=()), drawn)
        return new.replace(envs=state.envs), metrics

    def advance(key: torch.Tensor, state: OffPolicyState, act: Any, learn: Any) -> tuple[OffPolicyState, dict[str, torch.Tensor]]:
        rollout_key, learn_key = random.split(key).unbind(0)
        envs, samples = rollout(state.params, rollout_key, state.envs, state.env_params, env=outer, act=act, num_steps=config.num_steps)
        state, metrics = learn(learn_key, state.replace(envs=()), samples)
        return state.replace(envs=envs), metrics

    def learn_from(key: torch.Tensor, state: OffPolicyState, samples: Transition) -> tuple[OffPolicyState, dict[str, torch.Tensor]]:
        hparams, samples = state.hparams, in_dtype_of(state.params, samples)
        episodes, episode_metrics = record_episodes(state.episodes, samples)
        state = state.replace(env_params=moved(state.env_params, samples))
        memory = buffer.extend(state.buffer, remembered(samples.replace(place=()), hparams))
        draw_keys, learn_keys = random.split(key, (2, config.num_updates)).unbind(0)
        draws = torch.func.vmap(lambda key: buffer.sample(key, memory, config.batch_size))(draw_keys)

        # One vector each: a loop pays for every tensor that it carries.
        vector, unravel = tree.ravel(state.params.network)
        target, unravel_target = tree.ravel(state.target)

        learning_rate = hparams.learning_rate * (1 - state.num_steps / hparams.anneal_steps).clamp(min=0)
        annealed = hparams.replace(learning_rate=learning_rate)

        def applied(learn: Any, key: torch.Tensor, carry: Learned, draw: buffers.Sample) -> tuple[Learned, dict[str, torch.Tensor]]:
            batch = draw.batch
            gamma = batch.extras["discount"] if n_step > 1 else hparams.gamma.expand(batch.reward.shape)
            learned = carry.replace(network=unravel(carry.network), target=unravel_target(carry.target))
            learned, metrics = learn(key, learned, batch, gamma, draw.weights.to(batch.reward.dtype), annealed)
            return learned.replace(network=tree.ravel(learned.network)[0], target=tree.ravel(learned.target)[0]), metrics

        def once(carry: Learned, x: Any) -> tuple[Learned, dict[str, torch.Tensor]]:
            carry, metrics = applied(learner.learn, x[0], carry, x[1])
            return carry.replace(num_updates=carry.num_updates + 1), metrics

        def several(carry: Learned, x: Any) -> tuple[Learned, Any]:
            keys, draws = x
            carry, metrics = scan(once, carry, (keys[:-1], draws))
            carry, further = applied(learner.delayed, keys[-1], carry, tree.index(draws, -1))
            return carry, (metrics, further)

        before = Learned(vector, target, state.optimizer, state.num_updates)
        if learner.delayed is None:
            after, metrics = scan(once, before, (learn_keys, draws))
        else:
            grouped = tree.reshape(draws, (num_groups, learner.delay), batch_dims=1)
            keys = torch.func.vmap(lambda key: random.split(key, learner.delay + 1))(learn_keys[:num_groups])
            after, (metrics, further) = scan(several, before, (keys, grouped))
            metrics = {**tree.map(lambda x: x.flatten(0, 1), metrics), **further}
        num_steps = state.num_steps + steps_per_update
        learning = num_steps >= config.learning_starts
        after = tree.where(learning, after, before)
        error = metrics.pop("td_error")
        if buffer.update_priority is not None:
            priority = torch.where(learning, error, memory.exponents.greatest)  # until then all items have the greatest
            memory = buffer.update_priority(memory, draws.indices.reshape(-1), priority.reshape(-1))
        network = unravel(after.network)
        state = state.replace(
            params=Acting(network, *exploration(hparams, num_steps)),
            target=unravel_target(after.target),
            optimizer=after.optimizer,
            buffer=memory,
            episodes=episodes,
            num_steps=num_steps,
            num_updates=after.num_updates,
        )
        metrics = {name: x.mean(0) for name, x in metrics.items()}
        further = {"td_error": error.mean(), "updates": after.num_updates, "learning_rate": learning_rate}
        return state, {"steps": num_steps, **episode_metrics, **metrics, **further}

    compiled_explore, compiled_learn_from = compile(explore), compile(learn_from, donate=1)
    return Algorithm(name, env, config, init, host_step if env.host else step, learn, act, greedy, steps_per_update)


def init_actor_critic(key: torch.Tensor, actor: nn.Net, critic: nn.Net, observation: torch.Tensor, space: Box) -> ActorCritic:
    """Return the first parameters of an actor and of the critics of its actions.

    Example:
        >>> from funrl.algos.networks import deterministic_actor, q_ensemble
        >>> space = Box(-2.0, 2.0, (1,))
        >>> actor, critic = deterministic_actor((8,), space, "relu"), q_ensemble(2, (8,), "relu")
        >>> init_actor_critic(random.key(0), actor, critic, torch.zeros(3), space).critic[0]["weight"].shape
        torch.Size([2, 8, 4])
    """
    actor_key, critic_key = random.split(key).unbind(0)
    return ActorCritic(actor.init(actor_key, observation), critic.init(critic_key, observation, observation.new_zeros(space.shape)))


def init_soft_actor_critic(
    key: torch.Tensor, actor: nn.Net, critic: Any, observation: torch.Tensor, space: Box, alpha: float
) -> SoftActorCritic:
    """Return the first parameters of an actor, of the critics of its actions, and the temperature ``alpha``.

    Example:
        >>> from funrl.algos.networks import q_ensemble, stochastic_actor
        >>> space = Box(-2.0, 2.0, (1,))
        >>> actor, critic = stochastic_actor((8,), space, "relu"), q_ensemble(2, (8,), "relu")
        >>> init_soft_actor_critic(random.key(0), actor, critic, torch.zeros(3), space, 1.0).log_alpha
        tensor(0.)
    """
    both = init_actor_critic(key, actor, critic, observation, space)
    return SoftActorCritic(both.actor, both.critic, observation.new_full((), alpha).log())


def start_adam(network: Any, *parts: str) -> Any:
    """Return the state of Adam over a network as one vector or, where parts of it move apart, a dict of one for each.

    Example:
        >>> network = ActorCritic(torch.zeros(3, 2), torch.zeros(2))
        >>> start_adam(network).mean.shape, start_adam(network, "actor", "critic")["actor"].mean.shape
        (torch.Size([8]), torch.Size([6]))
    """
    if parts:
        return {part: start_adam(getattr(network, part)) for part in parts}
    return _adam(0.0).init(network)


def descend(learned: Learned, gradient: Any, learning_rate: torch.Tensor, part: str | None = None) -> Learned:
    """Return what is learned after a step of Adam on the whole network, or on a part that has a state of its own.

    Example:
        >>> learned = Learned(torch.ones(1), torch.ones(1), start_adam(torch.ones(1)), torch.tensor(0))
        >>> descend(learned, torch.ones(1), torch.tensor(0.5)).network
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
