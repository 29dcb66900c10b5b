"""Strategies step for step with those of evosax, which get the same candidates and the same fitness."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from evosax import algorithms as peers
from evosax.core.optimizer import clipup

from funrl import evolution, optim, random
from funrl.evolution import _cma_es
from tests.support import same

N, D, STEPS = 12, 7, 10


def rosenbrock(x):
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)


def constants(params, separable):
    """Our strategy parameters in the place of evosax's: its separable CMA-ES keeps the rates of the full one."""
    ours = _cma_es._constants(N, D, separable)
    return params.replace(weights=jnp.asarray(ours.weights, jnp.float32), c_1=ours.c_1, c_mu=ours.c_mu, std_init=0.5)


# Ours, the peer, what replaces the defaults of its parameters, and the field of our state that is its ``std``.
CASES = {
    "openes, adam": (
        evolution.openes(N, optim.adam(0.1), sigma=0.3),
        (peers.Open_ES, dict(optimizer=optax.adam(0.1), std_schedule=optax.constant_schedule(0.3))),
        lambda params: params,
        None,
    ),
    "openes, sgd": (
        evolution.openes(N, optim.sgd(0.1, momentum=0.9), sigma=0.3),
        (peers.Open_ES, dict(optimizer=optax.sgd(0.1, momentum=0.9), std_schedule=optax.constant_schedule(0.3))),
        lambda params: params,
        None,
    ),
    "pgpe, clip_up": (
        evolution.pgpe(N, optim.clip_up(0.2, max_speed=0.3), sigma=0.5),
        (peers.PGPE, dict(optimizer=clipup(0.2, max_velocity=0.3))),
        lambda params: params.replace(std_init=0.5),
        "sigma",
    ),
    "pgpe, adam, large changes": (
        evolution.pgpe(N, optim.adam(0.05), sigma=0.5, sigma_learning_rate=3.0),
        (peers.PGPE, dict(optimizer=optax.adam(0.05))),
        lambda params: params.replace(std_init=0.5, std_lr=3.0),
        "sigma",
    ),
    "snes": (evolution.snes(N, sigma=0.5), (peers.SNES, {}), lambda params: params.replace(std_init=0.5), "sigma"),
    "ars": (
        evolution.ars(N, optim.sgd(0.05), sigma=0.2),
        (peers.ARS, dict(optimizer=optax.sgd(0.05), std_schedule=optax.constant_schedule(0.2))),
        lambda params: params,
        None,
    ),
    "cma_es": (evolution.cma_es(N, sigma=0.5), (peers.CMA_ES, {}), lambda params: params.replace(std_init=0.5), "sigma"),
    "cma_es, separable": (
        evolution.cma_es(N, sigma=0.5, separable=True),
        (peers.Sep_CMA_ES, {}),
        lambda params: constants(params, True),
        "sigma",
    ),
}


@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated")  # evosax calls it
@pytest.mark.parametrize("name", CASES)
def test_told_the_same_it_moves_as_evosax(name):
    with jax.disable_jit():  # compiling takes longer
        moves_as_evosax(*CASES[name])


def moves_as_evosax(strategy, peer, change, deviation):
    kind, options = peer
    peer = kind(population_size=N, solution=jnp.zeros(D), **options)
    params = change(peer.default_params)
    first = np.linspace(-1.0, 1.5, D).astype(np.float32)
    theirs = peer.init(jax.random.key(0), jnp.asarray(first), params)
    ours = strategy.init(random.key(0), {"a": torch.from_numpy(first[:3]), "b": torch.from_numpy(first[3:])})
    for i in range(STEPS):
        ask_key, tell_key = jax.random.split(jax.random.key(i))
        population, theirs = peer.ask(ask_key, theirs, params)
        cost = rosenbrock(np.asarray(population, np.float64)).astype(np.float32)
        theirs, _ = peer.tell(tell_key, population, jnp.asarray(cost), theirs, params)
        x = torch.from_numpy(np.array(population))
        ours = strategy.tell(ours, {"a": x[:, :3], "b": x[:, 3:]}, -torch.from_numpy(cost))
        mean = torch.cat([strategy.best(ours)["a"], strategy.best(ours)["b"]])
        same(mean, torch.from_numpy(np.array(theirs.mean)), rtol=2e-3, atol=2e-4)
        if deviation is not None:
            same(getattr(ours, deviation), torch.from_numpy(np.array(theirs.std)), rtol=2e-3, atol=1e-5)
    assert np.abs(np.asarray(theirs.mean) - first).max() > 0.05, "it has not moved"


def test_the_constants_of_cma_es_are_those_of_evosax():
    for n, dim in ((12, 40), (200, 3)):
        peer = peers.CMA_ES(population_size=n, solution=jnp.zeros(dim)).default_params
        ours = _cma_es._constants(n, dim, False)
        for one, other in (("mu_eff", "mu_eff"), ("c_c", "c_c"), ("c_1", "c_1"), ("c_mu", "c_mu"), ("c_sigma", "c_std"),
                           ("d_sigma", "d_std"), ("chi", "chi_n"), ("weights", "weights")):  # fmt: skip
            np.testing.assert_allclose(getattr(ours, one), getattr(peer, other), rtol=3e-4, atol=1e-6, err_msg=f"{one} of {n}, {dim}")


def generations_until(curves, target):
    return np.median([np.argmax(curve <= target) + 1 if (curve <= target).any() else len(curve) for curve in curves])


def test_cma_es_is_as_fast_as_pycma():
    """The median over 20 searches of Rosenbrock's valley in 6 dimensions; benchmarks/evolution.py has more functions and dimensions."""
    import cma

    dim, n, seeds, most, target = 6, 9, 20, 160, 0.3
    first = np.random.default_rng(0).uniform(-1.0, 1.0, (seeds, dim))
    quiet = {"popsize": n, "verbose": -9}
    theirs = []
    for seed, x in enumerate(first):
        search, values = cma.CMAEvolutionStrategy(x, 0.3, {**quiet, "seed": seed + 1}), []
        for _ in range(most):
            candidates = search.ask()
            cost = rosenbrock(np.stack(candidates))
            search.tell(candidates, cost.tolist())
            values.append(cost.min())
        theirs.append(np.minimum.accumulate(values))

    def search(key, mean):
        strategy = evolution.cma_es(n, sigma=0.3)
        options = {"fitness": lambda key, x: -rosenbrock(x), "num_generations": most}
        return evolution.evolve(key, strategy.init(key, mean), strategy=strategy, **options)[1].fitness_max.cummax(0).values

    ours = -torch.func.vmap(search)(random.split(random.key(0), seeds), torch.from_numpy(first)).numpy()
    one, other = (generations_until(curves, target) for curves in (ours, theirs))
    assert 40 < other < most and 0.85 < one / other < 1.15, (one, other)
