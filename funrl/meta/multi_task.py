"""Multi-task learning: one policy for several tasks, with the returns of each."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from funrl import _across, _check, nn, random, tree
from funrl.acting import evaluate
from funrl.algos import Algorithm, configure, episodes, ppo
from funrl.env import AnyEnv, Env, Transition, VectorEnv
from funrl.envs.tasks import Tasks
from funrl.meta._mixture import MixtureParams, one_of, task_embedding, task_mixture, task_number, updated_moments
from funrl.meta._trials import tasks_of
from funrl.optim import Optimizer
from funrl.stats import Moments
from funrl.typing import Loss, Metrics

__all__ = ["MultiTaskConfig", "make", "of", "returns"]

_RATE = 0.1  # of the running mean of returns, for each episode


@tree.dataclass
class MultiTaskConfig(ppo.PPOConfig):
    """The options of :func:`make`: those of :class:`funrl.algos.ppo.PPOConfig`, and these.

    Attributes:
        num_tasks: K, the number of tasks that are drawn from the distribution; a list of environments or params has its own number.
        task_seed: the seed by which they are drawn.
        embedding_size: size of a learned vector for each task, in the place of its one-hot number; policy and value then share the hidden
            layers. 0: the one-hot number.
        normalize_per_task: normalise observations by their running mean and variance in each task.
        sampling: the task of an episode is ``"uniform"``, or the probability of a task grows with its ``"difficulty"``.
        low_return: the return at which a task is as difficult as can be, such as that of a random policy; only for ``"difficulty"``.
        high_return: the return at which a task counts as learned; only for ``"difficulty"``.
        popart_rate: with PopArt (:func:`funrl.nn.popart`) of this rate, in (0, 1], rewards of tasks may differ in scale; 0: without.
        gradient_surgery: take out the parts of the gradients of tasks that conflict (PCGrad, :func:`funrl.optim.project_conflicts`); a
            gradient step then costs up to K backward passes.
        temperature: of the sampling by difficulty, above 0: the smaller, the more episodes are in difficult tasks.
    """

    num_tasks: int = tree.static(default=10)
    task_seed: int = tree.static(default=0)
    embedding_size: int = tree.static(default=0)
    normalize_per_task: bool = tree.static(default=False)
    sampling: str = tree.static(default="uniform")
    low_return: float = tree.static(default=0.0)
    high_return: float = tree.static(default=0.0)
    popart_rate: float = tree.static(default=0.0)
    gradient_surgery: bool = tree.static(default=False)
    temperature: float = tree.static(default=0.5)


def make(
    env: AnyEnv | Sequence[Env],
    *,
    tasks: Tasks | Any = None,
    network: nn.Net | None = None,
    optimizer: Optimizer | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Algorithm:
    """Make PPO with one policy for K tasks, whose numbers it observes.

    Each episode is in one of the tasks (:func:`funrl.meta.task_mixture`), and metrics tell their returns apart. For other algorithms,
    :func:`of` does the same.

    Args:
        env: a pure environment, not batched; or a list of environments of equal shapes, which are then the tasks
            (:func:`funrl.meta.one_of`); or a mixture of tasks, as ``algo.env`` is.
        tasks: the distribution from which ``num_tasks`` are drawn for training, or the ``env_params`` themselves, with leaves [K, ...];
            None: :func:`funrl.envs.tasks.of` the environment.
        network: as for :func:`funrl.algos.ppo.make`.
        optimizer: as for :func:`funrl.algos.ppo.make`.
        loss: as for :func:`funrl.algos.ppo.make`.
        **options: fields of :class:`MultiTaskConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm` with the metrics of :func:`funrl.algos.ppo.make` and those of :func:`of`. :func:`returns` plays
        in each task.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment, or there are no tasks for it.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("CartPole-v1"), num_tasks=3, num_envs=4, num_steps=16)
        >>> state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        >>> algo.env.observation_space.shape, metrics["episode_return_task_2"].shape
        ((7,), torch.Size([]))

    Reference: one-hot numbers of tasks for one policy as in T. Yu et al., "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta
        Reinforcement Learning", 2019, arXiv:1910.10897.
    """
    config, given = configure(MultiTaskConfig, options, network=network, optimizer=optimizer, loss=loss)
    _check_config(config, network, loss)
    if tasks is not None:
        given["tasks"] = tasks
    mixture = _mixture(env, tasks, config)
    parts, number = dict(given), len(mixture.default_params.logits)
    if config.popart_rate:
        parts["popart"] = nn.popart(task_number(mixture), number, rate=config.popart_rate)
    if config.embedding_size:
        embedding = task_embedding(number, config.embedding_size)
        parts["network"] = nn.sequential(embedding, nn.mlp(config.num_cells, activation=config.activation))
    split = _split(task_number(mixture), number) if config.gradient_surgery else None
    algo = ppo.build("multi_task", mixture, config, parts, split=split)
    targets = (config.low_return, config.high_return) if config.sampling == "difficulty" else None
    return of(algo, targets=targets, temperature=config.temperature)._replace(given=given)


def of(algo: Algorithm, *, targets: tuple[Any, Any] | None = None, temperature: float = 0.5) -> Algorithm:
    r"""Return an algorithm in a mixture of K tasks that tells their returns apart, and can draw difficult tasks more often.

    With ``targets`` (l, h) the probability of task k in a reset depends on its running mean return r_k:

    .. math:: p_k \propto e^{d_k / \tau}, \qquad d_k = \mathrm{clip}\left(\frac{h_k - r_k}{h_k - l_k}, 0, 1\right)

    and d_k is 1 before its first episode has ended. Moments of the observations of each task are updated if the mixture has them. If the
    algorithm normalises observations itself, it leaves the numbers of tasks in them as they are.

    Args:
        algo: any algorithm of funrl in a mixture of tasks, such as ``sac.make(task_mixture(env_params)(env))``.
        targets: the returns (l, h) at which a task is as difficult as can be, and learned; numbers, or tensors [K]. None: all tasks are
            drawn with the probabilities in ``env_params``, at first the same.
        temperature: τ, above 0.

    Returns:
        The algorithm with further metrics, ``episode_return_task_0``, ``episode_return_task_1``, ...: the running mean of the returns in
        each task, to which each episode contributes a tenth; NaN before the first. They are also in ``learner.env_params.returns``.

    Raises:
        ValueError: if the environment is no mixture of tasks, or an argument is out of its range.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> env = funrl.meta.task_mixture(env.default_params.replace(length=torch.tensor([0.5, 2.0])))(env)
        >>> algo = of(funrl.algos.sac.make(env, num_envs=2, num_steps=4, learning_starts=0, batch_size=8), targets=(-1500.0, -200.0))
        >>> state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        >>> metrics["episode_return_task_0"], state.learner.env_params.logits
        (tensor(nan), tensor([2., 2.]))

    Reference: sampling by the distance to a target as A5C in S. Sharma, A. Jha, P. Hegde, B. Ravindran, "Learning to Multi-Task by Active
        Sampling", 2017, arXiv:1702.06053, with a difficulty between 0 and 1 in the place of the relative distance.
    """
    number = task_number(algo.env)
    _check.number("multi_task.of: temperature", temperature, "(0, inf)")
    low, high = (torch.as_tensor(x, dtype=torch.float64, device="cpu") for x in targets or (0.0, 1.0))
    if not bool((low < high).all()):
        raise ValueError(f"multi_task.of: targets: expected the lower return first, got {targets}")

    def probabilities(env_params: MixtureParams) -> MixtureParams:
        if targets is None:
            return env_params
        found = env_params.returns
        difficulty = ((high.to(found) - found) / (high - low).to(found)).clamp(0, 1)
        return env_params.replace(logits=torch.where(found.isnan(), 1.0, difficulty) / temperature)

    def learn(key: torch.Tensor, learner: Any, transitions: Transition) -> tuple[Any, Metrics]:
        task, sums = number(transitions.observation), episodes.returns(learner.episodes, transitions)
        env_params = learner.env_params
        learner, metrics = algo.learn(key, learner, transitions)
        env_params = env_params.replace(returns=_running_returns(env_params.returns, task, sums, transitions.done))
        if env_params.moments != ():
            seen = tree.flatten_batch(transitions.next_observation)[:, : env_params.moments.mean.shape[-1]]
            env_params = env_params.replace(moments=updated_moments(env_params.moments, task.flatten(), seen))
        learner = learner.replace(params=_with_plain_numbers(learner.params, len(env_params.logits)), env_params=probabilities(env_params))
        return learner, {**metrics, **{f"episode_return_task_{k}": x.clone() for k, x in enumerate(env_params.returns.unbind(0))}}

    return algo._replace(learn=learn)


def returns(env: AnyEnv, act: Any, num_episodes: int) -> Callable[..., torch.Tensor]:
    """Return a function that plays episodes in each task of a mixture.

    Args:
        env: the mixture of tasks, such as ``algo.env``.
        act: the policy, ``algo.act`` or ``algo.greedy``.
        num_episodes: N, the number of episodes in each task.

    Returns:
        ``play(params, key, env_params) -> [K, N]``: the returns; ``env_params`` are those of the learner.

    Raises:
        ValueError: if the environment is no mixture of tasks.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("CartPole-v1"), num_tasks=3, num_envs=4, num_steps=16)
        >>> learner = algo.init(random.key(0)).learner
        >>> returns(algo.env, algo.greedy, 5)(learner.params, random.key(1), learner.env_params).shape
        torch.Size([3, 5])
    """
    task_number(env)

    def play(params: Any, key: torch.Tensor, env_params: MixtureParams) -> torch.Tensor:
        numbers = torch.arange(len(env_params.logits), device=key.device)

        def one(key: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
            only = env_params.replace(logits=torch.where(numbers == task, 0.0, -math.inf).to(env_params.logits))
            return evaluate(params, key, only, env=env, act=act, num_episodes=num_episodes).episode_return

        return torch.func.vmap(one)(random.split(key, len(numbers)), numbers)

    return play


def _with_plain_numbers(params: Any, num_tasks: int) -> Any:
    """Return parameters that do not normalise the last ``num_tasks`` entries of observations, if they have moments."""
    moments = getattr(params, "observation", ())
    if not isinstance(moments, Moments):
        return params
    size = moments.mean.shape[-1]
    number = torch.arange(size, device=moments.mean.device) >= size - num_tasks
    mean, var = (torch.where(number, plain, x) for plain, x in ((0.0, moments.mean), (1.0, moments.var)))
    return params.replace(observation=Moments(moments.count, mean, var))


def _running_returns(found: torch.Tensor, task: torch.Tensor, sums: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
    """Return the running means [K] with the episodes that ended; ``task``, ``sums`` and ``done`` are [T, B]."""
    numbers = torch.arange(len(found), device=found.device)
    ended = ((task[..., None] == numbers) & done[..., None]).flatten(0, 1)  # [T B, K]
    returns = torch.where(ended, sums.flatten()[:, None].to(found.dtype), 0.0)
    count, total = _across.total((ended.sum(0).to(found.dtype), returns.sum(0)))
    mean = total / count.clamp(min=1)
    moved = mean + (1 - _RATE) ** count * (found - mean)
    return torch.where(count == 0, found, torch.where(found.isnan(), mean, moved))


def _mixture(given: Any, tasks: Any, config: MultiTaskConfig) -> AnyEnv:
    """Return the environment of a mixture, of whatever the user gave as environment and tasks."""
    env: Any = given
    if isinstance(given, Sequence) and not isinstance(given, Env | VectorEnv | str):
        env = one_of(given)
        tasks = env.default_params.replace(which=torch.arange(len(given))) if tasks is None else tasks
    _check.instance("env", env, Env, "funrl.envs.make makes one, and funrl.algos.make takes its name, too", "a funrl.env.Env")
    if isinstance(env.default_params, MixtureParams):
        if tasks is not None:
            raise ValueError("tasks: expected None with a mixture of tasks, which has its own; give the environment below")
        return env
    if tasks is None or isinstance(tasks, Tasks):
        tasks = tasks_of(env, tasks).train(random.key(config.task_seed, "cpu"), config.num_tasks)
    return task_mixture(tasks, normalize=config.normalize_per_task)(env)


def _split(task: Callable[[Any], torch.Tensor], num_tasks: int) -> Callable[[Any], torch.Tensor]:
    """Return the function from observations [N, ...] to weights [K, N], 1 where a row is of a task, else 0."""

    def split(observation: Any) -> torch.Tensor:
        numbers = task(observation)
        dtype = next(x.dtype for x in tree.leaves(observation) if x.is_floating_point())
        return (torch.arange(num_tasks, device=numbers.device)[:, None] == numbers).to(dtype)

    return split


def _check_config(config: MultiTaskConfig, network: Any, loss: Any) -> None:
    _check.fields(config, "[1, inf)", "num_tasks")
    _check.fields(config, "[0, inf)", "task_seed", "embedding_size")
    _check.fields(config, "(0, inf)", "temperature")
    _check.fields(config, "[0, 1]", "popart_rate")
    _check.one_of("sampling", config.sampling, ("uniform", "difficulty"))
    unused = [name for name in ("temperature", "low_return", "high_return") if getattr(config, name) != getattr(MultiTaskConfig(), name)]
    if config.sampling == "uniform" and unused:
        raise ValueError(f"{unused[0]}: has an effect with sampling='difficulty' only, got sampling='uniform'; leave {unused[0]} out")
    if config.sampling == "difficulty" and not config.low_return < config.high_return:
        raise ValueError(
            f"low_return, high_return: expected a lower and a higher return with sampling='difficulty', got {config.low_return} and "
            f"{config.high_return}; give those of a random and of a good policy"
        )
    if config.embedding_size and network is not None:
        raise ValueError("network, embedding_size: expected one of them, got both; put meta.task_embedding before the layers of network")
    if config.gradient_surgery and loss is not None:
        raise ValueError("loss, gradient_surgery: expected one of them, got both; surgery needs the loss of each task, with weights")
    if config.gradient_surgery and config.recurrent != "none":
        raise ValueError(f"gradient_surgery: expected a policy without memory, got recurrent={config.recurrent!r}; leave either out")
