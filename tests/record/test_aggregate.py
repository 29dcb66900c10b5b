"""The interquartile mean against scipy's trimmed mean, the bootstrap against a loop over resamples and against scipy's own."""

import numpy as np
import pytest
import scipy.stats
import torch

from funrl import random
from funrl.record import _aggregate as aggregate
from funrl.record._aggregate import bootstrap_interval, interquartile_mean

KEY = random.key(3)


def draw(*shape):
    return random.normal(random.fold_in(KEY, 1), shape, dtype=torch.float64).exp()


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (4,), (5,), (7, 3), (8, 2, 3), (101,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_interquartile_mean_is_the_trimmed_mean(shape, dtype):
    x = draw(*shape).to(dtype)
    result = interquartile_mean(x)
    assert result.dtype == dtype
    np.testing.assert_allclose(result.numpy(), scipy.stats.trim_mean(x.double().numpy(), 0.25, axis=0), rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 1), (4, 3), (6, 2, 7), (1, 1, 3)])
@pytest.mark.parametrize("chunk", [1, 50, 1 << 22])
def test_the_interval_is_that_of_a_loop(monkeypatch, shape, chunk):
    monkeypatch.setattr(aggregate, "_CHUNK", chunk)
    scores = draw(*shape)
    low, high = bootstrap_interval(KEY, scores, num_resamples=60, confidence=0.8)
    rows = random.randint(KEY, (60, *shape[:2]), 0, shape[0]).tolist()
    values = []
    for resample in rows:
        picked = [scores[resample[run][task], task].numpy() for run in range(shape[0]) for task in range(shape[1])]
        values.append(scipy.stats.trim_mean(np.stack(picked), 0.25, axis=0))
    np.testing.assert_allclose(low.numpy(), np.percentile(values, 10, axis=0), rtol=1e-12)
    np.testing.assert_allclose(high.numpy(), np.percentile(values, 90, axis=0), rtol=1e-12)


@pytest.mark.parametrize("kind", ["interquartile mean", "mean"])
def test_the_interval_is_near_scipys(kind):
    ours, theirs = {
        "interquartile mean": (interquartile_mean, lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis)),
        "mean": (lambda x: x.mean(0), np.mean),
    }[kind]
    scores = draw(12)
    expected = scipy.stats.bootstrap((scores.numpy(),), theirs, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0))
    low, high = bootstrap_interval(KEY, scores[:, None], statistic=ours, num_resamples=20_000)
    spread = expected.confidence_interval.high - expected.confidence_interval.low
    assert abs(low - expected.confidence_interval.low) < 0.03 * spread and abs(high - expected.confidence_interval.high) < 0.03 * spread


def test_it_holds_the_true_value_as_often_as_it_says():
    scores = random.normal(KEY, (200, 40, 1))  # 200 experiments of 40 runs
    ends = [bootstrap_interval(random.fold_in(KEY, i), x, num_resamples=400, confidence=0.8) for i, x in enumerate(scores.unbind(0))]
    held = sum(bool((low <= 0) & (0 <= high)) for low, high in ends) / len(ends)
    assert 0.7 < held < 0.88  # 0.8 give or take three standard errors; a percentile interval of 40 runs is a little narrow


def test_the_strata_are_tasks():
    """Tasks of their own levels: drawn again each on its own, no resample ever mixes up how many scores come from which."""
    scores = torch.tensor([[0.0, 100.0], [0.0, 100.0], [0.0, 100.0]])
    low, high = bootstrap_interval(KEY, scores, statistic=lambda x: x.mean(0))
    assert low == high == 50.0


def test_the_key_decides():
    scores = draw(8, 1, 3)
    one, again, other = (bootstrap_interval(random.key(seed), scores, num_resamples=50)[0] for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_errors():
    with pytest.raises(TypeError, match=r"scores: expected a floating-point tensor, got torch\.int64"):
        interquartile_mean(torch.arange(4))
    with pytest.raises(ValueError, match=r"scores: expected \[N, \.\.\.\] with at least one score, got \[0, 3\]"):
        interquartile_mean(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"of a single task: scores\[:, None\]\), with at least one score, got \[4\]"):
        bootstrap_interval(KEY, torch.zeros(4))
    with pytest.raises(ValueError, match="expected numbers, got NaN"):
        bootstrap_interval(KEY, torch.full((4, 1), torch.nan))
    with pytest.raises(ValueError, match="num_resamples: expected an integer of at least 1, got 0"):
        bootstrap_interval(KEY, torch.zeros(4, 1), num_resamples=0)
    with pytest.raises(ValueError, match=r"confidence: expected a number between 0 and 1, got 95"):
        bootstrap_interval(KEY, torch.zeros(4, 1), confidence=95)


def test_measures_of_many_tasks_are_what_loops_give():
    """The definitions of arXiv:2108.13264, in plain Python; their symmetries."""
    x, y = (random.normal(random.key(i), (n, 3), dtype=torch.float64) for i, n in ((0, 5), (1, 4)))
    y[0] = x[0]  # a tie
    gaps = [max(0.5 - v, 0.0) for v in x.flatten().tolist()]
    torch.testing.assert_close(aggregate.optimality_gap(x.flatten(), target=0.5).item(), sum(gaps) / 15)
    taus = torch.tensor([-1.0, 0.0, x[2, 1].item(), 3.0], dtype=torch.float64)
    shares = [sum(v > tau for v in x.flatten().tolist()) / 15 for tau in taus.tolist()]
    assert aggregate.performance_profile(x, taus).tolist() == pytest.approx(shares)
    wins = [(a > b) + 0.5 * (a == b) for m in range(3) for a in x[:, m].tolist() for b in y[:, m].tolist()]
    assert aggregate.probability_of_improvement(x, y).item() == pytest.approx(sum(wins) / 60)
    assert (aggregate.probability_of_improvement(x, y) + aggregate.probability_of_improvement(y, x)).item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="expected the same tasks, got 3 and 2"):
        aggregate.probability_of_improvement(x, y[:, :2])
    with pytest.raises(ValueError, match=r"thresholds: expected a tensor \[P\]"):
        aggregate.performance_profile(x, 0.5)
    with pytest.raises(TypeError, match="scores: expected a floating-point tensor"):
        aggregate.optimality_gap(x.long())
