"""The contract of every strategy: trees, transforms, dtypes, fitness that is not finite, and bad arguments."""

import math

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import evolution, optim, random, tree
from tests.support import compilations, same

N = 8
CELLS = evolution.grid_cells([-1.0], [1.0], [6])
STRATEGIES = {
    "openes": evolution.openes(N, optim.adam(0.05), sigma=0.3),
    "pgpe": evolution.pgpe(N, optim.clip_up(0.1), sigma=0.3),
    "snes": evolution.snes(N, sigma=0.3),
    "ars": evolution.ars(N, optim.sgd(0.05), sigma=0.3),
    "cma_es": evolution.cma_es(N),
    "cma_es, separable": evolution.cma_es(N, separable=True),
    "genetic": evolution.genetic(N, num_parents=4, sigma=0.3),
    "map_elites": evolution.map_elites(N, CELLS, sigma=0.3, line_sigma=0.2),
}
MIRRORED = ("openes", "pgpe", "ars")


def params(dtype=torch.float32):
    return {"w": torch.tensor([[1.0, -2.0], [0.5, 1.5]], dtype=dtype), "b": torch.tensor([0.3], dtype=dtype)}


def quadratic(candidates):
    return -(candidates["w"] - 1).square().sum((-1, -2)) - candidates["b"].square().sum(-1)


def evaluate(name, candidates):
    """Return the arguments of ``tell`` after the candidates."""
    fitness = quadratic(candidates)
    return (fitness, candidates["b"].tanh()) if name == "map_elites" else (fitness,)


def search(name, num_generations=3, fitness=None):
    strategy = STRATEGIES[name]
    fitness = fitness or (lambda key, candidates: evaluate(name, candidates))

    def run(key, state):
        return evolution.evolve(key, state, strategy=strategy, fitness=fitness, num_generations=num_generations)

    return run


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trees_and_dtypes(name, dtype):
    strategy = STRATEGIES[name]
    first = params(dtype)
    before = tree.clone(first)
    state = strategy.init(random.key(0), first)
    same(strategy.best(state), before, rtol=0, atol=0)
    old = tree.clone(state)
    candidates, asked = strategy.ask(random.key(1), state)
    assert [list(x.shape) for x in tree.leaves(candidates)] == [[N, 1], [N, 2, 2]] and tree.leaves(candidates)[0].dtype == dtype
    tree.check_like(asked, state, "the state that ask returned", "that of init")
    new = strategy.tell(asked, candidates, *evaluate(name, candidates))
    tree.check_like(new, state, "the state that tell returned", "that of init")
    same((state, first), (old, before), rtol=0, atol=0)
    places = [x.untyped_storage().data_ptr() for x in tree.leaves(state)]
    assert len(set(places)) == len(places), "two leaves share memory"
    assert {x.dtype for x in tree.leaves(new)} <= {dtype, torch.int64}


@pytest.mark.parametrize("name", STRATEGIES)
def test_generations_vmap_and_compile(name):
    strategy, run = STRATEGIES[name], search(name)
    keys = random.split(random.key(3), 2)
    starts = tree.stack([strategy.init(key, tree.map(lambda x, i=i: x + i, params())) for i, key in enumerate(keys.unbind(0))])
    singles = [run(key, tree.index(starts, i)) for i, key in enumerate(keys.unbind(0))]
    close = dict(rtol=1e-3, atol=1e-4)
    same(vmap(run)(keys, starts), tree.stack(singles), **close)
    program = funrl.compile(vmap(run), backend="aot_eager")
    with compilations(1):
        same(program(keys, starts), tree.stack(singles), **close)
        program(keys, starts)
    assert (singles[0][1].fitness_max - singles[1][1].fitness_max).abs().max() > 1e-3


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_climbs(name):
    strategy, num_generations = STRATEGIES[name], 120
    state = strategy.init(random.key(0), params())
    state, generations = search(name, num_generations)(random.key(1), state)
    first, last = quadratic(tree.unsqueeze(params())), quadratic(tree.unsqueeze(strategy.best(state)))
    assert last > 0.05 * first, (first, last)
    assert generations.fitness_mean.shape == (num_generations,)


