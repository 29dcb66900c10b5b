"""funrl.random: the construction, the quality of its streams, the samplers, and the errors."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from funrl import compiler, random
from funrl.random import _checks, _continuous, _splitmix
from tests.oracles import splitmix64
from tests.support import compilations

vmap = torch.func.vmap
DTYPES = [torch.float32, torch.float64]
N = 40_000


def unsigned(x):
    return [int(i) & splitmix64.MASK for i in x.reshape(-1)]


def compiled(f, *args, backend="aot_eager"):
    return compiler.compile(f, backend=backend)(*args)


# ---- construction -------------------------------------------------------------------------------------------------------------


def test_mix_gives_the_published_splitmix64_vector():
    states = torch.arange(1, 6) * _splitmix.GOLDEN + 1234567
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert unsigned(_splitmix.mix(states)) == published == splitmix64.sequence(1234567, 5)


def test_words_of_python_integers_are_those_of_tensors():
    counters = torch.arange(-3, 40)
    for seed in (0, 1, -5, 2**62 + 7):
        key = random.key(seed)
        words = _splitmix.shift(_splitmix.output(key, counters, 3), 33)
        assert words.tolist() == [_splitmix.shift(_splitmix.output(int(key), int(i), 3), 33) for i in counters]


@pytest.mark.parametrize("domain, draw", [(_splitmix.BITS, random.bits), (_splitmix.SPLIT, random.split)])
def test_counters_reach_positions_of_splitmix64(domain, draw):
    key = random.key(9)
    c = domain & splitmix64.MASK
    expected = [splitmix64.mix64(int(key) + (i ^ c) * splitmix64.GOLDEN) for i in range(30)]
    assert unsigned(draw(key, (5, 6))) == expected
    assert unsigned(draw(key, ())) == expected[:1] and unsigned(draw(key, 1)) == expected[:1]


def test_fold_in_and_key_reach_positions_of_splitmix64():
    key = random.key(9)
    for i in (0, 1, -1, 12345, 2**60, -(2**63)):
        c = _splitmix.FOLD & splitmix64.MASK
        assert unsigned(random.fold_in(key, i)) == [splitmix64.mix64(int(key) + ((i & splitmix64.MASK) ^ c) * splitmix64.GOLDEN)]
        c = _splitmix.SEED & splitmix64.MASK
        assert unsigned(random.key(i)) == [splitmix64.mix64(((i & splitmix64.MASK) ^ c) * splitmix64.GOLDEN)]


def test_domains_stay_apart_for_counters_below_two_to_the_sixty():
    upper = [(c & splitmix64.MASK) >> 60 for c in (_splitmix.SPLIT, _splitmix.FOLD, _splitmix.BITS)]
    assert len({*upper, *(15 - u for u in upper)}) == 6


def test_golden_values_never_change():
    key = random.key(2024)
    golden = {
        "key": key.item(),
        "split": random.split(key, 2).tolist(),
        "fold_in": random.fold_in(key, 7).item(),
        "bits": random.bits(key, (2,)).tolist(),
        "randint": random.randint(key, (8,), -10, 10).tolist(),
        "bernoulli": random.bernoulli(key, 0.3, (8,)).int().tolist(),
        "categorical": random.categorical(key, torch.zeros(8, 5)).tolist(),
        "permutation": random.permutation(key, 8).tolist(),
        "choice": random.choice(key, 8, (4,), replace=False).tolist(),
    }
    assert golden == GOLDEN
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(random.uniform(key, 3), torch.tensor(GOLDEN_UNIFORM), **close)
    torch.testing.assert_close(random.normal(key, 3), torch.tensor(GOLDEN_NORMAL), **close)
    torch.testing.assert_close(random.normal(key, 3, dtype=torch.float64), torch.tensor(GOLDEN_NORMAL_64, dtype=torch.float64), **close)
    torch.testing.assert_close(random.gumbel(key, 3), torch.tensor(GOLDEN_GUMBEL), **close)
    torch.testing.assert_close(random.truncated_normal(key, -1.0, 2.0, 3), torch.tensor(GOLDEN_TRUNCATED), **close)


GOLDEN = {
    "key": 6647328624093338645,
    "split": [-7599088067039096068, 7249133882581367896],
    "fold_in": 6195369091410678007,
    "bits": [2210183076671709584, 981397908132034853],
    "randint": [-8, -9, 2, 4, 2, -7, -1, 9],
    "bernoulli": [1, 1, 0, 0, 0, 1, 0, 0],
    "categorical": [1, 0, 0, 3, 2, 4, 3, 0],
    "permutation": [2, 4, 3, 7, 1, 0, 5, 6],
    "choice": [2, 4, 3, 7],
}
GOLDEN_UNIFORM = [0.119814, 0.053202, 0.613455]
GOLDEN_NORMAL = [-1.687684, -2.400435, 0.906095]
GOLDEN_NORMAL_64 = [-0.619509, -1.721012, 0.414686]
GOLDEN_GUMBEL = [2.05868, 2.906455, 0.050761]
GOLDEN_TRUNCATED = [1.170851, 1.503922, -0.062508]


# ---- quality of the words -----------------------------------------------------------------------------------------------------

P = 1e-4


def words_of(stream):
    key = random.key(5)
    return {
        "bits": lambda n: random.bits(key, n),
        "split": lambda n: random.split(key, n),
        "fold_in": lambda n: vmap(lambda i: random.fold_in(key, i))(torch.arange(n)),
        "seeds": lambda n: vmap(random.key)(torch.arange(n)),
        "split of split": lambda n: vmap(lambda k: random.split(k, 100))(random.split(key, n // 100)).reshape(-1),
        "first bits of siblings": lambda n: vmap(random.bits)(random.split(key, n)),
        "first bits of seeds": lambda n: vmap(lambda s: random.bits(random.key(s)))(torch.arange(n)),
        "steps of agents": lambda n: vmap(lambda k: vmap(lambda i: random.fold_in(k, i))(torch.arange(100)))(
            random.split(key, n // 100)
        ).reshape(-1),
    }[stream]


STREAMS = ["bits", "split", "fold_in", "seeds", "split of split", "first bits of siblings", "first bits of seeds", "steps of agents"]


def as_bits(words):
    """[N] -> uint8 [N, 64]."""
    return np.unpackbits(words.numpy().view(np.uint8), bitorder="little").reshape(-1, 64)


def agreement_p_values(agree, n):
    """Two-sided p-values of counts of successes among n fair coins."""
    return 2 * scipy.stats.norm.sf(np.abs(np.asarray(agree) - n / 2) / math.sqrt(n / 4))


@pytest.mark.parametrize("stream", STREAMS)
def test_words_are_uniform_balanced_and_independent(stream):
    n = 100_000
    words = words_of(stream)(n)
    raw = words.numpy().view(np.uint8).reshape(n, 8)
    for column in range(8):
        assert scipy.stats.chisquare(np.bincount(raw[:, column], minlength=256)).pvalue > P
    b = as_bits(words)
    assert agreement_p_values(b.sum(0), n).min() > P / 64  # the balance of each bit
    for lag in (1, 2, 3, 64, 100):  # each bit against the same bit of a later word
        assert agreement_p_values((b[lag:] == b[:-lag]).sum(0), n - lag).min() > P / 64
    signs = b.astype(np.float32) * 2 - 1
    same = (signs.T @ signs)[np.triu_indices(64, 1)]  # each pair of bits of one word
    later = (signs[1:].T @ signs[:-1]).reshape(-1)  # each pair of bits of two words in turn
    assert (2 * scipy.stats.norm.sf(np.abs(same) / math.sqrt(n))).min() > P / same.size
    assert (2 * scipy.stats.norm.sf(np.abs(later) / math.sqrt(n - 1))).min() > P / later.size
    weights = np.bincount(b.sum(1), minlength=65)  # how many bits of a word are set
    expected = scipy.stats.binom.pmf(np.arange(65), 64, 0.5) * n
    middle = expected > 20
    observed, theory = np.append(weights[middle], weights[~middle].sum()), np.append(expected[middle], expected[~middle].sum())
    assert scipy.stats.chisquare(observed, theory * observed.sum() / theory.sum()).pvalue > P


@pytest.mark.parametrize("stream", STREAMS)
def test_pairs_of_bytes_are_uniform(stream):
    words = words_of(stream)(400_000).numpy().view(np.uint8).reshape(-1, 8).astype(np.int64)
    for low, high in [(words[1:, 0], words[:-1, 0]), (words[1:, 7], words[:-1, 7]), (words[:, 0], words[:, 7])]:
        assert scipy.stats.chisquare(np.bincount(low * 256 + high, minlength=65536)).pvalue > P


def test_a_flipped_bit_of_the_input_flips_half_of_the_output():
    inputs = random.bits(random.key(1), 2000) >> 8
    flips = torch.ones(64, dtype=torch.int64) << torch.arange(64)
    key = random.key(3)
    for f in (random.key, lambda i: random.fold_in(key, i), lambda k: random.split(k, 1)[0], random.bits):
        changed = vmap(lambda i, f=f: vmap(f)(i ^ flips) ^ f(i))(inputs)  # [2000, 64 inputs]
        b = as_bits(changed.reshape(-1)).reshape(2000, 64 * 64)
        assert agreement_p_values(b.sum(0), 2000).min() > P / 4096


def test_consecutive_seeds_flip_half_of_the_bits():
    keys = vmap(random.key)(torch.arange(-50_000, 50_000))
    assert agreement_p_values(as_bits(keys[1:] ^ keys[:-1]).sum(0), 99_999).min() > P / 64


@pytest.mark.parametrize("make", ["split", "fold_in", "seeds"])
def test_streams_of_siblings_are_uncorrelated(make):
    keys = words_of(make)(64)
    n = 20_000
    x = vmap(lambda k: random.bits(k, n))(keys)
    b = np.unpackbits(x.numpy().view(np.uint8), axis=None).reshape(64, -1)
    signs = b.astype(np.float32) * 2 - 1
    z = (signs @ signs.T)[np.triu_indices(64, 1)] / math.sqrt(n * 64)
    assert 2 * scipy.stats.norm.sf(np.abs(z)).min() > P / z.size
    assert scipy.stats.kstest(z, "norm", method="asymp").pvalue > P
    u = vmap(lambda k: random.uniform(k, n))(keys).numpy()
    r = np.corrcoef(u)[np.triu_indices(64, 1)] * math.sqrt(n)
    assert 2 * scipy.stats.norm.sf(np.abs(r)).min() > P / r.size


def test_a_million_keys_are_different():
    key = random.key(0)
    half = 500_000
    keys = [
        random.split(key, half),
        vmap(lambda i: random.fold_in(key, i))(torch.arange(half)),
        random.bits(key, half),
        vmap(random.key)(torch.arange(half)),
    ]
    assert torch.unique(torch.cat(keys)).numel() == 4 * half


def test_a_key_gives_its_children_and_words_no_common_value():
    key = random.key(0)
    assert not set(random.split(key, 1000).tolist()) & set(random.bits(key, 1000).tolist())
    assert random.split(key, 3).tolist() == random.split(key, 8)[:3].tolist()


# ---- samplers -----------------------------------------------------------------------------------------------------------------


def ks(x, cdf):
    return scipy.stats.kstest(x.double().numpy(), cdf, method="asymp").pvalue


def moments(x, mean, variance):
    """Mean and variance within five standard errors."""
    x = x.double()
    n = x.numel()
    assert abs(x.mean() - mean) < 5 * math.sqrt(variance / n)
    fourth = ((x - mean) ** 4).mean()
    assert abs(((x - mean) ** 2).mean() - variance) <= 5 * torch.sqrt((fourth - variance**2) / n)


CONTINUOUS = {
    "uniform": (lambda k, n, d: random.uniform(k, n, dtype=d), scipy.stats.uniform()),
    "uniform in a range": (lambda k, n, d: random.uniform(k, n, -3.0, 5.0, dtype=d), scipy.stats.uniform(-3, 8)),
    "normal": (lambda k, n, d: random.normal(k, n, dtype=d), scipy.stats.norm()),
    "exponential": (lambda k, n, d: random.exponential(k, n, dtype=d), scipy.stats.expon()),
    "gumbel": (lambda k, n, d: random.gumbel(k, n, dtype=d), scipy.stats.gumbel_r()),
    "truncated_normal": (lambda k, n, d: random.truncated_normal(k, -1.0, 2.0, n, dtype=d), scipy.stats.truncnorm(-1, 2)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_samplers_follow_their_distribution(name, dtype):
    draw, law = CONTINUOUS[name]
    x = draw(random.key(11), N, dtype)
    assert x.dtype == dtype and x.shape == (N,) and x.isfinite().all()
    assert ks(x, law.cdf) > P
    moments(x, law.mean(), law.var())
    across = vmap(lambda k: draw(k, 1, dtype)[0])(random.split(random.key(12), 5000))  # one number from each of many keys
    assert ks(across, law.cdf) > P


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_extreme_words_give_finite_numbers_within_the_documented_bounds(dtype, monkeypatch):
    extreme = torch.tensor([0, -1, 1, -(2**63), 2**63 - 1, 0xFFFFFF, -(2**24)])

    def words(key, shape, name, domain=None):
        size = _checks.size_of(shape, name)
        return extreme.expand(size) if size == (7,) else torch.stack([extreme, extreme.flip(0)])

    monkeypatch.setattr(_continuous, "words_of", words)
    double = dtype == torch.float64
    u = random.uniform(0, 7, dtype=dtype)
    assert u.min() == 0 and u.max() == 1 - 2.0 ** (-53 if double else -24)
    assert (random.uniform(torch.tensor(0), 7, 3.0, 3.1, dtype=dtype) < torch.tensor(3.1, dtype=dtype)).all()
    n = random.normal(0, 7, dtype=dtype)
    assert n.isfinite().all() and n.abs().max() < (8.6 if double else 7.6)
    e = random.exponential(0, 7, dtype=dtype)
    assert e.min() > 0 and e.max() < (36.75 if double else 16.65) and e.max() > (36.7 if double else 16.6)
    g = random.gumbel(0, 7, dtype=dtype)
    assert g.min() > (-3.61 if double else -2.82) and g.max() < (36.75 if double else 28.43) and g.max() > (36.7 if double else 28.4)
    t = random.truncated_normal(torch.tensor(0), -math.inf, math.inf, 7, dtype=dtype)
    assert t.isfinite().all()


def test_uniform_never_gives_high_and_wraps_what_would_round_to_it():
    x = random.uniform(random.key(0), 20_000, 1e7, 1e7 + 2)  # float32 has only 1e7 and 1e7 + 1 in this range
    assert set(x.tolist()) == {1e7, 1e7 + 1}
    moments(x - 1e7, 0.5, 0.25)
    low, high = torch.tensor([[0.0], [-1.0]]), torch.tensor([1e-3, 2.0, 1e20])
    x = random.uniform(random.key(0), (500, 2, 3), low, high)
    assert ((x >= low) & (x < high)).all() and ks(x[:, 1, 1], scipy.stats.uniform(-1, 3).cdf) > P


def test_uniform_is_differentiable_in_its_bounds():
    u = random.uniform(random.key(0), 5, 0.0, 1.0, dtype=torch.float64)
    one = torch.tensor(1.0, dtype=torch.float64)
    low, high = torch.func.jacrev(lambda a, b: random.uniform(random.key(0), 5, a, b, dtype=torch.float64), argnums=(0, 1))(-one, one)
    torch.testing.assert_close(low, 1 - u)
    torch.testing.assert_close(high, u)


TAILS = [(-10.0, -9.0), (5.0, 6.0), (-math.inf, -8.0), (11.0, 11.9), (3.0, 3.001), (-math.inf, math.inf), (-0.5, math.inf)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("low, high", TAILS)
def test_truncated_normal_is_right_in_the_tails(low, high, dtype):
    x = random.truncated_normal(random.key(2), low, high, N, dtype=dtype)
    assert x.min() >= low and x.max() <= high
    assert ks(x, scipy.stats.truncnorm(low, high).cdf) > P


def test_truncated_normal_takes_tensors_and_gives_the_nearer_bound_where_no_probability_is_left():
    low, high = torch.tensor([20.0, -21.0, -1.0]), torch.tensor([21.0, -20.0, 1.0])
    x = random.truncated_normal(random.key(2), low, high)
    assert x.shape == (3,) and x[0] == 20 and x[1] == -20 and x[2].abs() < 1
    x = random.truncated_normal(random.key(2), low[2], high.abs(), (1000, 3), dtype=torch.float64)
    assert x.dtype == torch.float64 and ks(x[:, 2], scipy.stats.truncnorm(-1, 1).cdf) > P


RANGES = [(0, 2), (-5, 5), (0, 1000), (0, 2**31), (0, 2**31 + 1), (-7, 2**40), (-(2**63), 2**63 - 1), (2**62, 2**62 + 3), (5, 6)]


@pytest.mark.parametrize("low, high", RANGES)
def test_randint_is_the_upper_half_of_the_product_for_numbers_and_tensors(low, high):
    key = random.key(4)
    expected = [low + (w * (high - low) >> 64) for w in unsigned(random.bits(key, 200))]
    assert random.randint(key, 200, low, high).tolist() == expected
    assert random.randint(key, 200, torch.tensor(low), torch.tensor(high)).tolist() == expected
    assert random.randint(key, 200, low, torch.tensor(high)).tolist() == expected
    assert min(expected) >= low and max(expected) < high


def test_randint_is_uniform_with_tensors_that_broadcast():
    x = random.randint(random.key(6), (N, 2), torch.tensor([0, -3]), torch.tensor([7, 9], dtype=torch.int32))
    assert x.dtype == torch.int64
    assert scipy.stats.chisquare(np.bincount(x[:, 0], minlength=7)).pvalue > P
    assert scipy.stats.chisquare(np.bincount(x[:, 1] + 3, minlength=12)).pvalue > P


@pytest.mark.parametrize("p", [0.0, 0.01, 0.3, 1.0])
def test_bernoulli_has_its_probability(p):
    for value in (p, torch.tensor(p), torch.tensor(p, dtype=torch.float64), torch.tensor(p, dtype=torch.bfloat16)):
        x = random.bernoulli(random.key(3), value, N)
        exact = float(value)
        assert x.dtype == torch.bool and x.shape == (N,)
        assert abs(x.double().mean() - exact) <= 5 * math.sqrt(exact * (1 - exact) / N)
    assert random.bernoulli(random.key(3), torch.rand(2, 1), (5, 2, 3)).shape == (5, 2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_categorical_has_the_probabilities_of_softmax(dtype):
    logits = torch.tensor([0.0, 1.0, -math.inf, -3.0, 2.0], dtype=dtype)
    counts = torch.bincount(random.categorical(random.key(7), logits.expand(N, 5)), minlength=5)
    expected = torch.softmax(logits.double(), 0) * N
    assert counts[2] == 0
    assert scipy.stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > P


def test_categorical_takes_another_axis_and_draws_rare_classes():
    logits = torch.tensor([0.0, 0.5, -1.0])[:, None, None].expand(3, 4, N // 4)
    x = random.categorical(random.key(7), logits, axis=0)
    assert x.shape == (4, N // 4)
    assert scipy.stats.chisquare(torch.bincount(x.reshape(-1)), torch.softmax(logits[:, 0, 0].double(), 0) * N).pvalue > P
    rare = random.categorical(random.key(7), torch.tensor([0.0, math.log(1e-4)]).expand(1_000_000, 2)).sum().item()
    assert scipy.stats.binomtest(rare, 1_000_000, 1e-4 / (1 + 1e-4)).pvalue > P


def test_permutations_are_uniform():
    orders = vmap(lambda k: random.permutation(k, 4))(random.split(random.key(8), 24_000))
    assert (orders.sort(-1).values == torch.arange(4)).all()
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(-1)
    assert scipy.stats.chisquare(torch.unique(codes, return_counts=True)[1]).pvalue > P
    assert torch.unique(codes).numel() == 24
    assert random.permutation(random.key(8), 0).shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1024, 2048])
def test_long_permutations_are_uniform(n):
    """Where a number goes, where two neighbours go, how many stay, and whether the order has runs."""
    count = 4000
    orders = vmap(lambda k: random.permutation(k, n))(random.split(random.key(11), count))
    assert (orders.sort(-1).values == torch.arange(n)).all()
    for place in (0, 1, n // 2 + 1, n - 1):
        assert scipy.stats.chisquare(torch.bincount(orders[:, place] // (n // 64), minlength=64)).pvalue > P
    for place in (0, 6, n - 2):
        pair = orders[:, place] // (n // 16) * 16 + orders[:, place + 1] // (n // 16)
        near = 1 / 256 * n / (n - 1) * (1 - torch.eye(16).reshape(-1) * 16 / n)  # two are never the same
        assert scipy.stats.chisquare(torch.bincount(pair, minlength=256), count * near / near.sum(), sum_check=False).pvalue > P
    low = (orders[:, 0] % 16) * 16 + orders[:, 1] % 16
    assert scipy.stats.chisquare(torch.bincount(low, minlength=256)).pvalue > P
    fixed = (orders == torch.arange(n)).sum(-1)
    expected = scipy.stats.poisson(1).pmf(range(5))
    observed = torch.bincount(fixed.clamp(max=5), minlength=6)
    assert scipy.stats.chisquare(observed, count * torch.tensor([*expected, 1 - expected.sum()])).pvalue > P
    rises = (orders.diff(dim=-1) > 0).sum(-1).double()
    assert abs(rises.mean() - (n - 1) / 2) < 5 * ((n + 1) / 12 / count) ** 0.5
    assert abs(rises.var() / ((n + 1) / 12) - 1) < 5 * (2 / count) ** 0.5
    steps = (orders[:, 1:] ^ orders[:, :-1]).reshape(-1)
    assert scipy.stats.chisquare(torch.bincount(steps, minlength=n)[1:]).pvalue > P


def test_permutations_keep_slices_whole_and_the_input_as_it_was():
    x = torch.arange(24).reshape(2, 3, 4)
    before = x.clone()
    order = random.permutation(random.key(1), 3)
    torch.testing.assert_close(random.permutation(random.key(1), x, 1), x[:, order])
    torch.testing.assert_close(random.permutation(random.key(1), x, -2), x[:, order])
    torch.testing.assert_close(random.permutation(random.key(1), x), x[random.permutation(random.key(1), 2)])
    torch.testing.assert_close(x, before)


def test_choice_with_replacement():
    p = torch.tensor([0.1, 0.0, 0.6, 0.3])
    counts = torch.bincount(random.choice(random.key(9), 4, N, p=p), minlength=4)
    assert counts[1] == 0 and scipy.stats.chisquare(counts[[0, 2, 3]], np.array([0.1, 0.6, 0.3]) * N).pvalue > P
    assert scipy.stats.chisquare(torch.bincount(random.choice(random.key(9), 4, N), minlength=4)).pvalue > P
    rows = torch.arange(12.0).reshape(4, 3)
    x = random.choice(random.key(9), rows, (5, 2), p=p)
    torch.testing.assert_close(x, rows[random.choice(random.key(9), 4, (5, 2), p=p)])
    assert random.choice(random.key(9), rows).shape == (3,) and random.choice(random.key(9), 4).shape == ()
    assert random.choice(random.key(9), 4, (0, 2)).shape == (0, 2)


def test_choice_without_replacement_draws_one_after_another():
    p = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    keys = random.split(random.key(10), 20_000)
    x = vmap(lambda k: random.choice(k, 3, (2,), replace=False, p=p))(keys)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    counts = [int(((x[:, 0] == i) & (x[:, 1] == j)).sum()) for i, j in pairs]
    expected = [20_000 * (p[i] * p[j] / (1 - p[i])).item() for i, j in pairs]
    assert sum(counts) == 20_000 and scipy.stats.chisquare(counts, expected).pvalue > P
    x = vmap(lambda k: random.choice(k, 3, (2,), replace=False))(keys)
    counts = [int(((x[:, 0] == i) & (x[:, 1] == j)).sum()) for i, j in pairs]
    assert sum(counts) == 20_000 and scipy.stats.chisquare(counts).pvalue > P


# ---- the same everywhere ------------------------------------------------------------------------------------------------------

EVERY = {
    "split": lambda k: random.split(k, (2, 2)),
    "fold_in": lambda k: random.fold_in(k, 3),
    "fold_in tensor": lambda k: random.fold_in(k, torch.tensor(3)),
    "bits": lambda k: random.bits(k, (5, 3)),
    "uniform": lambda k: random.uniform(k, 7, -1.0, 2.5),
    "uniform tensor": lambda k: random.uniform(k, 7, torch.tensor(-1.0), 2.5, dtype=torch.float64),
    "normal": lambda k: random.normal(k, 6),
    "normal double": lambda k: random.normal(k, (2, 3), dtype=torch.float64),
    "exponential": lambda k: random.exponential(k, 5),
    "gumbel": lambda k: random.gumbel(k, ()),
    "truncated_normal": lambda k: random.truncated_normal(k, -2.0, torch.tensor([1.0, 2.0])),
    "randint": lambda k: random.randint(k, 9, -3, 9),
    "randint wide": lambda k: random.randint(k, 9, 0, torch.tensor(2**62)),
    "bernoulli": lambda k: random.bernoulli(k, 0.3, 9),
    "bernoulli tensor": lambda k: random.bernoulli(k, torch.tensor([0.3, 0.5])),
    "categorical": lambda k: random.categorical(k, torch.zeros(6, 3)),
    "permutation": lambda k: random.permutation(k, 9),
    "permutation long": lambda k: random.permutation(k, 2048),
    "permutation of columns": lambda k: random.permutation(k, torch.arange(6).reshape(2, 3), 1),
    "choice": lambda k: random.choice(k, 5, (2, 2)),
    "choice p": lambda k: random.choice(k, 3, (2, 2), p=torch.tensor([0.2, 0.0, 0.8])),
    "choice without": lambda k: random.choice(k, torch.arange(5.0), 3, replace=False),
    "choice without p": lambda k: random.choice(k, 3, 2, replace=False, p=torch.tensor([0.2, 0.0, 0.8])),
}


def assert_same(x, y):
    if x.is_floating_point():
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
    else:
        assert x.dtype == y.dtype and torch.equal(x, y)


@pytest.mark.parametrize("name", EVERY)
def test_eager_compiled_and_vmap_agree(name):
    f = EVERY[name]
    keys = random.split(random.key(0), 3)
    before = keys.clone()
    each = torch.stack([f(k) for k in keys])
    assert_same(vmap(f)(keys), each)
    assert_same(torch.stack([f(k) for k in keys]), each)  # the same key, the same result
    assert_same(compiled(f, keys[0]), each[0])
    assert_same(compiled(vmap(f), keys), each)
    assert_same(vmap(vmap(f))(keys[None]), each[None])
    assert torch.equal(keys, before)


def test_xla_gives_the_same_in_one_program():
    keys = random.split(random.key(1), 4)
    every = vmap(lambda k: tuple(draw(random.fold_in(k, i)) for i, draw in enumerate(EVERY.values())))
    for x, y in zip(compiled(every, keys, backend="xla"), every(keys), strict=True):
        assert_same(x, y)


def test_parameters_can_be_vmapped_and_compiled_too():
    def f(k, n, p):
        k = random.split(k, 4)
        return (
            random.fold_in(k[0], n),
            random.randint(k[0], 3, -n, n),
            random.bernoulli(k[1], p[0]),
            random.choice(k[2], 3, 4, p=p),
            random.choice(k[2], 3, 2, replace=False, p=p),
            random.uniform(k[3], 5, -p[0], p[0]),
            random.truncated_normal(k[3], -p[0], p[0]),
        )

    keys, n, p = random.split(random.key(1), 4), torch.arange(1, 5), torch.softmax(torch.arange(12.0).reshape(4, 3), -1)
    loop = [torch.stack(x) for x in zip(*(f(*row) for row in zip(keys, n, p, strict=True)), strict=True)]
    for x, y, z in zip(vmap(f)(keys, n, p), loop, compiled(vmap(f), keys, n, p), strict=True):
        assert_same(x, y)
        assert_same(z, y)


def test_a_tensor_to_fold_in_does_not_compile_again():
    f = compiler.compile(random.fold_in, backend="aot_eager")
    with compilations(1):
        for i in range(5):
            assert f(random.key(0), torch.tensor(i)) == random.fold_in(random.key(0), i)


@pytest.mark.parametrize("backend", ["aot_eager", "xla"])
def test_floats_that_become_inputs_give_the_same(backend):
    def draw(k, low, p):
        return random.uniform(k, 5, low, 7), random.bernoulli(k, p, 5), random.truncated_normal(k, low, p, 5)

    f = compiler.compile(draw, backend=backend)
    for low, p in [(-1.0, 0.25), (-0.3, 0.5), (-0.7, 0.5), (-0.4, 0.75)]:
        for x, y in zip(f(random.key(0), low, p), draw(random.key(0), low, p), strict=True):
            assert_same(x, y)


@pytest.mark.parametrize("backend", ["aot_eager", "xla"])
def test_integers_in_a_program_give_the_same(backend):
    f = compiler.compile(lambda k, i, n: (random.fold_in(k, i), random.bits(k, n), random.permutation(k, n)), backend=backend)
    for i, n in [(3, 4), (-5, 6), (2**40, 9)]:
        expected = random.fold_in(random.key(0), i), random.bits(random.key(0), n), random.permutation(random.key(0), n)
        for x, y in zip(f(random.key(0), i, n), expected, strict=True):
            assert_same(x, y)


def test_device_follows_the_key():
    key = random.key(0, device="meta")
    for f in (
        lambda k: random.split(k, 3),
        lambda k: random.normal(k, 3),
        lambda k: random.randint(k, 3, 0, 5),
        lambda k: random.permutation(k, 3),
    ):
        assert f(key).device.type == "meta"
    assert random.uniform(key, 3, -1.0, 2.0).device.type == "meta" and random.bernoulli(key, 0.3, 3).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_gives_the_same():
    for f in (random.bits, random.split, lambda k, n: random.permutation(k, n), lambda k, n: random.randint(k, n, 0, 1000)):
        assert torch.equal(f(random.key(0, device="cuda"), 1000).cpu(), f(random.key(0), 1000))
        assert torch.equal(compiled(f, random.key(0, device="cuda"), 1000, backend="inductor").cpu(), f(random.key(0), 1000))


# ---- errors -------------------------------------------------------------------------------------------------------------------

K = random.key(0)
SAMPLERS = {
    "split": random.split,
    "fold_in": lambda k: random.fold_in(k, 1),
    "bits": random.bits,
    "uniform": random.uniform,
    "normal": random.normal,
    "truncated_normal": lambda k: random.truncated_normal(k, -1.0, 1.0),
    "exponential": random.exponential,
    "randint": lambda k: random.randint(k, (), 0, 2),
    "bernoulli": random.bernoulli,
    "permutation": lambda k: random.permutation(k, 3),
    "choice": lambda k: random.choice(k, 3),
    "exponential ": random.gumbel,
    "exponential  ": lambda k: random.categorical(k, torch.zeros(3)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_bad_key_is_an_error(name):
    f = SAMPLERS[name]
    with pytest.raises(ValueError, match=rf"random.{name.strip()}: key: expected one key, int64 \[\], got int64 \[8\].*torch.func.vmap"):
        f(random.split(K, 8))
    for bad in (torch.tensor(0.5), torch.tensor(1, dtype=torch.int32), 0, None):
        with pytest.raises(TypeError, match=rf"random.{name.strip()}: key: expected one key, int64 .*, got .*funrl.random.key"):
            f(bad)


ERRORS = [
    (TypeError, "key: seed: expected an integer, got a float", lambda: random.key(0.5)),
    (TypeError, "key: seed: expected a tensor of integers, got torch.float32", lambda: random.key(torch.tensor(0.5))),
    (ValueError, r"key: seed: expected an integer in \[-2\*\*63, 2\*\*63\), got 9223372036854775808", lambda: random.key(2**63)),
    (ValueError, r"key: seed: expected the shape \[\], got \[2\].*vmap", lambda: random.key(torch.arange(2))),
    (TypeError, "fold_in: data: expected an integer, got a float", lambda: random.fold_in(K, 1.0)),
    (ValueError, r"fold_in: data: expected the shape \[\], got \[2\]", lambda: random.fold_in(K, torch.arange(2))),
    (ValueError, "split: shape: expected integers of at least 0", lambda: random.split(K, -1)),
    (ValueError, r"bits: shape: expected integers of at least 0", lambda: random.bits(K, (2, -1))),
    (TypeError, "bits: expected a size or shape of integers, got 2.5", lambda: random.bits(K, 2.5)),
    (ValueError, "normal: shape: expected integers of at least 0", lambda: random.normal(K, (-2,), dtype=torch.float64)),
    (TypeError, "uniform: dtype: expected torch.float32 or torch.float64, got torch.int64", lambda: random.uniform(K, dtype=torch.int64)),
    (TypeError, "normal: dtype: expected torch.float32 or torch.float64, got torch.float16", lambda: random.normal(K, dtype=torch.float16)),
    (TypeError, "exponential: dtype: expected", lambda: random.gumbel(K, dtype=torch.int64)),
    (TypeError, "truncated_normal: dtype: expected", lambda: random.truncated_normal(K, -1, 1, dtype=torch.int64)),
    (ValueError, "uniform: expected finite low < high in torch.float32, got low=1.0 and high=1.0", lambda: random.uniform(K, (), 1.0, 1.0)),
    (ValueError, "uniform: expected finite low < high", lambda: random.uniform(K, (), 0.0, math.inf)),
    (ValueError, "uniform: expected finite low < high", lambda: random.uniform(K, (), math.nan, 1.0)),
    (ValueError, "uniform: expected finite low < high everywhere", lambda: random.uniform(K, (2,), 0.0, torch.tensor([1.0, 0.0]))),
    (ValueError, r"uniform: low: expected a shape that broadcasts to \[2\], got \[3\]", lambda: random.uniform(K, 2, torch.zeros(3), 1.0)),
    (ValueError, "truncated_normal: expected low < high, got low=1.0 and high=-1.0", lambda: random.truncated_normal(K, 1.0, -1.0)),
    (ValueError, "truncated_normal: expected low < high everywhere", lambda: random.truncated_normal(K, torch.ones(2), torch.ones(2))),
    (
        ValueError,
        r"truncated_normal: low: expected a shape that broadcasts to \[\]",
        lambda: random.truncated_normal(K, torch.zeros(2), 1.0, ()),
    ),
    (ValueError, "randint: expected low < high, got low=5 and high=5", lambda: random.randint(K, (), 5, 5)),
    (ValueError, "randint: expected low < high everywhere", lambda: random.randint(K, (), 0, torch.tensor(0))),
    (ValueError, r"randint: high: expected an integer in \[-2\*\*63", lambda: random.randint(K, (), 0, 2**63)),
    (TypeError, "randint: high: expected an integer, got a float", lambda: random.randint(K, (), 0, 2.0)),
    (
        TypeError,
        "randint: high: expected a tensor of integers, got torch.float32",
        lambda: random.randint(K, (), 0, torch.tensor(2.0)),
    ),
    (
        ValueError,
        r"randint: high: expected a shape that broadcasts to \[\], got \[2\]",
        lambda: random.randint(K, (), 0, torch.tensor([2, 3])),
    ),
    (ValueError, r"bernoulli: p: expected a number in \[0, 1\], got 1.5", lambda: random.bernoulli(K, 1.5)),
    (ValueError, r"bernoulli: expected p in \[0, 1\] everywhere", lambda: random.bernoulli(K, torch.tensor([0.5, -0.1]))),
    (TypeError, "bernoulli: p: expected a floating-point tensor, got torch.int64", lambda: random.bernoulli(K, torch.tensor(1))),
    (ValueError, r"bernoulli: p: expected a shape that broadcasts to \[2\]", lambda: random.bernoulli(K, torch.rand(3), 2)),
    (
        TypeError,
        "categorical: logits: expected a floating-point tensor, got torch.int64",
        lambda: random.categorical(K, torch.arange(3)),
    ),
    (ValueError, "categorical: expected logits to have at least one class along axis -1", lambda: random.categorical(K, torch.zeros(3, 0))),
    (ValueError, "permutation: shape: expected integers of at least 0", lambda: random.permutation(K, -1)),
    (TypeError, "permutation: expected a size or shape of integers", lambda: random.permutation(K, 2.5)),
    (ValueError, "permutation: x: expected at least one dim", lambda: random.permutation(K, torch.tensor(3))),
    (TypeError, "permutation: expected a size or shape of integers", lambda: random.permutation(K, [1, 2, 3])),
    (ValueError, "choice: shape: expected integers of at least 0", lambda: random.choice(K, -3)),
    (ValueError, "choice: expected a to hold at least one element, got 0", lambda: random.choice(K, 0)),
    (ValueError, r"choice: expected a to hold at least one element, got shape \[0, 2\]", lambda: random.choice(K, torch.zeros(0, 2))),
    (
        ValueError,
        r"choice: expected a draw of at most 3 elements without .*replace=True",
        lambda: random.choice(K, 3, (2, 2), replace=False),
    ),
    (ValueError, r"choice: p: expected the shape \[3\], got \[2\]", lambda: random.choice(K, 3, p=torch.tensor([0.5, 0.5]))),
    (ValueError, "choice: expected p >= 0 that sums to 1", lambda: random.choice(K, 2, p=torch.tensor([-0.5, 1.5]))),
    (ValueError, "choice: expected p >= 0 that sums to 1.*divide it by its sum", lambda: random.choice(K, 2, p=torch.tensor([0.5, 0.6]))),
    (ValueError, "choice: expected p >= 0 that sums to 1", lambda: random.choice(K, 2, p=torch.tensor([math.nan, 0.6]))),
    (
        ValueError,
        "choice: expected p to have at least 2 elements above 0",
        lambda: random.choice(K, 2, 2, replace=False, p=torch.tensor([0.0, 1.0])),
    ),
    (TypeError, "choice: p: expected a floating-point tensor", lambda: random.choice(K, 2, p=[0.5, 0.5])),
]


@pytest.mark.parametrize("kind, message, call", ERRORS, ids=[str(i) for i in range(len(ERRORS))])
def test_a_mistake_is_an_error_that_says_what_was_expected(kind, message, call):
    with pytest.raises(kind, match="random." + message):
        call()


def test_values_are_not_looked_at_under_vmap_and_compile():
    bad = torch.tensor([[0.5, 0.6], [-1.0, 2.0]])
    assert vmap(lambda p: random.choice(K, 2, p=p))(bad).shape == (2,)
    assert compiled(lambda p: random.bernoulli(K, p), bad).shape == (2, 2)
    assert compiled(lambda h: random.randint(K, (2,), 0, h), torch.tensor(0)).shape == (2,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_uniform_range_that_overflows(dtype):
    greatest = torch.finfo(dtype).max
    bounds = torch.tensor([-greatest, greatest], dtype=dtype)
    for low, high in ((-greatest, greatest), tuple(bounds), (torch.stack([bounds[0]] * 2), 1.0)):
        x = random.uniform(random.key(0), (1000, 2), low, high, dtype=dtype)
        assert x.isfinite().all() and len(x.unique()) > 1900
        share = (x.double() / greatest + 1) / (1 if isinstance(low, torch.Tensor) and low.ndim else 2)
        assert share.mean() == pytest.approx(0.5, abs=0.04) and share.min() < 0.01 and share.max() > 0.99
    with pytest.raises(ValueError, match="expected finite low < high"):
        random.uniform(random.key(0), (), 0.0, math.inf, dtype=dtype)
    with pytest.raises(ValueError, match="expected finite low < high"):
        random.uniform(random.key(0), (), 0.0, torch.tensor(math.inf), dtype=dtype)


def test_integers_up_to_and_with_the_last():
    key, low, high = random.key(0), torch.tensor([0, 5]), torch.tensor([3, 5])
    assert torch.equal(random.randint(key, (9, 2), low, high, endpoint=True), random.randint(key, (9, 2), low, high + 1))
    assert torch.equal(random.randint(key, 9, 0, 3, endpoint=True), random.randint(key, 9, 0, 4))
    assert random.randint(key, (), 7, 7, endpoint=True) == 7
    with pytest.raises(ValueError, match="expected low <= high"):
        random.randint(key, (), 8, 7, endpoint=True)


def test_choice_draws_what_is_rarer_than_a_step_of_float32():
    """With 24 random bits no element below 1e-7 came; here half of the mass is in such elements."""
    n = 2**23
    p = torch.full((n + 1,), 0.5 / n)
    p[0] = 0.5
    index = random.choice(random.key(0), n + 1, (20_000,), p=p)
    assert (index > 0).double().mean() == pytest.approx(0.5, abs=0.02) and len(index.unique()) > 9500
    assert index[index > 0].double().mean() == pytest.approx(n / 2, rel=0.03)
    rare = torch.tensor([1.0, 1e-9])
    keys = random.split(random.key(1), 4)
    assert all((random.choice(k, 2, (100_000,), p=rare) == 0).all() for k in keys)
    assert (random.choice(random.key(2), 3, (1000,), p=torch.tensor([0.0, 1.0, 0.0])) == 1).all()
