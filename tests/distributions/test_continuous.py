import math

import chex
import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch.func import grad, jacrev, vmap

from funrl import compiler, random
from funrl.distributions import Independent, Normal, TanhNormal
from tests.oracles.deepmind import distrax


def parameters(*shape, dtype=torch.float64, seed=0):
    keys = random.split(random.key(seed), 2)
    return random.normal(keys[0], shape, dtype=dtype), random.uniform(keys[1], shape, 0.3, 1.5, dtype=dtype)


def torch_tanh_normal(loc, scale, low=-1.0, high=1.0):
    transforms = [torch.distributions.TanhTransform(), torch.distributions.AffineTransform((high + low) / 2, (high - low) / 2)]
    return torch.distributions.TransformedDistribution(torch.distributions.Normal(loc, scale), transforms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_agrees_with_torch_and_distrax(dtype):
    loc, scale = parameters(5, 3, dtype=dtype)
    other = parameters(5, 3, dtype=dtype, seed=1)
    x = random.normal(random.key(2), (7, 5, 3), dtype=dtype)
    mine, theirs = Normal(loc, scale), torch.distributions.Normal(loc, scale)
    for got, expected in [
        (mine.log_prob(x), theirs.log_prob(x)),
        (mine.entropy(), theirs.entropy()),
        (mine.mean(), theirs.mean),
        (mine.mode(), theirs.mode),
        (mine.kl(Normal(*other)), torch.distributions.kl_divergence(theirs, torch.distributions.Normal(*other))),
    ]:
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected)
    jax_version = distrax.Normal(loc.numpy(), scale.numpy())
    chex.assert_trees_all_close(mine.log_prob(x).numpy(), np.asarray(jax_version.log_prob(x.numpy())), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("low, high", [(-1.0, 1.0), (-2.0, 2.0), (0.0, 5.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_normal_agrees_with_torch_and_distrax(dtype, low, high):
    loc, scale = parameters(5, 3, dtype=dtype)
    mine, theirs = TanhNormal(loc, scale, low, high), torch_tanh_normal(loc, scale, low, high)
    y, log_prob = mine.sample_with_log_prob(random.key(1))
    assert y.dtype == log_prob.dtype == dtype
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(log_prob, theirs.log_prob(y), **tolerance)
    torch.testing.assert_close(mine.log_prob(y), theirs.log_prob(y), **tolerance)
    assert torch.equal(y, mine.sample(random.key(1)))
    if (low, high) == (-1.0, 1.0):
        jax_version = distrax.Transformed(distrax.Normal(loc.numpy(), scale.numpy()), distrax.Tanh())
        chex.assert_trees_all_close(mine.log_prob(y).numpy(), np.asarray(jax_version.log_prob(y.numpy())), rtol=1e-3, atol=1e-3)


def test_tanh_normal_with_bounds_for_each_dimension():
    loc, scale = parameters(4, 2)
    low, high = (-1.0, 0.0), (3.0, 0.5)
    mine = TanhNormal(loc, scale, low, high)
    columns = [TanhNormal(loc[:, i], scale[:, i], low[i], high[i]) for i in range(2)]
    y = mine.sample(random.key(0))
    assert (y >= torch.tensor(low)).all() and (y <= torch.tensor(high)).all()
    torch.testing.assert_close(mine.log_prob(y), torch.stack([dist.log_prob(y[:, i]) for i, dist in enumerate(columns)], -1))
    torch.testing.assert_close(mine.mode(), torch.stack([dist.mode() for dist in columns], -1))
    torch.testing.assert_close(TanhNormal(loc, scale, 0.0, high).mode(), TanhNormal(loc, scale, (0.0, 0.0), high).mode())


def test_tanh_normal_density_integrates_to_one_and_estimates_are_right():
    loc, scale = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    dist = TanhNormal(loc, scale, -1.0, 3.0)

    def density(y):
        return math.exp(dist.log_prob(torch.tensor(y, dtype=torch.float64)))

    def integral(f):
        return scipy.integrate.quad(f, -1, 3, epsabs=1e-8)[0]

    assert abs(integral(density) - 1) < 1e-6
    mean, entropy = integral(lambda y: y * density(y)), integral(lambda y: -density(y) * math.log(density(y)) if density(y) > 0 else 0.0)
    assert abs(dist.mean(random.key(0), 20000) - mean) < 0.02
    assert abs(dist.entropy(random.key(0), 20000) - entropy) < 0.01
    assert abs(dist.entropy() - entropy) < 1e-6
    below = scipy.integrate.quad(density, -1, float(dist.mode()))[0]
    assert abs(below - 0.5) < 1e-6  # mode() is the median


def test_kl_of_tanh_normals_is_an_expectation():
    mine, other = TanhNormal(*parameters(3)), TanhNormal(*parameters(3, seed=1))
    y, log_prob = vmap(mine.sample_with_log_prob)(random.split(random.key(0), 50000))
    torch.testing.assert_close(mine.kl(other), (log_prob - other.log_prob(y)).mean(0), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_values_stay_finite(dtype):
    loc = torch.tensor([0.0, 12.0, -12.0, 50.0, -300.0], dtype=dtype)
    scale = torch.full_like(loc, 0.5)
    dist = TanhNormal(loc, scale, -0.1, 0.3)
    y, log_prob = dist.sample_with_log_prob(random.key(0))
    assert (y >= -0.1).all() and (y <= torch.tensor(0.3, dtype=dtype)).all()
    assert log_prob.isfinite().all() and dist.log_prob(y).isfinite().all()
    # In the tail 1 - tanh(u)^2 is 4 exp(-2 |u|), though tanh(u) has rounded to 1.
    u = loc + scale * random.normal(random.key(0), (5,), dtype=dtype)
    expected = torch.distributions.Normal(loc, scale).log_prob(u) - math.log(0.2) - math.log(4.0) + 2 * u.abs()
    torch.testing.assert_close(log_prob[1:], expected[1:])
    stored = torch.tensor([-0.1, 0.3, 0.1, 0.31, -5.0], dtype=dtype)
    assert dist.log_prob(stored).isfinite().all()
    for f in (
        lambda p: dist.replace(loc=p).log_prob(stored).sum(),
        lambda p: dist.replace(loc=p).sample_with_log_prob(random.key(0))[1].sum(),
    ):
        assert grad(f)(loc).isfinite().all()


def test_squashed_values_up_to_twenty_are_right_in_float32():
    """|u| up to 20, where tanh has long rounded to 1, against the plain formula in float64 with many digits to spare."""
    u = torch.tensor([0.0, 0.5, -3.0, 8.0, -9.0, 12.0, -17.0, 20.0, -20.0])
    dist = TanhNormal(u, torch.full_like(u, 1e-3), -2.0, 2.0)
    y, log_prob = dist.sample_with_log_prob(random.key(0))
    drawn = (u + 1e-3 * random.normal(random.key(0), (9,))).double()
    with mpmath.workdps(60):
        slope = torch.tensor([float(mpmath.log(2 * (1 - mpmath.tanh(mpmath.mpf(float(v))) ** 2))) for v in drawn], dtype=torch.float64)
        squashed = torch.tensor([float(2 * mpmath.tanh(mpmath.mpf(float(v)))) for v in drawn], dtype=torch.float64)
    expected = torch.distributions.Normal(u.double(), torch.tensor(1e-3).double()).log_prob(drawn) - slope
    torch.testing.assert_close(y.double(), squashed, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-4, atol=5e-2)  # u itself has a spacing of 1e-3 deviations at 20
    exact = Normal(u, torch.full_like(u, 1e-3)).log_prob(drawn.float()).double() - slope
    torch.testing.assert_close(log_prob.double(), exact, rtol=1e-5, atol=1e-5)
    assert grad(lambda m: dist.replace(loc=m).sample_with_log_prob(random.key(0))[1].sum())(u).isfinite().all()


def test_gradients():
    loc, scale = (x.requires_grad_() for x in parameters(3))
    other = parameters(3, seed=1)
    x = torch.tensor([0.1, -0.7, 0.9], dtype=torch.float64)
    key = random.key(0)
    for make in (Normal, TanhNormal):
        for f in (
            lambda m, s, make=make: make(m, s).log_prob(x),
            lambda m, s, make=make: make(m, s).sample_with_log_prob(key),
            lambda m, s, make=make: make(m, s).kl(make(*other)),
        ):
            assert torch.autograd.gradcheck(f, (loc, scale))
    assert torch.autograd.gradcheck(lambda s: Normal(loc, s).entropy(), scale)
    for given in ((), (key, 4)):
        assert torch.autograd.gradcheck(lambda m, s, given=given: TanhNormal(m, s).entropy(*given), (loc, scale))


@pytest.mark.parametrize("scale, error", [(0.01, 1e-8), (1.0, 1e-8), (5.0, 1e-4), (10.0, 1e-2)])
def test_the_entropy_of_a_tanh_normal_is_an_integral(scale, error):
    loc, scale = torch.tensor([[-2.0], [0.0], [0.3]], dtype=torch.float64), torch.tensor([scale], dtype=torch.float64)
    got = TanhNormal(loc, scale, -2.0, 2.0).entropy()
    for mean, entropy in zip(loc[:, 0].tolist(), got[:, 0].tolist(), strict=True):
        normal = scipy.stats.norm(mean, float(scale))

        def weighed(u, normal=normal):
            return normal.pdf(u) * 2 * (math.log(2) - abs(u) - math.log1p(math.exp(-2 * abs(u))))

        ends = mean - 9 * float(scale), mean + 9 * float(scale)
        slope = scipy.integrate.quad(weighed, *ends, points=[0.0, mean], limit=500)[0]
        assert abs(entropy - (normal.entropy() + math.log(2) + slope)) < error


def test_parameters_broadcast():
    dist = Normal(torch.zeros(4, 3), torch.ones(3))
    for x in (dist.sample(random.key(0)), dist.entropy(), dist.mode(), dist.mean(), dist.log_prob(torch.zeros(3))):
        chex.assert_shape(x, (4, 3))
    chex.assert_shape(Normal(torch.zeros(()), torch.ones(3)).mode(), (3,))


def everything(key, loc, scale):
    normal, squashed = Independent(Normal(loc, scale), 1), Independent(TanhNormal(loc, scale, (-2.0, 0.0), 2.0), 1)
    x, log_prob = squashed.sample_with_log_prob(key)
    return (
        *normal.sample_with_log_prob(key), normal.entropy(), normal.mode(), normal.kl(Independent(Normal(loc + 1, scale), 1)),
        x, log_prob, squashed.log_prob(x), squashed.entropy(), squashed.entropy(key, 4), squashed.mode(), squashed.mean(key, 4),
    )  # fmt: skip


def test_compiled_and_vmapped_agree_with_a_loop():
    keys, (loc, scale) = random.split(random.key(0), 3), parameters(3, 4, 2, dtype=torch.float32)
    loop = [everything(*row) for row in zip(keys, loc, scale, strict=True)]
    expected = [torch.stack(column) for column in zip(*loop, strict=True)]
    batched = vmap(everything)(keys, loc, scale)
    compiled = compiler.compile(vmap(everything), backend="aot_eager")(keys, loc, scale)
    for want, one, two in zip(expected, batched, compiled, strict=True):
        torch.testing.assert_close(one, want, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(two, want, rtol=1e-4, atol=1e-4)


def test_reparameterised_samples_carry_gradients():
    loc, scale = parameters(3)
    noise = random.normal(random.key(0), (3,), dtype=torch.float64)
    jacobian = jacrev(lambda s: Normal(loc, s).sample(random.key(0)))(scale)
    torch.testing.assert_close(jacobian, torch.diag(noise))


ZERO, ONE = torch.zeros(3), torch.ones(3)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Normal(torch.tensor([0]), ONE).mode(), TypeError, "Normal: loc: expected a floating-point tensor, got torch.int64"),
        (
            lambda: Normal(ZERO, torch.tensor([1.0, 0.0, 1.0])).sample(random.key(0)),
            ValueError,
            "Normal: scale: expected numbers above 0, got 0.0",
        ),
        (lambda: TanhNormal(ZERO, -ONE).mode(), ValueError, "TanhNormal: scale: expected numbers above 0, got -1.0; .*normal_params"),
        (lambda: Normal(ZERO, torch.tensor(math.nan)).entropy(), ValueError, "expected numbers above 0, got nan"),
        (lambda: Normal(ZERO, 1.0).sample(random.key(0)), TypeError, "Normal: scale.*got a float"),
        (lambda: Normal(ZERO, torch.ones(2)).entropy(), ValueError, r"loc and scale.*got \[3\] and \[2\]"),
        (lambda: Normal(ZERO, torch.ones(3, 1)).entropy(), ValueError, r"got \[3\] and \[3, 1\]"),
        (lambda: Normal(ZERO, ONE).log_prob(torch.zeros(3, 1)), ValueError, r"x and the parameters.*got \[3, 1\] and \[3\]"),
        (lambda: Normal(ZERO, ONE).log_prob(torch.tensor([0, 1, 2])), TypeError, "x: expected a floating-point tensor"),
        (lambda: Normal(ZERO, ONE).kl(TanhNormal(ZERO, ONE)), TypeError, "expected a Normal, got a TanhNormal"),
        (lambda: TanhNormal(ZERO, ONE).kl(Normal(ZERO, ONE)), TypeError, "expected a TanhNormal, got a Normal"),
        (lambda: TanhNormal(ZERO, ONE).kl(TanhNormal(ZERO, ONE, -2.0)), ValueError, "give both the same bounds"),
        (lambda: TanhNormal(ZERO, ONE, 1.0, 1.0).mode(), ValueError, "low < high, got 1.0 and 1.0"),
        (lambda: TanhNormal(ZERO, ONE, (0.0, 0.0, 2.0), 1.0).mode(), ValueError, "got 2.0 and 1.0"),
        (lambda: TanhNormal(ZERO, ONE, -math.inf).mode(), ValueError, "finite ends"),
        (lambda: TanhNormal(ZERO, ONE, -ONE, ONE).mode(), TypeError, r"tuple\(x.tolist\(\)\)"),
        (lambda: TanhNormal(ZERO, ONE, (-1.0, -1.0), (1.0, 1.0)).mode(), ValueError, r"bounds and parameters.*got \[2\] and \[3\]"),
        (lambda: TanhNormal(ZERO, ONE, (-1.0, -1.0), (1.0, 1.0, 1.0)).mode(), ValueError, "got 2 and 3"),
        (lambda: TanhNormal(ZERO, ONE).mean(random.key(0), 0), ValueError, "num_samples.*got 0"),
        (lambda: TanhNormal(ZERO, ONE).mean(), TypeError, "key"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
