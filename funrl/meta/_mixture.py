"""A mixture of tasks: an environment in which each episode is in one of K tasks, whose number the observation shows."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from funrl import _across, _check, random, tree
from funrl.env import AnyEnv, Env, Timestep, with_label
from funrl.meta._trials import shown_beside
from funrl.nn import Net, orthogonal
from funrl.spaces import Box
from funrl.stats import Moments
from funrl.transforms import Transform, VecNormParams

__all__ = ["MixtureParams", "MixtureState", "OneOfParams", "one_of", "task_embedding", "task_mixture", "task_number", "updated_moments"]

_EPS = 1e-8  # added to variances, as in funrl.stats


@tree.dataclass
class MixtureParams(tree.Replaceable):
    """The ``env_params`` of a mixture of K tasks.

    Attributes:
        tasks: the params of the environment below in each task, leaves [K, ...].
        logits: floating point [K], logarithms of the probabilities of the tasks in a reset, up to a constant.
        returns: floating point [K], running means of the returns in each task, which :func:`funrl.meta.multi_task.of` updates; NaN before
            the first episode.
        moments: :class:`funrl.stats.Moments` of the observations in each task, all leaves with a first dimension K; () without
            normalisation.
    """

    tasks: Any
    logits: torch.Tensor
    returns: torch.Tensor
    moments: Any = ()


@tree.dataclass
class MixtureState(tree.Replaceable):
    """The state of an episode in a mixture of tasks.

    Attributes:
        below: the state of the environment below.
        task: int64 [], the number of the task.
    """

    below: Any
    task: torch.Tensor


def task_mixture(env_params: Any, *, normalize: bool = False) -> Transform:
    r"""Make a transform after which each episode is in one of K tasks, which ``reset`` draws; the observation also shows its number.

    The number k is shown one-hot: it follows the observation in one vector where that is a vector; otherwise the observation becomes a dict
    of ``observation`` and ``task`` [K]. With ``normalize`` the observation is normalised by the moments of its task,

    .. math:: \frac{x - \bar x_k}{\sqrt{\sigma^2_k + 10^{-8}}},

    so that tasks whose observations differ in scale look alike. The moments are in ``env_params``, as those of
    :func:`funrl.transforms.vec_norm`, and :func:`funrl.meta.multi_task.of` updates them. It must be the last transform of an environment.

    Args:
        env_params: the tasks: ``env_params`` of the environment in which at least one leaf has a first dimension K; a leaf with the number
            of dimensions of ``env.default_params`` is shared by all tasks. :func:`funrl.envs.tasks.of` draws such. Or a list of K params.
        normalize: whether to normalise observations for each task; they must be vectors.

    Returns:
        A transform of a pure environment, not batched. Its ``env_params`` are :class:`MixtureParams`: with other ``logits`` the tasks have
        other probabilities.

    Raises:
        ValueError: when applied: if the environment runs on the host or is batched, or has ``vec_norm``, the params do not fit it, or its
            observations cannot be normalised.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> lengths = env.default_params.replace(length=torch.tensor([0.5, 1.0, 2.0]))
        >>> env = task_mixture(lengths)(env)
        >>> state, timestep = env.reset(random.key(0))
        >>> state.task, timestep.observation[3:], task_number(env)(timestep.observation)
        (tensor(2), tensor([0., 0., 1.]), tensor(2))
    """
    return lambda env: _with_mixture(env, env_params, normalize)


def task_number(env: AnyEnv) -> Callable[[Any], torch.Tensor]:
    """Return a function from observations [N..., ...] of a mixture of tasks to the numbers of their tasks, int64 [N...].

    The numbers in them must not be normalised. With ``normalize_observation``, algorithms of :func:`funrl.meta.multi_task.make` and
    :func:`funrl.meta.multi_task.of` normalise the rest only.

    Raises:
        ValueError: if the environment is no mixture of tasks.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> env = task_mixture(env.default_params.replace(length=torch.tensor([0.5, 1.0])))(env)
        >>> task_number(env)(torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]))
        tensor([0, 1])
    """
    if not isinstance(env.default_params, MixtureParams):
        raise ValueError(f"env: expected a mixture of tasks, got {env}; meta.task_mixture(env_params)(env) makes one")
    num_tasks = len(env.default_params.logits)
    return lambda observation: (observation["task"] if isinstance(observation, dict) else observation[..., -num_tasks:]).argmax(-1)


def task_embedding(num_tasks: int, size: int) -> Net:
    r"""Make a net that replaces the one-hot task number at the end of an observation by a learned vector.

    .. math:: y = (x, e_k)

    As the first part of a ``network`` it lets tasks share what they have in common, when they are many.

    Args:
        num_tasks: K, at least 1.
        size: E, at least 1, the size of the vectors.

    Returns:
        A :class:`funrl.nn.Net` from [..., D + K] to [..., D + E]; its parameters are the vectors e [K, E], initially orthogonal.

    Raises:
        ValueError: if a number is less than 1.

    Example:
        >>> from funrl import nn
        >>> net = nn.sequential(task_embedding(10, 4), nn.mlp((64, 64)))  # the argument ``network`` of funrl.algos.ppo.make
        >>> params = net.init(random.key(0), torch.zeros(3 + 10))
        >>> params[0].shape, net.apply(params, torch.zeros(5, 13)).shape
        (torch.Size([10, 4]), torch.Size([5, 64]))
    """
    _check.integer("task_embedding: num_tasks", num_tasks, 1)
    _check.integer("task_embedding: size", size, 1)

    def init(key: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
        return orthogonal(1.0)(key, (num_tasks, size), example.dtype, example.device)

    def apply(params: torch.Tensor, x: torch.Tensor, *, key: Any = None) -> torch.Tensor:
        return torch.cat([x[..., :-num_tasks], x[..., -num_tasks:] @ params], -1)

    return Net(init, apply)


def _with_mixture(env: AnyEnv, env_params: Any, normalize: bool) -> AnyEnv:
    if not isinstance(env, Env):
        raise ValueError(f"task_mixture: env: expected a pure environment, not batched, got {env}")
    if isinstance(env.default_params, VecNormParams):
        raise ValueError("task_mixture: env: expected one without vec_norm, whose moments would not be updated; take normalize=True")
    if isinstance(env_params, Sequence):
        env_params = tree.stack(_check.some("task_mixture: env_params", list(env_params), "task"))
    tasks, num_tasks = _stacked(env, env_params)
    space, show = shown_beside(env.observation_space, num_tasks, "task")
    if normalize and not isinstance(space, Box):
        raise ValueError(
            f"task_mixture: normalize: expected observations that are vectors, got {env.observation_space}; set normalize=False"
        )
    like = next(x for x in tree.leaves(tasks) if x.is_floating_point()).reshape(-1)[:1].expand(num_tasks)
    default = MixtureParams(tasks, torch.zeros_like(like), torch.full_like(like, torch.nan), _moments(like, env) if normalize else ())

    def shown(timestep: Timestep, task: torch.Tensor, env_params: MixtureParams) -> Timestep:
        observation = timestep.observation
        if normalize:
            mean, var = tree.index((env_params.moments.mean, env_params.moments.var), task)
            observation = (observation - mean) / (var + _EPS).sqrt()
        numbers = torch.arange(num_tasks, device=task.device)
        return timestep.replace(observation=show(observation, (numbers == task).to(timestep.reward.dtype)))

    def reset(key: torch.Tensor, env_params: MixtureParams = default) -> tuple[MixtureState, Timestep]:
        """Draw a task and begin an episode in it."""
        _check.instance(f"{env.name}: env_params", env_params, MixtureParams)
        task_key, key = random.split(key).unbind(0)
        task = random.categorical(task_key, env_params.logits)
        below, timestep = env.reset(key, tree.index(env_params.tasks, task))
        return MixtureState(below, task), shown(timestep, task, env_params)

    def step(key: torch.Tensor, state: MixtureState, action: Any, env_params: MixtureParams = default) -> tuple[MixtureState, Timestep]:
        """Take a step in the task of the episode."""
        _check.instance(f"{env.name}: state", state, MixtureState, "give the first result of its own reset")
        _check.instance(f"{env.name}: env_params", env_params, MixtureParams)
        below, timestep = env.step(key, state.below, action, tree.index(env_params.tasks, state.task))
        return state.replace(below=below), shown(timestep, state.task, env_params)

    def render(state: MixtureState, env_params: MixtureParams = default) -> torch.Tensor:
        return env.render(state.below, tree.index(env_params.tasks, state.task))

    fields = {"observation_space": space, "default_params": default, "render": None if env.render is None else render}
    label = f"task_mixture(num_tasks={num_tasks}{', normalize=True' if normalize else ''})"
    return with_label(env._replace(reset=reset, step=step, **fields), label, below=env)


def _stacked(env: Env, env_params: Any) -> tuple[Any, int]:
    """Return the tasks with leaves [K, ...], and K."""
    for x in tree.leaves(env_params):
        _check.tensor("task_mixture: env_params", x, f"give params of {env.name} with leaves [K, ...], or a list of K params")
    tree.check_like(
        tree.map(lambda x: x.reshape(-1)[:1], env_params),
        tree.map(lambda x: x.reshape(-1)[:1], env.default_params),
        "task_mixture: env_params",
        f"the params of {env.name}",
        dtypes=False,
    )
    pairs = list(zip(tree.leaves(env_params), tree.leaves(env.default_params), strict=True))
    sizes = {len(x) for x, default in pairs if x.ndim == default.ndim + 1 and x.shape[1:] == default.shape}
    shared = all(x.shape == default.shape for x, default in pairs if x.ndim == default.ndim)
    if len(sizes) != 1 or not shared or any(x.ndim not in (default.ndim, default.ndim + 1) for x, default in pairs):
        shapes = ", ".join(f"{path} {list(x.shape)}" for path, x in zip(tree.paths(env_params), tree.leaves(env_params), strict=True))
        raise ValueError(
            f"task_mixture: env_params: expected leaves like those of {env.name}, some of them with one first dimension of K tasks, "
            f"got {shapes}; draw tasks with funrl.envs.tasks.of(env).train(key, K)"
        )
    (num_tasks,) = sizes
    return tree.map(
        lambda x, y: x.expand(num_tasks, *y.shape).clone() if x.ndim == y.ndim else x, env_params, env.default_params
    ), num_tasks


def _moments(like: torch.Tensor, env: Env) -> Moments:
    """Return the moments of K tasks before the first observation; ``like`` is [K]."""
    zeros = like.new_zeros(len(like), *env.observation_space.shape)
    return Moments(torch.zeros_like(like, dtype=torch.int64), zeros, torch.ones_like(zeros))


def updated_moments(moments: Moments, task: torch.Tensor, normalized: torch.Tensor) -> Moments:
    r"""Update the moments of each task with observations that were normalised by them, as :func:`funrl.stats.update` does it for one.

    Args:
        moments: of K tasks.
        task: int64 [N], the task of each observation.
        normalized: floating point [N, D].

    Example:
        >>> moments = Moments(torch.zeros(2, dtype=torch.int64), torch.zeros(2, 1), torch.ones(2, 1))
        >>> updated_moments(moments, torch.tensor([1, 1]), torch.tensor([[1.0], [3.0]])).mean
        tensor([[0.],
                [2.]])
    """
    scale, normalized = (moments.var + _EPS).sqrt(), normalized.to(moments.mean.dtype)
    chosen = tree.one_hot(task, len(moments.count), normalized)  # [N, K]
    centred = normalized * (chosen @ scale)  # around the old mean
    number, offset = _across.total((chosen.sum(0)[:, None], chosen.T @ centred))
    some = number.clamp(min=1)
    offset = offset / some
    var = _across.total(chosen.T @ (centred - chosen @ offset).square()) / some
    count = moments.count + number[:, 0].round().long()
    new = number / count.clamp(min=1)[:, None].to(normalized.dtype)
    old = 1 - new
    return Moments(count, moments.mean + new * offset, old * moments.var + new * var + old * new * offset.square())


@tree.dataclass
class OneOfParams(tree.Replaceable):
    """The ``env_params`` of one of several environments.

    Attributes:
        which: int64 [], the number of the environment.
        params: a tuple of the ``env_params`` of each.
    """

    which: torch.Tensor
    params: Any


def one_of(environments: Sequence[Env]) -> Env:
    """Join environments of equal shapes to one, whose ``env_params`` say which of them it is.

    So environments with other dynamics or rewards can be tasks of a :func:`task_mixture`. All of them are stepped, and the timestep is that
    of the one that counts; a step costs as much as one of each. ``info`` is empty.

    Args:
        environments: pure environments with equal action spaces, and observations of equal shapes and dtypes.

    Returns:
        An environment whose ``env_params`` are :class:`OneOfParams`, by default of the first, which also gives the spaces; its states are
        tuples of theirs.

    Raises:
        ValueError: if there is none, one is batched or on the host, or spaces differ.

    Example:
        >>> import funrl
        >>> pendulum = funrl.envs.make("Pendulum-v1")
        >>> env = one_of([pendulum, funrl.transforms.reward_scale(1000.0)(pendulum)])
        >>> both = task_mixture(env.default_params.replace(which=torch.arange(2)))(env)
        >>> both.observation_space.shape
        (5,)
    """
    environments = list(environments)
    _check.some("one_of: environments", environments, "environment")
    first = environments[0]
    for env in environments:
        if not isinstance(env, Env):
            raise ValueError(f"one_of: environments: expected pure environments, not batched, got {env}")
        for name in ("action_space", "observation_space"):
            spaces = [getattr(x, name) for x in (first, env)]
            if name == "observation_space":  # bounds may differ
                spaces = [getattr(x, "shape", x) for x in spaces]
            if repr(spaces[0]) != repr(spaces[1]):
                raise ValueError(f"one_of: {name}: expected equal ones, got {spaces[0]} of {first.name} and {spaces[1]} of {env.name}")
    default = OneOfParams(torch.tensor(0), tuple([env.default_params for env in environments]))

    def chosen(timesteps: Sequence[Timestep], which: torch.Tensor) -> Timestep:
        return tree.index(tree.stack([timestep.replace(info={}) for timestep in timesteps]), which)

    def reset(key: torch.Tensor, env_params: OneOfParams = default) -> tuple[tuple[Any, ...], Timestep]:
        keys = random.split(key, len(environments)).unbind(0)
        results = [env.reset(k, params) for env, k, params in zip(environments, keys, env_params.params, strict=True)]
        return tuple([state for state, _ in results]), chosen([timestep for _, timestep in results], env_params.which)

    def step(key: torch.Tensor, state: tuple[Any, ...], action: Any, env_params: OneOfParams = default) -> tuple[tuple[Any, ...], Timestep]:
        keys = random.split(key, len(environments)).unbind(0)
        results = [env.step(k, x, action, p) for env, k, x, p in zip(environments, keys, state, env_params.params, strict=True)]
        return tuple([below for below, _ in results]), chosen([timestep for _, timestep in results], env_params.which)

    name = " | ".join(env.name for env in environments)
    longest = max(env.max_episode_steps for env in environments)
    return Env(name, reset, step, first.observation_space, first.action_space, default, longest, None)
