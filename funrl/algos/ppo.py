"""Proximal policy optimisation, one program an update."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from funrl import optim, random, stats, tree
from funrl.algos import actor_critic
from funrl.algos.algorithm import (
    Algorithm,
    check_copies,
    check_experience,
    check_range,
    in_dtype_of,
    make_config,
    make_hparams,
    start_environments,
    statistics,
)
from funrl.algos.episodes import Episodes
from funrl.algos.episodes import record as record_episodes
from funrl.algos.episodes import start as start_episodes
from funrl.algos.on_policy import clipped_adam, project_action
from funrl.compiler import compile, scan
from funrl.env import Env, Place, Transition
from funrl.interaction import Memory, rollout, with_memory
from funrl.losses.ppo import PPOBatch, explained_variance, normalize_advantage, ppo_loss
from funrl.policies import StatefulPolicy
from funrl.returns import gae

__all__ = ["PPOConfig", "PPOHparams", "PPOParams", "PPOState", "RewardScale", "make"]

# How many batches may come between two of one worker: workers times the size of their queues.
_NUM_ENDS = 64


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """What is fixed for a program, and the first values of :class:`PPOHparams` (the floats from ``learning_rate`` on).

    Attributes:
        num_envs: B, environments side by side.
        num_steps: T, steps of each between two updates.
        num_epochs: passes over the T * B samples.
        num_minibatches: gradient steps in a pass; divides T * B, or B where the policy is recurrent.
        num_channels: image observations only: channels of the convolutions before the hidden layers, at least one.
        kernel_size: image observations only: the side of their kernels, one number for all or a tuple with one for each; no padding.
        stride: image observations only: how far apart their outputs are, likewise. :data:`funrl.algos.images.ATARI` has the usual layers.
        layout: image observations only: ``"hwc"`` for [H, W, C], ``"chw"`` for [C, H, W]; ``""``: as the space says, or as
            :func:`funrl.spaces.picture_layout` finds it.
        num_cells: widths of the hidden layers.
        activation: their activation, as for :func:`funrl.nn.mlp`.
        trunk: ``"separate"`` networks for policy and value, or one ``"shared"`` by both.
        recurrent: ``"none"``, or the cell between observations and hidden layers, by which the policy remembers: ``"gru"``, ``"lstm"`` or
            ``"min_gru"``. It is shared by policy and value, and gradients flow through it over all T steps.
        recurrent_size: how many numbers that cell gives.
        normalize_observation: scale observations by their running moments.
        normalize_reward: divide rewards by the running standard deviation of the discounted return.
        normalize_advantage: mean 0 and standard deviation 1 in each minibatch.
        uniform_mix: discrete actions only: the share of the uniform distribution in the policy, in [0, 1). Fixed, so that at 0 it
            costs nothing (Hafner et al., "Mastering Diverse Domains through World Models", 2023, arXiv:2301.04104).
        initial_log_std: continuous actions only: the logarithm of the first standard deviation.
    """

    num_envs: int = 64
    num_steps: int = 128
    num_epochs: int = 4
    num_minibatches: int = 4
    num_channels: tuple = (16,)
    kernel_size: int | tuple = 3
    stride: int | tuple = 1
    layout: str = ""
    num_cells: tuple = (64, 64)
    activation: str = "tanh"
    trunk: str = "separate"
    recurrent: str = "none"
    recurrent_size: int = 64
    normalize_observation: bool = False
    normalize_reward: bool = False
    normalize_advantage: bool = True
    uniform_mix: float = 0.0
    initial_log_std: float = 0.0
    learning_rate: float = 1e-3
    anneal_steps: float = math.inf
    gamma: float = 0.99
    lambda_: float = 0.95
    clip: float = 0.2
    value_clip: float = math.inf
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    max_grad_norm: float = 0.5
    target_kl: float = math.inf


@tree.dataclass
class PPOHparams:
    """Hyperparameters as tensors, so that they can differ between vmapped agents; each floating point [].

    Attributes:
        learning_rate: of Adam, at least 0.
        anneal_steps: the learning rate falls linearly to 0 over so many environment steps; infinity: it stays.
        gamma: discount, in [0, 1].
        lambda_: of generalized advantage estimation, in [0, 1].
        clip: how far the probability ratio may go from 1.
        value_clip: how far a value may go from the old one; infinity: no clipping.
        value_weight: of the value loss.
        entropy_weight: of the entropy bonus.
        max_grad_norm: the gradient is shrunk to this norm; infinity: no clipping.
        target_kl: an update stops learning once its approximate KL divergence is greater; infinity: never.
    """

    learning_rate: torch.Tensor
    anneal_steps: torch.Tensor
    gamma: torch.Tensor
    lambda_: torch.Tensor
    clip: torch.Tensor
    value_clip: torch.Tensor
    value_weight: torch.Tensor
    entropy_weight: torch.Tensor
    max_grad_norm: torch.Tensor
    target_kl: torch.Tensor


@tree.dataclass
class PPOParams:
    """What acting needs.

    Attributes:
        network: the learned tree: ``policy`` and ``value`` (and ``trunk``, ``memory``), ``log_std`` [A] for continuous actions.
        observation: :class:`funrl.stats.Moments` of the observations, or () where they are not normalised.
    """

    network: Any
    observation: Any


@tree.dataclass
class RewardScale(tree.Replaceable):
    """What reward normalisation remembers.

    A batch of an asynchronous collector is of other copies of the environment than the last one, so that its running episodes are found
    among those in which the last K = 64 batches ended. The return of an episode that is not found begins with the first step learned from.

    Attributes:
        moments: :class:`funrl.stats.Moments` of the discounted return.
        discounted: floating point [B], the discounted return of the running episodes.
        number: int64 [K, B], the episodes that were running at the ends of the last K batches whose ``place`` was known, the latest first.
        step_count: int64 [K, B], how many steps they had; -1: there is none.
        returns: floating point [K, B], their discounted returns.
    """

    moments: stats.Moments
    discounted: torch.Tensor
    number: torch.Tensor
    step_count: torch.Tensor
    returns: torch.Tensor


@tree.dataclass
class PPOState(tree.Replaceable):
    """All that one learner is.

    Attributes:
        params: :class:`PPOParams`.
        optimizer: the state of Adam over the network as one vector.
        envs: the environments' states and latest timesteps, leaves [B, ...], and with a recurrent policy its
            :class:`funrl.interaction.Memory`.
        env_params: their physical constants.
        reward: :class:`RewardScale`, or () where rewards are not normalised.
        episodes: :class:`funrl.algos.episodes.Episodes`.
        hparams: :class:`PPOHparams`.
        num_steps: int64 [], environment steps so far, over all B.
    """

    params: PPOParams
    optimizer: Any
    envs: tuple[Any, ...]
    env_params: Any
    reward: Any
    episodes: Episodes
    hparams: PPOHparams
    num_steps: torch.Tensor


def make(env: Env, **options: Any) -> Algorithm:
    r"""Make PPO for an environment with vectors or images as observations, and discrete or continuous actions.

    An update rolls out T steps of B environments, estimates advantages by GAE, and takes ``num_epochs`` times
    ``num_minibatches`` steps of Adam on :func:`funrl.losses.ppo.ppo_loss`. Continuous actions come from a normal
    distribution whose deviation does not depend on the observation; they are clipped for the environment alone (``act``
    returns the clipped action, and in its extras ``unclipped_action``, to which ``log_prob`` belongs).

    A recurrent policy starts anew with each episode, and learns from whole environments: a minibatch is some of the B rollouts, and
    gradients go back through their T steps, but no further. Values are those of the rollout; that of a successor is what the cell
    makes of it with the carry after the observation before, also where the episode was truncated. ``act`` and ``greedy`` are then a
    :class:`funrl.policies.StatefulPolicy`, which ``funrl.rollout`` and ``funrl.evaluate`` take as they are; ``act`` has in its extras
    ``memory``, the :class:`funrl.interaction.Memory` before the observation, which ``learn`` needs.

    In an environment on the host, which is batched, a step is no program but a loop of Python around two: ``act``, and what is learned
    from a rollout. It can then be neither compiled nor vmapped.

    Args:
        env: a pure environment, or a batched one of ``num_envs`` copies, which may run on the host.
        **options: fields of :class:`PPOConfig`.

    Returns:
        An :class:`~funrl.algos.algorithm.Algorithm`; its state is a :class:`PPOState`, and its metrics are
        ``steps``, ``episode_return`` (also ``_min`` and ``_max``), ``episode_length``, ``episodes``, ``policy_loss``, ``value_loss``,
        ``entropy``, ``approximate_kl``, ``clip_fraction``, ``explained_variance``, ``learning_rate``, ``gradient_norm`` (the means over
        minibatches), and ``learned_fraction``, the share of minibatches before ``target_kl`` was exceeded.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import torch, funrl
        >>> algo = make(funrl.envs.make("CartPole-v1"), num_envs=4, num_steps=16)
        >>> key = funrl.random.key(0)
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(key))
        >>> metrics["steps"]
        tensor(64)

    Reference: J. Schulman, F. Wolski, P. Dhariwal, A. Radford, O. Klimov, "Proximal Policy Optimization Algorithms", 2017,
        arXiv:1707.06347; details as in S. Huang et al., "The 37 Implementation Details of Proximal Policy Optimization", 2022.
        Deviations: observation moments are updated between updates and not at each step; ``target_kl`` stops before the step
        whose KL divergence exceeds it.
    """
    config = make_config(PPOConfig, options)
    _check(config, env)
    remembers = config.recurrent != "none"
    network, memory = _networks(config, env)
    num_samples = config.num_envs * config.num_steps
    moved = statistics(env)
    num_rows = num_samples if not remembers else config.num_envs  # what minibatches are made of: samples, or environments
    space = env.action_space
    project = functools.partial(project_action, space)
    if env.num_envs is not None:
        project = torch.func.vmap(project)
    # The action that is stored and learned from is unclipped.
    clipped_env = env._replace(step=lambda key, state, action, env_params: env.step(key, state, project(action), env_params))

    def init_params(key: torch.Tensor, observation: torch.Tensor) -> PPOParams:
        return PPOParams(network.init(key, observation), stats.moments(observation) if config.normalize_observation else ())

    def acting(choose: Callable[..., Any], remember: Callable[..., dict[str, Any]] = lambda before, carry, features: {}) -> Any:
        """Return the policy that does what ``choose(params, key, features) -> (action, extras)`` says.

        One with a memory adds to the extras ``remember(before, carry, features)``: what it knew before and after the observation.
        """
        if not remembers:
            return lambda params, key, observation: choose(params, key, _normalize(params, observation))

        def act(params: PPOParams, key: torch.Tensor, carry: Any, observation: torch.Tensor, reset: torch.Tensor) -> tuple[Any, Any, Any]:
            after, features = memory.apply(params.network, carry, _normalize(params, observation), reset)
            action, extras = choose(params, key, features)
            return after, action, {**extras, **remember(Memory(carry, reset), after, features)}

        def begin(params: PPOParams, observation: torch.Tensor) -> Any:
            return memory.start(params.network, in_dtype_of(params.network, observation))

        return StatefulPolicy(init_params, begin, act)

    def sample(params: PPOParams, key: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        action, log_prob = network.policy(params.network, features).sample_with_log_prob(key)
        return action, {"log_prob": log_prob}

    def act(params: PPOParams, key: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        action, log_prob = network.policy(params.network, features).sample_with_log_prob(key)
        value = network.value(params.network, features)
        return project_action(space, action), {"log_prob": log_prob, "unclipped_action": action, "value": value}

    def greedy(params: PPOParams, key: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return project_action(space, network.policy(params.network, features).mode()), {"value": network.value(params.network, features)}

    sampler = acting(sample, lambda before, carry, features: {"features": features, "carry": carry})

    def init(key: torch.Tensor) -> PPOState:
        network_key, env_key = random.split(key).unbind(0)
        envs, env_params = start_environments(env, config.num_envs, env_key)
        observation, zero = envs[1].observation[0], torch.zeros_like(envs[1].reward[0])
        params = init_params(network_key, observation.to(zero.dtype))
        if remembers:
            envs = with_memory(params, envs, env=env, policy=sampler)
        return PPOState(
            params=params,
            optimizer=clipped_adam(config.learning_rate, config.max_grad_norm).init(tree.ravel(params.network)[0]),
            envs=envs,
            env_params=env_params,
            reward=_start_scale(envs[1].reward) if config.normalize_reward else (),
            episodes=start_episodes(envs[1].reward),
            hparams=make_hparams(PPOHparams, config, zero),
            num_steps=torch.zeros((), dtype=torch.int64, device=key.device),
        )

    def experience(key: torch.Tensor, state: PPOState, policy: Any) -> tuple[tuple[Any, ...], Transition]:
        return rollout(state.params, key, state.envs, state.env_params, env=clipped_env, act=policy, num_steps=config.num_steps)

    def step(key: torch.Tensor, state: PPOState) -> tuple[PPOState, dict[str, torch.Tensor]]:
        rollout_key, epoch_key = random.split(key).unbind(0)
        envs, samples = experience(rollout_key, state, sampler)
        state, metrics = learn_from(epoch_key, state.replace(envs=()), samples, state.envs[2:])
        return state.replace(envs=envs), metrics

    def host_step(key: torch.Tensor, state: PPOState) -> tuple[PPOState, dict[str, torch.Tensor]]:
        rollout_key, epoch_key = random.split(key).unbind(0)
        envs, samples = experience(rollout_key, state, compiled_sampler)
        state, metrics = compiled_learn_from(epoch_key, state.replace(envs=()), samples, state.envs[2:])
        return state.replace(envs=envs), metrics

    def learn(key: torch.Tensor, state: PPOState, transitions: Transition) -> tuple[PPOState, dict[str, torch.Tensor]]:
        check_experience(transitions, config, "log_prob", "unclipped_action", *(("memory",) if remembers else ()))
        extras, before, noted = transitions.extras, (), {"log_prob": transitions.extras["log_prob"]}
        if remembers:
            known = extras["memory"]
            observation = _normalize(state.params, transitions.observation)
            carry, features = memory.apply(state.params.network, known.state, observation, known.reset)
            before, noted = (tree.index(known, 0),), {**noted, "features": features, "carry": carry}
        drawn = transitions.replace(action=extras["unclipped_action"], extras=noted)
        new, metrics = learn_from(key, state.replace(envs=()), drawn, before)
        return new.replace(envs=state.envs), metrics

    def remembering(params: Any, seen: tuple[Any, torch.Tensor, torch.Tensor]) -> tuple[Any, torch.Tensor]:
        """Return what ``network.both`` does for whole rollouts: carries before them, observations [B, T, ...] and resets [B, T]."""
        carry, observation, reset = seen
        _, features = memory.unroll(params, carry, observation.transpose(0, 1), reset.transpose(0, 1))
        return network.both(params, features.transpose(0, 1))

    def learn_from(
        epoch_key: torch.Tensor, state: PPOState, samples: Transition, before: tuple[Memory, ...]
    ) -> tuple[PPOState, dict[str, torch.Tensor]]:
        """Learn from what ``sampler`` did; ``before`` is the memory that a recurrent one began with, else ()."""
        hparams, params = state.hparams, state.params
        episodes, episode_metrics = record_episodes(state.episodes, samples)
        state = state.replace(env_params=moved(state.env_params, samples))
        reward_scale, reward = _scale_reward(state.reward, samples, hparams.gamma) if config.normalize_reward else ((), samples.reward)

        observation, successor = _normalize(params, samples.observation), _normalize(params, samples.next_observation)
        if not remembers:
            features, next_features = observation, successor
        else:
            features = samples.extras["features"]
            _, next_features = memory.apply(params.network, samples.extras["carry"], successor)
        # The values of all observations and their successors in one pass.
        value, next_value = network.value(params.network, torch.stack([features, next_features]))
        advantage, target = gae(
            reward, value, next_value, samples.terminated, samples.truncated, gamma=hparams.gamma, lambda_=hparams.lambda_
        )
        batch = PPOBatch(
            observation=observation,
            action=samples.action,
            log_prob=samples.extras["log_prob"],
            value=value,
            advantage=advantage,
            target=target,
        )
        if not remembers:
            batch = tree.reshape(batch, (num_samples,), batch_dims=2)
        else:
            (known,) = before
            reset = torch.cat([known.reset.unsqueeze(0), samples.done[:-1]])
            batch = tree.map(lambda x: x.transpose(0, 1), batch.replace(observation=(observation, reset)))  # [B, T, ...]
            batch = batch.replace(observation=(known.state, *batch.observation))

        learning_rate = hparams.learning_rate * (1 - state.num_steps / hparams.anneal_steps).clamp(min=0)
        adam = clipped_adam(learning_rate, hparams.max_grad_norm)
        vector, unravel = tree.ravel(params.network)

        def loss(vector: torch.Tensor, minibatch: PPOBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return ppo_loss(
                unravel(vector),
                minibatch,
                apply=remembering if remembers else network.both,
                clip=hparams.clip,
                value_clip=hparams.value_clip,
                value_weight=hparams.value_weight,
                entropy_weight=hparams.entropy_weight,
            )

        def descend(carry: Any, indices: torch.Tensor) -> tuple[Any, Any]:
            vector, optimizer, going = carry
            minibatch = tree.index(batch, indices)
            if config.normalize_advantage:
                minibatch = minibatch.replace(advantage=normalize_advantage(minibatch.advantage))
            gradient, (_, metrics) = torch.func.grad_and_value(loss, has_aux=True)(vector, minibatch)
            going = going & ~(metrics["approximate_kl"] > hparams.target_kl)
            updates, stepped = adam.update(gradient, optimizer, vector)
            carry = tree.where(going, (vector + updates, stepped), (vector, optimizer))
            return (*carry, going), ({**metrics, "gradient_norm": optim.global_norm(gradient)}, going)

        keys = random.split(epoch_key, config.num_epochs)
        order = torch.func.vmap(random.permutation, (0, None))(keys, num_rows).reshape(config.num_epochs * config.num_minibatches, -1)
        start = (vector, state.optimizer, torch.ones_like(samples.terminated[0, 0]))
        (vector, optimizer, _), (losses, going) = scan(descend, start, order)

        seen = in_dtype_of(params.network, samples.observation)
        observation_moments = stats.update(params.observation, seen) if config.normalize_observation else ()
        num_steps = state.num_steps + num_samples
        # The minibatches up to the one that went beyond target_kl; those after it repeat what it said.
        looked = torch.cat([torch.ones_like(going[:1]), going[:-1]]).to(reward.dtype)
        metrics = {
            "steps": num_steps,
            **episode_metrics,
            **tree.map(lambda x: (x * looked).sum() / looked.sum(), losses),
            "explained_variance": explained_variance(batch.value, batch.target),
            "learning_rate": learning_rate,
            "learned_fraction": going.to(reward.dtype).mean(),
        }
        state = state.replace(
            params=PPOParams(unravel(vector), observation_moments),
            optimizer=optimizer,
            reward=reward_scale,
            episodes=episodes,
            num_steps=num_steps,
        )
        return state, metrics

    compiled_sampler = compile(sampler) if not remembers else sampler._replace(act=compile(sampler.act))
    compiled_learn_from = compile(learn_from)
    explorer = acting(act, lambda before, carry, features: {"memory": before})
    return Algorithm("ppo", env, config, init, host_step if env.host else step, learn, explorer, acting(greedy), num_samples)


def _normalize(params: PPOParams, observation: torch.Tensor) -> torch.Tensor:
    observation = in_dtype_of(params.network, observation)
    return stats.normalize(params.observation, observation) if isinstance(params.observation, stats.Moments) else observation


def _start_scale(reward: torch.Tensor) -> RewardScale:
    none = torch.zeros_like(reward)
    returns = none.expand(_NUM_ENDS, -1).clone()
    number = returns.to(torch.int64)
    return RewardScale(stats.moments(none[0]), none, number, number - 1, returns)


def _scale_reward(state: RewardScale, samples: Transition, gamma: torch.Tensor) -> tuple[RewardScale, torch.Tensor]:
    place = samples.place
    if isinstance(place, Place):
        same = (state.number == place.number[0]) & (state.step_count == place.step_count[0])
        latest = same & (same.cumsum(0) == 1)
        state = state.replace(discounted=torch.where(latest, state.returns, 0.0).sum(0))

    def discount(running: torch.Tensor, x: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        reward, done = x
        running = reward + gamma * running
        return torch.where(done, 0.0, running), running

    last, discounted = scan(discount, state.discounted, (samples.reward, samples.done))
    moments = stats.update(state.moments, discounted)
    scale = stats.Moments(moments.count, torch.zeros_like(moments.mean), moments.var)
    state = state.replace(moments=moments, discounted=last)
    if isinstance(place, Place):
        ends = (place.number[-1], torch.where(samples.done[-1], -1, place.step_count[-1] + 1), last)
        old = (state.number, state.step_count, state.returns)
        number, step_count, returns = (torch.cat([x.unsqueeze(0), y[:-1]]) for x, y in zip(ends, old, strict=True))
        state = state.replace(number=number, step_count=step_count, returns=returns)
    return state, stats.normalize(scale, samples.reward)


def _networks(config: PPOConfig, env: Env) -> tuple[Any, Any]:
    """Return actor and critic, and the memory before them, or None."""
    return (actor_critic.make(config, env), None) if config.recurrent == "none" else actor_critic.make_recurrent(config, env)


def _check(config: PPOConfig, env: Env) -> None:
    check_copies(config, env)
    check_range(config, ("num_envs", "num_steps", "num_epochs", "num_minibatches"), 1)
    check_range(config, ("learning_rate", "clip", "value_weight", "entropy_weight"), 0)
    check_range(config, ("value_clip",), 0, infinite=True)
    check_range(config, ("anneal_steps", "max_grad_norm", "target_kl"), 0, open_low=True, infinite=True)
    check_range(config, ("gamma", "lambda_"), 0, 1)
    actor_critic.check(config, env)
    actor_critic.check_recurrent(config)
    if config.normalize_observation and len(env.observation_space.shape) == 3:
        raise ValueError(f"normalize_observation: is for vectors, but {env.name} has images; leave it off")
    num_samples = config.num_envs * config.num_steps
    if num_samples % config.num_minibatches:
        raise ValueError(
            f"num_minibatches: {config.num_minibatches} does not divide num_envs * num_steps = "
            f"{config.num_envs} * {config.num_steps} = {num_samples}; choose a divisor"
        )
