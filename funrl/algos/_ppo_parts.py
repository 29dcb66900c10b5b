"""Options of PPO: normalisation by running statistics, value heads with PopArt, and drift functions in the place of clipping."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import nn, policies, stats, tree
from funrl.algos import _actor_critic as actor_critic, _rewards as rewards
from funrl.algos._actor_critic import Network
from funrl.algos._state import LearnerState
from funrl.env import AnyEnv, Transition
from funrl.losses import PPOBatch, drift_loss


def start_normalizers(config: Any, observation: torch.Tensor, reward: torch.Tensor) -> tuple[Any, Any]:
    """Return the moments of observations and the state of reward normalisation, each () without the option; ``reward`` is [B]."""
    moments = stats.moments(observation) if config.normalize_observation else ()
    return moments, rewards.start(reward) if config.normalize_reward else ()


def normalize(config: Any, learner: LearnerState, samples: Transition, gamma: torch.Tensor) -> tuple[LearnerState, Transition]:
    """Normalise observations and rewards by the statistics so far, of rewards with these samples, and update the statistics.

    ``gamma`` is [], or [T, B], the discount of each step.
    """
    params, seen = learner.params, samples.observation
    if config.normalize_observation:
        observation, successor = (actor_critic.normalized(params, x) for x in (seen, samples.next_observation))
        samples = samples.replace(observation=observation, next_observation=successor)
        learner = learner.replace(params=params.replace(observation=stats.update(params.observation, seen)))
    if config.normalize_reward:
        scale, reward = rewards.scale_rewards(learner.normalizers, samples, gamma)
        learner, samples = learner.replace(normalizers=scale), samples.replace(reward=reward)
    return learner, samples


def popart_networks(config: Any, env: AnyEnv, network: Any, popart: nn.PopArt) -> tuple[Network, Callable[..., Any]]:
    """Make networks as :func:`funrl.algos.on_policy.networks` does, with a value for each task.

    Their parameters have an entry ``popart`` too, the statistics, which get no gradient. Values are those of the task of the observation,
    not normalised.

    Returns:
        The networks, and ``both(params, inputs) -> (distribution, value)`` with normalised values, for the loss.

    Raises:
        ValueError: if the policy has a memory, or no value head of its own that could be rescaled.
    """
    _check(config, network)
    nets = actor_critic.make(config, env, network, popart.num_tasks)

    def init(key: torch.Tensor, observation: Any) -> dict[str, Any]:
        params = nets.init(key, observation)
        return {**params, "popart": popart.init(next(iter(tree.leaves(params))))}

    def value(params: dict[str, Any], observation: Any, values: torch.Tensor) -> torch.Tensor:
        task = popart.task(observation)
        return popart.denormalize(tree.map(torch.detach, params["popart"]), task, nn.select_task(values, task))

    def policy(choose: Any) -> Callable[..., Any]:
        def act(params: Any, key: torch.Tensor, observation: Any) -> tuple[Any, dict[str, Any]]:
            def chosen(distribution: Any, values: Any, key: torch.Tensor) -> Any:
                return choose(distribution, lambda: value(params.network, observation, values()), key)

            return nets.policy(chosen)(params, key, observation)

        return act

    def values(params: dict[str, Any], samples: Transition) -> tuple[torch.Tensor, ...]:
        seen = (samples.observation, samples.next_observation)
        return tuple([value(params, x, y) for x, y in zip(seen, nets.values(params, samples), strict=True)])

    def normalized(params: dict[str, Any], observation: Any) -> tuple[Any, torch.Tensor]:
        distribution, values = nets.both(params, observation)
        return distribution, nn.select_task(values, popart.task(observation))

    def both(params: dict[str, Any], observation: Any) -> tuple[Any, torch.Tensor]:
        distribution, values = nets.both(params, observation)
        return distribution, value(params, observation, values)

    return nets._replace(init=init, policy=policy, values=values, both=both), normalized


def popart_updated(params: dict[str, Any], popart: nn.PopArt, observation: Any, target: torch.Tensor) -> dict[str, Any]:
    """Return parameters with the statistics of further targets, whose values are the same as before."""
    before = params["popart"]
    after = popart.update(before, popart.task(observation), target)
    return {**params, "value": _with_last(params["value"], lambda layer: popart.rescale(layer, before, after)), "popart": after}


def _with_last(params: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return the parameters of a value network with another last layer."""
    if isinstance(params, dict) and "above" in params:
        return {**params, "above": _with_last(params["above"], change)}
    return (*params[:-1], change(params[-1]))


def _check(config: Any, network: Any) -> None:
    if isinstance(network, policies.ActorCritic):
        raise ValueError("popart, network: expected a net of features with popart, got an ActorCritic, whose value head is its own")
    if config.recurrent != "none":
        raise ValueError(f"popart: expected a policy without memory, got recurrent={config.recurrent!r}; leave either out")


def with_drift(drift: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """Make the ``loss=`` of :func:`funrl.algos.ppo.make` that has a drift function instead of clipping: :func:`funrl.losses.drift_loss`.

    The option ``clip`` has no effect then; all others have.

    Args:
        drift: ``drift(log_ratio [N], advantage [N]) -> D [N]``: :func:`funrl.losses.dpo_drift`, :func:`funrl.losses.learned_drift` of its
            parameters, or one of your own.

    Returns:
        ``loss(params, rows, hparams, *, default, apply) -> (loss, metrics)``.

    Example:
        >>> import funrl
        >>> discovered = with_drift(funrl.losses.dpo_drift)
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), loss=discovered, num_envs=4, num_steps=16)
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> bool(metrics["drift"] >= 0)
        True

    Reference: C. Lu, J. G. Kuba, A. Letcher, L. Metz, C. Schroeder de Witt, J. Foerster, "Discovered Policy Optimisation", 2022,
        arXiv:2210.05639.
    """

    def loss(
        params: Any, rows: PPOBatch, hparams: Any, *, default: Any, apply: Callable[..., Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        weights = {"value_weight": hparams.value_weight, "entropy_weight": hparams.entropy_weight}
        return drift_loss(params, rows, apply=apply, drift=drift, value_clip=hparams.value_clip, **weights)

    return loss