def test_one_program_of_xla_for_many_searches_with_their_own_hyperparameters():
    def run(key, sigma, separable, num_generations):
        strategy = evolution.cma_es(N, sigma=sigma, separable=separable)
        state = strategy.init(key, params())
        options = {"fitness": lambda key, candidates: quadratic(candidates), "num_generations": num_generations}
        return evolution.evolve(key, state, strategy=strategy, **options)

    keys, sigmas = random.split(random.key(0), 3), torch.tensor([0.1, 0.3, 0.9])
    full, separable = funrl.compile(
        lambda *args: (vmap(lambda *one: run(*one, False, 60))(*args), vmap(lambda *one: run(*one, True, 5))(*args))
    )(keys, sigmas)
    expected = [run(key, sigma, True, 5) for key, sigma in zip(keys.unbind(0), sigmas.unbind(0), strict=True)]
    same(separable, tree.stack(expected), rtol=1e-3, atol=1e-4)
    # The full one has no such twin, as the signs of eigenvectors are free.
    assert (full[1].fitness_max[:, -1] > -1e-3).all()
    same(full[0].axes @ full[0].axes.mT, torch.eye(5).expand(3, 5, 5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MIRRORED)
def test_mirrored_candidates(name):
    strategy = STRATEGIES[name]
    state = strategy.init(random.key(0), params())
    candidates, _ = strategy.ask(random.key(1), state)
    for path, x in zip(tree.paths(candidates), tree.leaves(candidates), strict=True):
        middle = (x[: N // 2] + x[N // 2 :]) / 2
        same(middle, tree.get(params(), path.strip("['].")).expand_as(middle), rtol=1e-5, atol=1e-6)
        assert (x[0] - x[1]).abs().max() > 1e-2


def test_candidates_have_the_distribution_of_their_state():
    n = 40_000
    mean, sigma = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64)
    for make in (lambda: evolution.snes(n), lambda: evolution.pgpe(n, optim.adam(0.1))):
        strategy = make()
        state = strategy.init(random.key(0), mean).replace(sigma=sigma)
        x, _ = strategy.ask(random.key(1), state)
        same(x.mean(0), mean, rtol=0, atol=0.04)
        same(x.std(0), sigma, rtol=0.02, atol=0)
    covariance = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    lengths, axes = evolution._cma_es._decompose(covariance)
    same(axes @ (lengths.square()[:, None] * axes.T), covariance)
    strategy = evolution.cma_es(n, sigma=0.5)
    x, _ = strategy.ask(random.key(1), strategy.init(random.key(0), mean).replace(axes=axes, lengths=lengths))
    same(x.mean(0), mean, rtol=0, atol=0.02)
    same(torch.cov(x.T), 0.25 * covariance, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_fitness_that_is_not_finite_is_the_worst(name, bad):
    strategy = STRATEGIES[name]
    state = strategy.init(random.key(0), params())
    candidates, state = strategy.ask(random.key(1), state)
    fitness, *more = evaluate(name, candidates)
    hurt = torch.arange(N) == (fitness.argmin() + 1) % N
    told = strategy.tell(state, candidates, torch.where(hurt, bad, fitness), *more)
    if name == "map_elites":  # it enters no cell
        same(told, strategy.tell(state, *tree.map(lambda x: x[~hurt], (candidates, fitness, *more))))
    else:
        least = torch.where(hurt, torch.inf, fitness).amin()
        same(told, strategy.tell(state, candidates, torch.where(hurt, least, fitness), *more))
    for_all = strategy.tell(state, candidates, torch.full_like(fitness, bad), *more)
    assert all(x.isfinite().all() for x in tree.leaves(strategy.best(for_all)))


def test_equal_fitness_moves_no_mean():
    for name in ("openes", "pgpe", "snes", "ars"):
        strategy = STRATEGIES[name]
        state = strategy.init(random.key(0), params())
        candidates, asked = strategy.ask(random.key(1), state)
        same(strategy.best(strategy.tell(asked, candidates, torch.full((N,), 3.0))), params(), rtol=0, atol=1e-6)


def test_shaping():
    x = torch.tensor([5.0, 1.0, 9.0, 1.0, -3.0])
    same(evolution.centered_ranks(x), torch.tensor([0.25, -0.125, 0.5, -0.125, -0.5]))
    same(evolution.standardized(x), (x - x.mean()) / x.std(correction=0))
    same(evolution.standardized(torch.ones(3)), torch.zeros(3))
    same(vmap(evolution.centered_ranks)(torch.stack([x, -x])), torch.tensor([[1.0], [-1.0]]) * evolution.centered_ranks(x))


def test_a_genetic_algorithm_keeps_its_elite_and_the_best_parents():
    strategy = evolution.genetic(6, num_parents=3, num_elites=2, sigma=0.1)
    state = strategy.init(random.key(0), torch.zeros(2))
    candidates, _ = strategy.ask(random.key(1), state)
    same(candidates[:2], torch.zeros(2, 2), rtol=0, atol=0)
    fitness = torch.tensor([1.0, 5.0, 2.0, 5.0, -1.0, 7.0])
    state = strategy.tell(state, candidates, fitness)
    same(state.parents, candidates[[5, 1, 3]], rtol=0, atol=0)
    same(state.fitness, torch.tensor([7.0, 5.0, 5.0]))
    again, _ = strategy.ask(random.key(2), state)
    same(again[:2], candidates[[5, 1]], rtol=0, atol=0)
    distance = torch.cdist(again[2:], state.parents).amin(1)
    assert (distance > 0).all() and (distance < 0.6).all()


@pytest.mark.parametrize(
    "make, error, text",
    [
        (lambda: evolution.openes(7, optim.adam(0.1)), ValueError, "openes: num_candidates: expected an even number"),
        (lambda: evolution.openes(8, optim.adam), TypeError, "openes: optimizer: expected a funrl.optim.Optimizer, got the function adam"),
        (lambda: evolution.openes(8, optim.adam(0.1), sigma=0.0), ValueError, "openes: sigma: expected a number above 0, got 0.0"),
        (lambda: evolution.pgpe(8, optim.adam(0.1), max_change=1.0), ValueError, "pgpe: max_change"),
        (lambda: evolution.pgpe(8.0, optim.adam(0.1)), TypeError, "pgpe: num_candidates: expected an integer of at least 2, got 8.0"),
        (lambda: evolution.snes(1), ValueError, "snes: num_candidates: expected an integer of at least 2, got 1"),
        (lambda: evolution.ars(8, optim.sgd(0.1), num_elites=5), ValueError, "ars: num_elites: expected at most 4"),
        (lambda: evolution.cma_es(3), ValueError, "cma_es: num_candidates: expected an integer of at least 4, got 3"),
        (lambda: evolution.genetic(4, num_parents=5), ValueError, "genetic: num_parents: expected at most num_candidates = 4, got 5"),
        (lambda: evolution.genetic(8, num_parents=2, num_elites=3), ValueError, "genetic: num_elites"),
        (lambda: evolution.map_elites(8, torch.zeros(3)), TypeError, "map_elites: cells: expected floating point"),
        (lambda: evolution.snes(4).init(random.key(0), {"a": torch.arange(3)}), TypeError, "snes: params: expected floating-point leaves"),
        (lambda: evolution.snes(4).init(random.key(0), {}), ValueError, "snes: params: expected a tree with at least one leaf"),
        (lambda: tell(torch.zeros(4, 2)), ValueError, r"snes: fitness: expected one number for each candidate, \[4\], got \[4, 2\]"),
        (lambda: tell([1.0, 2.0]), TypeError, "snes: fitness: expected a floating-point tensor"),
        (lambda: tell(torch.zeros(4), torch.zeros(4, 3)), ValueError, "snes: candidates"),
        (lambda: evolution.evolve(random.key(0), (), strategy=evolution.snes(4), fitness=len, num_generations=0), ValueError, "num_gen"),
    ],
)
def test_bad_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()


def tell(fitness, candidates=None):
    strategy = evolution.snes(4)
    return strategy.tell(strategy.init(random.key(0), torch.zeros(2)), torch.zeros(4, 2) if candidates is None else candidates, fitness)
