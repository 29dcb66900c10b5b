"""Proximal policy optimisation, one program an update."""

import dataclasses
import functools
import math
from typing import Any

import torch

from funrl import optim, random, stats, tree
from funrl.algos import actor_critic
from funrl.algos.algorithm import Algorithm, check_range, make_config
from funrl.algos.episodes import Episodes
from funrl.algos.episodes import record as record_episodes
from funrl.algos.episodes import start as start_episodes
from funrl.env import Env, Timestep, Transition
from funrl.interaction import rollout
from funrl.losses.ppo import PPOBatch, explained_variance, normalize_advantage, ppo_loss
from funrl.program import compile, scan
from funrl.returns import gae
from funrl.spaces import Box

__all__ = ["PPOConfig", "PPOHparams", "PPOParams", "PPOState", "RewardScale", "make"]


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """What is fixed for a program, and the first values of :class:`PPOHparams` (the floats from ``learning_rate`` on).

    Attributes:
        num_envs: B, environments side by side.
        num_steps: T, steps of each between two updates.
        num_epochs: passes over the T * B samples.
        num_minibatches: gradient steps in a pass; divides T * B.
        num_channels: image observations only: channels of the convolutions before the hidden layers, at least one.
        kernel_size: image observations only: the side of their kernels; the stride is 1, and there is no padding.
        num_cells: widths of the hidden layers.
        activation: their activation, as for :func:`funrl.nn.mlp`.
        trunk: ``"separate"`` networks for policy and value, or one ``"shared"`` by both.
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
    kernel_size: int = 3
    num_cells: tuple = (64, 64)
    activation: str = "tanh"
    trunk: str = "separate"
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
        network: the learned tree: ``policy`` and ``value`` (and ``trunk``), ``log_std`` [A] for continuous actions.
        observation: :class:`funrl.stats.Moments` of the observations, or () where they are not normalised.
    """

    network: Any
    observation: Any


@tree.dataclass
class RewardScale:
    """What reward normalisation remembers.

    Attributes:
        moments: :class:`funrl.stats.Moments` of the discounted return.
        discounted: floating point [B], the discounted return of the running episodes.
    """

    moments: stats.Moments
    discounted: torch.Tensor


