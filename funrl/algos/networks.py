"""The networks of actors and critics."""

from typing import Any

import torch

from funrl import nn, random
from funrl.algos.images import convolutions
from funrl.distributions import Independent, TanhNormal, normal_params
from funrl.env import Env
from funrl.nn.mlp import activation_function
from funrl.spaces import Box

__all__ = [
    "deterministic_actor",
    "half_width",
    "over_the_box",
    "q_ensemble",
    "q_network",
    "stochastic_actor",
    "target_entropy",
    "with_noise",
]


def half_width(space: Box, like: torch.Tensor) -> torch.Tensor:
    """Return half the widths [A] of a box of actions, in dtype and on the device of ``like``: the unit of noise.

    Example:
        >>> half_width(Box(-2.0, 2.0, (1,)), torch.zeros(()))
        tensor([2.])
    """
    return ((space.high - space.low) / 2).to(like)


def target_entropy(space: Box, share: torch.Tensor) -> torch.Tensor:
    """Return the entropy [] that is -``share`` for each dimension of a box of actions, were it stretched to [-1, 1].

    Densities are over the actions themselves: a box of half the width has an entropy that is less by log 2.

    Example:
        >>> target_entropy(Box(-1.0, 1.0, (3,)), torch.tensor(1.0)), target_entropy(Box(-2.0, 2.0, (1,)), torch.tensor(1.0))
        (tensor(-3.), tensor(-0.3069))
    """
    return half_width(space, share).log().sum() - share * space.shape[0]


def with_noise(key: torch.Tensor, action: torch.Tensor, scale: torch.Tensor, space: Box) -> torch.Tensor:
    """Return an action [A] with Gaussian noise, of a deviation of ``scale`` [] half-widths, clipped to the box.

    Example:
        >>> with_noise(random.key(0), torch.tensor([2.0]), torch.tensor(0.0), Box(-2.0, 2.0, (1,)))
        tensor([2.])
    """
    noise = random.normal(key, tuple(action.shape), dtype=action.dtype)
    return space.project(action + scale * half_width(space, action) * noise)


def deterministic_actor(num_cells: tuple[int, ...], space: Box, activation: str) -> nn.Net:
    """Make a network whose output [..., A], after a tanh, fills the box.

    Example:
        >>> from funrl import random
        >>> net = deterministic_actor((8,), Box(-2.0, 2.0, (1,)), "relu")
        >>> net.apply(net.init(random.key(0), torch.zeros(3)), torch.zeros(5, 3)).shape
        torch.Size([5, 1])
    """
    net = nn.mlp(num_cells, space.shape[0], activation=activation, out_init=nn.orthogonal(0.01))

    def apply(params: Any, observation: torch.Tensor) -> torch.Tensor:
        output = torch.tanh(net.apply(params, observation))
        middle = ((space.low + space.high) / 2).to(output)
        # Clamped, as rounding may put it beyond an end.
        return torch.clamp(middle + half_width(space, output) * output, space.low.to(output), space.high.to(output))

    return nn.Net(net.init, apply)


def stochastic_actor(num_cells: tuple[int, ...], space: Box, activation: str) -> nn.Net:
    """Make a network that returns a :class:`~funrl.distributions.TanhNormal` over the box, with a deviation of its own for each state.

    The logarithm of the deviation before the tanh is held in [-20, 2].

    Example:
        >>> from funrl import random
        >>> net = stochastic_actor((8,), Box(-2.0, 2.0, (1,)), "relu")
        >>> net.apply(net.init(random.key(0), torch.zeros(3)), torch.zeros(5, 3)).sample(random.key(1)).shape
        torch.Size([5, 1])
    """
    net = nn.mlp(num_cells, 2 * space.shape[0], activation=activation, out_init=nn.orthogonal(0.01))
    return nn.Net(net.init, lambda params, observation: over_the_box(net.apply(params, observation), space))


def over_the_box(output: torch.Tensor, space: Box) -> Independent:
    """Return the :class:`~funrl.distributions.TanhNormal` that an actor's output [..., 2A] stands for, see :func:`stochastic_actor`.

    Example:
        >>> over_the_box(torch.zeros(5, 2), Box(-2.0, 2.0, (1,))).mode().shape
        torch.Size([5, 1])
    """
    head = normal_params(nn.Net(lambda key: (), lambda params, x: x), lambda x: x.clamp(-20.0, 2.0).exp(), min_scale=1e-8)
    loc, scale = head.apply((), output)
    return Independent(TanhNormal(loc, scale, tuple(space.low.tolist()), tuple(space.high.tolist())), 1)


