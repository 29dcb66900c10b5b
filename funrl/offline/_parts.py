"""Networks and steps that offline learners share."""

import math
from typing import Any

import torch

from funrl import nn, tree
from funrl.algos import ActorParams, deterministic_actor, half_width
from funrl.distributions import Independent, Normal
from funrl.spaces import Box


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

    def sample(params: ActorParams, key: torch.Tensor, observation: Any) -> torch.Tensor:
        return space.project(actor.apply(params.network.actor, observation).sample(key))

    def greedy(params: ActorParams, key: torch.Tensor, observation: Any) -> torch.Tensor:
        return actor.apply(params.network.actor, observation).mode()

    return sample, greedy, no_schedule


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


def cosine(hparams: Any, num_updates: torch.Tensor, decay_updates: Any) -> torch.Tensor:
    """Return the learning rate [], which falls as a cosine to 0 over ``decay_updates`` gradient steps; infinity: it stays.

    Example:
        >>> from types import SimpleNamespace
        >>> cosine(SimpleNamespace(learning_rate=torch.tensor(0.2)), torch.tensor(50), torch.tensor(100.0))
        tensor(0.1000)
    """
    done = (num_updates / decay_updates).clamp(max=1.0)
    return hparams.learning_rate * 0.5 * (1 + torch.cos(math.pi * done))
