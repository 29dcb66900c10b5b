"""Value heads with PopArt for on-policy learners."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import tree
from funrl.algos import _actor_critic as actor_critic
from funrl.algos._actor_critic import Network
from funrl.env import AnyEnv, Transition
from funrl.nn import PopArt, select_task
from funrl.policies import ActorCritic


def networks(config: Any, env: AnyEnv, network: Any, popart: PopArt) -> tuple[Network, Callable[..., Any]]:
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
        return popart.denormalize(tree.map(torch.detach, params["popart"]), task, select_task(values, task))

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
        return distribution, select_task(values, popart.task(observation))

    def both(params: dict[str, Any], observation: Any) -> tuple[Any, torch.Tensor]:
        distribution, values = nets.both(params, observation)
        return distribution, value(params, observation, values)

    return nets._replace(init=init, policy=policy, values=values, both=both), normalized


def updated(params: dict[str, Any], popart: PopArt, observation: Any, target: torch.Tensor) -> dict[str, Any]:
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
    if isinstance(network, ActorCritic):
        raise ValueError("popart, network: expected a net of features with popart, got an ActorCritic, whose value head is its own")
    if config.recurrent != "none":
        raise ValueError(f"popart: expected a policy without memory, got recurrent={config.recurrent!r}; leave either out")
