"""Shared parts of off-policy learners: gradient steps, networks of actors and critics, noisy and soft policies, temperatures."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import nn, optim, random, schedules, spaces, tree
from funrl.algos import _networks as nets, off_policy
from funrl.algos._arguments import scheduled
from funrl.algos._state import ActorParams, Learned
from funrl.env import AnyEnv
from funrl.losses import ActorCritic, SoftActorCritic, temperature_loss
from funrl.typing import Metrics


def start_optimizer(optimizer: optim.Optimizer | None, network: Any, *parts: str) -> Any:
    """Return the initial optimizer state for a network, or a dict of one state for each part that has its own steps.

    Without an optimizer (None) it is the state of Adam for all parameters as one vector.

    Example:
        >>> from funrl.losses import ActorCritic
        >>> network = ActorCritic(torch.zeros(3, 2), torch.zeros(2))
        >>> start_optimizer(None, network).mean.shape, start_optimizer(None, network, "actor", "critic")["actor"].mean.shape
        (torch.Size([8]), torch.Size([6]))
    """
    if parts:
        return {part: start_optimizer(optimizer, getattr(network, part)) for part in parts}
    return (optimizer or _adam(0.0)).init(network)


def apply_gradients(
    learned: Learned, gradient: Any, learning_rate: torch.Tensor, optimizer: optim.Optimizer | None = None, *, part: str | None = None
) -> Learned:
    """Take a gradient step with the whole network, or with a part that has its own optimizer state.

    Without an optimizer it is a step of Adam with ``learning_rate``.

    Example:
        >>> learned = Learned(torch.ones(1), torch.ones(1), start_optimizer(None, torch.ones(1)), torch.tensor(0))
        >>> apply_gradients(learned, torch.ones(1), torch.tensor(0.5)).network
        tensor([0.5000])
    """
    network, state, optimizer = learned.network, learned.optimizer, optimizer or _adam(learning_rate)
    if part is None:
        updates, state = optimizer.update(gradient, state, network)
        return learned.replace(network=optim.apply_updates(network, updates), optimizer=state)
    params = getattr(network, part)
    updates, moved = optimizer.update(gradient, state[part], params)
    network = network.replace(**{part: optim.apply_updates(params, updates)})
    return learned.replace(network=network, optimizer={**state, part: moved})


def minimize(
    loss: Callable[[Any], tuple[torch.Tensor, Any]], learned: Learned, learning_rate: torch.Tensor, optimizer: Any, *parts: str
) -> tuple[Learned, Any]:
    """Take a gradient step on ``loss(params) -> (loss, metrics)``; return the result and the metrics.

    ``params`` are those of the network or, if there is only one of ``parts``, of this part, and no other changes. An ``optimizer`` treats
    each of several parts separately: norms and decay are those of the part. Without one it is one step of Adam, whose result does not
    depend on the parts.

    Example:
        >>> learned = Learned(torch.ones(1), (), start_optimizer(None, torch.ones(1)), torch.tensor(0))
        >>> minimize(lambda params: (params.sum(), {}), learned, torch.tensor(0.5), None)[0].network
        tensor([0.5000])
        >>> network, clipped = ActorCritic(torch.ones(1), torch.ones(1)), optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(1.0))
        >>> learned = Learned(network, (), start_optimizer(clipped, network, "actor", "critic"), torch.tensor(0))
        >>> def loss(network):
        ...     return (0.5 * network.actor + 100.0 * network.critic).sum(), {}
        >>> minimize(loss, learned, torch.tensor(0.5), clipped, "actor", "critic")[0].network
        ActorCritic(actor=tensor([0.5000]), critic=tensor([0.]))
    """
    alone = len(parts) == 1
    params = getattr(learned.network, parts[0]) if alone else learned.network
    gradient, (_, metrics) = torch.func.grad_and_value(loss, has_aux=True)(params)
    if not alone and (optimizer is None or not parts):
        return apply_gradients(learned, gradient, learning_rate, optimizer), metrics
    for part in parts:
        learned = apply_gradients(learned, gradient if alone else getattr(gradient, part), learning_rate, optimizer, part=part)
    return learned, metrics


def _adam(learning_rate: Any) -> optim.Optimizer:
    return optim.flatten(optim.adam(learning_rate))


@tree.dataclass
class SoftConfig(off_policy.OffPolicyConfig):
    """The options of soft actor-critics, in addition to those of :class:`~funrl.algos.off_policy.OffPolicyConfig`.

    Attributes:
        initial_alpha: initial temperature, above 0.
        tau: step size of the target critics at each gradient step, in [0, 1].
        entropy_share: the target entropy is -``entropy_share`` for each action dimension, after the action space is rescaled to [-1, 1].
    """

    initial_alpha: float = tree.static(default=1.0)
    tau: Any = 0.005
    entropy_share: Any = 1.0


def actor_and_critics(build: Any, config: Any, env: AnyEnv, actor: Any, critic: Any, num: int) -> tuple[nn.Net, nn.Net]:
    """Make the networks of an actor and of ``num`` critics, as the options describe them or from nets of the user's own.

    ``build`` makes the actor, as :func:`deterministic_actor` and :func:`stochastic_actor` do; the latter needs two outputs for each action.

    Example:
        >>> import funrl
        >>> config, env = off_policy.OffPolicyConfig(num_cells=(8,)), funrl.envs.make("Pendulum-v1")
        >>> policy, critics = actor_and_critics(nets.stochastic_actor, config, env, None, None, 2)
        >>> policy.apply(policy.init(random.key(0), torch.zeros(3)), torch.zeros(5, 3)).mode().shape
        torch.Size([5, 1])
    """
    space, seen = env.action_space, env.observation_space
    size = space.shape[0] * (2 if build is nets.stochastic_actor else 1)
    policy = build(config.num_cells, space, config.activation, nets.batchwise("actor", actor, seen, size))
    return policy, nets.q_ensemble(num, config.num_cells, config.activation, nets.critic_member(critic, num, seen, 1))


def init_actor_critic(key: torch.Tensor, actor: nn.Net, critic: nn.Net, observation: torch.Tensor, space: spaces.Box) -> ActorCritic:
    """Return the initial parameters of an actor and of critics.

    Example:
        >>> space = spaces.Box(-2.0, 2.0, (1,))
        >>> actor, critic = nets.deterministic_actor((8,), space, "relu"), nets.q_ensemble(2, (8,), "relu")
        >>> init_actor_critic(random.key(0), actor, critic, torch.zeros(3), space).critic[0]["weight"].shape
        torch.Size([2, 8, 4])
    """
    actor_key, critic_key = random.split(key).unbind(0)
    action = tree.leaves(observation)[0].new_zeros(space.shape)
    return ActorCritic(actor.init(actor_key, observation), critic.init(critic_key, observation, action))


def init_soft_actor_critic(
    key: torch.Tensor, actor: nn.Net, critic: Any, observation: torch.Tensor, space: spaces.Box, alpha: float
) -> SoftActorCritic:
    """Return the initial parameters of an actor and of critics, and the temperature ``alpha``.

    Example:
        >>> space = spaces.Box(-2.0, 2.0, (1,))
        >>> actor, critic = nets.stochastic_actor((8,), space, "relu"), nets.q_ensemble(2, (8,), "relu")
        >>> init_soft_actor_critic(random.key(0), actor, critic, torch.zeros(3), space, 1.0).log_alpha
        tensor(0.)
    """
    both = init_actor_critic(key, actor, critic, observation, space)
    return SoftActorCritic(both.actor, both.critic, tree.leaves(observation)[0].new_full((), alpha).log())


def noisy_policy(actor: nn.Net, space: spaces.Box, exploration: schedules.Schedule | None = None) -> tuple[Any, Any, Any]:
    """Return ``sample``, ``greedy`` and ``schedule`` of a :class:`~funrl.algos.off_policy.Learner` that explores by noise on its actions.

    The standard deviation of the noise is the hyperparameter ``exploration_noise`` or, if given, ``exploration(num_steps)``.

    Example:
        >>> from funrl.algos import _networks as networks
        >>> space = spaces.Box(-2.0, 2.0, (1,))
        >>> actor = networks.deterministic_actor((8,), space, "relu")
        >>> network = ActorCritic(actor.init(random.key(0), torch.zeros(3)), ())
        >>> sample, greedy, _ = noisy_policy(actor, space)
        >>> quiet = ActorParams(network, random=torch.tensor(0.0), noise=torch.tensor(0.0))
        >>> sample(quiet, random.key(1), torch.zeros(3)) == greedy(quiet, random.key(1), torch.zeros(3))
        tensor([True])
    """

    def sample(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        return nets.with_noise(key, actor.apply(params.network.actor, observation), params.noise, space)

    def greedy(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        return actor.apply(params.network.actor, observation)

    def schedule(hparams: Any, num_steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = hparams.exploration_noise if exploration is None else scheduled(exploration, num_steps, hparams.gamma)
        return torch.zeros_like(hparams.gamma), noise

    return sample, greedy, schedule


def minimize_with_temperature(
    loss: Callable[[Any], tuple[torch.Tensor, Metrics]],
    learned: Learned,
    weight: torch.Tensor,
    hparams: Any,
    space: spaces.Box,
    optimizer: optim.Optimizer | None = None,
) -> tuple[Learned, Metrics]:
    """Take a gradient step of the actor, and a step of the temperature, each with its own optimizer state.

    Args:
        loss: ``loss(actor) -> (loss, metrics)``, whose metrics have ``log_prob`` [N].
        learned: its optimizer state is a dict with ``actor`` and ``log_alpha``.
        weight: weights of the samples, floating point [N].
        hparams: an object with ``learning_rate`` and ``entropy_share``.
        space: the action space.
        optimizer: the optimizer of both; None: Adam.

    Returns:
        The learned part after the steps, and the metrics of both losses.

    Example:
        >>> network = SoftActorCritic(torch.zeros(1), (), torch.tensor(0.0))
        >>> learned = Learned(network, (), start_optimizer(None, network, "actor", "log_alpha"), torch.tensor(0))
        >>> hparams = SoftConfig(learning_rate=torch.tensor(0.1), entropy_share=torch.tensor(1.0))
        >>> def loss(actor):
        ...     return actor.sum(), {"log_prob": torch.zeros(4)}  # of entropy 0, where -1 is wanted
        >>> learned, _ = minimize_with_temperature(loss, learned, torch.ones(4), hparams, spaces.Box(-1.0, 1.0, (1,)))
        >>> learned.network.actor, learned.network.log_alpha
        (tensor([-0.1000]), tensor(-0.1000))
    """
    learned, metrics = minimize(loss, learned, hparams.learning_rate, optimizer, "actor")
    log_prob, target = metrics.pop("log_prob"), nets.target_entropy(space, hparams.entropy_share)

    def of_temperature(log_alpha: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        return temperature_loss(log_alpha, log_prob, target_entropy=target, weight=weight)

    learned, further = minimize(of_temperature, learned, hparams.learning_rate, optimizer, "log_alpha")
    return learned, {**metrics, **further}


def soft_policy(actor: nn.Net, exploration: schedules.Schedule | None = None) -> tuple[Any, Any, Any]:
    """Return ``sample``, ``greedy`` and ``schedule`` of a :class:`~funrl.algos.off_policy.Learner` with a stochastic policy.

    The share of uniformly random actions is ``exploration(num_steps)`` if given; otherwise there is no schedule.

    Example:
        >>> from funrl import spaces
        >>> from funrl.algos import _networks as networks
        >>> actor = networks.stochastic_actor((8,), spaces.Box(-2.0, 2.0, (1,)), "relu")
        >>> zero = torch.tensor(0.0)
        >>> acting = ActorParams(SoftActorCritic(actor.init(random.key(0), torch.zeros(3)), (), zero), zero, ())
        >>> _, greedy, _ = soft_policy(actor)
        >>> greedy(acting, random.key(1), torch.zeros(3))
        tensor([0.])
    """

    def sample(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        return actor.apply(params.network.actor, observation).sample(key)

    def greedy(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        return actor.apply(params.network.actor, observation).mode()

    if exploration is None:
        return sample, greedy, None
    return sample, greedy, lambda hparams, num_steps: (scheduled(exploration, num_steps, hparams.gamma), ())