def q_ensemble(num_critics: int, num_cells: tuple[int, ...], activation: str) -> nn.Net:
    """Make E critics, each initialised by itself: ``apply(params, observation [..., D], action [..., A])`` returns Q [E, ...].

    ``apply`` takes the parameters of any number of them.

    Example:
        >>> from funrl import random
        >>> net = q_ensemble(2, (8,), "relu")
        >>> params = net.init(random.key(0), torch.zeros(3), torch.zeros(1))
        >>> net.apply(params, torch.zeros(5, 3), torch.zeros(5, 1)).shape
        torch.Size([2, 5])
    """
    net = nn.mlp(num_cells, 1, activation=activation, out_init=nn.orthogonal(1.0))

    def apply(params: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(lambda params: net.apply(params, observation, action).squeeze(-1))(params)

    return nn.Net(nn.ensemble(net, num_critics).init, apply)


def q_network(config: Any, env: Env, *, num_atoms: int = 1, dueling: bool = False, noisy: bool = False, norm: str | None = None) -> nn.Net:
    """Make a network of the values of every action: ``apply(params, observation)`` returns [..., A], or logits [..., A, K] of K > 1 atoms.

    Images go through convolutions first. Dueling networks part before the last hidden layer.

    Args:
        config: has ``num_cells`` and ``activation``, and ``num_channels``, ``kernel_size``, ``stride`` and ``layout`` for images.
        env: an environment with discrete actions.
        num_atoms: K.
        dueling: whether values and advantages have a head each, as in :func:`funrl.nn.dueling`.
        noisy: whether all layers but convolutions are noisy: ``apply`` then takes a key, and without one adds no noise.
        norm: as for :func:`funrl.nn.mlp`.

    Example:
        >>> import funrl
        >>> config = funrl.algos.dqn.DQNConfig(num_cells=(8, 8))
        >>> net = q_network(config, funrl.envs.make("CartPole-v1"), num_atoms=5, dueling=True, noisy=True)
        >>> params = net.init(random.key(0), torch.zeros(4))
        >>> net.apply(params, torch.zeros(7, 4), key=random.key(1)).shape
        torch.Size([7, 2, 5])
    """
    num_actions = env.action_space.n
    activation = activation_function("activation", config.activation)

    def layers(cells: tuple[int, ...], *head: int) -> nn.Net:
        if not noisy:
            return nn.mlp(cells, *head, activation=activation, norm=norm)
        hidden = [part for width in cells for part in (nn.noisy_linear(width), activation)]
        return nn.sequential(*hidden, *map(nn.noisy_linear, head))

    if dueling:
        trunk, last = config.num_cells[:-1], config.num_cells[-1:]
        heads = _dueling(layers(last, num_atoms), layers(last, num_actions * num_atoms), num_actions)
        net = nn.sequential(layers(trunk), heads) if trunk else heads
    else:
        net = nn.sequential(layers(config.num_cells, num_actions * num_atoms), lambda x: x.unflatten(-1, (num_actions, num_atoms)))
    if len(env.observation_space.shape) == 3:
        net = nn.sequential(convolutions(config, env.observation_space), net)
    return nn.sequential(net, lambda x: x.squeeze(-1)) if num_atoms == 1 else net


def _dueling(value: nn.Net, advantage: nn.Net, num_actions: int) -> nn.Net:
    """Return the network whose outputs [..., A, K] are made of values [..., K] and advantages [..., A * K]."""

    def init(key: torch.Tensor, example: torch.Tensor) -> dict[str, Any]:
        value_key, advantage_key = random.split(key).unbind(0)
        return {"value": value.init(value_key, example), "advantage": advantage.init(advantage_key, example)}

    def joined(value: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
        advantage = advantage.unflatten(-1, (num_actions, -1))
        return value.unsqueeze(-2) + advantage - advantage.mean(-2, keepdim=True)

    def apply(params: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
        return joined(value.apply(params["value"], x), advantage.apply(params["advantage"], x))

    def noisy(params: dict[str, Any], x: torch.Tensor, *, key: torch.Tensor | None = None) -> torch.Tensor:
        keys = (None, None) if key is None else random.split(key).unbind(0)
        return joined(value.apply(params["value"], x, key=keys[0]), advantage.apply(params["advantage"], x, key=keys[1]))

    return nn.Net(init, noisy, True) if value.noisy else nn.Net(init, apply)
