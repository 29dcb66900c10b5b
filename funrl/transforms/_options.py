"""Options: actions that last several steps, each a policy of its own."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.compiler import scan
from funrl.env import AnyEnv, Env, Timestep
from funrl.spaces import Discrete
from funrl.transforms._core import Transform, wrapped
from funrl.transforms._parts import label
from funrl.typing import Act, Key

__all__ = ["OptionParams", "options"]


@tree.dataclass
class OptionParams(tree.Replaceable):
    """The parameters of an environment with options.

    Attributes:
        below: the ``env_params`` of the environment below.
        policies: the parameters of K policies, leaves [K, ...].
        gamma: floating point [], the discount of one step of the environment below.
    """

    below: Any
    policies: Any
    gamma: torch.Tensor


@tree.dataclass
class OptionState(tree.Replaceable):
    """The state of an environment with options: that of the environment below, and its last observation."""

    below: Any
    observation: Any


def options(
    act: Act, policies: Any, *, num_steps: int, gamma: float, terminate: Callable[[Any, torch.Tensor, Any], torch.Tensor] | None = None
) -> Transform:
    r"""Make options the actions of an environment: action k plays policy k for ``num_steps`` steps, or until it terminates.

    An option ends after its m-th step, where m is the least of ``num_steps``, the first step after which ``terminate`` returns True, and
    the end of the episode. The timestep has the discounted sum of its rewards and the discount of what follows:

    .. math:: r = \sum_{i=0}^{m-1} \gamma^i r_i, \qquad \mathrm{discount} = \gamma^m, \qquad
        y = r + \gamma^m (1 - \mathrm{terminated}) V(s_m)

    :func:`funrl.rollout` puts ``timestep.discount`` into the extras of transitions. All off-policy learners, and a2c, ppo, reinforce,
    impala, pqn and option_critic, use it in the place of their own gamma; the other learners raise an error. The returns of episodes in
    metrics are sums of these r. If steps of the environment below have discounts of their own, as options of options do, these take the
    place of :math:`\gamma`.

    The parameters of the policies are in ``env_params``, which is an :class:`OptionParams`: others can be given at each step, and they may
    differ between vmapped copies. Apply other transforms before this one.

    Args:
        act: ``act(params, key, observation) -> (action, extras)``, the policy of all options, such as ``algo.greedy``.
        policies: the parameters of K policies, leaves [K, ...]: ``tree.stack`` of several.
        num_steps: the greatest number of steps of an option, at least 1.
        gamma: the discount of one step, in [0, 1], of an environment without discounts of its own.
        terminate: ``terminate(params, key, observation) -> bool []``: whether the option with these parameters ends in a state; it is asked
            after each step. None: never.

    Returns:
        A transform of an :class:`~funrl.env.Env`, whose action space becomes ``Discrete(K)``.

    Raises:
        TypeError: if ``act`` or ``terminate`` is not a function; when applied: if the environment is not an Env; from a step, if
            ``terminate`` does not return bool [].
        ValueError: if ``num_steps`` or ``gamma`` is out of its range, or the policies have no common K.

    Example:
        >>> import funrl
        >>> def push(params, key, observation):  # a policy with one parameter, its action
        ...     return params, {}
        >>> env = options(push, torch.tensor([0, 1]), num_steps=3, gamma=0.9)(funrl.envs.make("CartPole-v1"))
        >>> state, _ = env.reset(funrl.random.key(0))
        >>> state, timestep = env.step(funrl.random.key(1), state, torch.tensor(1))
        >>> timestep.reward, timestep.discount  # 1 + 0.9 + 0.81, and 0.9³
        (tensor(2.7100), tensor(0.7290))

    Reference: R. Sutton, D. Precup, S. Singh, "Between MDPs and semi-MDPs: A framework for temporal abstraction in reinforcement learning",
        Artificial Intelligence 112, 1999 (no arXiv id), section 3.
    """
    _check.function("options: act", act, "algo.greedy is one")
    if terminate is not None:
        _check.function("options: terminate", terminate, expected="a function or None")
    _check.integer("options: num_steps", num_steps, 1)
    _check.number("options: gamma", gamma, "[0, 1]")
    count = tree.batch_shape(policies, 1)[0]

    def apply(env: AnyEnv) -> AnyEnv:
        _check.instance("options: env", env, Env, "options run inside torch, for a single copy; vectorize the result")
        like = next((x for x in tree.leaves(env.default_params) if x.is_floating_point()), torch.zeros((), device="cpu"))
        default = OptionParams(env.default_params, policies, torch.full((), gamma, dtype=like.dtype, device=like.device))
        actions = Discrete(count)

        def reset(key: Key, env_params: OptionParams = default) -> tuple[OptionState, Timestep]:
            state, timestep = env.reset(key, env_params.below)
            return OptionState(state, timestep.observation), timestep.replace(discount=torch.ones_like(timestep.reward))

        def step(key: Key, state: OptionState, action: torch.Tensor, env_params: OptionParams = default) -> tuple[OptionState, Timestep]:
            _check.instance(f"{env.name}: env_params", env_params, OptionParams, "an environment with options has those")
            actions.check(action, f"{env.name}: action")
            params = tree.rows(env_params.policies, action)
            return _play(env, act, terminate, random.split(key, num_steps), state, params, env_params)

        steps = env.max_episode_steps if terminate is not None else -(-env.max_episode_steps // num_steps)
        return wrapped(
            env,
            label("options", num_options=count, num_steps=num_steps, gamma=gamma),
            lambda state, env_params: (state.below, env_params.below),
            reset=reset, step=step, action_space=actions, default_params=default, max_episode_steps=steps,
        )  # fmt: skip

    return apply


def _play(
    env: Any, act: Act, terminate: Any, keys: torch.Tensor, state: OptionState, params: Any, env_params: OptionParams
) -> tuple[OptionState, Timestep]:
    """Play the option with the parameters ``params`` for as many steps as there are keys, or until it ends."""
    # A compiled loop cannot take two tensors from outside that share memory; in a rollout these are views of one vector.
    params, env_params = tree.map(torch.clone, (params, env_params))

    def advance(state: OptionState, key: Key) -> tuple[OptionState, Timestep, torch.Tensor]:
        """Take one step; return also whether the option ends after it."""
        act_key, step_key, stop_key = random.split(key, 3).unbind(0)
        action, _ = _check.pair("options: act", act(params, act_key, state.observation), "(action, extras)")
        below, after = env.step(step_key, state.below, action, env_params.below)
        stop = after.done
        if terminate is not None:
            stop = stop | _check.flag("options: terminate", terminate(params, stop_key, after.observation), shape=())
        if not isinstance(after.discount, torch.Tensor):
            after = after.replace(discount=env_params.gamma.to(after.reward).clone())
        return OptionState(below, after.observation), after, stop

    def further(carry: tuple[Any, ...], key: Key) -> tuple[tuple[Any, ...], tuple[()]]:
        state, timestep, over = carry
        new, after, stop = advance(state, key)
        after = after.replace(reward=timestep.reward + timestep.discount * after.reward, discount=timestep.discount * after.discount)
        return tree.where(over, carry, (new, after, stop)), ()

    state, first, over = advance(state, keys[0])
    (state, timestep, _), _ = scan(further, (state, first, over), keys[1:]) if len(keys) > 1 else ((state, first, over), ())
    return state, timestep
