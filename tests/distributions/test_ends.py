"""Every distribution at the ends of its parameters, value and gradient, against mpmath with 120 digits."""

import functools
import math

import mpmath
import pytest
import torch
from torch.func import grad

from funrl import random
from funrl.distributions import Bernoulli, Categorical, Delta, Normal, OneHotCategorical, TanhNormal, TruncatedNormal

mpmath.mp.dps = 120
# Relative, and absolute in units of what enters the sum: a logarithm of 1e30 is 69, and has no more digits than its dtype gives it.
CLOSE = {torch.float32: (2e-5, 3e-5), torch.float64: (1e-11, 1e-12)}
SCALES = [1e-30, 1e-6, 1.0, 1e6, 1e30]


def check(got, expected, dtype, what=""):
    """``expected`` is rounded to the dtype: what is beyond its greatest number is infinite."""
    got, expected = float(got), float(torch.tensor(float(expected), dtype=torch.float64).to(dtype))
    rtol, atol = CLOSE[dtype]
    assert got == expected or abs(got - expected) <= atol + rtol * abs(expected), f"{what}: {got}, but {expected} is right"


def compare(f, exact, points, dtype, gradient=True):
    """Compare f(*tensors) and its gradient with exact(*numbers) and the derivative of it."""
    for point in points:
        given = [torch.tensor(float(x), dtype=dtype) for x in point]
        numbers = [mpmath.mpf(x.item()) for x in given]
        check(f(*given), exact(*numbers), dtype, f"{point}")
        if not gradient:
            continue
        for i, slope in enumerate(grad(f, tuple(range(len(given))))(*given)):
            h = mpmath.mpf(10) ** -40 * max(abs(numbers[i]), mpmath.mpf(10) ** -30)
            ends = [exact(*numbers[:i], numbers[i] + side * h, *numbers[i + 1 :]) for side in (-1, 1)]
            expected = (ends[1] - ends[0]) / (2 * h)
            check(slope, expected, dtype, f"the slope in argument {i} at {point}")


@pytest.mark.parametrize("dtype", CLOSE)
def test_normal(dtype):
    log_prob = lambda x, loc, scale: -(((x - loc) / scale) ** 2) / 2 - mpmath.log(scale) - mpmath.log(2 * mpmath.pi) / 2  # noqa: E731
    points = [(0.0, 0.0, scale) for scale in SCALES] + [(1e10, -1e10, 1e9), (1e-20, 0.0, 1e-20), (3.0, 3.0, 1e-12)]
    compare(lambda x, loc, scale: Normal(loc, scale).log_prob(x), log_prob, points, dtype)
    compare(lambda scale: Normal(0 * scale, scale).entropy(), lambda s: mpmath.log(s * mpmath.sqrt(2 * mpmath.pi * mpmath.e)),
            [(s,) for s in SCALES], dtype)  # fmt: skip

    def kl(m, s, n, t):
        return mpmath.log(t / s) + (s * s + (m - n) ** 2) / (2 * t * t) - mpmath.mpf(1) / 2

    points = [(0.0, s, 0.0, t) for s in SCALES for t in SCALES if s / t < 1e15 and s / t > 1e-61]
    points += [(0.0, 1e-25, 0.0, 1.0), (1.0, 1.0, 1.0, 1.0), (0.0, 1.0, 0.0, 1.0 + 1e-6), (0.0, 1e-19, 1e-19, 1e-19)]
    compare(lambda m, s, n, t: Normal(m, s).kl(Normal(n, t)), kl, points, dtype, gradient=False)
    points = [(0.0, 1e-25, 0.0, 1.0), (0.5, 1.0, 0.25, 2.0), (0.0, 1e-10, 1e-11, 1e-10)]
    compare(lambda m, s, n, t: Normal(m, s).kl(Normal(n, t)), kl, points, dtype)


