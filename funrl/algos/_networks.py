"""The networks of actors and critics."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import distributions, nn, random, tree
from funrl.algos._heads import action_head
from funrl.algos.images import above, check_layers, encoder
from funrl.env import AnyEnv
from funrl.losses import take
from funrl.spaces import Box, Dict, Tuple


def batchwise(name: str, net: Any, space: Any, *size: int) -> Any:
    """Make a net of the user's own accept any batch dimensions; the net itself is called with observations [N, ...] only.

    So a torch module can be used, which takes a single batch dimension. In ``init`` the net gets examples with N = 1.

    Args:
        name: the name of the net in messages.
        net: a net of observations and perhaps further inputs; None gives None.
        space: the space of the observations.
        *size: the expected shape of the output for one observation; nothing: any shape.

    Raises:
        ValueError: from ``init`` and ``apply``, if the output is not [N, ...], or from ``init`` not [N, *size].

    Example:
        >>> from funrl import random
        >>> module = nn.from_module(torch.nn.Sequential(torch.nn.Unflatten(1, (1, 6)), torch.nn.Conv1d(1, 2, 3), torch.nn.Flatten()))
        >>> net = batchwise("network", module, Box(-1.0, 1.0, (6,)))
        >>> params = net.init(random.key(0), torch.zeros(6))
        >>> net.apply(params, torch.zeros(6)).shape, net.apply(params, torch.zeros(5, 3, 6)).shape
        (torch.Size([8]), torch.Size([5, 3, 8]))
    """

    if net is None:
        return None

    def apply(params: Any, observation: Any, *inputs: Any, **options: Any) -> torch.Tensor:
        batch = batch_of(space, observation)
        n = math.prod(batch)
        y = net.apply(params, *(tree.reshape(x, (n,), batch_dims=len(batch)) for x in (observation, *inputs)), **options)
        if not isinstance(y, torch.Tensor) or not y.ndim or y.shape[0] != n:
            got = list(y.shape) if isinstance(y, torch.Tensor) else f"a {type(y).__name__}"
            raise ValueError(f"{name}: expected an output [{n}, ...] of {n} observations, got {got}; it is called with a batch [N, ...]")
        return y.reshape(*batch, *y.shape[1:])

    def init(key: torch.Tensor, observation: Any, *inputs: Any) -> Any:
        inputs = tree.map(lambda x: x[None], (in_dtypes_of(space, observation), *inputs))
        params = net.init(key, *inputs)
        y = apply(params, *inputs)
        if size and y.shape[1:] != size:
            raise ValueError(f"{name}: expected an output {[1, *size]} of one observation, [N, ...] with N = 1, got {list(y.shape)}")
        return params

    return nn.Net(init, apply, net.noisy)


def batch_of(space: Any, x: Any) -> torch.Size:
    """Return the batch dimensions of elements of a space.

    Example:
        >>> batch_of(Dict({"a": Box(0.0, 1.0, (3,))}), {"a": torch.zeros(5, 2, 3)})
        torch.Size([5, 2])
    """
    if isinstance(space, Dict | Tuple):
        name: Any = next(iter(space.spaces)) if isinstance(space, Dict) else 0
        return batch_of(space.spaces[name], x[name])
    return x.shape[: x.ndim - len(space.shape)]


def in_dtypes_of(space: Any, x: Any) -> Any:
    """Return an example whose integers and flags have the dtypes of the space.

    Example:
        >>> in_dtypes_of(Box(0, 255, (2,), torch.uint8), torch.zeros(2)).dtype
        torch.uint8
    """
    if isinstance(space, Dict):
        return {name: in_dtypes_of(part, x[name]) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple([in_dtypes_of(part, y) for part, y in zip(space.spaces, x, strict=True)])
    return x if space.dtype.is_floating_point else x.to(space.dtype)


def critic_member(net: Any, num_critics: int, space: Any, *size: int) -> Any:
    """Return :func:`batchwise` of a critic of the user's own, after a check that several copies begin with different parameters; None of
    None.

    Raises:
        ValueError: if it is a torch module whose initial parameters do not depend on the key.

    Example:
        >>> critic_member(nn.from_module(torch.nn.Linear(4, 1)), 2, Box(-1.0, 1.0, (3,)), 1)
        Traceback (most recent call last):
        ...
        ValueError: critic: expected parameters that depend on the key, as all 2 critics would begin alike; give it to from_module with ...
    """
    if isinstance(net, nn.Module) and num_critics > 1:
        one, other = (tree.leaves(net.init(random.key(seed, "cpu"))) for seed in range(2))
        if all(torch.equal(x, y) for x, y in zip(one, other, strict=True)):
            raise ValueError(
                f"critic: expected parameters that depend on the key, as all {num_critics} critics would begin alike; give it to "
                "from_module with init=nn.orthogonal()"
            )
    return batchwise("critic", net, space, *size)


def observations(*nets: Any) -> str:
    """Return the kinds of observations for :func:`funrl.algos.off_policy.check`: any if all networks are the user's own.

    Example:
        >>> observations(nn.mlp((8,)), None), observations(nn.mlp((8,)))
        ('vectors', 'any')
    """
    return "vectors" if None in nets else "any"


def half_width(space: Box, like: torch.Tensor) -> torch.Tensor:
    """Return half the widths [A] of an action space, the unit of noise, with the dtype and device of ``like``.

    Example:
        >>> half_width(Box(-2.0, 2.0, (1,)), torch.zeros(()))
        tensor([2.])
    """
    return ((space.high - space.low) / 2).to(like)


def target_entropy(space: Box, share: torch.Tensor) -> torch.Tensor:
    """Return the target entropy []: -``share`` for each action dimension, for actions rescaled to [-1, 1].

    Densities are those of the actions themselves: in a box of half the width the entropy is less by log 2.

    Example:
        >>> target_entropy(Box(-1.0, 1.0, (3,)), torch.tensor(1.0)), target_entropy(Box(-2.0, 2.0, (1,)), torch.tensor(1.0))
        (tensor(-3.), tensor(-0.3069))
    """
    return half_width(space, share).log().sum() - share * space.shape[0]


def with_noise(key: torch.Tensor, action: torch.Tensor, scale: torch.Tensor, space: Box) -> torch.Tensor:
    """Add Gaussian noise to an action [A], with a standard deviation of ``scale`` [] half-widths, and clip it to the action space.

    Example:
        >>> with_noise(random.key(0), torch.tensor([2.0]), torch.tensor(0.0), Box(-2.0, 2.0, (1,)))
        tensor([2.])
    """
    noise = random.normal(key, tuple(action.shape), dtype=action.dtype)
    return space.project(action + scale * half_width(space, action) * noise)


def deterministic_actor(num_cells: tuple[int, ...], space: Box, activation: str, net: nn.Net | None = None) -> nn.Net:
    """Make a network whose output [..., A] is mapped to the action space by a tanh, from hidden layers or from a net of the user's own.

    Example:
        >>> from funrl import random
        >>> net = deterministic_actor((8,), Box(-2.0, 2.0, (1,)), "relu")
        >>> net.apply(net.init(random.key(0), torch.zeros(3)), torch.zeros(5, 3)).shape
        torch.Size([5, 1])
    """
    net = net or nn.mlp(num_cells, space.shape[0], activation=activation, out_init=nn.orthogonal(0.01))

    def apply(params: Any, observation: torch.Tensor) -> torch.Tensor:
        output = torch.tanh(net.apply(params, observation))
        middle = ((space.low + space.high) / 2).to(output)
        # Clamped, because rounding may give a value outside of the box.
        return torch.clamp(middle + half_width(space, output) * output, space.low.to(output), space.high.to(output))

    return nn.Net(net.init, apply)


def stochastic_actor(num_cells: tuple[int, ...], space: Box, activation: str, net: nn.Net | None = None, log_std: float = 0.0) -> nn.Net:
    """Make a network that returns a :class:`~funrl.distributions.TanhNormal` over the action space, with state-dependent deviations.

    The logarithm of the standard deviation, before the tanh, is clipped to [-20, 2]. A net of the user's own instead of hidden layers
    returns [..., 2A]. ``log_std`` is added to it.

    Example:
        >>> from funrl import random
        >>> net = stochastic_actor((8,), Box(-2.0, 2.0, (1,)), "relu")
        >>> net.apply(net.init(random.key(0), torch.zeros(3)), torch.zeros(5, 3)).sample(random.key(1)).shape
        torch.Size([5, 1])
    """
    net = net or nn.mlp(num_cells, 2 * space.shape[0], activation=activation, out_init=nn.orthogonal(0.01))
    return nn.Net(net.init, lambda params, observation: over_the_box(net.apply(params, observation), space, log_std))


def over_the_box(output: torch.Tensor, space: Box, log_std: float = 0.0) -> distributions.Independent:
    """Return the :class:`~funrl.distributions.TanhNormal` with the parameters [..., 2A], see :func:`stochastic_actor`.

    Example:
        >>> over_the_box(torch.zeros(5, 2), Box(-2.0, 2.0, (1,))).mode().shape
        torch.Size([5, 1])
    """
    head = distributions.normal_params(
        nn.Net(lambda key: (), lambda params, x: x), lambda x: (x + log_std).clamp(-20.0, 2.0).exp(), min_scale=1e-8
    )
    loc, scale = head.apply((), output)
    return distributions.Independent(distributions.TanhNormal(loc, scale, tuple(space.low.tolist()), tuple(space.high.tolist())), 1)


def q_ensemble(num_critics: int, num_cells: tuple[int, ...], activation: str, net: nn.Net | None = None) -> nn.Net:
    """Make E critics with independent initial parameters: ``apply(params, observation [..., D], action [..., A])`` returns Q [E, ...].

    ``apply`` accepts the parameters of any number of critics. A net of the user's own instead of hidden layers is one critic, and returns
    [..., 1].

    Example:
        >>> from funrl import random
        >>> net = q_ensemble(2, (8,), "relu")
        >>> params = net.init(random.key(0), torch.zeros(3), torch.zeros(1))
        >>> net.apply(params, torch.zeros(5, 3), torch.zeros(5, 1)).shape
        torch.Size([2, 5])
    """
    net = net or nn.mlp(num_cells, 1, activation=activation, out_init=nn.orthogonal(1.0))

    def apply(params: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(lambda params: net.apply(params, observation, action).squeeze(-1))(params)

    return nn.Net(nn.ensemble(net, num_critics).init, apply)


def q_network(
    config: Any,
    env: AnyEnv,
    network: Any = None,
    *,
    num_atoms: int = 1,
    dueling: bool = False,
    noisy: bool = False,
    norm: str | None = None,
) -> nn.Net:
    """Make a network of the values of all actions: ``apply(params, observation)`` returns [..., A], or logits [..., A, K] of K > 1 atoms.

    Images go through convolutions first, and dicts through :func:`funrl.algos.images.encoder`. Dueling networks have separate last hidden
    layers.

    Args:
        config: an object with the options ``num_cells`` and ``activation`` and, for images, ``num_channels``, ``kernel_size``, ``stride``
            and ``layout``.
        env: an environment with discrete actions.
        network: a net or torch module of the user's own with such an output; except ``num_atoms`` the other arguments are then not used.
        num_atoms: K.
        dueling: separate heads for values and advantages, as in :func:`funrl.nn.dueling`.
        noisy: make all layers except convolutions noisy: ``apply`` then takes a key, and without one adds no noise.
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
    if network is not None:
        return batchwise("network", network, env.observation_space, num_actions, *((num_atoms,) if num_atoms > 1 else ()))
    check_layers(config, env)
    activation = nn.activation_function("activation", config.activation)

    def layers(cells: tuple[int, ...], *head: int) -> nn.Net:
        if not noisy:
            return nn.mlp(cells, *head, activation=activation, norm=norm)
        hidden = [part for width in cells for part in (nn.noisy_linear(width), activation)]
        return nn.sequential(*hidden, *map(nn.noisy_linear, head))

    if dueling:
        trunk, last = config.num_cells[:-1], config.num_cells[-1:]
        heads = nn.dueling_of(layers(last, num_atoms), layers(last, num_actions * num_atoms), num_actions)
        net = nn.sequential(layers(trunk), heads) if trunk else heads
    else:
        net = nn.sequential(layers(config.num_cells, num_actions * num_atoms), lambda x: x.unflatten(-1, (num_actions, num_atoms)))
    below = encoder(config, env.observation_space)
    net = net if below is None else nn.sequential(below, net)
    return nn.sequential(net, lambda x: x.squeeze(-1)) if num_atoms == 1 else net


