"""Networks of learners with a policy and a value function: pure functions from the spaces of an environment and a configuration."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _check, acting, nn, policies, random, stats, tree
from funrl.algos._algorithm import in_dtype_of
from funrl.algos._heads import action_head, project_action, project_boxes
from funrl.algos._networks import batch_of, batchwise, in_dtypes_of
from funrl.algos._state import ActorParams
from funrl.algos.images import above, encoder
from funrl.env import AnyEnv, Transition

Choose = Callable[[Any, Callable[[], torch.Tensor], torch.Tensor], tuple[Any, dict[str, Any]]]

_IDENTITY = nn.Net(lambda key, example: (), lambda params, x: x)
_CELLS = {"gru": nn.gru, "lstm": nn.lstm, "min_gru": nn.min_gru}


class Network(NamedTuple):
    """A policy and a value function, with or without a recurrent layer.

    The training data consists of rows: the T * B samples of a rollout or, with a recurrent layer, its B environments of T steps each.

    Attributes:
        init: ``init(key, observation) -> params``, a dict.
        policy: ``policy(choose) -> act``: make a policy that returns ``choose(distribution, value, key) -> (action, extras)``, where
            ``value()`` estimates the value: a function ``act(params, key, observation)`` of :class:`~funrl.algos.ActorParams` or a
            :class:`funrl.policies.StatefulPolicy`.
        values: ``values(params, samples) -> (value, next_value)``: V(s) and V(s') [T, B] of a :class:`~funrl.env.Transition` [T, B, ...].
        rows: ``rows(x) -> x``: reshape leaves [T, B, ...] to [N, ...], one for each row.
        inputs: ``inputs(samples) -> x``: make the inputs of ``both``, leaves [N, ...], from samples [T, B, ...].
        both: ``both(params, x) -> (distribution, value)`` of rows.
        project: ``project(action) -> action``: convert an action of the distribution to an action of the environment.
    """

    init: Callable[..., Any]
    policy: Callable[..., Any]
    values: Callable[..., Any]
    rows: Callable[..., Any]
    inputs: Callable[..., Any]
    both: Callable[..., Any]
    project: Callable[[Any], Any]


def make(config: Any, env: AnyEnv, network: Any = None, num_values: int = 0) -> Network:
    """Make the networks for an environment; images go through convolutions first.

    Args:
        config: an object with the options ``num_channels``, ``kernel_size``, ``stride``, ``layout``, ``num_cells``, ``activation``,
            ``trunk``, ``uniform_mix`` and ``initial_log_std`` of :class:`funrl.algos.ppo.PPOConfig`.
        env: the environment, checked by :func:`funrl.algos.on_policy.check_actor_critic`.
        network: a net from observations to features that policy and value share, or a :class:`funrl.policies.ActorCritic`, which computes
            both; None: the network that the options describe.
        num_values: K, the number of values of an observation, [..., K]; 0: there is one, [...].

    Returns:
        A :class:`Network`. Its parameters are a dict of ``policy`` and ``value`` (and ``trunk``), and ``log_std`` [A] for continuous
        actions. An ActorCritic keeps its own parameters.

    Example:
        >>> import funrl
        >>> network = make(funrl.algos.ppo.PPOConfig(), funrl.envs.make("CartPole-v1"))
        >>> params = network.init(random.key(0), torch.zeros(4))
        >>> policy, value = network.both(params, torch.zeros(5, 3, 4))
        >>> policy.logits.shape, value.shape
        (torch.Size([5, 3, 2]), torch.Size([5, 3]))
    """
    if isinstance(network, policies.ActorCritic):
        return _whole(network, env)
    if network is not None:
        heads = _heads(config, env, None, batchwise("network", network, env.observation_space), num_values)
    else:
        heads = _heads(config, env, encoder(config, env.observation_space), num_values=num_values)

    def policy(choose: Choose) -> Callable[..., Any]:
        def act(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> tuple[Any, dict[str, Any]]:
            x = heads.features(params.network, normalized(params, observation))
            return choose(heads.distribution(params.network, x), lambda: heads.value(params.network, x), key)

        return act

    def values(params: Any, samples: Transition) -> tuple[torch.Tensor, ...]:
        both = (samples.observation, samples.next_observation)
        return tuple([heads.value(params, heads.features(params, x)) for x in both])

    project = functools.partial(project_action, env.action_space)
    return Network(heads.init, policy, values, tree.flatten_batch, _observations, heads.both, project)


def make_recurrent(config: Any, env: AnyEnv, network: Any = None) -> Network:
    """Make the networks with a recurrent layer that policy and value share; images go through convolutions before it.

    Gradients flow through the T steps of a rollout, but no further: a rollout begins with the carry that the policy had. The value of the
    next observation is computed with the carry after the current observation, also if the episode was truncated.

    Args:
        config: as for :func:`make`, with ``recurrent`` and ``recurrent_size``.
        env: the environment, checked by :func:`funrl.algos.on_policy.check_actor_critic`.
        network: a net from observations to the inputs of the recurrent layer; None: convolutions of images, and vectors without change.

    Returns:
        A :class:`Network`, whose parameters have an entry ``memory`` too. The extras of its policy have ``memory``, the
        :class:`funrl.acting.Memory` before the observation. A row of its inputs is a triple: the carry before the rollout, observations [T,
        ...] and resets [T].

    Example:
        >>> import funrl
        >>> config = funrl.algos.ppo.PPOConfig(recurrent="gru", recurrent_size=8)
        >>> network = make_recurrent(config, funrl.envs.make("CartPole-v1"))
        >>> params = network.init(random.key(0), torch.zeros(4))
        >>> rows = torch.zeros(3, 8), torch.zeros(3, 5, 4), torch.zeros(3, 5, dtype=torch.bool)
        >>> policy, value = network.both(params, rows)
        >>> policy.logits.shape, value.shape
        (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """
    cell = _CELLS[config.recurrent](config.recurrent_size)
    own = batchwise("network", network, env.observation_space)
    below = own or encoder(config, env.observation_space) or _IDENTITY
    heads = _heads(config, env, None)

    def encode(params: dict[str, Any], observation: torch.Tensor) -> torch.Tensor:
        return below.apply(params["memory"]["below"], observation)

    def remember(params: dict[str, Any], carry: Any, observation: Any, reset: torch.Tensor | None = None) -> tuple[Any, torch.Tensor]:
        """Return the carry after an observation, and the features of the observation."""
        carry, x = cell.apply(params["memory"]["cell"], carry, encode(params, observation), reset)
        return carry, heads.features(params, x)

    def init(key: torch.Tensor, observation: torch.Tensor) -> dict[str, Any]:
        memory_key, network_key = random.split(key).unbind(0)
        encoder_key, cell_key = random.split(memory_key).unbind(0)
        params = below.init(encoder_key, observation)
        x = below.apply(params, observation)
        memory = {"below": params, "cell": cell.init(cell_key, x)}
        return {"memory": memory, **heads.init(network_key, cell.apply(memory["cell"], cell.start(x), x)[1])}

    def policy(choose: Choose) -> policies.StatefulPolicy:
        def start(params: ActorParams, observation: torch.Tensor) -> Any:
            return cell.start(encode(params.network, in_dtype_of(params.network, observation)))

        def act(params: ActorParams, key: torch.Tensor, carry: Any, observation: torch.Tensor, reset: torch.Tensor) -> tuple[Any, Any, Any]:
            after, features = remember(params.network, carry, normalized(params, observation), reset)
            action, extras = choose(heads.distribution(params.network, features), lambda: heads.value(params.network, features), key)
            return after, action, {**extras, "memory": acting.Memory(carry, reset)}

        return policies.StatefulPolicy(lambda key, observation: ActorParams(init(key, observation)), start, act)

    def values(params: dict[str, Any], samples: Transition) -> tuple[torch.Tensor, torch.Tensor]:
        before = samples.extras["memory"]
        carry, features = remember(params, before.state, samples.observation, before.reset)
        _, next_features = remember(params, carry, samples.next_observation)
        return heads.value(params, features), heads.value(params, next_features)

    def rows(x: Any) -> Any:
        return tree.permute(x, (1, 0))

    def inputs(samples: Transition) -> tuple[Any, Any, torch.Tensor]:
        before = samples.extras["memory"]
        return tree.index(before.state, 0), *rows((samples.observation, before.reset))

    def both(params: dict[str, Any], x: tuple[Any, torch.Tensor, torch.Tensor]) -> tuple[Any, torch.Tensor]:
        carry, observation, reset = x
        _, features = cell.unroll(params["memory"]["cell"], carry, encode(params, rows(observation)), reset.transpose(0, 1))
        return heads.both(params, features.transpose(0, 1))

    return Network(init, policy, values, rows, inputs, both, functools.partial(project_action, env.action_space))


def normalized(params: ActorParams, observation: Any) -> Any:
    """Return an observation in the dtype of the network, normalised if the parameters contain moments.

    Example:
        >>> normalized(ActorParams(torch.zeros(1)), torch.ones(2, dtype=torch.float64))
        tensor([1., 1.])
    """
    observation = in_dtype_of(params.network, observation)
    return stats.normalize(params.observation, observation) if isinstance(params.observation, stats.Moments) else observation


def _observations(samples: Transition) -> Any:
    return tree.flatten_batch(samples.observation)


class _Heads(NamedTuple):
    """Functions ``init(key, x)``, ``features(params, x)``, and ``distribution`` and ``value`` of parameters and features."""

    init: Callable[..., Any]
    features: Callable[..., Any]
    distribution: Callable[..., Any]
    value: Callable[..., Any]

    def both(self, params: dict[str, Any], observation: Any) -> tuple[Any, torch.Tensor]:
        x = self.features(params, observation)
        return self.distribution(params, x), self.value(params, x)


def _heads(config: Any, env: AnyEnv, below: nn.Net | None, trunk: nn.Net | None = None, num_values: int = 0) -> _Heads:
    """Make policy and value networks on top of an encoder or of a trunk of the user's own."""
    head, small, unit = action_head(env.action_space, config.uniform_mix), nn.orthogonal(0.01), nn.orthogonal(1.0)

    def body(*size: int, **options: Any) -> nn.Net:
        """Make hidden layers and a head."""
        mlp = nn.mlp(config.num_cells, *size, activation=config.activation, **options)
        return mlp if below is None else above(below, mlp)

    if trunk is None and config.trunk == "shared":
        trunk = body()
    policy = body(head.size, out_init=small) if trunk is None else nn.mlp((), head.size, out_init=small)
    size = num_values or 1
    value = body(size, out_init=unit) if trunk is None else nn.mlp((), size, out_init=unit)

    def init(key: torch.Tensor, observation: Any) -> dict[str, Any]:
        trunk_key, policy_key, value_key = random.split(key, 3).unbind(0)
        params = {}
        if trunk is not None:
            params["trunk"] = trunk.init(trunk_key, observation)
            observation = trunk.apply(params["trunk"], observation)
        params |= {"policy": policy.init(policy_key, observation), "value": value.init(value_key, observation)}
        if head.num_scales:
            params["log_std"] = next(x for x in tree.leaves(params)).new_full((head.num_scales,), config.initial_log_std)
        return params

    def features(params: dict[str, Any], observation: Any) -> Any:
        return observation if trunk is None else trunk.apply(params["trunk"], observation)

    def distribution(params: dict[str, Any], features: Any) -> Any:
        return head.distribution(policy.apply(params["policy"], features), params.get("log_std"))

    def estimate(params: dict[str, Any], features: Any) -> torch.Tensor:
        values = value.apply(params["value"], features)
        return values if num_values else values.squeeze(-1)

    return _Heads(init, features, distribution, estimate)


def _whole(network: policies.ActorCritic, env: AnyEnv) -> Network:
    """Make the networks from an ActorCritic of the user's own, which is called with observations [N, ...] only."""
    space = env.action_space

    def init(key: torch.Tensor, observation: Any) -> Any:
        observation = in_dtypes_of(env.observation_space, observation)
        params = network.init(key, observation)
        distribution, value = network.evaluate(params, tree.map(lambda x: x[None], observation))
        space.check(tree.index(distribution.mode(), 0), "network: the mode of its distribution")
        first, expected = (getattr(x, "start", None) for x in (distribution, space))
        if None not in (first, expected) and first != expected:
            raise ValueError(f"network: expected actions from {expected} on, as in {space}, got a distribution that begins at {first}")
        if value.shape != (1,):
            raise ValueError(f"network: expected a value [N] of observations [N, ...], got {list(value.shape)} of one of them")
        return params

    def policy(choose: Choose) -> Callable[..., Any]:
        def act(params: ActorParams, key: torch.Tensor, observation: Any) -> tuple[Any, dict[str, Any]]:
            one = tree.map(lambda x: x[None], normalized(params, observation))
            distribution, value = network.evaluate(params.network, one)
            return tree.index(choose(distribution, lambda: value, key), 0)

        return act

    def values(params: Any, samples: Transition) -> tuple[torch.Tensor, torch.Tensor]:
        observation = tree.stack([samples.observation, samples.next_observation])
        value, next_value = network.value(params, tree.flatten_batch(observation, 3)).reshape(2, *samples.reward.shape)
        return value, next_value

    def both(params: Any, observation: Any) -> tuple[Any, torch.Tensor]:
        if len(batch_of(env.observation_space, observation)) > 1:  # the policy of the user takes one batch dimension
            return torch.func.vmap(lambda x: both(params, x))(observation)
        return network.evaluate(params, observation)

    project = torch.func.vmap(functools.partial(project_boxes, space))
    return Network(init, policy, values, tree.flatten_batch, _observations, both, project)


def check_recurrent(config: Any) -> None:
    """Raise unless the options ``recurrent`` and ``num_minibatches`` (of environments) are valid for a recurrent policy.

    Args:
        config: an object with these options and ``num_envs``.

    Raises:
        ValueError: if one is not.

    Example:
        >>> import funrl
        >>> check_recurrent(funrl.algos.ppo.PPOConfig(recurrent="gnu"))
        Traceback (most recent call last):
        ...
        ValueError: recurrent: expected 'none', 'gru', 'lstm' or 'min_gru', got 'gnu'
    """
    _check.one_of("recurrent", config.recurrent, ("none", *_CELLS))
    if config.recurrent != "none":
        _check.divisor(
            "num_minibatches", config.num_minibatches, config.num_envs, "num_envs", "recurrent policies learn from whole environments"
        )
