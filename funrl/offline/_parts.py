"""Networks and steps that offline learners share."""

from typing import Any

import torch

from funrl import _check, nn, tree
from funrl.algos import (
    ActorParams,
    Learned,
    actor_and_critics,
    deterministic_actor,
    half_width,
    init_actor_critic,
    minimize,
    soft_policy,
    start_optimizer,
)
from funrl.algos.off_policy import Learner
from funrl.distributions import Independent, Normal
from funrl.env import AnyEnv, Transition
from funrl.losses import ActorCritic
from funrl.nn import OwnNet
from funrl.optim import Optimizer, soft_update
from funrl.spaces import Box
from funrl.typing import Loss, Metrics


def gaussian_actor(num_cells: tuple[int, ...], space: Box, activation: str, net: nn.Net | None = None) -> nn.Net:
    """Make a network that returns a normal distribution whose mean is in the box, with one deviation for all states.

    The logarithm of the deviation, in half-widths of the box, begins at 0 and is held in [-5, 2].

    Example:
        >>> from funrl import random
        >>> net = gaussian_actor((8,), Box(-2.0, 2.0, (1,)), "relu")
        >>> net.apply(net.init(random.key(0), torch.zeros(3)), torch.zeros(5, 3)).log_prob(torch.zeros(5, 1)).shape
        torch.Size([5])
    """
    middle = deterministic_actor(num_cells, space, activation, net)

    def init(key: torch.Tensor, observation: Any) -> dict[str, Any]:
        params = middle.init(key, observation)
        first = next(x for x in tree.leaves(params) if x.is_floating_point())
        return {"mean": params, "log_std": first.new_zeros(space.shape)}

    def apply(params: dict[str, Any], observation: Any) -> Independent:
        loc = middle.apply(params["mean"], observation)
        scale = params["log_std"].clamp(-5.0, 2.0).exp() * half_width(space, loc)
        return Independent(Normal(loc, scale.expand_as(loc)), 1)

    return nn.Net(init, apply)


def gaussian_policy(actor: nn.Net, space: Box) -> tuple[Any, Any, Any]:
    """Return ``sample``, ``greedy`` and ``schedule`` of a :class:`funrl.algos.off_policy.Learner` with such an actor.

    Example:
        >>> from funrl import random
        >>> from funrl.losses import ActorCritic
        >>> space = Box(-2.0, 2.0, (1,))
        >>> actor = gaussian_actor((8,), space, "relu")
        >>> params = ActorParams(ActorCritic(actor.init(random.key(0), torch.zeros(3)), ()))
        >>> gaussian_policy(actor, space)[1](params, random.key(1), torch.zeros(3))
        tensor([0.])
    """

    sample, greedy, schedule = soft_policy(actor)
    return lambda params, key, observation: space.project(sample(params, key, observation)), greedy, schedule


def deterministic_policy(actor: nn.Net) -> tuple[Any, Any, Any]:
    """Return ``sample``, ``greedy`` and ``schedule`` of a learner with a deterministic actor.

    Example:
        >>> from funrl import random
        >>> from funrl.losses import ActorCritic
        >>> actor = deterministic_actor((8,), Box(-2.0, 2.0, (1,)), "relu")
        >>> params = ActorParams(ActorCritic(actor.init(random.key(0), torch.zeros(3)), ()))
        >>> deterministic_policy(actor)[0](params, random.key(1), torch.zeros(3))
        tensor([0.])
    """

    def act(params: ActorParams, key: torch.Tensor, observation: Any) -> torch.Tensor:
        return actor.apply(params.network.actor, observation)

    return act, act, None


def delayed_learner(
    env: AnyEnv, config: Any, optimizer: Optimizer | None, actor: OwnNet, critic: OwnNet, critic_loss: Loss, actor_loss: Loss
) -> Learner:
    """Return the parts of TD3 whose losses depend on the data: two critics, and a deterministic actor that follows later.

    Args:
        env: the environment, with continuous actions.
        config: a configuration with ``policy_delay``, ``tau``, ``target_noise`` and ``target_noise_clip``.
        optimizer: the optimizer of the user, or None.
        actor, critic: nets of the user's own, or None.
        critic_loss: as :func:`funrl.losses.td3_critic_loss`, with ``hparams`` and ``scale``, the half-widths of the box of actions.
        actor_loss: as :func:`funrl.losses.td3_bc_actor_loss`, with ``hparams`` in the place of ``alpha``.

    Example:
        >>> import funrl
        >>> funrl.offline.td3_bc.make(funrl.envs.make("Pendulum-v1"), None, tau=2.0)
        Traceback (most recent call last):
        ...
        ValueError: tau: expected a number in [0, 1], got 2.0
    """
    _check.divisor("policy_delay", config.policy_delay, config.num_updates, "num_updates", "change either")
    space: Any = env.action_space
    policy, critics = actor_and_critics(deterministic_actor, config, env, actor, critic, 2)
    networks: dict[str, Any] = {"actor": policy.apply, "critic": critics.apply}

    def init(key: torch.Tensor, observation: Any) -> tuple[ActorCritic, Any, Any]:
        network = init_actor_critic(key, policy, critics, observation, space)
        return network, tree.map(torch.clone, network), start_optimizer(optimizer, network, "actor", "critic")

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        unit = half_width(space, batch.reward)
        noise = {"noise_std": hparams.target_noise * unit, "noise_clip": hparams.target_noise_clip * unit}
        box = {"low": space.low.to(unit), "high": space.high.to(unit), "scale": unit}
        options = {"hparams": hparams, "gamma": gamma, "weight": weight, **noise, **box, **networks}

        def loss(critic: Any) -> tuple[torch.Tensor, Metrics]:
            return critic_loss(critic, learned.target, key, batch, **options)

        return minimize(loss, learned, hparams.learning_rate, optimizer, "critic")

    def move_actor(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        options = {"hparams": hparams, "scale": half_width(space, batch.reward), "weight": weight, **networks}

        def loss(actor: Any) -> tuple[torch.Tensor, Metrics]:
            return actor_loss(actor, learned.network.critic, batch, **options)

        learned, metrics = minimize(loss, learned, hparams.learning_rate, optimizer, "actor")
        return learned.replace(target=soft_update(learned.network, learned.target, tau=hparams.tau)), metrics

    return Learner(init, learn, *deterministic_policy(policy), move_actor, config.policy_delay)