@pytest.mark.parametrize("dtype", CLOSE)
def test_bernoulli(dtype):
    def probs(z):
        return 1 / (1 + mpmath.exp(-z)), 1 / (1 + mpmath.exp(z))

    def entropy(z):
        return -sum(p * mpmath.log(p) for p in probs(z) if p)

    def kl(z, w):
        return sum(p * mpmath.log(p / q) for p, q in zip(probs(z), probs(w), strict=True))

    finite = [-1000.0, -100.0, -17.0, -16.0, -1e-3, 0.0, 1e-20, 0.5, 16.0, 17.0, 40.0, 100.0, 1000.0]
    compare(lambda z: Bernoulli(z).entropy(), entropy, [(z,) for z in finite], dtype)
    compare(lambda z: Bernoulli(z).stddev(), lambda z: mpmath.sqrt(probs(z)[0] * probs(z)[1]), [(z,) for z in finite], dtype)
    compare(lambda z: Bernoulli(z).log_prob(z > -2000), lambda z: mpmath.log(probs(z)[0]), [(z,) for z in finite], dtype)
    compare(lambda z, w: Bernoulli(z).kl(Bernoulli(w)), kl, [(z, w) for z in finite for w in (-17.0, 0.0, 30.0)], dtype, gradient=False)
    # A relative error in what is small: 1 - p has lost all digits of p at 17.
    z = torch.tensor([17.0, -17.0], dtype=dtype)
    for got in Bernoulli(z).entropy(), Bernoulli(z).stddev():
        exact = entropy(17) if got[0] < 1e-5 else mpmath.sqrt(probs(17)[0] * probs(17)[1])
        assert got.tolist() == pytest.approx([float(exact)] * 2, rel=1e-5)


@pytest.mark.parametrize("dtype", CLOSE)
def test_bits_that_are_certain(dtype):
    z = torch.tensor([-math.inf, 0.0, math.inf], dtype=dtype)
    coin, fair = Bernoulli(z), Bernoulli(torch.zeros(3, dtype=dtype))
    two = math.log(2)
    for got, expected in (
        (coin.entropy(), [0, two, 0]), (coin.kl(coin), [0, 0, 0]), (coin.kl(fair), [two, 0, two]), (coin.stddev(), [0, 0.5, 0]),
        (coin.log_prob(torch.tensor([False, True, True])), [0, -two, 0]), (fair.kl(coin), [math.inf, 0, math.inf]),
        (coin.kl(Bernoulli(-z)), [math.inf, 0, math.inf]),
    ):  # fmt: skip
        assert got.tolist() == pytest.approx(expected)
    for f in (
        lambda z: Bernoulli(z).entropy(), lambda z: Bernoulli(z).stddev(), lambda z: Bernoulli(z).kl(fair),
        lambda z: Bernoulli(z).log_prob(torch.tensor([False, True, True])), lambda z: fair.kl(Bernoulli(z.clamp(-9, 9))),
    ):  # fmt: skip
        slope = grad(lambda z, f=f: f(z).sum())(z)
        assert slope.isfinite().all() and slope[0] == slope[2] == 0
    assert Bernoulli(torch.tensor(math.nan)).entropy().isnan()
    assert torch.func.vmap(coin.sample)(random.split(random.key(0), 50))[:, ::2].tolist() == [[False, True]] * 50


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("kind", [Categorical, OneHotCategorical])
def test_classes(kind, dtype):
    def probs(*z):
        whole = sum(mpmath.exp(x) for x in z)
        return [mpmath.exp(x) / whole for x in z]

    rows = [(0.0, -17.0, 1.0), (0.0, -1000.0, -2.0), (1e6, 1e6, 0.0), (-1e4, -1e4, -1e4), (80.0, 0.0, -80.0)]
    if kind is Categorical:
        compare(lambda *z: kind(torch.stack(z)).entropy(), lambda *z: -sum(p * mpmath.log(p) for p in probs(*z) if p > 0), rows, dtype)
        for k in range(3):
            one = torch.tensor(k)
            compare(lambda *z, one=one: kind(torch.stack(z)).log_prob(one), lambda *z, k=k: mpmath.log(probs(*z)[k]), rows, dtype)
    else:
        for k in range(3):
            compare(lambda *z, k=k: kind(torch.stack(z)).stddev()[k],
                    lambda *z, k=k: mpmath.sqrt(probs(*z)[k] * sum(p for j, p in enumerate(probs(*z)) if j != k)), rows, dtype)  # fmt: skip
    forbidden = torch.tensor([0.0, -math.inf, -math.inf], dtype=dtype)
    other = kind(torch.zeros(3, dtype=dtype))
    fs = (lambda z: kind(z).entropy(), lambda z: kind(z).kl(other), *(() if kind is Categorical else (lambda z: kind(z).stddev().sum(),)))
    for f in fs:
        assert f(forbidden).isfinite() and grad(f)(forbidden).isfinite().all()


