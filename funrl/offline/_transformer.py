"""A causal transformer over returns to go, observations and actions of an episode: the model of the decision transformer."""

import math
from typing import Any

import torch
from torch.nn import functional

from funrl import nn, random, tree


def episode_transformer(
    *,
    num_outputs: int,
    num_actions: int | None = None,
    hidden_size: int = 128,
    num_layers: int = 3,
    num_heads: int = 1,
    max_steps: int = 1000,
    dropout: float = 0.0,
) -> nn.Net:
    """Make a transformer that predicts each action from the entries before it.

    The tokens of a window of K steps are return, observation and action of each, in that order; their sums with an embedding of the step's
    place in its episode go through layers of causal attention, and the output at an observation is the prediction of its action. Padding is
    not attended to.

    Args:
        num_outputs: A, outputs of each step.
        num_actions: for discrete actions, how many there are; None: actions are vectors.
        hidden_size: width of a token, a multiple of ``num_heads``.
        num_layers: layers of attention and of two linear maps.
        num_heads: of attention.
        max_steps: longest episode; later steps have the embedding of the last one.
        dropout: the share of embeddings and residuals that are 0, where there is a key.

    Returns:
        A :class:`funrl.nn.Net`: ``init(key, observation [D], action [A] or [])``, and ``apply(params, observation [..., K, D], action,
        return_to_go [..., K], step int64 [..., K], mask bool [..., K], key=None)``, which returns [..., K, A].

    Example:
        >>> net = episode_transformer(num_outputs=2, hidden_size=8, num_layers=1, max_steps=10)
        >>> params = net.init(random.key(0), torch.zeros(3), torch.zeros(2))
        >>> x, a = torch.randn(4, 3), torch.randn(4, 2)
        >>> rest = torch.ones(4), torch.arange(4), torch.ones(4, dtype=torch.bool)
        >>> y, z = (net.apply(params, x, action, *rest) for action in (a, torch.cat([a[:3], torch.zeros(1, 2)])))
        >>> y.shape, torch.equal(y, z)  # the last action is not seen
        (torch.Size([4, 2]), True)

    Reference: L. Chen et al., "Decision Transformer: Reinforcement Learning via Sequence Modeling", 2021, arXiv:2106.01345, section 3, with
        normalisation before each layer.
    """
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size: expected a multiple of num_heads, {num_heads}, got {hidden_size}")

    def init(key: torch.Tensor, observation: torch.Tensor, action: torch.Tensor) -> dict[str, Any]:
        keys = iter(random.split(key, 5 + 4 * num_layers).unbind(0))

        def linear(size: int, out: int) -> dict[str, torch.Tensor]:
            return {"weight": 0.02 * random.normal(next(keys), (out, size), dtype=observation.dtype), "bias": observation.new_zeros(out)}

        def norm() -> dict[str, torch.Tensor]:
            return {"scale": observation.new_ones(hidden_size), "bias": observation.new_zeros(hidden_size)}

        params: dict[str, Any] = {
            "return": linear(1, hidden_size),
            "observation": linear(observation.shape[-1], hidden_size),
            "action": linear(action.shape[-1] if num_actions is None else num_actions, hidden_size),
            "step": 0.02 * random.normal(next(keys), (max_steps, hidden_size), dtype=observation.dtype),
            "first": norm(),
            "last": norm(),
        }
        for i in range(num_layers):
            sizes = {"in": (1, 3), "out": (1, 1), "wide": (1, 4), "narrow": (4, 1)}  # in units of hidden_size
            layer = {name: linear(a * hidden_size, b * hidden_size) for name, (a, b) in sizes.items()}
            params[f"layer{i}"] = {"before": norm(), "between": norm(), **layer}
        return {**params, "head": linear(hidden_size, num_outputs)}

    def apply(
        params: dict[str, Any], observation: Any, action: Any, return_to_go: Any, step: Any, mask: Any, *, key: Any = None
    ) -> torch.Tensor:
        length, keys = mask.shape[-1], None if key is None or not dropout else random.split(key, 1 + 2 * num_layers)
        given = action if num_actions is None else tree.one_hot(action, num_actions, observation)
        time = params["step"][step.clamp(0, max_steps - 1)]
        tokens = [
            _linear(params["return"], return_to_go.unsqueeze(-1)) + time,
            _linear(params["observation"], observation) + time,
            _linear(params["action"], given) + time,
        ]
        x = torch.stack(tokens, -2).flatten(-3, -2)
        x = _dropped(_norm(params["first"], x), dropout, None if keys is None else keys[0])
        place = torch.arange(3 * length, device=mask.device)
        seen = (place <= place.unsqueeze(-1)) & mask.repeat_interleave(3, -1).unsqueeze(-2)
        seen = seen | (place == place.unsqueeze(-1))  # padding attends to itself, because an average over no entries is NaN
        for i in range(num_layers):
            here = (None, None) if keys is None else (keys[1 + 2 * i], keys[2 + 2 * i])
            x = _layer(params[f"layer{i}"], x, seen, num_heads, dropout, here)
        return _linear(params["head"], _norm(params["last"], x).unflatten(-2, (length, 3))[..., 1, :])

    return nn.Net(init, apply)


def _layer(layer: dict[str, Any], x: torch.Tensor, seen: torch.Tensor, num_heads: int, dropout: float, keys: Any) -> torch.Tensor:
    x = x + _dropped(_attention(layer, _norm(layer["before"], x), seen, num_heads), dropout, keys[0])
    hidden = functional.gelu(_linear(layer["wide"], _norm(layer["between"], x)))
    return x + _dropped(_linear(layer["narrow"], hidden), dropout, keys[1])


def _attention(layer: dict[str, Any], x: torch.Tensor, seen: torch.Tensor, num_heads: int) -> torch.Tensor:
    query, key, value = _linear(layer["in"], x).unflatten(-1, (3, num_heads, -1)).unbind(-3)
    scores = torch.einsum("...qhd,...khd->...hqk", query, key) / math.sqrt(query.shape[-1])
    weight = torch.where(seen.unsqueeze(-3), scores, torch.finfo(scores.dtype).min).softmax(-1)
    return _linear(layer["out"], torch.einsum("...hqk,...khd->...qhd", weight, value).flatten(-2))


def _linear(layer: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, layer["weight"], layer["bias"])


def _norm(layer: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], layer["scale"], layer["bias"])


def _dropped(x: torch.Tensor, rate: float, key: torch.Tensor | None) -> torch.Tensor:
    if key is None:
        return x
    kept = random.uniform(key, tuple(x.shape), dtype=x.dtype) >= rate
    return torch.where(kept, x / (1 - rate), 0.0)


def last_rows(memory: Any, row: Any) -> Any:
    """Return a memory of K rows, leaves [K, ...], without its oldest row and with a new one at the end.

    Example:
        >>> last_rows({"x": torch.tensor([1, 2, 3])}, {"x": torch.tensor(4)})
        {'x': tensor([2, 3, 4])}
    """
    return tree.map(lambda old, new: torch.cat([old[1:], new[None]]), memory, row)
