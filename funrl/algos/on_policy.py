"""The skeleton of on-policy learners: act, learn from what was met, and forget it, as one program."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import optim, random, tree
from funrl.algos import actor_critic
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
from funrl.algos.images import check_layers
from funrl.compiler import compile, scan
from funrl.env import Env, Timestep, Transition
from funrl.interaction import rollout
from funrl.spaces import Box, Discrete

__all__ = [
    "Acting",
    "ActorCriticConfig",
    "Learner",
    "OnPolicyConfig",
    "OnPolicyState",
    "check",
    "check_actor_critic",
    "clipped_adam",
    "make",
    "project_action",
    "stochastic",
]


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig:
    """What every on-policy learner has: fixed for a program, save the first values of hyperparameters (from ``learning_rate`` on).

    Attributes:
        num_envs: B, environments side by side.
        num_steps: T, steps of each between two updates.
        num_channels: image observations only: channels of the convolutions before the hidden layers, at least one.
        kernel_size: image observations only: the side of their kernels, one number for all or a tuple with one for each; no padding.
        stride: image observations only: how far apart their outputs are, likewise. :data:`funrl.algos.images.ATARI` has the usual layers.
        layout: image observations only: ``"hwc"`` for [H, W, C], ``"chw"`` for [C, H, W]; ``""``: as the space says, or as
            :func:`funrl.spaces.picture_layout` finds it.
        num_cells: widths of the hidden layers.
        activation: their activation, as for :func:`funrl.nn.mlp`.
        learning_rate: of Adam, at least 0.
        anneal_steps: the learning rate falls linearly to 0 over so many environment steps; infinity: it stays.
        gamma: discount, in [0, 1].
        max_grad_norm: the gradient is shrunk to this norm; infinity: no clipping.
    """

    num_envs: int = 32
    num_steps: int = 16
    num_channels: tuple = (16,)
    kernel_size: int | tuple = 3
    stride: int | tuple = 1
    layout: str = ""
    num_cells: tuple = (64, 64)
    activation: str = "tanh"
    learning_rate: float = 1e-3
    anneal_steps: float = math.inf
    gamma: float = 0.99
    max_grad_norm: float = 0.5


@dataclasses.dataclass(frozen=True)
class ActorCriticConfig(OnPolicyConfig):
    """What those on-policy learners have that have a policy and a value.

    Attributes:
        trunk: ``"separate"`` networks for policy and value, or one ``"shared"`` by both.
        uniform_mix: discrete actions only: the share of the uniform distribution in the policy, in [0, 1), fixed for a program.
        initial_log_std: continuous actions only: the logarithm of the first standard deviation.
        value_weight: of the value loss, at least 0.
        entropy_weight: of the entropy bonus, at least 0.
    """

    trunk: str = "separate"
    uniform_mix: float = 0.0
    initial_log_std: float = 0.0
    value_weight: float = 0.5
    entropy_weight: float = 0.01


@tree.dataclass
class Acting:
    """What acting needs.

    Attributes:
        network: the learned parameters.
        epsilon: floating point [], the probability that an action is drawn uniformly, or () where the policy itself is random.
    """

    network: Any
    epsilon: Any


@tree.dataclass
class OnPolicyState(tree.Replaceable):
    """All that one learner is.

    Attributes:
        params: :class:`Acting`.
        optimizer: the state of Adam over the network as one vector.
        envs: the environments' states and latest timesteps, leaves [B, ...].
        env_params: their physical constants.
        episodes: :class:`funrl.algos.episodes.Episodes`.
        hparams: hyperparameters, each a tensor [].
        num_steps: int64 [], environment steps so far, over all B.
    """

    params: Acting
    optimizer: Any
    envs: tuple[Any, Timestep]
    env_params: Any
    episodes: Episodes
    hparams: Any
    num_steps: torch.Tensor


class Learner(NamedTuple):
    """What tells one on-policy algorithm from another.

    Attributes:
        hparams: the class of its hyperparameters; its fields are the names of floats in the configuration.
        init: ``init(key, observation) -> network``, the first parameters.
        sample: ``sample(params, key, observation) -> (action, extras)``, as it explores; the action is not yet projected into its space.
        greedy: the same signature, without exploration.
        prepare: ``prepare(network, samples, hparams) -> rows``: what to learn from, leaves [N, ...], made once of a
            :class:`~funrl.env.Transition` of leaves [T, B, ...] with the network that acted.
        loss: ``loss(network, rows, hparams) -> (loss, metrics)``; metrics are tensors [].
        num_epochs: passes over the N rows.
        num_minibatches: gradient steps in a pass, each with the rows of another part, drawn at random; divides N. With one the rows stay
            in their order.
        schedule: ``schedule(hparams, num_steps) -> epsilon`` of :class:`Acting`.
    """

    hparams: type
    init: Callable[..., Any]
    sample: Callable[..., Any]
    greedy: Callable[..., Any]
    prepare: Callable[..., Any]
    loss: Callable[..., Any]
    num_epochs: int = 1
    num_minibatches: int = 1
    schedule: Callable[..., Any] = lambda hparams, num_steps: ()


def make(name: str, env: Env, config: Any, learner: Learner) -> Algorithm:
    """Make an :class:`~funrl.algos.algorithm.Algorithm` of a :class:`Learner`.

    A step rolls out T steps of B environments and scans over ``num_epochs`` times ``num_minibatches`` steps of Adam, the gradient's norm
    clipped. Continuous actions are projected for the environment alone: the learner learns from what it drew. ``act`` returns the
    projected action, and in its extras ``unclipped_action``.

    In an environment on the host a step is a loop of Python around two programs; it can be neither compiled nor vmapped.

    Args:
        name: what ``python -m funrl train`` knows it by.
        env: a pure environment, or a batched one of ``num_envs`` copies, which may run on the host.
        config: an :class:`OnPolicyConfig`.
        learner: what is particular to the algorithm.

    Returns:
        The algorithm; its state is an :class:`OnPolicyState`. Its metrics are ``steps``, ``episode_return`` (also ``_min`` and ``_max``),
        ``episode_length``, ``episodes``, those of the loss and ``gradient_norm`` (the means over minibatches), and ``learning_rate``.

    Example:
        >>> import funrl
        >>> learner = Learner(  # of the mean reward
        ...     hparams=funrl.algos.a2c.A2CHparams,
        ...     init=lambda key, observation: torch.zeros(()),
        ...     sample=lambda params, key, observation: (random.randint(key, (), 0, 2), {}),
        ...     greedy=lambda params, key, observation: (torch.tensor(1), {}),
        ...     prepare=lambda network, samples, hparams: samples.reward.flatten(),
        ...     loss=lambda network, rows, hparams: ((rows - network).square().mean(), {"value": network.detach()}),
        ... )
        >>> config = funrl.algos.a2c.A2CConfig(learning_rate=0.25)
        >>> algo = make("mean", funrl.envs.make("CartPole-v1"), config, learner)
        >>> state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        >>> state.params.network, metrics["gradient_norm"]
        (tensor(0.2500), tensor(2.))
    """
    num_samples = config.num_envs * config.num_steps
    moved = statistics(env)
    project = functools.partial(project_action, env.action_space)
    mapped = project if env.num_envs is None else torch.func.vmap(project)
    outer = env._replace(step=lambda key, state, action, env_params: env.step(key, state, mapped(action), env_params))

    def sample(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return learner.sample(params, key, in_dtype_of(params, observation))

    def act(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        action, extras = sample(params, key, observation)
        return project(action), {**extras, "unclipped_action": action}

    def greedy(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        action, extras = learner.greedy(params, key, in_dtype_of(params, observation))
        return project(action), extras

    def init(key: torch.Tensor) -> OnPolicyState:
        network_key, env_key = random.split(key).unbind(0)
        envs, env_params = start_environments(env, config.num_envs, env_key)
        observation, zero = envs[1].observation[0], torch.zeros_like(envs[1].reward[0])
        hparams = make_hparams(learner.hparams, config, zero)
        count = torch.zeros((), dtype=torch.int64, device=key.device)
        network = learner.init(network_key, observation.to(zero.dtype))
        return OnPolicyState(
            params=Acting(network, learner.schedule(hparams, count)),
            optimizer=clipped_adam(0.0, 1.0).init(tree.ravel(network)[0]),
            envs=envs,
            env_params=env_params,
            episodes=start_episodes(envs[1].reward),
            hparams=hparams,
            num_steps=count,
        )

    def step(key: torch.Tensor, state: OnPolicyState) -> tuple[OnPolicyState, dict[str, torch.Tensor]]:
        return advance(key, state, sample, learn_from)

    def host_step(key: torch.Tensor, state: OnPolicyState) -> tuple[OnPolicyState, dict[str, torch.Tensor]]:
        return advance(key, state, compiled_sample, compiled_learn_from)

    def learn(key: torch.Tensor, state: OnPolicyState, transitions: Transition) -> tuple[OnPolicyState, dict[str, torch.Tensor]]:
        check_experience(transitions, config, "unclipped_action")
        extras = dict(transitions.extras)
        drawn = transitions.replace(action=extras.pop("unclipped_action"), extras=extras)
        new, metrics = learn_from(key, state.replace(envs=()), drawn)
        return new.replace(envs=state.envs), metrics

    def advance(key: torch.Tensor, state: OnPolicyState, act: Any, learn: Any) -> tuple[OnPolicyState, dict[str, torch.Tensor]]:
        rollout_key, learn_key = random.split(key).unbind(0)
        envs, samples = rollout(state.params, rollout_key, state.envs, state.env_params, env=outer, act=act, num_steps=config.num_steps)
        state, metrics = learn(learn_key, state.replace(envs=()), samples)
        return state.replace(envs=envs), metrics

    def parts(key: torch.Tensor, rows: Any) -> torch.Tensor:
        """Return the indices [num_epochs * num_minibatches, ...] of the rows of each gradient step."""
        example = tree.leaves(rows)[0]
        size = example.shape[0]
        if learner.num_minibatches == 1:
            return torch.arange(size, device=example.device).expand(learner.num_epochs, size)
        order = torch.func.vmap(random.permutation, (0, None))(random.split(key, learner.num_epochs), size)
        return order.reshape(learner.num_epochs * learner.num_minibatches, -1)

    def learn_from(key: torch.Tensor, state: OnPolicyState, samples: Transition) -> tuple[OnPolicyState, dict[str, torch.Tensor]]:
        hparams, samples = state.hparams, in_dtype_of(state.params, samples)
        episodes, episode_metrics = record_episodes(state.episodes, samples)
        state = state.replace(env_params=moved(state.env_params, samples))
        rows = learner.prepare(state.params.network, samples.replace(place=()), hparams)
        learning_rate = hparams.learning_rate * (1 - state.num_steps / hparams.anneal_steps).clamp(min=0)
        adam = clipped_adam(learning_rate, hparams.max_grad_norm)
        vector, unravel = tree.ravel(state.params.network)

        def loss(vector: torch.Tensor, rows: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return learner.loss(unravel(vector), rows, hparams)

        def descend(carry: Any, indices: torch.Tensor) -> tuple[Any, Any]:
            vector, optimizer = carry
            part = rows if learner.num_minibatches == 1 else tree.index(rows, indices)
            gradient, (_, metrics) = torch.func.grad_and_value(loss, has_aux=True)(vector, part)
            updates, optimizer = adam.update(gradient, optimizer, vector)
            return (vector + updates, optimizer), {**metrics, "gradient_norm": optim.global_norm(gradient)}

        (vector, optimizer), metrics = scan(descend, (vector, state.optimizer), parts(key, rows))
        num_steps = state.num_steps + num_samples
        state = state.replace(
            params=Acting(unravel(vector), learner.schedule(hparams, num_steps)),
            optimizer=optimizer,
            episodes=episodes,
            num_steps=num_steps,
        )
        metrics = {name: x.mean(0) for name, x in metrics.items()}
        return state, {"steps": num_steps, **episode_metrics, **metrics, "learning_rate": learning_rate}

    compiled_sample, compiled_learn_from = compile(sample), compile(learn_from)
    return Algorithm(name, env, config, init, host_step if env.host else step, learn, act, greedy, num_samples)


def clipped_adam(learning_rate: Any, max_grad_norm: Any) -> optim.Optimizer:
    """Return Adam, with the epsilon 1e-5 that policy gradients have, on gradients whose norm is clipped.

    Example:
        >>> updates, _ = (adam := clipped_adam(0.1, 0.5)).update(torch.ones(4), adam.init(torch.zeros(4)), torch.zeros(4))
        >>> updates
        tensor([-0.1000, -0.1000, -0.1000, -0.1000])
    """
    return optim.chain(optim.clip_by_global_norm(max_grad_norm), optim.adam(learning_rate, eps=1e-5))


def project_action(space: Box | Discrete, action: torch.Tensor) -> torch.Tensor:
    """Return what the environment gets of what a policy has drawn: projected into a Box, or counted from a Discrete's start.

    Example:
        >>> project_action(Box(-2.0, 2.0, (1,)), torch.tensor([5.0]))
        tensor([2.])
    """
    return space.project(action) if isinstance(space, Box) else action + space.start


def stochastic(network: actor_critic.Network) -> tuple[Any, Any]:
    """Return ``sample`` and ``greedy`` of a :class:`Learner` whose policy is random by itself.

    Example:
        >>> import funrl
        >>> network = actor_critic.make(ActorCriticConfig(), funrl.envs.make("CartPole-v1"))
        >>> params = Acting(network.init(random.key(0), torch.zeros(4)), ())
        >>> sample, greedy = stochastic(network)
        >>> sample(params, random.key(1), torch.zeros(4))[1]
        {'log_prob': tensor(-0.6931)}
    """

    def sample(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        action, log_prob = network.policy(params.network, observation).sample_with_log_prob(key)
        return action, {"log_prob": log_prob}

    def greedy(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return network.policy(params.network, observation).mode(), {}

    return sample, greedy


def check(config: Any, env: Env) -> None:
    """Raise a ValueError unless what all on-policy configurations share is in its range and fits the environment.

    Example:
        >>> import funrl
        >>> check(OnPolicyConfig(gamma=1.5), funrl.envs.make("CartPole-v1"))
        Traceback (most recent call last):
        ...
        ValueError: gamma: expected a number at least 0 and at most 1, got 1.5
    """
    check_copies(config, env)
    check_range(config, ("num_envs", "num_steps"), 1)
    check_layers(config, env)
    check_range(config, ("learning_rate",), 0)
    check_range(config, ("anneal_steps", "max_grad_norm"), 0, open_low=True, infinite=True)
    check_range(config, ("gamma",), 0, 1)


def check_actor_critic(config: Any, env: Env) -> None:
    """Raise a ValueError unless an :class:`ActorCriticConfig` is in its ranges and fits the environment.

    Example:
        >>> import funrl
        >>> check_actor_critic(ActorCriticConfig(value_weight=-1.0), funrl.envs.make("CartPole-v1"))
        Traceback (most recent call last):
        ...
        ValueError: value_weight: expected a number at least 0, got -1.0
    """
    check(config, env)
    check_range(config, ("value_weight", "entropy_weight"), 0)
    actor_critic.check(config, env)
