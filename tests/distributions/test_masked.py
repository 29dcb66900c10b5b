import math

import chex
import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from funrl import random
from funrl.distributions import Categorical, MaskedCategorical, MaskedOneHotCategorical, OneHotCategorical
from tests.oracles.deepmind import distrax

LOGITS = random.normal(random.key(0), (4, 5), dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [0, 0, 0, 0, 1], [1, 0, 0, 0, 1]]).bool()


def test_agrees_with_torch_and_distrax_over_the_allowed_classes():
    mine = MaskedCategorical(LOGITS, MASK)
    for i in range(4):
        allowed = MASK[i].nonzero()[:, 0]
        theirs = torch.distributions.Categorical(logits=LOGITS[i, allowed])
        torch.testing.assert_close(mine.probs[i, allowed], theirs.probs)
        torch.testing.assert_close(mine.entropy()[i], theirs.entropy())
        torch.testing.assert_close(mine.log_probs[i, allowed], theirs.logits)
        assert mine.mode()[i] == allowed[theirs.probs.argmax()]
        other = torch.distributions.Categorical(logits=-LOGITS[i, allowed])
        torch.testing.assert_close(mine.kl(MaskedCategorical(-LOGITS, MASK))[i], torch.distributions.kl_divergence(theirs, other))
    assert (mine.log_probs[~MASK] == -math.inf).all() and (mine.probs[~MASK] == 0).all()
    jax_version = distrax.Categorical(logits=np.where(MASK.numpy(), LOGITS.numpy(), -np.inf))
    x = mine.sample(random.key(1))
    chex.assert_trees_all_close(mine.log_prob(x).float().numpy(), np.asarray(jax_version.log_prob(x.numpy())), rtol=1e-5)


def test_forbidden_classes_are_never_sampled_and_gradients_are_finite():
    for dist in (MaskedCategorical(LOGITS.float(), MASK), MaskedOneHotCategorical(LOGITS.float(), MASK)):
        x = vmap(dist.sample)(random.split(random.key(2), 5000))
        hot = x if x.is_floating_point() else torch.nn.functional.one_hot(x, 5)
        frequencies = hot.double().mean(0)
        assert (frequencies[~MASK] == 0).all() and (hot.sum(-1) == 1).all()
        torch.testing.assert_close(frequencies, dist.probs.double(), atol=0.03, rtol=0)
    for f in (
        lambda z: MaskedCategorical(z, MASK).entropy().sum(),
        lambda z: MaskedCategorical(z, MASK).log_prob(torch.full((4,), 4)).sum(),
        lambda z: MaskedCategorical(z, MASK).kl(MaskedCategorical(-z, MASK)).sum(),
    ):
        gradient = grad(f)(LOGITS)
        assert gradient.isfinite().all() and (gradient[~MASK] == 0).all()
        z = LOGITS.clone().requires_grad_()
        assert torch.autograd.gradcheck(f, z)


def test_one_hot_vectors_are_the_classes():
    classes, vectors = MaskedCategorical(LOGITS, MASK), MaskedOneHotCategorical(LOGITS, MASK)
    x, log_prob = vectors.sample_with_log_prob(random.key(3))
    assert torch.equal(x.argmax(-1), classes.sample(random.key(3)))
    torch.testing.assert_close(log_prob, classes.log_prob(x.argmax(-1)))
    torch.testing.assert_close(vectors.log_prob(x), log_prob)
    assert torch.equal(vectors.mode().argmax(-1), classes.mode())
    torch.testing.assert_close((vectors.entropy(), vectors.mean()), (classes.entropy(), classes.probs))


def test_one_mask_for_all_rows():
    dist = MaskedCategorical(LOGITS, MASK[1])
    assert dist.sample(random.key(0)).shape == (4,) and (dist.probs[:, 0] == 0).all()


Z = torch.zeros(2, 3)


@pytest.mark.parametrize("kind", [MaskedCategorical, MaskedOneHotCategorical])
@pytest.mark.parametrize(
    "mask, error, message",
    [
        (torch.tensor([[True, True, False], [False, False, False]]), ValueError, r"one allowed class in each row, got none in row \[1\]"),
        (torch.ones(2, 3), TypeError, "mask: expected a bool tensor, True for allowed, got torch.float32"),
        (torch.ones(2, 1).bool(), ValueError, r"mask: expected the shape \[..., 3\], got \[2, 1\]"),
        (torch.ones(2, 2).bool(), ValueError, r"logits and mask: expected two shapes .*got \[2, 3\] and \[2, 2\]"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit(kind, mask, error, message):
    with pytest.raises(error, match=f"{kind.__name__}: .*{message}"):
        kind(Z, mask).sample(random.key(0))


def test_a_row_that_forbids_everything_is_loud_where_it_cannot_be_seen():
    log_probs = vmap(lambda mask: MaskedCategorical(Z, mask).log_probs)(torch.zeros(2, 3).bool())
    assert log_probs.isnan().all()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: MaskedCategorical(Z, Z == 0).mean(), TypeError, "MaskedCategorical.mean: classes are labels"),
        (lambda: MaskedCategorical(Z, Z == 0).stddev(), TypeError, "MaskedCategorical.stddev: classes are labels"),
        (lambda: MaskedCategorical(Z, Z == 0).kl(Categorical(Z)), TypeError, "expected a MaskedCategorical, got Categorical"),
        (lambda: MaskedOneHotCategorical(Z, Z == 0).kl(OneHotCategorical(Z)), TypeError, "expected a MaskedOneHotCategorical"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