class OptionNetworks(NamedTuple):
    """The networks of K options.

    Attributes:
        init: ``init(key, observation) -> params``.
        values: ``values(params, observation) -> [..., K]``.
        termination: ``termination(params, observation, option [...]) -> [...]``, the probability that an option terminates.
        policy: ``policy(params, observation, option [...])``: the distribution over actions of batch shape [...].
        all: ``all(params, observation, option) -> (distribution, value [...], termination [...])`` of an option.
        choose: ``choose(params, key, option [], observation, reset, epsilon) -> int64 []``: the option that acts: the current one, or
            another if that terminates or an episode begins.
    """

    init: Callable[..., dict[str, Any]]
    values: Callable[..., torch.Tensor]
    termination: Callable[..., torch.Tensor]
    policy: Callable[..., Any]
    all: Callable[..., Any]
    choose: Callable[..., torch.Tensor]


def option_networks(config: Any, env: AnyEnv) -> OptionNetworks:
    """Make the networks of the options of an ``OptionCriticConfig``.

    Example:
        >>> import funrl
        >>> nets = option_networks(funrl.algos.option_critic.OptionCriticConfig(num_options=3), funrl.envs.make("CartPole-v1"))
        >>> params = nets.init(random.key(0), torch.zeros(4))
        >>> nets.values(params, torch.zeros(4)).shape
        torch.Size([3])
    """
    head, k = action_head(env.action_space, config.uniform_mix), config.num_options
    below = encoder(config, env.observation_space)

    def body(size: tuple[int, ...], gain: float) -> nn.Net:
        mlp = nn.mlp(config.num_cells, size, activation=config.activation, out_init=nn.orthogonal(gain))
        return mlp if below is None else above(below, mlp)

    parts = {"value": body((k,), 1.0), "termination": body((k,), 0.01), "policy": body((k, head.size), 0.01)}

    def init(key: torch.Tensor, observation: Any) -> dict[str, Any]:
        keys = random.split(key, len(parts)).unbind(0)
        params: dict[str, Any] = {name: net.init(k, observation) for k, (name, net) in zip(keys, parts.items(), strict=True)}
        scales = tree.leaves(params)[0].new_full((head.num_scales,), config.initial_log_std)
        return {**params, "log_std": scales} if head.num_scales else params

    def values(params: dict[str, Any], observation: Any) -> torch.Tensor:
        return parts["value"].apply(params["value"], observation)

    def termination(params: dict[str, Any], observation: Any, option: torch.Tensor) -> torch.Tensor:
        return take(parts["termination"].apply(params["termination"], observation), option).sigmoid()

    def policy(params: dict[str, Any], observation: Any, option: torch.Tensor) -> Any:
        output = parts["policy"].apply(params["policy"], observation)
        return head.distribution(take(output, option), params.get("log_std"))

    def all_of(params: dict[str, Any], observation: Any, option: torch.Tensor) -> tuple[Any, torch.Tensor, torch.Tensor]:
        value = take(values(params, observation), option)
        return policy(params, observation, option), value, termination(params, observation, option)

    def choose(params: Any, key: torch.Tensor, option: Any, observation: Any, reset: torch.Tensor, epsilon: Any) -> torch.Tensor:
        stop_key, coin_key, option_key = random.split(key, 3).unbind(0)
        other = random.randint(option_key, (), 0, k)
        new = torch.where(random.bernoulli(coin_key, epsilon), other, values(params, observation).argmax(-1))
        return torch.where(random.bernoulli(stop_key, termination(params, observation, option)) | reset, new, option)

    return OptionNetworks(init, values, termination, policy, all_of, choose)
