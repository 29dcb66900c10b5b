"""Actors and critics with batch normalisation: the networks of CrossQ."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import distributions, nn, random, spaces, tree
from funrl.algos._networks import over_the_box


class Normalized(NamedTuple):
    """A network with batch normalisation, such as E critics with the inputs observation [B, D] and action [B, A].

    Attributes:
        init: ``init(key, *inputs) -> params``, of inputs without a batch dimension.
        start: ``start(params) -> statistics``, the initial running statistics.
        train: ``train(params, statistics, *inputs) -> (outputs, statistics)``, normalised by the batch; outputs of critics are [E, B].
        apply: ``apply(params, statistics, *inputs) -> outputs``, normalised by the running statistics.
    """

    init: Callable[..., Any]
    start: Callable[..., Any]
    train: Callable[..., Any]
    apply: Callable[..., Any]


class NormalizedActor(NamedTuple):
    """An actor with batch normalisation.

    Attributes:
        init: ``init(key, observation [D]) -> params``, a dict of ``layers`` and their running ``statistics``.
        train: ``train(params, observation [B, D]) -> (distribution [B], statistics)``, normalised by the batch.
        apply: ``apply(params, observation [..., D]) -> distribution [...]``, normalised by the running statistics.
    """

    init: Callable[..., Any]
    train: Callable[..., Any]
    apply: Callable[..., Any]


def normalized_actor(
    num_cells: tuple[int, ...], space: spaces.Box, activation: str, momentum: float, chain: Normalized | None = None
) -> NormalizedActor:
    """Make an actor as :func:`~funrl.algos._networks.stochastic_actor`, with batch normalisation of the input and of each hidden layer.

    Example:
        >>> from funrl.spaces import Box
        >>> actor = normalized_actor((8,), Box(-2.0, 2.0, (1,)), "relu", 0.01)
        >>> params = actor.init(random.key(0), torch.zeros(3))
        >>> distribution, statistics = actor.train(params, torch.randn(5, 3))
        >>> distribution.mode().shape, statistics[0].mean.shape
        (torch.Size([5, 1]), torch.Size([3]))
    """
    head = nn.mlp((), 2 * space.shape[0], out_init=nn.orthogonal(0.01))
    chain = chain or _normalized([nn.mlp((cells,), activation=activation) for cells in num_cells] + [head], momentum)

    def init(key: torch.Tensor, observation: torch.Tensor) -> dict[str, Any]:
        layers = chain.init(key, observation)
        return {"layers": layers, "statistics": chain.start(layers)}

    def train(params: dict[str, Any], observation: torch.Tensor) -> tuple[distributions.Independent, Any]:
        output, statistics = chain.train(params["layers"], params["statistics"], observation)
        return over_the_box(output, space), statistics

    def apply(params: dict[str, Any], observation: torch.Tensor) -> distributions.Independent:
        return over_the_box(chain.apply(params["layers"], params["statistics"], observation), space)

    return NormalizedActor(init, train, apply)


def normalized_critics(
    num_critics: int, num_cells: tuple[int, ...], activation: str, momentum: float, chain: Normalized | None = None
) -> Normalized:
    """Make E critics with batch normalisation of the input and of each hidden layer.

    Example:
        >>> critics = normalized_critics(2, (8,), "relu", 0.01)
        >>> params = critics.init(random.key(0), torch.zeros(3), torch.zeros(1))
        >>> values, statistics = critics.train(params, critics.start(params), torch.randn(5, 3), torch.randn(5, 1))
        >>> values.shape, statistics[0].mean.shape
        (torch.Size([2, 5]), torch.Size([2, 4]))
    """
    layers = [nn.mlp((cells,), activation=activation) for cells in num_cells] + [nn.mlp((), 1, out_init=nn.orthogonal(1.0))]
    chain = chain or _normalized(layers, momentum)

    def init(key: torch.Tensor, observation: torch.Tensor, action: torch.Tensor) -> Any:
        return torch.func.vmap(lambda key: chain.init(key, observation, action))(random.split(key, num_critics))

    def start(params: Any) -> Any:
        return torch.func.vmap(chain.start)(params)

    def train(params: Any, statistics: Any, observation: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, Any]:
        values, statistics = torch.func.vmap(lambda *member: chain.train(*member, observation, action))(params, statistics)
        return values.squeeze(-1), statistics

    def apply(params: Any, statistics: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(lambda *member: chain.apply(*member, observation, action))(params, statistics).squeeze(-1)

    return Normalized(init, start, train, apply)


def _normalized(layers: list[nn.Net], momentum: float) -> Normalized:
    """Return one network of layers, with batch normalisation before each layer."""
    norm = nn.batch_norm(momentum)

    def init(key: torch.Tensor, *inputs: torch.Tensor) -> tuple[Any, ...]:
        x, params = torch.cat(tree.leaves(inputs), -1), []
        for k, layer in zip(random.split(key, len(layers)).unbind(0), layers, strict=True):
            params.append({"norm": norm.init(k, x), "layer": layer.init(k, x)})
            x = layer.apply(params[-1]["layer"], x)
        return tuple(params)

    def start(params: Any) -> tuple[Any, ...]:
        return tuple([norm.start(part["norm"]["scale"]) for part in params])

    def train(params: Any, statistics: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, Any]:
        x, after = torch.cat(tree.leaves(inputs), -1), []
        for part, moments, layer in zip(params, statistics, layers, strict=True):
            moments, x = norm.train(part["norm"], moments, x)
            x = layer.apply(part["layer"], x)
            after.append(moments)
        return x, tuple(after)

    def apply(params: Any, statistics: Any, *inputs: torch.Tensor) -> torch.Tensor:
        x = torch.cat(tree.leaves(inputs), -1)
        for part, moments, layer in zip(params, statistics, layers, strict=True):
            x = layer.apply(part["layer"], norm.apply(part["norm"], moments, x))
        return x

    return Normalized(init, start, train, apply)


def chain_of(net: nn.OwnNet, batchwise: Any) -> Any:
    """Return a net of the user's own for :func:`normalized_actor` or :func:`normalized_critics`; a torch module may have statistics.

    Example:
        >>> chain_of(None, None) is None
        True
    """
    if net is None:
        return None
    if not isinstance(net, nn.Module):
        return Normalized(
            batchwise.init,
            lambda params: (),
            lambda params, statistics, *inputs: (batchwise.apply(params, *inputs), ()),
            lambda params, statistics, *inputs: batchwise.apply(params, *inputs),
        )

    def start(params: Any) -> dict[str, torch.Tensor]:
        return {name: x for name, x in net.start().items() if x.is_floating_point()}  # stored among the parameters of an actor

    def train(params: Any, statistics: Any, *inputs: Any) -> tuple[torch.Tensor, Any]:
        after, y = net.train(params, {**net.start(), **tree.map(torch.detach, statistics)}, *inputs)
        return y, {name: after[name].detach() for name in statistics}

    def apply(params: Any, statistics: Any, *inputs: Any) -> torch.Tensor:
        return batchwise.apply(params, *inputs, state={**net.start(), **statistics})

    return Normalized(batchwise.init, start, train, apply)
