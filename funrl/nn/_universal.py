"""Universal value functions: values of states for any goal, as products of features of both."""

from typing import Any

import torch

from funrl import _check, random
from funrl.nn._mlp import mlp
from funrl.nn._net import Net


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
