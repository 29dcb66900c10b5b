import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch.func import grad, jacrev

from funrl import random
from funrl.distributions import Normal, TruncatedNormal

LOCS = [0.0, 0.3, -0.9, 1.7, 5.0, -30.0, 200.0]


def both(low=-1.0, high=1.0, scale=0.8):
    """All of LOCS in float64, and SciPy's."""
    loc = torch.tensor(LOCS, dtype=torch.float64)
    mine = TruncatedNormal(loc, torch.full_like(loc, scale), low, high)
    a, b = (low - loc.numpy()) / scale, (high - loc.numpy()) / scale
    return mine, scipy.stats.truncnorm(a, b, loc.numpy(), scale)


def integral(f, low, high):
    return scipy.integrate.quad(f, low, high, epsabs=1e-12, limit=200)[0]


def integrated_deviation(dist, low, high):
    mean = integral(lambda x: x * dist.pdf(x), low, high)
    return math.sqrt(integral(lambda x: (x - mean) ** 2 * dist.pdf(x), low, high))


def integrated_entropy(dist, low, high):
    return integral(lambda x: -dist.pdf(x) * dist.logpdf(x) if dist.pdf(x) > 0 else 0.0, low, high)


@pytest.mark.parametrize("low, high, scale", [(-1.0, 1.0, 0.8), (0.0, 4.0, 0.3), (-2.0, -1.9, 1.0)])
def test_agrees_with_scipy(low, high, scale):
    mine, theirs = both(low, high, scale)
    for x in np.linspace(low, high, 7):
        got = mine.log_prob(torch.full_like(mine.loc, x))
        torch.testing.assert_close(got, torch.as_tensor(theirs.logpdf(x)), rtol=1e-6, atol=1e-6)
    for i, loc in enumerate(LOCS[:6]):  # SciPy's own moments lose their digits further out
        one = scipy.stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)
        assert mine.mean()[i] == pytest.approx(one.mean(), rel=1e-6, abs=1e-8)
        assert mine.stddev()[i] == pytest.approx(integrated_deviation(one, low, high), rel=1e-5)
        assert mine.entropy()[i] == pytest.approx(integrated_entropy(one, low, high), rel=1e-6, abs=1e-6)
    assert torch.equal(mine.mode(), mine.loc.clamp(low, high))
    assert (mine.log_prob(torch.tensor(high + 0.1, dtype=torch.float64)) == -math.inf).all()


def test_samples_have_scipys_distribution():
    mine, _ = both()
    x = torch.func.vmap(mine.sample)(random.split(random.key(0), 4000)).numpy()
    for i in range(5):
        one = scipy.stats.truncnorm((-1 - LOCS[i]) / 0.8, (1 - LOCS[i]) / 0.8, LOCS[i], 0.8)
        assert scipy.stats.kstest(x[:, i], one.cdf).pvalue > 1e-3
    assert (x >= -1).all() and (x <= 1).all()


def test_float32_is_right_and_finite_far_out():
    """A location up to hundreds of deviations away: against the same in float64, which SciPy holds above."""
    for scale in (0.02, 0.3, 2.0):
        loc = torch.tensor([*LOCS, 20.0, -20.0])
        mine = TruncatedNormal(loc, torch.full_like(loc, scale), -1.0, 1.0)
        wide = TruncatedNormal(loc.double(), torch.full_like(loc, scale).double(), -1.0, 1.0)
        x, log_prob = mine.sample_with_log_prob(random.key(0))
        assert log_prob.isfinite().all() and (x.abs() <= 1).all()
        torch.testing.assert_close(log_prob.double(), wide.log_prob(x.double()), rtol=1e-4, atol=1e-4)
        other, other_wide = mine.replace(scale=1.3 * mine.scale), wide.replace(scale=1.3 * wide.scale)
        for got, expected in ((mine.mean(), wide.mean()), (mine.stddev(), wide.stddev()), (mine.entropy(), wide.entropy())):
            torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.kl(other).double(), wide.kl(other_wide), rtol=1e-3, atol=1e-4)
        for f in (
            lambda p, d=mine, x=x: d.replace(loc=p).log_prob(x).sum(),
            lambda p, d=mine: d.replace(loc=p).mean().sum(),
            lambda p, d=mine: d.replace(loc=p).entropy().sum(),
            lambda p, d=mine: d.replace(loc=p).stddev().sum(),
            lambda p, d=mine: d.replace(loc=p).sample(random.key(0)).sum(),
        ):
            assert grad(f)(loc).isfinite().all()


