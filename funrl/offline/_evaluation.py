"""Scores of offline learners: D4RL's normalisation, fitted Q evaluation, and returns by the number of evaluations that tuning takes."""

from types import MappingProxyType
from typing import Any

import torch

from funrl import _check, nn, optim, random, tree
from funrl.compiler import scan
from funrl.offline._dataset import Dataset, check_dataset
from funrl.spaces import Discrete

# States that episodes begin with, drawn for the estimate of a return.
_FIRST_STATES = 4096
# Returns of a random and of an expert policy, by D4RL.
REFERENCE_SCORES = MappingProxyType({
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
})  # fmt: skip


def normalized_score(
    episode_return: torch.Tensor, env: str | None = None, *, low: float | None = None, high: float | None = None
) -> torch.Tensor:
    r"""Return D4RL's score: 0 is a random policy, 100 an expert.

    .. math:: 100\, \frac{R - R_{\mathrm{random}}}{R_{\mathrm{expert}} - R_{\mathrm{random}}}

    Args:
        episode_return: R, floating point [...].
        env: the name of an environment of :data:`REFERENCE_SCORES`, such as ``"gymnasium:Hopper-v5"``; its references are those of D4RL's
            version of the environment.
        low: the return of a random policy, in the place of ``env``.
        high: the return of an expert.

    Raises:
        ValueError: if neither or both are given, the environment is unknown, or the references are equal.

    Example:
        >>> normalized_score(torch.tensor([1000.0, 3234.3]), "gymnasium:Hopper-v5").round()
        tensor([ 31., 100.])
        >>> normalized_score(torch.tensor(-300.0), low=-1200.0, high=-150.0)
        tensor(85.7143)

    Reference: J. Fu et al., "D4RL: Datasets for Deep Data-Driven Reinforcement Learning", 2020, arXiv:2004.07219, section 5.
    """
    if not isinstance(episode_return, float):
        _check.floating("normalized_score: episode_return", episode_return)
    for name, x in (("low", low), ("high", high)):
        if x is not None:
            _check.number(f"normalized_score: {name}", x)
    if env is not None:
        _check.instance("normalized_score: env", env, str, "", "a name")
        name = env.rsplit(":", 1)[-1].rsplit("-v", 1)[0]
        if name not in REFERENCE_SCORES or low is not None or high is not None:
            known = ", ".join(REFERENCE_SCORES)
            raise ValueError(f"normalized_score: env: expected one of {known} without low and high, got {env!r}; or give low= and high=")
        low, high = REFERENCE_SCORES[name]
    if low is None or high is None or low == high:
        raise ValueError(f"normalized_score: expected env, or low and high that differ, got low={low} and high={high}")
    return 100 * (episode_return - low) / (high - low)


@tree.dataclass
class FQEResult:
    """The result of :func:`fitted_q_evaluation`.

    Attributes:
        value: floating point [], the estimated discounted return of the policy, the mean over 4,096 draws of the first states of the
            data's episodes.
        loss: floating point [], the mean loss of the last tenth of the gradient steps.
        critic: the parameters of the critic.
    """

    value: torch.Tensor
    loss: torch.Tensor
    critic: Any


