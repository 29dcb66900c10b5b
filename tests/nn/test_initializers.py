import math

import chex
import jax
import pytest
import torch
from torch.func import vmap

from funrl import nn, random

KEY = random.key(0)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (6, 2, 3), (1, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonal_has_equal_singular_values(shape, dtype):
    weight = nn.orthogonal(1.5)(KEY, shape, dtype, torch.device("cpu"))
    chex.assert_shape(weight, shape)
    assert weight.dtype == dtype
    values = torch.linalg.svdvals(weight.reshape(shape[0], -1))
    torch.testing.assert_close(values, torch.full_like(values, 1.5))


def test_orthogonal_is_uniform():
    """Each entry of a Haar matrix has mean 0 and variance 1 / n; without the sign of R's diagonal the first would not."""
    weights = vmap(lambda key: nn.orthogonal()(key, (3, 3)))(random.split(KEY, 4000))
    torch.testing.assert_close(weights.mean(0), torch.zeros(3, 3), atol=0.04, rtol=0)
    torch.testing.assert_close(weights.var(0), torch.full((3, 3), 1 / 3), atol=0.03, rtol=0)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variance_scaling_has_the_moments_of_jax(mode, distribution, dtype):
    """Of a weight [out, in, K, K]; jax lays it out as [K, K, in, out]."""
    weight = nn.variance_scaling(1.7, mode, distribution)(KEY, (48, 32, 3, 3), dtype, torch.device("cpu"))
    theirs = jax.nn.initializers.variance_scaling(1.7, mode, distribution)(jax.random.key(0), (3, 3, 32, 48))
    assert weight.dtype == dtype
    assert abs(weight.mean()) < 0.003
    assert abs(weight.std() / float(theirs.std()) - 1) < 0.02
    assert abs(weight.abs().max() / float(abs(theirs).max()) - 1) < (0.2 if distribution == "normal" else 0.01)


@pytest.mark.parametrize("module, shape", [(torch.nn.Linear(30, 70), (70, 30)), (torch.nn.Conv2d(3, 20, 5), (20, 3, 5, 5))])
def test_torch_default_is_what_torch_modules_draw(module, shape):
    weight = nn.torch_default()(KEY, shape)
    chex.assert_equal_shape([weight, module.weight])
    assert abs(weight.std() / module.weight.std() - 1) < 0.06
    assert abs(weight.abs().max() / module.weight.abs().max() - 1) < 0.01


@pytest.mark.parametrize("init", [nn.orthogonal(), nn.variance_scaling(2.0, distribution="normal"), nn.torch_default()])
def test_initialisers_depend_on_the_key_alone(init):
    weight = init(KEY, (4, 6))
    assert torch.equal(weight, init(KEY, (4, 6))) and not torch.equal(weight, init(random.key(1), (4, 6)))
    copies = vmap(lambda key: init(key, (4, 6)))(random.split(KEY, 3))
    torch.testing.assert_close(copies[1], init(random.split(KEY, 3)[1], (4, 6)))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: nn.orthogonal()(KEY, (3,)), ValueError, r"at least two dimensions, got \[3\]"),
        (lambda: nn.orthogonal(torch.tensor(1.0)), TypeError, "scale: expected a number, got float32"),
        (lambda: nn.variance_scaling()(KEY, (3,)), ValueError, r"at least two dimensions, got \[3\]"),
        (lambda: nn.variance_scaling(0.0), ValueError, "scale: expected a number above 0, got 0.0"),
        (lambda: nn.variance_scaling(math.nan), ValueError, "scale: expected a number above 0, got nan"),
        (lambda: nn.variance_scaling(True), TypeError, "scale: expected a number, got a bool"),
        (lambda: nn.variance_scaling(1.0, "fan"), ValueError, "mode: expected 'fan_in'.*got 'fan'"),
        (lambda: nn.variance_scaling(1.0, "fan_in", "cauchy"), ValueError, "distribution: expected 'normal'.*got 'cauchy'"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
