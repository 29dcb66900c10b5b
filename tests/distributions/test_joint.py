"""Product distributions, against the sums of their parts."""

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import random, tree
from funrl.distributions import Bernoulli, Categorical, Independent, MultiCategorical, Normal, TanhNormal, joint
from tests.support import same


def parts(seed, batch=(4,)):
    keys = random.split(random.key(seed), 6).unbind(0)
    return {
        "choice": Categorical(random.normal(keys[0], (*batch, 3)), start=1),
        "pair": (
            Independent(Normal(random.normal(keys[1], (*batch, 2)), random.uniform(keys[2], (*batch, 2)) + 0.5), 1),
            Independent(Bernoulli(random.normal(keys[3], (*batch, 2, 2))), 2),
        ),
        "several": MultiCategorical(random.normal(keys[4], (*batch, 5)), (2, 3)),
    }


def flat(x):
    return [x["choice"], *x["pair"], x["several"]]


def test_log_prob_entropy_and_kl_are_sums_of_the_parts():
    one, other = joint(parts(0)), joint(parts(1))
    x, log_prob = one.sample_with_log_prob(random.key(2))
    same(x, one.sample(random.key(2)), rtol=0, atol=0)
    expected = sum(part.log_prob(value) for part, value in zip(flat(parts(0)), flat(x), strict=True))
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(one.log_prob(x), expected)
    torch.testing.assert_close(one.entropy(), sum(part.entropy() for part in flat(parts(0))))
    kl = sum(part.kl(theirs) for part, theirs in zip(flat(parts(0)), flat(parts(1)), strict=True))
    torch.testing.assert_close(one.kl(other), kl)
    assert (one.kl(one) == 0).all() and one.estimated == ()
    for value, part in zip(flat(one.mode()), flat(parts(0)), strict=True):
        assert torch.equal(value, part.mode())


def test_parts_are_independent_and_as_likely_as_by_themselves():
    one = joint(tree.index(parts(0), 0))
    x = vmap(one.sample)(random.split(random.key(3), 20_000))
    for i, part in enumerate(flat(tree.index(parts(0), 0))):
        values = flat(x)[i]
        if i in (1, 2):
            torch.testing.assert_close(values.float().mean(0), part.mean(), atol=0.04, rtol=0)
        if i == 0:
            counts = torch.bincount(values - 1, minlength=3) / len(values)
            torch.testing.assert_close(counts, part.probs, atol=0.02, rtol=0)
    first, second = (x["choice"] == 2).float(), x["pair"][0][:, 0]
    assert torch.corrcoef(torch.stack([first, second]))[0, 1].abs() < 0.03


def test_tuples_estimates_and_programs():
    both = joint(
        (Independent(TanhNormal(torch.zeros(4, 2), torch.ones(4, 2)), 1), Independent(Normal(torch.ones(4, 1), torch.ones(4, 1)), 1))
    )
    assert both.estimated == ("mean", "stddev")
    mean = both.mean(random.key(0), num_samples=4000)
    assert mean[0].abs().max() < 0.05 and torch.equal(mean[1], torch.ones(4, 1))
    assert both.entropy(random.key(0)).shape == (4,)
    found = funrl.compile(lambda d, key: d.sample_with_log_prob(key), backend="xla")(both, random.key(1))
    same(found, both.sample_with_log_prob(random.key(1)))
    gradient = torch.func.grad(lambda d: d.log_prob(both.sample(random.key(1))).sum())(both)
    assert all(x.isfinite().all() for x in tree.leaves(gradient))


def test_errors():
    with pytest.raises(TypeError, match=r"joint: parts: expected a dict or tuple of distributions, got a Tensor"):
        joint(torch.zeros(3))
    with pytest.raises(TypeError, match=r"expected distributions of funrl.distributions, got a Tensor"):
        joint({"a": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"expected at least one"):
        joint(())
    one = joint({"a": Categorical(torch.zeros(4, 3)), "b": Normal(torch.zeros(4, 2), torch.ones(4, 2))})
    with pytest.raises(ValueError, match=r"Joint.entropy: parts: expected one batch shape, got \[4\], \[4, 2\]; .* Independent"):
        one.entropy()
    with pytest.raises(ValueError, match=r"Joint.log_prob: x: expected the entries \['a', 'b'\], got \['a'\]"):
        one.log_prob({"a": torch.zeros(4, dtype=torch.int64)})
    with pytest.raises(TypeError, match=r"Joint.log_prob: x: expected a dict as of sample, got a tuple"):
        one.log_prob((1, 2))
    with pytest.raises(TypeError, match=r"Joint.kl: other: expected a Joint, got a Normal"):
        one.kl(Normal(torch.zeros(3), torch.ones(3)))