def test_a_wide_interval_cuts_nothing_off():
    loc, scale = torch.tensor([0.3, -1.0], dtype=torch.float64), torch.tensor([0.5, 1.5], dtype=torch.float64)
    mine, whole = TruncatedNormal(loc, scale, -50.0, 50.0), Normal(loc, scale)
    x = whole.sample(random.key(0))
    torch.testing.assert_close(mine.log_prob(x), whole.log_prob(x))
    torch.testing.assert_close(mine.entropy(), whole.entropy())
    torch.testing.assert_close((mine.mean(), mine.stddev()), (loc, scale))
    other = TruncatedNormal(loc + 1, 2 * scale, -50.0, 50.0)
    torch.testing.assert_close(mine.kl(other), whole.kl(Normal(loc + 1, 2 * scale)))


def test_gradients():
    loc = torch.tensor([0.1, 2.5, -4.0], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.5, 1.0, 0.7], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.2, 0.99, -0.8], dtype=torch.float64)
    other = TruncatedNormal(loc.detach() + 0.5, 1.5 * scale.detach())
    for f in (
        lambda m, s: TruncatedNormal(m, s).log_prob(x),
        lambda m, s: TruncatedNormal(m, s).sample(random.key(0)),
        lambda m, s: TruncatedNormal(m, s).entropy(),
        lambda m, s: TruncatedNormal(m, s).mean(),
        lambda m, s: TruncatedNormal(m, s).stddev(),
        lambda m, s: TruncatedNormal(m, s).kl(other),
    ):
        assert torch.autograd.gradcheck(f, (loc, scale))


def test_samples_are_reparameterised():
    """dx/dloc = 1 - (p(low) / p(x) * (1 - F(x)) + p(high) / p(x) * F(x)), by differentiating the inverse of F."""
    loc, scale = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    slope = jacrev(lambda m: TruncatedNormal(m, scale).sample(random.key(3)))(loc)[0, 0]
    x = TruncatedNormal(loc, scale).sample(random.key(3)).item()
    theirs = scipy.stats.truncnorm(-1.3 / 0.8, 0.7 / 0.8, 0.3, 0.8)
    expected = 1 - (theirs.pdf(-1) * (1 - theirs.cdf(x)) + theirs.pdf(1) * theirs.cdf(x)) / theirs.pdf(x)
    assert abs(slope - expected) < 1e-6


ZERO, ONE = torch.zeros(3), torch.ones(3)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: TruncatedNormal(ZERO, -ONE).mean(), ValueError, "TruncatedNormal: scale: expected numbers above 0, got -1.0"),
        (lambda: TruncatedNormal(ZERO, ONE, 1.0, 0.0).mean(), ValueError, "low < high, got 1.0 and 0.0"),
        (lambda: TruncatedNormal(ZERO, ONE, -math.inf).mean(), ValueError, "TruncatedNormal: low and high: expected finite ends"),
        (lambda: TruncatedNormal(ZERO, torch.ones(2)).mean(), ValueError, r"loc and scale.*got \[3\] and \[2\]"),
        (lambda: TruncatedNormal(ZERO, ONE).log_prob(torch.zeros(3, 1)), ValueError, r"got \[3, 1\] and \[3\]"),
        (lambda: TruncatedNormal(ZERO, ONE).kl(Normal(ZERO, ONE)), TypeError, "expected a TruncatedNormal, got a Normal"),
        (lambda: TruncatedNormal(ZERO, ONE).kl(TruncatedNormal(ZERO, ONE, -2.0)), ValueError, "give both the same bounds"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
