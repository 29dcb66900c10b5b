"""Reward normalisation."""

import torch

from funrl import stats, tree
from funrl.compiler import scan
from funrl.env import Place, Transition

# The greatest number of batches between two batches of one worker: the number of workers times the size of their queues.
_NUM_ENDS = 64


@tree.dataclass
class RewardScale(tree.Replaceable):
    """State of reward normalisation.

    Successive batches of an asynchronous collector come from different copies of the environment. Running episodes are therefore searched
    among those that were unfinished at the ends of the last K = 64 batches. If an episode is not found, its return begins with the first
    step in the batch.

    Attributes:
        moments: :class:`funrl.stats.Moments` of the discounted return.
        discounted: floating point [B], discounted returns of the running episodes, with the discount of their last step.
        number: int64 [K, B], numbers of the episodes that were unfinished at the ends of the last K batches with known ``place``, the
            latest first.
        step_count: int64 [K, B], their numbers of steps; -1: no episode.
        returns: floating point [K, B], their discounted returns, as ``discounted``.
    """

    moments: stats.Moments
    discounted: torch.Tensor
    number: torch.Tensor
    step_count: torch.Tensor
    returns: torch.Tensor


def start(reward: torch.Tensor) -> RewardScale:
    """Return the state before the first step of B environments; ``reward`` [B] gives dtype and device.

    Example:
        >>> start(torch.zeros(2)).discounted
        tensor([0., 0.])
    """
    none = torch.zeros_like(reward)
    returns = none.expand(_NUM_ENDS, -1).clone()
    number = returns.to(torch.int64)
    return RewardScale(stats.moments(none[0]), none, number, number - 1, returns)


def scale_rewards(state: RewardScale, samples: Transition, gamma: torch.Tensor) -> tuple[RewardScale, torch.Tensor]:
    r"""Divide rewards by the running standard deviation of the discounted return.

    .. math:: R_t = r_t + \gamma_{t-1} (1 - \mathrm{done}_{t-1}) R_{t-1}, \qquad \hat r_t = r_t / \sqrt{\mathrm{Var}(R) + \epsilon}

    Args:
        state: the moments so far.
        samples: reward and flags are [T, B].
        gamma: the discount [], or that of each step [T, B].

    Returns:
        The new state, and the rewards [T, B].

    Example:
        >>> no = torch.zeros(1, 2, dtype=torch.bool)
        >>> samples = Transition((), (), torch.tensor([[1.0, 3.0]]), no, no, (), {})
        >>> scale_rewards(start(torch.zeros(2)), samples, torch.tensor(0.9))[1]
        tensor([[1., 3.]])
    """
    place = samples.place
    if isinstance(place, Place):
        same = (state.number == place.number[0]) & (state.step_count == place.step_count[0])
        latest = same & (same.cumsum(0) == 1)
        state = state.replace(discounted=torch.where(latest, state.returns, 0.0).sum(0))

    def discount(running: torch.Tensor, x: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        reward, factor = x
        running = reward + running
        return factor * running, running

    factor = torch.where(samples.done, 0.0, gamma)
    last, discounted = scan(discount, state.discounted, (samples.reward, factor))
    moments = stats.update(state.moments, discounted)
    around_zero = stats.Moments(moments.count, torch.zeros_like(moments.mean), moments.var)
    state = state.replace(moments=moments, discounted=last)
    if isinstance(place, Place):
        ends = (place.number[-1], torch.where(samples.done[-1], -1, place.step_count[-1] + 1), last)
        old = (state.number, state.step_count, state.returns)
        number, step_count, returns = (torch.cat([x.unsqueeze(0), y[:-1]]) for x, y in zip(ends, old, strict=True))
        state = state.replace(number=number, step_count=step_count, returns=returns)
    return state, stats.normalize(around_zero, samples.reward)
