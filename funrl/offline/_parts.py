"""Networks and steps that offline learners share."""

from typing import Any

import torch

from funrl import _check, nn, tree
from funrl.algos import (
    ActorParams,
    Learned,
    apply_gradients,
    batchwise,
    critic_member,
    deterministic_actor,
    half_width,
    init_actor_critic,
    q_ensemble,
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
from funrl.typing import Loss


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

    return act, act, no_schedule


def no_schedule(hparams: Any, num_steps: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Return the random share of actions, 0, and no noise.

    Example:
        >>> from types import SimpleNamespace
        >>> no_schedule(SimpleNamespace(gamma=torch.tensor(0.9)), torch.tensor(0))
        (tensor(0.), ())
    """
    return torch.zeros_like(hparams.gamma), ()


def actor_and_critics(build: Any, env: AnyEnv, config: Any, actor: OwnNet, critic: OwnNet, size: int = 1) -> tuple[nn.Net, nn.Net]:
    """Make the actor and the ensemble of critics of nets of the user, or as the configuration says.

    Args:
        build: makes the actor, such as :func:`gaussian_actor`.
        env: the environment, with continuous actions [A].
        config: a configuration with ``num_cells`` and ``activation``, and perhaps ``num_critics``, which are 2 else.
        actor: the net of the actor, from observations to [N, ``size`` A]; None: a multi-layer perceptron.
        critic: the net of one critic; None: a multi-layer perceptron.
        size: the number of parameters of the distribution of one action dimension.

    Example:
        >>> import funrl
        >>> env, config = funrl.envs.make("Pendulum-v1"), funrl.offline.OfflineConfig()
        >>> policy, critics = actor_and_critics(gaussian_actor, env, config, None, None)
        >>> critics.apply(critics.init(funrl.random.key(0), torch.zeros(3), torch.zeros(1)), torch.zeros(3), torch.zeros(1)).shape
        torch.Size([2])
    """
    space, seen, num_critics = env.action_space, env.observation_space, getattr(config, "num_critics", 2)
    policy = build(config.num_cells, space, config.activation, batchwise("actor", actor, seen, size * space.shape[0]))
    return policy, q_ensemble(num_critics, config.num_cells, config.activation, critic_member(critic, num_critics, seen, 1))


def delayed_learner(
    env: AnyEnv, config: Any, optimizer: Optimizer | None, actor: OwnNet, critic: OwnNet, critic_loss: Loss, actor_loss: Loss
) -> Learner:
    """Return the parts of TD3 whose losses depend on the data: two critics, and a deterministic actor that follows later.

    Args:
        env: the environment, with continuous actions.
        config: a configuration with ``policy_delay``, ``tau``, ``target_noise`` and ``target_noise_clip``.
        optimizer: the optimizer of the user, or None.
        actor, critic: as for :func:`actor_and_critics`.
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
    policy, critics = actor_and_critics(deterministic_actor, env, config, actor, critic)
    networks: dict[str, Any] = {"actor": policy.apply, "critic": critics.apply}

    def init(key: torch.Tensor, observation: Any) -> tuple[ActorCritic, Any, Any]:
        network = init_actor_critic(key, policy, critics, observation, space)
        return network, tree.map(torch.clone, network), start_optimizer(optimizer, network, "actor", "critic")

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        unit = half_width(space, batch.reward)
        noise = {"noise_std": hparams.target_noise * unit, "noise_clip": hparams.target_noise_clip * unit}
        box = {"low": space.low.to(unit), "high": space.high.to(unit), "scale": unit}
        gradient, (_, metrics) = torch.func.grad_and_value(critic_loss, has_aux=True)(
            learned.network.critic, learned.target, key, batch, hparams=hparams, gamma=gamma, weight=weight, **noise, **box, **networks
        )
        return apply_gradients(learned, gradient, hparams.learning_rate, optimizer, part="critic"), metrics

    def move_actor(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        network, scale = learned.network, half_width(space, batch.reward)
        gradient, (_, metrics) = torch.func.grad_and_value(actor_loss, has_aux=True)(
            network.actor, network.critic, batch, hparams=hparams, scale=scale, weight=weight, **networks
        )
        learned = apply_gradients(learned, gradient, hparams.learning_rate, optimizer, part="actor")
        return learned.replace(target=soft_update(learned.network, learned.target, tau=hparams.tau)), metrics

    return Learner(init, learn, *deterministic_policy(policy), move_actor, config.policy_delay)
