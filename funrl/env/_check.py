"""The contract of an environment, tried out."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.compiler import compile
from funrl.env._data import Timestep
from funrl.env._interface import AnyEnv, Env, VectorEnv, batch_shape, copy_keys, masked, on_host, over_copies


def check_env(env: AnyEnv, key: torch.Tensor, *, num_steps: int = 8) -> None:
    """Raise unless ``env`` satisfies the contract of :class:`Env` or :class:`VectorEnv`.

    It resets the environment, takes random actions, and checks that

    * observations are in ``observation_space``; reward is a finite floating-point []; terminated and truncated are
      bool []; ``reset`` gives reward 0 and an episode that is not over;
    * structure, shapes and dtypes of state and timestep do not change after ``reset``;
    * the same keys and actions give the same states and timesteps again;
    * no argument is modified;
    * ``render``, if it is not None, returns uint8 [H, W, 3];

    all of these with a first dimension [B] for a VectorEnv; for it also that

    * ``reset`` and ``step`` with a mask equal those without in the rows of the mask, and do not change the state of the others;

    and for an environment that does not run on the host also that

    * the floating-point numbers have the dtype of ``env_params``;
    * ``torch.func.vmap`` over three copies with different params (the floating-point ones times 1, 1.01 and 1.02) agrees with
      a loop;
    * a compiled reset and step (:func:`funrl.compile`), and those of two copies under vmap, agree with eager ones.

    Args:
        env: the environment.
        key: int64 [], for the random resets and actions.
        num_steps: the number of steps, at least 1.

    Raises:
        TypeError: if ``env`` is not an environment or a part of it has the wrong type.
        ValueError: if it violates the contract; the message says where and how.

    Example:
        >>> import funrl
        >>> check_env(funrl.envs.make("CartPole-v1"), funrl.random.key(0))
    """
    _check.instance("check_env: env", env, (Env, VectorEnv), "funrl.envs.make returns one", "an Env or a VectorEnv")
    _check.integer("check_env: num_steps", num_steps, 1)
    what = f"check_env: {env.name}"
    for field in ("observation_space", "action_space"):
        for method in ("sample", "contains", "check"):
            if not callable(getattr(getattr(env, field), method, None)):
                raise TypeError(f"{what}: {field} has no method {method}; use a space of funrl.spaces")
    _check.integer(f"{what}: max_episode_steps", env.max_episode_steps, 1)
    if isinstance(env, VectorEnv):
        _check.integer(f"{what}: num_envs", env.num_envs, 1)
    _check_tensors(env.default_params, f"{what}: default_params")
    reset_keys, action_keys, step_keys, other_keys = random.split(key, (4, num_steps)).unbind(0)
    actions = [_random_action(env, k) for k in action_keys.unbind(0)]
    keys = list(zip(reset_keys.unbind(0), step_keys.unbind(0), strict=True))

    first = _walk(env, keys, actions, env.default_params, what)
    again = _walk(env, keys, actions, env.default_params, what)
    for place, (one, other) in enumerate(zip(first, again, strict=True)):
        where = "reset" if place == 0 else f"step {place}"
        _check_same(one, other, f"{what}: {where}", "the same keys and actions gave another result", tolerance=0.0)

    state = first[-1][0]
    if env.render is not None:
        before = _copy(state)
        image = env.render(state, env.default_params)
        _check_same(state, before, f"{what}: render", "it modified its argument state; return new tensors instead", tolerance=0.0)
        batch = batch_shape(env)
        rank, shape = 3 + len(batch), ", ".join([*map(str, batch), "H, W, 3"])
        if not isinstance(image, torch.Tensor) or image.dtype != torch.uint8 or image.ndim != rank or image.shape[-1] != 3:
            raise ValueError(f"{what}: render: expected uint8 [{shape}], got {_check.describe(image)}")
    if isinstance(env, VectorEnv):
        _check_masks(env, other_keys[0], what)
    if on_host(env):
        return
    _check_precision(env, key, actions[0], what)
    _check_vmap(env, random.split(other_keys[0], (3, 3)), what)
    _check_compiled(env, other_keys[0], actions[0], what)


def _random_action(env: AnyEnv, key: torch.Tensor) -> Any:
    """Return one random action, or one for each copy."""
    return over_copies(env, env.action_space.sample)(copy_keys(env, key))


def _walk(env: AnyEnv, keys: list[Any], actions: list[Any], env_params: Any, what: str) -> list[tuple[Any, Timestep]]:
    """Reset, take the actions (with a reset after the end of an episode), and check each result; return copies of all results."""
    reset_reference = _guarded(f"{what}: reset", env.reset, ("key", "env_params"), (keys[0][0], env_params))
    _check_result(reset_reference, env, f"{what}: reset")
    state, timestep = reset_reference
    _check_start(timestep, f"{what}: reset")
    reference, results = _copy(reset_reference), [_copy(reset_reference)]
    for number, ((reset_key, step_key), action) in enumerate(zip(keys, actions, strict=True), 1):
        if bool(timestep.done.any()):
            state, timestep = masked(env)[0](reset_key, env_params, state, timestep.done)
        where = f"{what}: step {number}"
        names = ("key", "state", "action", "env_params")
        result = _guarded(where, env.step, names, (step_key, state, action, env_params))
        _check_result(result, env, where)
        for part, new, old in zip(("state", "timestep"), result, reference, strict=True):
            tree.check_like(new, old, f"{where}: {part}", "that of reset")
        state, timestep = result
        results.append(_copy(result))
    return results


def _guarded(where: str, function: Callable[..., Any], names: Any, arguments: Any) -> Any:
    """Call ``function`` and raise if it modified an argument."""
    before = _copy(arguments)
    result = function(*arguments)
    for name, now, then in zip(names, arguments, before, strict=True):
        _check_same(now, then, where, f"it modified its argument {name}; return new tensors instead", tolerance=0.0)
    return result


def _check_result(result: Any, env: AnyEnv, where: str) -> None:
    """Raise unless ``result`` is (state, Timestep) of tensors, and the timestep is one of ``env``."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Timestep)):
        got = ", ".join(type(part).__name__ for part in result) if isinstance(result, tuple) else type(result).__name__
        raise TypeError(f"{where}: expected (state, Timestep), got {got}")
    state, timestep = result
    _check_tensors(state, f"{where}: state")
    _check_tensors(timestep, f"{where}: timestep")
    _check.instance(f"{where}: info", timestep.info, dict, expected="a dict of tensors")
    batch = batch_shape(env)
    if not timestep.reward.is_floating_point() or timestep.reward.shape != batch:
        raise ValueError(f"{where}: reward: expected a floating-point {list(batch)}, got {_check.describe(timestep.reward)}")
    for name in ("terminated", "truncated"):
        flag = getattr(timestep, name)
        if flag.dtype != torch.bool or flag.shape != batch:
            raise ValueError(f"{where}: {name}: expected bool {list(batch)}, got {_check.describe(flag)}")
    for part, value in (("state", state), ("observation", timestep.observation), ("info", timestep.info)):
        for path, leaf in zip(tree.paths(value), tree.leaves(value), strict=True):
            if leaf.shape[: len(batch)] != batch:
                rows = f"one row for each copy, [{batch[0]}, ...]"
                _check.fail(ValueError, f"{where}: {part}: leaf {path}", rows, _check.describe(leaf))
    rows = [timestep.observation] if not batch else [tree.index(timestep.observation, i) for i in range(batch[0])]
    for observation in rows:
        env.observation_space.check(observation, f"{where}: observation")
        if not bool(env.observation_space.contains(observation)):
            raise ValueError(f"{where}: the observation {observation} is not in {env.observation_space}; widen the space or clip")
    if not bool(timestep.reward.isfinite().all()):
        raise ValueError(f"{where}: reward: expected a finite number, got {timestep.reward.tolist()}")


