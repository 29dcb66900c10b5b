"""Heads of value functions: dueling, with noise in the parameters, and for any goal."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from funrl import _check, random
from funrl.nn._initializers import Initializer
from funrl.nn._mlp import mlp
from funrl.nn._net import Net, check_features, check_input


def dueling(
    num_cells: Sequence[int],
    num_actions: int,
    *,
    activation: str | Callable[[torch.Tensor], torch.Tensor] = "relu",
    init: Initializer | None = None,
) -> Net:
    r"""Make a dueling head, which computes action values from the value of the state and the advantages of the actions.

    .. math:: Q(s, a) = V(s) + A(s, a) - \frac1n \sum_{a'} A(s, a')

    Args:
        num_cells: the widths of the hidden layers, the same for V and A; may be empty.
        num_actions: n, at least 1.
        activation: as for :func:`funrl.nn.mlp`.
        init: as for :func:`funrl.nn.mlp`.

    Returns:
        A :class:`Net` of features [..., D] (put a trunk before it with :func:`sequential`): ``apply`` returns Q [..., n]; the
        parameters are a dict of ``value`` and ``advantage``, those of two mlps.

    Raises:
        ValueError: as for :func:`funrl.nn.mlp`.
        TypeError: as for :func:`funrl.nn.mlp`.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> net = dueling((16,), 3)
        >>> params = net.init(random.key(0), torch.zeros(4))
        >>> net.apply(params, torch.zeros(7, 4)).shape
        torch.Size([7, 3])

    Reference: Z. Wang et al., "Dueling Network Architectures for Deep Reinforcement Learning", 2015, arXiv:1511.06581, equation 9.
    """
    _check.integer("dueling: num_actions", num_actions, 1)
    value, advantage = (mlp(num_cells, size, activation=activation, init=init) for size in (1, num_actions))
    net = dueling_of(value, advantage, num_actions)
    return Net(net.init, lambda params, *inputs, key=None: net.apply(params, *inputs, key=key).squeeze(-1))


def dueling_of(value: Net, advantage: Net, num_actions: int) -> Net:
    """Make the network whose outputs [..., A, K] are combined from values [..., K] and advantages [..., A * K]."""

    def init(key: torch.Tensor, *examples: torch.Tensor) -> dict[str, Any]:
        value_key, advantage_key = random.split(key).unbind(0)
        return {"value": value.init(value_key, *examples), "advantage": advantage.init(advantage_key, *examples)}

    def apply(params: dict[str, Any], *inputs: torch.Tensor, key: torch.Tensor | None = None) -> torch.Tensor:
        keys = (None, None) if key is None else random.split(key).unbind(0)
        advantages = advantage.apply(params["advantage"], *inputs, key=keys[1]).unflatten(-1, (num_actions, -1))
        return value.apply(params["value"], *inputs, key=keys[0]).unsqueeze(-2) + advantages - advantages.mean(-2, keepdim=True)

    return Net(init, apply, value.noisy)


def noisy_linear(out_features: int, sigma: float = 0.5) -> Net:
    r"""Make a linear layer with factorised Gaussian noise in its parameters, whose size is learned.

    .. math:: y = (\mu^w + \sigma^w \odot f(\varepsilon^{out}) f(\varepsilon^{in})^\top)\, x + \mu^b + \sigma^b \odot f(\varepsilon^{out}),
        \qquad f(x) = \mathrm{sgn}(x) \sqrt{|x|}

    The whole batch has the same noise; map over keys with :func:`torch.func.vmap` for separate noise.

    Args:
        out_features: at least 1.
        sigma: the initial noise scale before its factor 1 / sqrt(D); at least 0.

    Returns:
        A noisy :class:`Net`: ``init(key, example [..., D])`` returns a dict of ``weight`` [out, D], ``bias`` [out], ``weight_sigma``
        and ``bias_sigma``. ``apply(params, x [..., D], key=key)`` returns [..., out]; without a key it adds no noise.

    Raises:
        ValueError: if ``out_features`` is below 1 or ``sigma`` below 0; from ``apply``, if x has another width than D.
        TypeError: if an input is not floating point, or not of the parameters' dtype.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> net = noisy_linear(2)
        >>> params = net.init(random.key(0), torch.zeros(3))
        >>> x = torch.ones(3)
        >>> one, other = (net.apply(params, x, key=k) for k in random.split(random.key(1)))
        >>> bool((one != other).all()), bool((net.apply(params, x) == net.apply(params, x)).all())
        (True, True)

    Reference: M. Fortunato et al., "Noisy Networks for Exploration", 2017, arXiv:1706.10295, section 3.1 and equations 9 to 11.
    """
    size = _check.integer("noisy_linear: out_features", out_features, 1)
    _check.number("noisy_linear: sigma", sigma, "[0, inf)")

    def init(key: torch.Tensor, example: torch.Tensor) -> dict[str, torch.Tensor]:
        check_input("noisy_linear.init: example", example)
        bound = 1 / math.sqrt(example.shape[-1])
        shapes = {"weight": (size, example.shape[-1]), "bias": (size,)}
        params = {}
        for k, (name, shape) in zip(random.split(key, 2).unbind(0), shapes.items(), strict=True):
            params[name] = random.uniform(k, shape, -bound, bound, dtype=example.dtype).to(example.device)
            params[f"{name}_sigma"] = torch.full_like(params[name], sigma * bound)
        return params

    def apply(params: dict[str, torch.Tensor], x: torch.Tensor, *, key: torch.Tensor | None = None) -> torch.Tensor:
        check_features("noisy_linear.apply: x", x, params["weight"])
        weight, bias = params["weight"], params["bias"]
        if key is not None:
            noise = random.normal(key, (weight.shape[0] + weight.shape[1],), dtype=weight.dtype)
            noise = torch.sign(noise) * noise.abs().sqrt()
            rows, columns = noise.split([weight.shape[0], weight.shape[1]])
            weight = weight + params["weight_sigma"] * rows.unsqueeze(-1) * columns
            bias = bias + params["bias_sigma"] * rows
        return functional.linear(x, weight, bias)

    return Net(init, apply, noisy=True)


def universal(
    out_features: int,
    num_features: int = 32,
    num_cells: tuple[int, ...] = (64, 64),
    *,
    activation: Any = "relu",
    observation: str = "observation",
    goal: str = "desired_goal",
) -> Net:
    r"""Make a network of values for any goal: features of the state times features of the goal.

    .. math:: Q(s, a, g) = \sum_{j=1}^n \phi_j(s, a)\, \psi_j(g)

    Two networks with separate parameters compute :math:`\phi` and :math:`\psi`. As a table of states and actions by goals, Q has at most
    the rank n. A network of hidden layers over the joined observation and goal, such as the default ones of learners for dicts, has no such
    limit.

    Args:
        out_features: A, the number of actions; 1 for a state value.
        num_features: n, at least 1.
        num_cells: the widths of the hidden layers of each of the two networks; may be empty.
        activation: as for :func:`mlp`.
        observation: the entry of an observation that is the state [..., D].
        goal: the entry that is the goal [..., G].

    Returns:
        A :class:`Net` of observations that are dicts with these entries, and perhaps others, which are not used. Its output is [..., A];
        its parameters are a dict of ``state`` and ``goal``.

    Raises:
        ValueError: if a size is below 1; from ``init`` and ``apply``, if an entry is missing.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("BitFlip-misc", num_bits=6)
        >>> buffer = funrl.buffers.hindsight(1000, funrl.envs.goal_reward(env))
        >>> algo = funrl.algos.dqn.make(env, network=universal(6, 8), buffer=buffer, num_steps=4, num_updates=1)
        >>> _, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        >>> metrics["steps"]
        tensor(4)

    Reference: T. Schaul, D. Horgan, K. Gregor, D. Silver, "Universal Value Function Approximators", ICML 2015 (no arXiv id), section 3: the
        two-stream architecture with a dot product, trained from end to end.
    """
    _check.integer("universal: out_features", out_features, 1)
    _check.integer("universal: num_features", num_features, 1)
    phi = mlp(num_cells, (out_features, num_features), activation=activation)
    psi = mlp(num_cells, num_features, activation=activation)

    def parts(what: str, x: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if not isinstance(x, dict) or observation not in x or goal not in x:
            got = sorted(x) if isinstance(x, dict) else _check.describe(x)
            _check.fail(ValueError, what, f"a dict with the entries {observation!r} and {goal!r}", got)
        return x[observation], x[goal]

    def init(key: torch.Tensor, example: Any) -> dict[str, Any]:
        state_key, goal_key = random.split(key).unbind(0)
        state, aim = parts("universal.init: example", example)
        return {"state": phi.init(state_key, state), "goal": psi.init(goal_key, aim)}

    def apply(params: dict[str, Any], x: Any, *, key: Any = None) -> torch.Tensor:
        state, aim = parts("universal.apply: x", x)
        features = phi.apply(params["state"], state).reshape(*state.shape[:-1], out_features, num_features)
        return (features * psi.apply(params["goal"], aim).unsqueeze(-2)).sum(-1)

    return Net(init, apply)