@tree.dataclass
class PPOState:
    """All that one learner is.

    Attributes:
        params: :class:`PPOParams`.
        optimizer: the state of Adam over the network as one vector.
        envs: the environments' states and latest timesteps, leaves [B, ...].
        env_params: their physical constants.
        reward: :class:`RewardScale`, or () where rewards are not normalised.
        episodes: :class:`funrl.algos.episodes.Episodes`.
        hparams: :class:`PPOHparams`.
        num_steps: int64 [], environment steps so far, over all B.
    """

    params: PPOParams
    optimizer: Any
    envs: tuple[Any, Timestep]
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
    network = actor_critic.make(config, env)
    num_samples = config.num_envs * config.num_steps
    project = functools.partial(_project, env)
    if env.num_envs is not None:
        project = torch.func.vmap(project)
    # The action that is stored and learned from is unclipped.
    clipped_env = env._replace(step=lambda key, state, action, env_params: env.step(key, state, project(action), env_params))

    def sample(params: PPOParams, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        action, log_prob = network.policy(params.network, _normalize(params, observation)).sample_with_log_prob(key)
        return action, {"log_prob": log_prob}

    def act(params: PPOParams, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        action, extras = sample(params, key, observation)
        value = network.value(params.network, _normalize(params, observation))
        return _project(env, action), {**extras, "unclipped_action": action, "value": value}

    def greedy(params: PPOParams, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        observation = _normalize(params, observation)
        return _project(env, network.policy(params.network, observation).mode()), {"value": network.value(params.network, observation)}

    def init(key: torch.Tensor) -> PPOState:
        network_key, env_key = random.split(key).unbind(0)
        env_params = tree.map(torch.clone, tree.to(env.default_params, key.device))  # its own: a state may be donated
        if env.num_envs is None:
            envs = torch.func.vmap(env.reset, (0, None))(random.split(env_key, config.num_envs), env_params)
        else:
            envs = env.reset(env_key, env_params)
        observation, zero = envs[1].observation[0], torch.zeros_like(envs[1].reward[0])
        params = network.init(network_key, observation.to(zero.dtype))
        return PPOState(
            params=PPOParams(params, stats.moments(observation) if config.normalize_observation else ()),
            optimizer=_adam(config.learning_rate, config.max_grad_norm).init(tree.ravel(params)[0]),
            envs=envs,
            env_params=env_params,
            reward=RewardScale(stats.moments(zero), torch.zeros_like(envs[1].reward)) if config.normalize_reward else (),
            episodes=start_episodes(envs[1].reward),
            hparams=PPOHparams(**{name: torch.full_like(zero, getattr(config, name)) for name in _HPARAMS}),
            num_steps=torch.zeros((), dtype=torch.int64, device=key.device),
        )

    def step(key: torch.Tensor, state: PPOState) -> tuple[PPOState, dict[str, torch.Tensor]]:
        rollout_key, epoch_key = random.split(key).unbind(0)
        envs, samples = rollout(
            state.params, rollout_key, state.envs, state.env_params, env=clipped_env, act=sample, num_steps=config.num_steps
        )
        state, metrics = learn_from(epoch_key, state, samples)
        return state.replace(envs=envs), metrics

    def host_step(key: torch.Tensor, state: PPOState) -> tuple[PPOState, dict[str, torch.Tensor]]:
        rollout_key, epoch_key = random.split(key).unbind(0)
        envs, samples = rollout(
            state.params, rollout_key, state.envs, state.env_params, env=clipped_env, act=compiled_sample, num_steps=config.num_steps
        )
        state, metrics = compiled_learn_from(epoch_key, state.replace(envs=()), samples)
        return state.replace(envs=envs), metrics

    def learn_from(epoch_key: torch.Tensor, state: PPOState, samples: Transition) -> tuple[PPOState, dict[str, torch.Tensor]]:
        hparams, params = state.hparams, state.params
        episodes, episode_metrics = record_episodes(state.episodes, samples)
        reward_scale, reward = _scale_reward(state.reward, samples, hparams.gamma) if config.normalize_reward else ((), samples.reward)

        # The values of all observations and their successors in one pass.
        observation = _normalize(params, samples.observation)
        value, next_value = network.value(params.network, torch.stack([observation, _normalize(params, samples.next_observation)]))
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
        batch = tree.reshape(batch, (num_samples,), batch_dims=2)

        learning_rate = hparams.learning_rate * (1 - state.num_steps / hparams.anneal_steps).clamp(min=0)
        adam = _adam(learning_rate, hparams.max_grad_norm)
        vector, unravel = tree.ravel(params.network)

        def loss(vector: torch.Tensor, minibatch: PPOBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return ppo_loss(
                unravel(vector),
                minibatch,
                apply=network.both,
                clip=hparams.clip,
                value_clip=hparams.value_clip,
                value_weight=hparams.value_weight,
                entropy_weight=hparams.entropy_weight,
            )

        def learn(carry: Any, indices: torch.Tensor) -> tuple[Any, Any]:
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
        order = torch.func.vmap(random.permutation, (0, None))(keys, num_samples).reshape(config.num_epochs * config.num_minibatches, -1)
        start = (vector, state.optimizer, torch.ones_like(samples.terminated[0, 0]))
        (vector, optimizer, _), (losses, going) = scan(learn, start, order)

        observation_moments = stats.update(params.observation, samples.observation) if config.normalize_observation else ()
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

    compiled_sample, compiled_learn_from = compile(sample), compile(learn_from)
    return Algorithm("ppo", env, config, init, host_step if env.host else step, act, greedy, num_samples)


_HPARAMS = tuple(field.name for field in dataclasses.fields(PPOHparams))


def _adam(learning_rate: Any, max_grad_norm: Any) -> optim.Optimizer:
    return optim.chain(optim.clip_by_global_norm(max_grad_norm), optim.adam(learning_rate, eps=1e-5))


def _project(env: Env, action: torch.Tensor) -> torch.Tensor:
    return env.action_space.project(action) if isinstance(env.action_space, Box) else action + env.action_space.start


def _normalize(params: PPOParams, observation: torch.Tensor) -> torch.Tensor:
    return stats.normalize(params.observation, observation) if isinstance(params.observation, stats.Moments) else observation


def _scale_reward(state: RewardScale, samples: Any, gamma: torch.Tensor) -> tuple[RewardScale, torch.Tensor]:
    def discount(running: torch.Tensor, x: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        reward, done = x
        running = reward + gamma * running
        return torch.where(done, 0.0, running), running

    last, discounted = scan(discount, state.discounted, (samples.reward, samples.done))
    moments = stats.update(state.moments, discounted)
    scaled = samples.reward / (moments.var + 1e-8).sqrt()
    return RewardScale(moments, last), scaled.clamp(-10, 10)


def _check(config: PPOConfig, env: Env) -> None:
    check_range(config, ("num_envs", "num_steps", "num_epochs", "num_minibatches"), 1)
    check_range(config, ("learning_rate", "clip", "value_weight", "entropy_weight"), 0)
    check_range(config, ("value_clip",), 0, infinite=True)
    check_range(config, ("anneal_steps", "max_grad_norm", "target_kl"), 0, open_low=True, infinite=True)
    check_range(config, ("gamma", "lambda_"), 0, 1)
    actor_critic.check(config, env)
    num_samples = config.num_envs * config.num_steps
    if num_samples % config.num_minibatches:
        raise ValueError(
            f"num_minibatches: {config.num_minibatches} does not divide num_envs * num_steps = "
            f"{config.num_envs} * {config.num_steps} = {num_samples}; choose a divisor"
        )
    if env.num_envs is None and env.host:
        raise ValueError(f"env: {env.name} is a single environment outside torch; make it with num_envs={config.num_envs}")
    if env.num_envs not in (None, config.num_envs):
        raise ValueError(f"num_envs: {env.name} has {env.num_envs} copies, got {config.num_envs}; make both equal")