def _check_start(timestep: Timestep, where: str) -> None:
    if bool((timestep.reward != 0).any()) or bool(timestep.done.any()):
        raise ValueError(
            f"{where}: expected reward 0 and neither terminated nor truncated, got reward {timestep.reward.tolist()}, "
            f"terminated {timestep.terminated.tolist()}, truncated {timestep.truncated.tolist()}"
        )


def _check_masks(env: VectorEnv, key: torch.Tensor, what: str) -> None:
    """Raise unless reset and step with a mask agree with those without; each is called after the same reset and step."""
    first_key, action_key, step_key, again_key, second_key, next_key = random.split(key, 6).unbind(0)
    env_params, mask = env.default_params, torch.arange(env.num_envs, device=key.device) % 2 == 0
    actions = [_random_action(env, k) for k in random.split(action_key).unbind(0)]

    def start() -> Any:
        state, _ = env.reset(first_key, env_params)
        state, timestep = env.step(step_key, state, actions[0], env_params)
        return env.reset(again_key, env_params, state, timestep.done)[0] if bool(timestep.done.any()) else state

    fresh = _copy(env.reset(second_key, env_params))
    after = _copy(env.step(next_key, start(), actions[1], env_params))
    for name, names, arguments, expected in (
        ("reset", ("key", "env_params", "state", "where"), lambda state: (second_key, env_params, state, mask), fresh),
        ("step", ("key", "state", "action", "env_params", "where"), lambda state: (next_key, state, actions[1], env_params, mask), after),
    ):
        state, place = start(), f"{what}: {name} with a mask"
        before = _copy(state)
        result = _guarded(place, getattr(env, name), names, arguments(state))
        chosen, wanted = (tree.index(value, mask) for value in (result, expected))
        _check_same(chosen, wanted, place, "in the rows of the mask it gives another result than without", tolerance=0.0)
        others, kept = (tree.index(value, ~mask) for value in (result[0], before))
        _check_same(others, kept, place, "it changed the state of a row that is not in the mask", tolerance=0.0)


