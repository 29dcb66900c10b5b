"""Population-based training: agents that do badly continue from the parameters and the changed hyperparameters of those that do well."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.algos import Algorithm, State
from funrl.populations import _spaces
from funrl.populations._population import Exchange, Population, checked_space, described, sweep

_SELECTIONS = ("truncation", "binary_tournament")
_EXPLORATIONS = ("perturb", "resample")
# The fields that an agent copies from its parent. It does not copy the replay buffer, the episodes and the counts.
_INHERITED = ("params", "target", "optimizer", "normalizers", "hparams", "env_params")


@tree.dataclass
class PBTState(tree.Replaceable):
    """The memory of population-based training.

    Attributes:
        score: floating point [K], the scores that the last exchange used: the mean returns since the exchange before it; -inf at first.
        total: floating point [K], the sum of the returns since the last exchange.
        count: int64 [K], the number of updates since the last exchange in which an episode ended.
        num_updates: int64 [], updates so far.
    """

    score: torch.Tensor
    total: torch.Tensor
    count: torch.Tensor
    num_updates: torch.Tensor


def pbt(
    algo: Algorithm,
    space: Mapping[str, Any],
    n: int,
    *,
    period: int = 20,
    selection: str = "truncation",
    fraction: float = 0.2,
    explore: str = "perturb",
    factors: tuple[float, float] = (0.8, 1.2),
    resample_probability: float = 0.25,
    method: str = "random",
) -> Population:
    r"""Return a population for population-based training, whose exchange is part of the compiled program.

    After every ``period`` updates the agents are ranked by the mean of their ``episode_return`` since the last exchange; an agent with a
    parameter that is not finite ranks last. An agent :math:`k` that is to be replaced *exploits* another, :math:`p(k)`, and *explores*:

    .. math:: \theta_k \leftarrow \theta_{p(k)}, \qquad h_k \leftarrow \mathrm{explore}(h_{p(k)})

    With :math:`\theta` go the optimizer, target networks and running statistics; replay buffer and environments stay.

    Args:
        algo: the algorithm.
        space: as for :func:`sweep`; the first hyperparameters are drawn from it, and explored ones stay in it.
        n: K >= 2, the number of agents.
        period: updates between two exchanges, at least 1.
        selection: ``"truncation"``: an agent of the lowest ``fraction`` is replaced by one of the highest, drawn uniformly.
            ``"binary_tournament"``: each agent meets another, drawn uniformly, and is replaced by it if its score is lower.
        fraction: of ``"truncation"``, above 0 and at most 0.5.
        explore: ``"perturb"``: each hyperparameter is multiplied by one of the ``factors``, and of choices the next higher or lower is
            taken. ``"resample"``: each is drawn from the space again with ``resample_probability``.
        factors: two numbers above 0.
        resample_probability: in [0, 1].
        method: how the first hyperparameters are chosen, as for :func:`sweep`.

    Returns:
        A :class:`Population`. Its metrics also have the lineage: ``parent`` int64 [K], the agent from whose parameters agent k continues
        after this update (itself, if it was not replaced), and ``hparams.NAME`` [K], its new hyperparameters.

    Raises:
        ValueError: if an argument is out of its range, or as for :func:`sweep`.

    Example:
        >>> import funrl
        >>> from funrl import populations
        >>> algo = funrl.algos.a2c.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=16)
        >>> bred = pbt(algo, {"learning_rate": populations.log_uniform(1e-4, 1e-2)}, 4, period=2, fraction=0.5)
        >>> state = bred.init(random.key(0))
        >>> for i in range(2):
        ...     state, metrics = bred.step(random.key(i + 1), state)
        >>> metrics["parent"].shape
        torch.Size([4])

    Reference: M. Jaderberg et al., "Population based training of neural networks", 2017, arXiv:1711.09846. Deviations: all agents exchange
        at the same update, and an agent without a finished episode since the last exchange has its previous score.
    """
    checked = checked_space("pbt", algo, space)
    _check_options(n, period, selection, fraction, explore, factors, resample_probability)
    first = sweep(algo, space, n, method=method)
    options = {"factors": factors if explore == "perturb" else None, "probability": resample_probability}
    explored = functools.partial(_explored, space=checked, **options)

    def init(agents: State) -> PBTState:
        like = getattr(agents.learner.hparams, next(iter(checked)))
        count = torch.zeros_like(like, dtype=torch.int64)
        return PBTState(torch.full_like(like, -math.inf), torch.zeros_like(like), count, count[0].clone())

    def move(
        keys: torch.Tensor, agents: State, memory: PBTState, metrics: dict[str, torch.Tensor]
    ) -> tuple[State, PBTState, dict[str, torch.Tensor]]:
        select_keys, explore_keys = torch.func.vmap(random.split)(keys).unbind(1)
        num_updates = memory.num_updates + 1
        ended = metrics["episode_return"].isfinite()
        total = memory.total + torch.where(ended, metrics["episode_return"], 0.0).to(memory.total)
        count = memory.count + ended
        score = torch.where(count > 0, total / count.clamp(min=1), memory.score)
        score = torch.where(_finite(agents.learner.params), score, -math.inf)
        due = num_updates % period == 0
        other = _truncation(select_keys, score, fraction) if selection == "truncation" else _tournament(select_keys, score)
        itself = torch.arange(n, device=score.device)
        parent = torch.where(due & (score[other] > score), other, itself)
        learner = agents.learner
        learner = learner.replace(**{name: tree.index(getattr(learner, name), parent) for name in _INHERITED})
        changed = torch.func.vmap(explored)(explore_keys, {name: getattr(learner.hparams, name) for name in checked})
        replaced = parent != itself
        hparams = {name: torch.where(replaced, x, getattr(learner.hparams, name)) for name, x in changed.items()}
        learner = learner.replace(hparams=learner.hparams.replace(**hparams))
        memory = PBTState(
            torch.where(due, score[parent], memory.score), torch.where(due, 0.0, total), torch.where(due, 0, count), num_updates
        )
        lineage = {"parent": parent, **{f"hparams.{name}": x for name, x in hparams.items()}}
        return agents.replace(learner=learner), memory, {**metrics, **lineage}

    settings = {"kind": "pbt", "exchange": True, "space": described(checked), "method": method, "period": period, "selection": selection}
    settings |= {"fraction": fraction, "explore": explore, "factors": list(factors), "resample_probability": resample_probability}
    return Population(algo, n, first.draw, 1, Exchange(init, move), settings)


def _explored(
    key: torch.Tensor, values: dict[str, torch.Tensor], *, space: dict[str, Any], factors: tuple[float, float] | None, probability: float
) -> dict[str, torch.Tensor]:
    """Return changed hyperparameters [] of one agent: multiplied by a factor or, without factors, drawn again with a probability."""
    keys = random.split(key, (len(values), 2))
    out = {}
    for i, (name, value) in enumerate(values.items()):
        coin = random.uniform(keys[i, 0], (), dtype=torch.float64)
        if factors is not None:
            out[name] = _spaces.perturb(space[name], value, coin < 0.5, factors)
        else:
            drawn = _spaces.from_unit(space[name], random.uniform(keys[i, 1], (), dtype=torch.float64))
            out[name] = torch.where(coin < probability, drawn.to(value), value)
    return out


def _finite(params: Any) -> torch.Tensor:
    """Return whether all parameters of each agent are finite, bool [K]."""
    flags = [x.isfinite().reshape(x.shape[0], -1).all(1) for x in tree.leaves(params) if x.is_floating_point()]
    return torch.stack(flags).all(0)


def _truncation(keys: torch.Tensor, score: torch.Tensor, fraction: float) -> torch.Tensor:
    """Return a random one of the highest agents for each of the lowest; for every other agent, return the agent itself."""
    n = score.shape[0]
    some = max(1, int(fraction * n))
    order = score.argsort(stable=True)
    rank = order.argsort(stable=True)
    drawn = torch.func.vmap(lambda k: random.randint(k, (), 0, some))(keys)
    return torch.where(rank < some, order[n - some + drawn], torch.arange(n, device=score.device))


def _tournament(keys: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Return a random other agent for each agent."""
    n = score.shape[0]
    away = torch.func.vmap(lambda k: random.randint(k, (), 1, n))(keys)
    return (torch.arange(n, device=score.device) + away) % n


def _check_options(n: Any, period: Any, selection: Any, fraction: Any, explore: Any, factors: Any, probability: Any) -> None:
    for name, value, low in (("n", n, 2), ("period", period, 1)):
        _check.integer(f"pbt: {name}", value, low)
    for name, value, known in (("selection", selection, _SELECTIONS), ("explore", explore, _EXPLORATIONS)):
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"pbt: {name}: expected one of {', '.join(map(repr, known))}, got {value!r}")
    _check.number("pbt: fraction", fraction, "(0, 0.5]")
    if not isinstance(factors, Sequence) or len(factors) != 2:
        raise ValueError(f"pbt: factors: expected two finite numbers above 0, got {factors!r}")
    for factor in factors:
        _check.number("pbt: factors", factor, "(0, inf)")
    _check.number("pbt: resample_probability", probability, "[0, 1]")