@pytest.mark.parametrize("dtype", CLOSE)
def test_tanh_normal(dtype):
    def log_prob(u, loc, scale):
        slope = mpmath.log(4) - 2 * mpmath.log(mpmath.exp(u) + mpmath.exp(-u))
        return -(((u - loc) / scale) ** 2) / 2 - mpmath.log(scale) - mpmath.log(2 * mpmath.pi) / 2 - slope

    def ours(u, loc, scale):
        normal, bounds = TanhNormal(loc, scale)._parts()
        return normal.log_prob(u) - bounds.log_slope(u)

    points = [(u, 0.0, 1.0) for u in (-100.0, -12.0, -1e-8, 0.0, 3.0, 9.5, 11.0, 100.0)] + [(1e-30, 0.0, 1e-30), (40.0, 40.0, 1e-6)]
    compare(ours, log_prob, points, dtype)
    wide = TanhNormal(torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype), (-3e38,), (3e38,))
    check(wide.log_prob(torch.zeros(1, dtype=dtype)), log_prob(0, 0, 1) - mpmath.log(3e38), dtype)


LOW, HIGH = -1.0, 1.0
PLACES = [(loc, scale) for scale in (1e-2, 0.3, 1.0, 3.0, 1e2, 1e4, 1e25) for loc in (-1.5, -1.0, 0.0, 0.5, 3.0)]
PLACES = [(loc, scale) for loc, scale in PLACES if abs(loc) <= 1 or scale > 0.2] + [(1e4, 1e4), (1e6, 1e3), (50.0, 1.0), (1e10, 1e8)]


@functools.cache
def integrals(loc, scale):
    """Return log Z, the mode, and E x, E x^2 and the mean energy, under the truncated density, scaled by its value at the mode."""
    loc, scale = mpmath.mpf(loc), mpmath.mpf(scale)
    mode = min(max(loc, mpmath.mpf(LOW)), mpmath.mpf(HIGH))
    density = lambda x: mpmath.exp(-(x - mode) * (x - mode + 2 * (mode - loc)) / (2 * scale**2))  # noqa: E731
    slope = abs(mode - loc) / scale**2
    reach = min(mpmath.mpf(HIGH - LOW), 60 / slope if slope else mpmath.inf, 16 * scale)
    points = sorted({x for k in (-1, -0.5, -0.25, 0, 0.25, 0.5, 1) for x in [mode + k * reach] if LOW <= x <= HIGH})
    if not (slope > 0 and reach < HIGH - LOW):
        points = sorted({*points, *(mpmath.mpf(x) for x in (LOW, HIGH) if reach >= 2)})
    whole = mpmath.quad(density, points)
    energy = lambda x: (x - mode) * (x + mode - 2 * loc) / (2 * scale**2)  # noqa: E731
    means = [mpmath.quad(lambda x, f=f: f(x) * density(x), points) / whole for f in (lambda x: x, lambda x: x * x, energy)]
    return mpmath.log(whole), mode, means


