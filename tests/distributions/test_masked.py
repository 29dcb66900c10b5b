import math

import chex
import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from funrl import random
from funrl.distributions import Categorical, OneHotCategorical
from tests.oracles.deepmind import distrax

LOGITS = random.normal(random.key(0), (4, 5), dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [0, 0, 0, 0, 1], [1, 0, 0, 0, 1]]).bool()


def test_agrees_with_torch_and_distrax_over_the_allowed_classes():
    mine = Categorical(LOGITS, mask=MASK)
    for i in range(4):
        allowed = MASK[i].nonzero()[:, 0]
        theirs = torch.distributions.Categorical(logits=LOGITS[i, allowed])
        torch.testing.assert_close(mine.probs[i, allowed], theirs.probs)
        torch.testing.assert_close(mine.entropy()[i], theirs.entropy())
        torch.testing.assert_close(mine.log_probs[i, allowed], theirs.logits)
        assert mine.mode()[i] == allowed[theirs.probs.argmax()]
        other = torch.distributions.Categorical(logits=-LOGITS[i, allowed])
        torch.testing.assert_close(mine.kl(Categorical(-LOGITS, mask=MASK))[i], torch.distributions.kl_divergence(theirs, other))
    assert (mine.log_probs[~MASK] == -math.inf).all() and (mine.probs[~MASK] == 0).all()
    jax_version = distrax.Categorical(logits=np.where(MASK.numpy(), LOGITS.numpy(), -np.inf))
    x = mine.sample(random.key(1))
    chex.assert_trees_all_close(mine.log_prob(x).float().numpy(), np.asarray(jax_version.log_prob(x.numpy())), rtol=1e-5)


def test_forbidden_classes_are_never_sampled_and_gradients_are_finite():
    for dist in (Categorical(LOGITS.float(), mask=MASK), OneHotCategorical(LOGITS.float(), mask=MASK)):
        x = vmap(dist.sample)(random.split(random.key(2), 5000))
        hot = x if x.is_floating_point() else torch.nn.functional.one_hot(x, 5)
        frequencies = hot.double().mean(0)
        assert (frequencies[~MASK] == 0).all() and (hot.sum(-1) == 1).all()
        torch.testing.assert_close(frequencies, dist.probs.double(), atol=0.03, rtol=0)
    for f in (
        lambda z: Categorical(z, mask=MASK).entropy().sum(),
        lambda z: Categorical(z, mask=MASK).log_prob(torch.full((4,), 4)).sum(),
        lambda z: Categorical(z, mask=MASK).kl(Categorical(-z, mask=MASK)).sum(),
    ):
        gradient = grad(f)(LOGITS)
        assert gradient.isfinite().all() and (gradient[~MASK] == 0).all()
        z = LOGITS.clone().requires_grad_()
        assert torch.autograd.gradcheck(f, z)


def test_one_hot_vectors_are_the_classes():
    classes, vectors = Categorical(LOGITS, mask=MASK), OneHotCategorical(LOGITS, mask=MASK)
    x, log_prob = vectors.sample_with_log_prob(random.key(3))
    assert torch.equal(x.argmax(-1), classes.sample(random.key(3)))
    torch.testing.assert_close(log_prob, classes.log_prob(x.argmax(-1)))
    torch.testing.assert_close(vectors.log_prob(x), log_prob)
    assert torch.equal(vectors.mode().argmax(-1), classes.mode())
    torch.testing.assert_close((vectors.entropy(), vectors.mean()), (classes.entropy(), classes.probs))


def test_one_mask_for_all_rows():
    dist = Categorical(LOGITS, mask=MASK[1])
    assert dist.sample(random.key(0)).shape == (4,) and (dist.probs[:, 0] == 0).all()


Z = torch.zeros(2, 3)


@pytest.mark.parametrize("kind", [Categorical, OneHotCategorical])
@pytest.mark.parametrize(
    "mask, error, message",
    [
        (torch.tensor([[True, True, False], [False, False, False]]), ValueError, r"one allowed class in each row, got none in row \[1\]"),
        (torch.ones(2, 3), TypeError, "mask: expected a bool tensor, got torch.float32"),
        (torch.ones(2, 1).bool(), ValueError, r"mask: expected the shape \[..., 3\], got \[2, 1\]"),
        (torch.ones(2, 2).bool(), ValueError, r"logits and mask: expected two shapes .*got \[2, 3\] and \[2, 2\]"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit(kind, mask, error, message):
    with pytest.raises(error, match=f"{kind.__name__}: .*{message}"):
        kind(Z, mask=mask).sample(random.key(0))


def test_a_row_that_forbids_everything_is_loud_where_it_cannot_be_seen():
    log_probs = vmap(lambda mask: Categorical(Z, mask=mask).log_probs)(torch.zeros(2, 3).bool())
    assert log_probs.isnan().all()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Categorical(Z, mask=Z == 0).mean(), TypeError, "Categorical.mean: classes are labels"),
        (lambda: Categorical(Z, mask=Z == 0).stddev(), TypeError, "Categorical.stddev: classes are labels"),
        (lambda: Categorical(Z, mask=Z == 0).kl(OneHotCategorical(Z)), TypeError, "expected a Categorical, got an OneHotCategorical"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_kl_to_and_from_one_without_a_mask():
    free, bound = Categorical(LOGITS), Categorical(LOGITS, mask=MASK)
    forbidden = torch.where(MASK, LOGITS, -math.inf)
    torch.testing.assert_close(bound.kl(free), Categorical(forbidden).kl(free))
    assert torch.equal(free.kl(bound).isinf(), ~MASK.all(-1))