def _check_precision(env: AnyEnv, key: torch.Tensor, action: Any, what: str) -> None:
    """Raise unless float64 params give float64 for all floating-point numbers of the episode."""
    env_params = tree.to(env.default_params, torch.float64)
    if not any(x.is_floating_point() for x in tree.leaves(env_params)):
        return
    state, timestep = env.reset(key, env_params)
    results = {"reset": (state, timestep), "step": env.step(key, state, action, env_params)}
    for place, result in results.items():
        for part, value in zip(("state", "timestep"), result, strict=True):
            for path, x in zip(tree.paths(value), tree.leaves(value), strict=True):
                if x.is_floating_point() and x.dtype != torch.float64:
                    raise ValueError(
                        f"{what}: {place}: with env_params in float64, leaf {path} of the {part} is {_check.describe(x)}; "
                        "take the dtype of new numbers from env_params"
                    )


def _check_vmap(env: AnyEnv, keys: torch.Tensor, what: str) -> None:
    """Raise unless reset and step agree under vmap with a loop; ``keys`` is [3, B]."""
    copies = keys.shape[1]
    scales = [1 + 0.01 * i for i in range(copies)]
    env_params = [tree.map(lambda x, scale=scale: x * scale if x.is_floating_point() else x, env.default_params) for scale in scales]
    actions = [_random_action(env, k) for k in keys[0].unbind(0)]
    starts = [env.reset(k, p) for k, p in zip(keys[1].unbind(0), env_params, strict=True)]
    ends = [env.step(k, start[0], a, p) for k, start, a, p in zip(keys[2].unbind(0), starts, actions, env_params, strict=True)]
    try:
        start = torch.func.vmap(env.reset)(keys[1], tree.stack(env_params))
        end = torch.func.vmap(env.step)(keys[2], start[0], tree.stack(actions), tree.stack(env_params))
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"{what}: it cannot be vmapped: {type(error).__name__}: {reason[0]}; "
            "use tensor operations throughout, no .item(), no branch on values and no assignment into a tensor"
        ) from error
    _check_same(start, tree.stack(starts), f"{what}: reset", "under vmap it gives another result than in a loop", tolerance=1e-4)
    _check_same(end, tree.stack(ends), f"{what}: step", "under vmap it gives another result than in a loop", tolerance=1e-4)


def _check_compiled(env: AnyEnv, key: torch.Tensor, action: Any, what: str) -> None:
    """Raise unless a compiled reset and step agree with eager ones, and also a vmapped one if the environment is single."""

    def walk(key: torch.Tensor, action: Any, env_params: Any) -> tuple[Any, Any]:
        reset_key, step_key = random.split(key)
        start = env.reset(reset_key, env_params)
        return start, env.step(step_key, start[0], action, env_params)

    def walks(key: torch.Tensor, action: Any, env_params: Any) -> tuple[Any, ...]:
        if isinstance(env, VectorEnv):
            return (walk(key, action, env_params),)
        return walk(key, action, env_params), torch.func.vmap(walk, (0, None, None))(random.split(key), action, env_params)

    arguments = key, action, env.default_params
    found, expected = compile(walks)(*arguments), walks(*arguments)
    for one, other, how in zip(found, expected, ("compiled", "compiled under vmap"), strict=False):
        _check_same(one[0], other[0], f"{what}: reset", f"{how} it gives another result than eagerly", tolerance=1e-4)
        _check_same(one[1], other[1], f"{what}: step", f"{how} it gives another result than eagerly", tolerance=1e-4)


def _check_tensors(value: Any, where: str) -> None:
    for path, leaf in zip(tree.paths(value), tree.leaves(value), strict=True):
        _check.tensor(f"{where}: leaf {path}", leaf, "wrap it in torch.tensor")


def _check_same(one: Any, other: Any, where: str, complaint: str, *, tolerance: float) -> None:
    """Raise unless two trees agree in structure, dtypes, shapes and values."""
    try:
        tree.check_like(one, other, "one", "the other")
    except ValueError as error:
        raise ValueError(f"{where}: {complaint} ({error})") from None
    for path, x, y in zip(tree.paths(one), tree.leaves(one), tree.leaves(other), strict=True):
        if not torch.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=x.is_floating_point()):
            raise ValueError(f"{where}: {complaint} (leaf {path}: {x.tolist()} and {y.tolist()})")


def _copy(value: Any) -> Any:
    return tree.map(lambda x: x.clone(), value)