@pytest.mark.parametrize("dtype", CLOSE)
def test_truncated_normal(dtype):
    """``log_prob`` with its gradient; mean, deviation, entropy and KL where the scale is far greater than the interval, and far out."""
    atol = {torch.float32: 1e-4, torch.float64: 1e-9}[dtype]

    def near(got, expected, rel, what):
        assert float(got) == pytest.approx(float(expected), rel=rel, abs=rel), what

    mpmath.mp.dps = 30
    for point in PLACES:
        loc, scale = (torch.tensor(x, dtype=torch.float32).to(dtype) for x in point)  # the same for both, so that the integrals are too
        ours = TruncatedNormal(loc, scale, LOW, HIGH)
        m, s = mpmath.mpf(loc.item()), mpmath.mpf(scale.item())
        log_whole, mode, (mean, second, energy) = integrals(loc.item(), scale.item())
        far = max(1.0, float(abs(mode - m) / s)) if float(s) < 1e3 * float(abs(mode - m)) else 1.0
        near(ours.mean(), mean, atol, f"mean at {point}")
        deviation = mpmath.sqrt(second - mean**2)
        assert float(ours.stddev()) == pytest.approx(float(deviation), rel=3 * atol), f"stddev at {point}"
        near(ours.entropy(), log_whole + energy, atol * far, f"entropy at {point}")
        x = torch.tensor(0.25, dtype=dtype)
        log_density = lambda x, mode=mode, m=m, s=s, z=log_whole: -(x - mode) * (x + mode - 2 * m) / (2 * s**2) - z  # noqa: E731
        near(ours.log_prob(x), log_density(mpmath.mpf(0.25)), atol, f"log_prob at {point}")
        # d log p / d loc = (x - mean) / scale^2, and d log p / d scale = ((x - loc)^2 - E (X - loc)^2) / scale^3.
        by_loc, by_scale = grad(lambda a, b, x=x: TruncatedNormal(a, b, LOW, HIGH).log_prob(x), (0, 1))(loc, scale)
        near(by_loc * scale, (mpmath.mpf(0.25) - mean) / s, 10 * atol * far**2, f"slope in loc at {point}")
        spread = (mpmath.mpf(0.25) - m) ** 2 - (second - 2 * m * mean + m * m)
        near(by_scale * scale, spread / s**2, 30 * atol * far**2, f"slope in scale at {point}")
        tuples = TruncatedNormal(loc.expand(1), scale.expand(1), (LOW,), (HIGH,))
        same = grad(lambda a: TruncatedNormal(a, tuples.scale, (LOW,), (HIGH,)).log_prob(x.expand(1)).sum())(tuples.loc)  # noqa: B023
        near(same * scale, by_loc * scale, 10 * atol, f"slope in loc with bounds in tuples at {point}")
        assert grad(lambda a, b: TruncatedNormal(a, b, LOW, HIGH).entropy(), (0, 1))(loc, scale)[0].isfinite()
    mpmath.mp.dps = 120


@pytest.mark.parametrize("scale", [3.0, 100.0, 1e4, 1e20])
def test_samples_of_a_flat_truncated_normal_fill_the_interval(scale):
    """As the whole normal's distribution function hardly changes there, samples lay on a few points, or on one."""
    dist = TruncatedNormal(torch.tensor(0.5), torch.tensor(scale), LOW, HIGH)
    x = torch.func.vmap(dist.sample)(random.split(random.key(0), 4000))
    assert len(x.unique()) > 3900 and (x.abs() <= 1).all()
    assert abs(x.mean() - dist.mean()) < 4 * 0.58 / 63 and abs(x.std() - dist.stddev()) < 0.02
    slopes = grad(lambda a, b: TruncatedNormal(a, b, LOW, HIGH).sample(random.key(1)), (0, 1))(dist.loc, dist.scale)
    assert all(slope.isfinite() for slope in slopes)


@pytest.mark.parametrize("bounds", [(LOW, HIGH), ((LOW, LOW), (HIGH, HIGH))])
def test_the_slope_where_loc_lies_on_a_bound(bounds):
    """A pair of minimum and maximum halves it where the two are equal."""
    at = torch.tensor([-1.0, 1.0])
    slopes = [
        grad(lambda loc: TruncatedNormal(loc, torch.full((2,), 0.5), *bounds).log_prob(torch.zeros(2)).sum())(loc)
        for loc in (at * (1 - 1e-4), at, at * (1 + 1e-4))
    ]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(slopes[1], slopes[2], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", CLOSE)
def test_delta(dtype):
    for x in (0.0, 1e-30, 1e30):
        point = Delta(torch.tensor(x, dtype=dtype))
        assert point.log_prob(point.loc) == 0 and point.entropy() == 0 and point.kl(point) == 0