def fitted_q_evaluation(
    params: Any,
    key: torch.Tensor,
    *,
    dataset: Dataset,
    act: Any,
    gamma: float = 0.99,
    num_updates: int = 10_000,
    batch_size: int = 256,
    num_cells: tuple[int, ...] = (256, 256),
    learning_rate: float = 3e-4,
    tau: float = 0.005,
) -> FQEResult:
    r"""Estimate the return of a policy from the data of other policies, with a critic of the policy.

    .. math:: Q_\theta(s, a) \leftarrow r + \gamma (1 - \mathrm{terminated})\, Q_{\bar\theta}(s', a'), \quad a' \sim \pi(\cdot|s')

    A pure function: compile it, and map it over ``params`` and ``key`` for several policies on one copy of the data.

    Args:
        params: those of ``act``, such as ``state.learner.params``.
        key: a key [].
        dataset: the data, with observations that are vectors.
        act: ``act(params, key, observation) -> (action, extras)``, such as ``algo.greedy``.
        gamma: discount, in [0, 1].
        num_updates: gradient steps, at least 10.
        batch_size: transitions in each.
        num_cells: widths of the critic's hidden layers.
        learning_rate: of Adam.
        tau: how far the target follows at each gradient step.

    Returns:
        An :class:`FQEResult`.

    Raises:
        ValueError: if ``num_updates`` is below 10.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> data = funrl.offline.datasets.record(None, random.key(0), env=env, num_steps=400, num_envs=2)
        >>> act = lambda params, key, observation: (torch.zeros(1), {})
        >>> result = fitted_q_evaluation(None, random.key(1), dataset=data, act=act, num_updates=20, batch_size=8, num_cells=(8,))
        >>> result.value.shape
        torch.Size([])

    Reference: H. M. Le, C. Voloshin, Y. Yue, "Batch Policy Learning under Constraints", 2019, arXiv:1903.08738, algorithm 3, with gradient
        steps and a target network in the place of regression to the end.
    """
    what = "fitted_q_evaluation"
    check_dataset(what, dataset)
    _check.function(f"{what}: act", act, "give act(params, key, observation) -> (action, extras), such as algo.greedy")
    _check.integer(f"{what}: num_updates", num_updates, 10)
    _check.integer(f"{what}: batch_size", batch_size, 1)
    for name, x, interval in (("gamma", gamma, "[0, 1]"), ("tau", tau, "[0, 1]"), ("learning_rate", learning_rate, "[0, inf)")):
        _check.number(f"{what}: {name}", x, interval, tensor=True)
    space = dataset.action_space
    net = nn.mlp(num_cells, 1)
    init_key, step_key, first_key = random.split(key, 3).unbind(0)
    dtype = dataset.transition.reward.dtype

    def inputs(observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        if isinstance(space, Discrete):
            action = tree.one_hot(action - space.start, space.n)
        return torch.cat([observation.to(dtype), action.to(dtype)], -1)

    def value(critic: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return net.apply(critic, inputs(observation, action)).squeeze(-1)

    def chosen(key: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        def one(key: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return _check.pair(f"{what}: act", act(params, key, x), "(action, extras)", "without extras, return (action, {})")[0]

        return torch.func.vmap(one)(random.split(key, observation.shape[0]), observation)

    def once(carry: Any, key: torch.Tensor) -> tuple[Any, torch.Tensor]:
        critic, target, state = carry
        draw_key, act_key = random.split(key).unbind(0)
        rows = dataset.rows(random.randint(draw_key, (batch_size,), 0, dataset.size))
        after = value(target, rows.next_observation, chosen(act_key, rows.next_observation))
        wanted = (rows.reward + gamma * torch.where(rows.terminated, 0.0, after)).detach()
        gradient, loss = torch.func.grad_and_value(lambda p: (value(p, rows.observation, rows.action) - wanted).square().mean())(critic)
        updates, state = opt.update(gradient, state, critic)
        critic = optim.apply_updates(critic, updates)
        return (critic, optim.soft_update(critic, target, tau=tau), state), loss

    opt = optim.flatten(optim.adam(learning_rate))
    row = tree.map(lambda x: x[0], dataset.transition)
    critic = net.init(init_key, inputs(row.observation, row.action))
    carry = (critic, tree.map(torch.clone, critic), opt.init(critic))
    (critic, _, _), losses = scan(once, carry, random.split(step_key, num_updates))
    rank_key, act_key = random.split(first_key).unbind(0)
    first = _first_observations(rank_key, dataset)
    result = value(critic, first, chosen(act_key, first)).mean()
    return FQEResult(result, losses[-(num_updates // 10) :].mean(), critic)


def _first_observations(key: torch.Tensor, dataset: Dataset) -> torch.Tensor:
    """Return the first observations of episodes that are drawn with replacement."""
    begun = torch.cat([torch.ones_like(dataset.end[:1]), dataset.end[:-1]]).cumsum(0)  # a program cannot have as many rows as there are
    rank = random.randint(key, (_FIRST_STATES,), 1, begun[-1], endpoint=True)
    return dataset.rows(torch.searchsorted(begun, rank)).observation


@tree.dataclass
class TuningCurve:
    """The result of :func:`tuning_curve`.

    Attributes:
        mean: floating point [M], the expected return of the policy that would be chosen after m evaluations.
        low: floating point [M], the lower end of its 95 % bootstrap interval.
        high: floating point [M], the upper end.
    """

    mean: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


def tuning_curve(
    key: torch.Tensor,
    episode_return: torch.Tensor,
    *,
    num_policies: int = 8,
    num_evaluations: int = 100,
    num_trials: int = 500,
    exploration: float = 2.0,
) -> TuningCurve:
    r"""Return the expected score of a learner whose hyperparameters are chosen with m online episodes: Unifloral's evaluation.

    A trial draws ``num_policies`` of the trained policies, which differ in hyperparameters and seeds, and evaluates one of them per
    episode, chosen by the upper confidence bound

    .. math:: \arg\max_k \bar R_k + c\, \Delta \sqrt{\frac{\log m}{n_k}}

    with :math:`\Delta` the range of all returns and n_k the episodes of policy k so far. After m episodes the choice is the policy with the
    greatest mean so far, and its score the mean of all its returns.

    Args:
        key: a key [].
        episode_return: floating point [P, R], the returns of R episodes of each of P policies.
        num_policies: K, of a trial, at most P.
        num_evaluations: M, at least 1.
        num_trials: trials, which are averaged, and resampled for the interval.
        exploration: c, at least 0.

    Raises:
        ValueError: if a size is out of its range.

    Example:
        >>> returns = torch.tensor([[0.0, 0.0], [10.0, 10.0]])
        >>> tuning_curve(random.key(0), returns, num_policies=2, num_evaluations=5, num_trials=50).mean[-1]
        tensor(10.)

    Reference: M. T. Jackson, U. Berdica, J. Liesen, S. Whiteson, J. N. Foerster, "A Clean Slate for Offline Reinforcement Learning", 2025,
        arXiv:2504.11453, section 3. Here the bonus is in units of the range of returns.
    """
    _check.floating("tuning_curve: episode_return", episode_return, shape=("P", "R"))
    policies, episodes = episode_return.shape
    _check.integer("tuning_curve: num_policies", num_policies, 1, policies, "draw from the policies there are")
    _check.integer("tuning_curve: num_evaluations", num_evaluations, 1)
    _check.integer("tuning_curve: num_trials", num_trials, 1)
    _check.number("tuning_curve: exploration", exploration, "[0, inf)")
    width = (episode_return.max() - episode_return.min()).clamp(min=1e-12)

    def trial(key: torch.Tensor) -> torch.Tensor:
        choose_key, pull_key = random.split(key).unbind(0)
        arms = episode_return[random.permutation(choose_key, policies)[:num_policies]]
        score = arms.mean(1)

        def pull(carry: Any, x: Any) -> tuple[Any, torch.Tensor]:
            total, count = carry
            k, m = x
            mean = total / count.clamp(min=1)
            bonus = exploration * width * (m.to(mean.dtype).log() / count.clamp(min=1)).sqrt()
            arm = torch.where(count == 0, torch.inf, mean + bonus).argmax()
            here = torch.arange(num_policies) == arm
            found = arms[arm, random.randint(k, (), 0, episodes)]
            total, count = total + torch.where(here, found, 0.0), count + here
            best = torch.where(count == 0, -torch.inf, total / count.clamp(min=1)).argmax()
            return (total, count), score[best]

        carry = (torch.zeros_like(score), torch.zeros_like(score, dtype=torch.int64))
        numbers = torch.arange(1, num_evaluations + 1)
        return scan(pull, carry, (random.split(pull_key, num_evaluations), numbers))[1]

    trial_key, boot_key = random.split(key).unbind(0)
    curves = torch.func.vmap(trial)(random.split(trial_key, num_trials))
    draws = random.randint(boot_key, (1000, num_trials), 0, num_trials)
    means = torch.stack([curves[rows].mean(0) for rows in draws.unbind(0)])
    low, high = means.quantile(0.025, 0), means.quantile(0.975, 0)
    return TuningCurve(curves.mean(0), low, high)
