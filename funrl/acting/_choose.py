"""Choice of actions: by a function, by a recurrent policy or at random, for one environment or for several copies."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.acting._state import Memory
from funrl.env import AnyEnv, VectorEnv
from funrl.policies import StatefulPolicy
from funrl.typing import Act


def check_act(what: str, act: Any) -> None:
    """Raise a TypeError unless ``act`` is valid for :func:`funrl.rollout`; the message begins with ``what``.

    Example:
        >>> from funrl import nn, policies
        >>> check_act("rollout", policies.deterministic(nn.mlp((), 1)))
        Traceback (most recent call last):
        ...
        TypeError: rollout: act: expected a function or a StatefulPolicy, got a Policy; give its act: policy.act
    """
    if act is not None and not callable(act) and not isinstance(act, StatefulPolicy):
        remedy = "give its act: policy.act" if hasattr(act, "act") else "write act(params, key, observation) -> (action, extras)"
        raise TypeError(f"{what}: act: expected a function or a StatefulPolicy, got a {type(act).__name__}; {remedy}")


def chooser(act: Act | StatefulPolicy | None, env: AnyEnv) -> Callable[[Any, torch.Tensor, Any, Any], tuple[Any, Any, Any]]:
    """Return ``choose(params, key, memory, observation) -> (memory, action, extras)`` for observations of ``env``.

    The memory is () if ``act`` has none. For a :class:`~funrl.env.VectorEnv` the function is mapped over the copies.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> memory, action, extras = chooser(None, env)((), random.key(0), (), None)
        >>> action.shape, extras
        (torch.Size([]), {})
    """

    def one(params: Any, key: torch.Tensor, memory: Any, observation: Any) -> tuple[Any, Any, Any]:
        if isinstance(act, StatefulPolicy):
            carry, action, extras = act.act(params, key, memory.state, observation, memory.reset)
            return memory.replace(state=carry), action, extras
        action, extras = (env.action_space.sample(key), {}) if act is None else _pair(act(params, key, observation))
        return memory, action, extras

    if not isinstance(env, VectorEnv):
        return one

    def each(params: Any, key: torch.Tensor, memory: Any, observation: Any) -> tuple[Any, Any, Any]:
        all_of_them = mapped(lambda key, memory, observation: one(params, key, memory, observation))
        return all_of_them(random.split(key, env.num_envs), memory, observation)

    return each


def host_chooser(params: Any, act: Act | StatefulPolicy | None) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
    """Return ``choose(choice, memory, observation) -> (memory, action, extras)`` for the choices that :func:`draw` drew.

    Example:
        >>> import funrl
        >>> from funrl.acting import draw
        >>> with funrl.envs.make("gymnasium:CartPole-v1", num_envs=2) as env:
        ...     drawn = draw(funrl.random.key(0), env=env, act=None, num_steps=5)
        ...     memory, action, extras = host_chooser(None, None)(drawn.choices[0], (), None)
        >>> action.shape, extras
        (torch.Size([2]), {})
    """
    if act is None:
        return lambda action, memory, observation: (memory, action, {})

    def over_copies(f: Callable, num_inputs: int) -> Callable:
        # A compiled act remains compiled under vmap.
        map_over = getattr(f, "vmapped", functools.partial(torch.func.vmap, f))
        return map_over((None, *(0 for _ in range(num_inputs))))

    if isinstance(act, StatefulPolicy):
        each = over_copies(act.act, 4)

        def choose(key: torch.Tensor, memory: Memory, observation: Any) -> tuple[Memory, Any, Any]:
            carry, action, extras = each(params, key, memory.state, observation, memory.reset)
            return memory.replace(state=carry), action, extras

        return choose
    each = over_copies(act, 2)
    return lambda key, memory, observation: (memory, *_pair(each(params, key, observation)))


def with_reset(memory: Any, done: torch.Tensor) -> Any:
    """Set the reset flag of the memory, if there is one, where episodes have ended.

    Example:
        >>> with_reset((), torch.tensor(True))
        ()
    """
    return memory.replace(reset=done) if isinstance(memory, Memory) else memory


def mapped(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``torch.func.vmap(f)`` that treats None in the results as a tree without leaves.

    Example:
        >>> mapped(lambda x: (x + 1, None))(torch.zeros(2))
        (tensor([1., 1.]), None)
    """

    def all_of_them(*args: Any) -> Any:
        form: Any = None

        def leaves(*args: Any) -> list[torch.Tensor]:
            nonlocal form
            values, form = tree.flatten(f(*args))
            return values

        values = torch.func.vmap(leaves)(*args)
        return tree.unflatten(form, values)

    return all_of_them


def _pair(chosen: Any) -> tuple[Any, Any]:
    return _check.pair("act", chosen, "(action, extras)", "without extras, return (action, {})")
