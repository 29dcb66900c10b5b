"""Evaluation of adaptation: returns on new tasks, with intervals."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.compiler import compile, scan
from funrl.env import AnyEnv
from funrl.envs.tasks import Tasks
from funrl.meta._trials import TrialParams, trials
from funrl.policies import StatefulPolicy


@tree.dataclass
class Adaptation:
    """Returns after 0, 1, ..., S episodes or inner steps.

    Attributes:
        returns: floating point [R, N, S + 1]: of R agents in N tasks.
        mean: floating point [S + 1], over agents and tasks.
        low: floating point [S + 1], the lower end of the interval of the mean.
        high: floating point [S + 1], its upper end.
    """

    returns: torch.Tensor
    mean: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


def evaluate_adaptation(
    play: Callable[[Any, torch.Tensor, Any], torch.Tensor],
    params: Any,
    key: torch.Tensor,
    env_params: Any,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2_000,
) -> Adaptation:
    r"""Measure how the returns of R agents grow in N tasks while they learn them.

    All agents and tasks are one program. The interval comes from a bootstrap that resamples agents and tasks, both with replacement, so
    that it is valid for new agents in new tasks:

    .. math:: \bar x^{*} = \frac{1}{RN} \sum_{r,n} x_{I_r, J_n}, \qquad I_r \sim U\{1..R\}, \; J_n \sim U\{1..N\}

    Args:
        play: ``play(params, key, env_params) -> [S + 1]``: one agent learns one task; :func:`funrl.meta.maml.returns` and
            :func:`trial_returns` make such functions.
        params: parameters of R agents, a tree with leaves [R, ...]; of a single one with R = 1, ``tree.unsqueeze(params, 0)``.
        key: a key [].
        env_params: N tasks, a tree with leaves [N, ...], such as those that ``tasks.test`` draws.
        confidence: the probability that the interval contains the true mean, in (0, 1).
        num_resamples: of the bootstrap, at least 1.

    Returns:
        An :class:`Adaptation`.

    Raises:
        ValueError: if ``confidence`` or ``num_resamples`` is out of its range, or leaves have no first dimension of agents or tasks.
        TypeError: if ``play`` is not a function, or does not return tensors [S + 1].

    Example:
        >>> def play(params, key, goal):
        ...     return torch.stack([-goal, params * goal])
        >>> found = evaluate_adaptation(play, torch.tensor([1.0, 3.0]), random.key(0), torch.ones(50))
        >>> found.returns.shape, found.mean, bool(found.low[1] < found.mean[1] < found.high[1])
        (torch.Size([2, 50, 2]), tensor([-1.,  2.]), True)

    Reference: returns over episodes or steps on held-out tasks as in arXiv:1703.03400 and arXiv:1611.02779; the two-way bootstrap is
    that of A. Owen, "The pigeonhole bootstrap", 2007, arXiv:0712.1111.
    """
    _check.number("evaluate_adaptation: confidence", confidence, "(0, 1)")
    _check.integer("evaluate_adaptation: num_resamples", num_resamples, 1)
    _check.function("evaluate_adaptation: play", play, "meta.trial_returns and meta.maml.returns make such functions")
    for what, given, letter in (("params", params, "R"), ("env_params", env_params, "N")):
        sizes = {x.shape[:1] for x in tree.leaves(given)}
        if len(sizes) != 1 or not min(sizes):
            raise ValueError(
                f"evaluate_adaptation: {what}: expected leaves [{letter}, ...] with one first dimension, got {sorted(map(list, sizes))}; "
                "tree.unsqueeze(x, 0) adds it to a single one"
            )
    play_key, agent_key, task_key = random.split(key, 3).unbind(0)
    agents, tasks = tree.leaves(params)[0].shape[0], tree.leaves(env_params)[0].shape[0]
    keys = random.split(play_key, (agents, tasks))
    found = compile(torch.func.vmap(torch.func.vmap(play, (None, 0, 0)), (0, 0, None)))(params, keys, env_params)
    _check.sized("evaluate_adaptation: play's result", found, (agents, tasks, "S"), "play returns [S + 1], the return of each episode")
    weights = [_counts(k, num_resamples, n).to(found.dtype) / n for k, n in ((agent_key, agents), (task_key, tasks))]
    means = torch.einsum("br,rns,bn->bs", weights[0], found, weights[1]).sort(0).values
    tail = (1 - confidence) / 2
    low, high = (means[round(share * (num_resamples - 1))] for share in (tail, 1 - tail))
    return Adaptation(found, found.mean((0, 1)), low, high)


def _counts(key: torch.Tensor, num: int, n: int) -> torch.Tensor:
    """Return how often each of n things is among n that are drawn with replacement, [num, n]."""
    drawn = random.randint(key, (num, n), 0, n)
    return torch.zeros_like(drawn).scatter_add(1, drawn, torch.ones_like(drawn))


def trial_returns(env: AnyEnv, act: Any, num_episodes: int) -> Callable[..., torch.Tensor]:
    """Return a function that plays a trial in a given task, for :func:`evaluate_adaptation`.

    Args:
        env: the environment of trials in which the policy was learned, such as ``algo.env`` of :func:`funrl.meta.rl2.make`.
        act: the policy, ``algo.act`` or ``algo.greedy``.
        num_episodes: S + 1, the number of episodes in a trial; it may be greater than in training.

    Returns:
        ``play(params, key, env_params) -> [num_episodes]``: the return of each episode of a trial in the task ``env_params``, those of the
        environment below.

    Raises:
        ValueError: if the environment is not one of trials.

    Example:
        >>> import funrl
        >>> algo = funrl.meta.rl2.make(funrl.envs.make("PointRobot-misc"), num_envs=4, num_steps=8)
        >>> play = trial_returns(algo.env, algo.greedy, num_episodes=3)
        >>> task = funrl.envs.tasks.of(funrl.envs.point_robot()).test(random.key(0), 1)
        >>> play(algo.init(random.key(1)).learner.params, random.key(2), tree.index(task, 0)).shape
        torch.Size([3])
    """
    below = env.below
    if not isinstance(env.default_params, TrialParams) or below is None or isinstance(below.default_params, TrialParams):
        raise ValueError(f"trial_returns: env: expected an environment of trials without transforms above it, got {env}")
    given = Tasks(env.name, below, below.default_params, lambda key, env_params, held_out: env_params, lambda env_params: env_params)
    env = trials(given, num_episodes)(below)

    def play(params: Any, key: torch.Tensor, env_params: Any) -> torch.Tensor:
        whole = env.default_params.replace(base=env_params)
        whole = tree.map(lambda x: x.to(key.device), whole)
        reset_key, key = random.split(key).unbind(0)
        state, timestep = env.reset(reset_key, whole)
        recurrent = isinstance(act, StatefulPolicy)
        memory = act.start(params, timestep.observation) if recurrent else ()
        numbers = torch.arange(num_episodes, device=key.device)

        def step(carry: Any, keys: torch.Tensor) -> tuple[Any, tuple[()]]:
            state, observation, memory, begins, total = carry
            act_key, step_key = keys.unbind(0)
            if recurrent:
                memory, action, _ = act.act(params, act_key, memory, observation, begins)
            else:
                action, _ = act(params, act_key, observation)
            new, timestep = env.step(step_key, state, action, whole)
            # Rows after the end of the trial belong to none of its episodes.
            total = total + torch.where(numbers == state.episode, timestep.reward, 0.0)
            return (new, timestep.observation, memory, torch.zeros_like(begins), total), ()

        begins = torch.ones_like(timestep.terminated)
        total = torch.zeros_like(timestep.reward).expand(num_episodes).clone()
        carry = (state, timestep.observation, memory, begins, total)
        (*_, total), _ = scan(step, carry, random.split(key, (env.max_episode_steps, 2)))
        return total

    return play
