"""Archives beside loops over candidates, and MAP-Elites that fills them."""

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import evolution, nn, optim, random, tree
from tests.oracles import map_elites as oracle
from tests.support import same


def test_insert_agrees_with_a_loop():
    cells = evolution.grid_cells([0.0, -1.0], [1.0, 1.0], [3, 4]).double()
    strategy = evolution.map_elites(20, cells)
    archive = strategy.init(random.key(0), {"x": torch.zeros(2, dtype=torch.float64)}).archive
    elites = {}
    for i in range(4):
        keys = random.split(random.key(i), 3).unbind(0)
        x = random.normal(keys[0], (20, 2), dtype=torch.float64)
        fitness = random.randint(keys[1], (20,), 0, 6).double()  # with equal ones
        descriptors = random.uniform(keys[2], (20, 2), -1.2, 1.2, dtype=torch.float64)
        elites = oracle.insert(elites, cells.tolist(), x.tolist(), fitness.tolist(), descriptors.tolist())
        archive = evolution.insert(archive, {"x": x}, fitness, descriptors)
        assert archive.filled.nonzero().flatten().tolist() == sorted(elites)
        for cell, (one, value, descriptor) in elites.items():
            found = (archive.params["x"][cell], archive.fitness[cell], archive.descriptors[cell])
            same(found, tuple(torch.tensor(y, dtype=torch.float64) for y in (one, value, descriptor)), rtol=0, atol=0)
    same(evolution.coverage(archive), torch.tensor(len(elites) / 12, dtype=torch.float64))
    same(evolution.qd_score(archive, -1.0), torch.tensor(sum(value + 1 for _, value, _ in elites.values()), dtype=torch.float64))
    same(strategy.best(evolution.MAPElitesState(archive)), {"x": archive.params["x"][archive.fitness.argmax()]})


def test_what_is_not_finite_enters_no_cell():
    cells = evolution.grid_cells([0.0], [1.0], [2])
    archive = evolution.map_elites(3, cells).init(random.key(0), torch.zeros(1)).archive
    fitness = torch.tensor([torch.nan, torch.inf, 2.0])
    archive = evolution.insert(archive, torch.ones(3, 1), fitness, torch.tensor([[0.1], [0.9], [torch.nan]]))
    assert not archive.filled.any()


def test_cells_of_a_grid_are_its_boxes():
    low, high, shape = [0.0, -2.0], [1.0, 2.0], [5, 3]
    cells = evolution.grid_cells(low, high, shape)
    x = random.uniform(random.key(0), (500, 2)) * torch.tensor([1.0, 4.0]) - torch.tensor([0.0, 2.0])
    index = (x[:, 0] * 5).long() * 3 + ((x[:, 1] + 2) / 4 * 3).long()
    same(evolution._archive.nearest(x, cells), index)


def test_cells_of_a_tessellation_are_of_about_equal_size():
    cells = evolution.cvt_cells(random.key(0), [0.0, 0.0], [1.0, 2.0], 16, num_samples=4000)
    points = random.uniform(random.key(1), (4000, 2)) * torch.tensor([1.0, 2.0])
    share = torch.bincount(evolution._archive.nearest(points, cells), minlength=16) / 4000
    assert cells.shape == (16, 2) and share.min() > 0.03 and share.max() < 0.11


def test_parents_come_uniformly_from_filled_cells():
    cells = evolution.grid_cells([0.0], [1.0], [4])
    archive = evolution.map_elites(2, cells).init(random.key(0), torch.zeros(1)).archive
    same(evolution._archive.draw(random.key(5), archive, 3), torch.zeros(3, 1))
    archive = evolution.insert(archive, torch.tensor([[1.0], [2.0]]), torch.zeros(2), torch.tensor([[0.3], [0.9]]))
    drawn = evolution._archive.draw(random.key(1), archive, 4000).flatten()
    assert set(drawn.tolist()) == {1.0, 2.0} and abs((drawn == 1).float().mean() - 0.5) < 0.03


def test_searches_vmap_over_archives_of_their_own():
    def run(key):
        strategy = evolution.map_elites(8, evolution.grid_cells([-2.0], [2.0], [8]), sigma=0.4, line_sigma=0.2)
        state = strategy.init(key, {"x": torch.zeros(2)})

        def fitness(key, candidates):
            x, y = candidates["x"].unbind(-1)
            return -y.square(), x[:, None]

        return evolution.evolve(key, state, strategy=strategy, fitness=fitness, num_generations=12)

    keys = random.split(random.key(0), 3)
    found = funrl.compile(vmap(run))(keys)
    same(found, tree.stack([run(key) for key in keys.unbind(0)]), rtol=1e-4, atol=1e-5)
    assert (vmap(evolution.coverage)(found[0].archive) > 0.6).all()


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: evolution.grid_cells([0.0], [1.0, 2.0], [3]), "grid_cells: expected low, high and shape of one length"),
        (lambda: evolution.grid_cells([0.0], [0.0], [3]), "grid_cells: low, high: expected low < high"),
        (lambda: evolution.grid_cells([0.0], [1.0], [0]), "grid_cells: shape: expected integers of at least 1"),
        (lambda: evolution.cvt_cells(random.key(0), [1.0], [0.0], 3), "cvt_cells: low, high"),
        (lambda: evolution.cvt_cells(random.key(0), [0.0], [1.0], 0), "cvt_cells: num_cells"),
        (lambda: evolution.cvt_cells(random.key(0), [0.0], [1.0], 3, num_iterations=0), "cvt_cells: num_iterations"),
    ],
)
def test_bad_cells(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_bad_descriptors():
    strategy = evolution.map_elites(2, evolution.grid_cells([0.0], [1.0], [4]))
    state = strategy.init(random.key(0), torch.zeros(1))
    with pytest.raises(ValueError, match=r"insert: descriptors: expected \[2, 1\], got \[2, 3\]"):
        strategy.tell(state, torch.zeros(2, 1), torch.zeros(2), torch.zeros(2, 3))
    with pytest.raises(TypeError, match=r"map_elites: descriptors: expected floating point \[N, 1\], got a list"):
        strategy.tell(state, torch.zeros(2, 1), torch.zeros(2), [[0.0], [0.0]])


@pytest.mark.parametrize("odd", [None, 3, "x", [], torch.tensor(1)])
def test_odd_arguments_are_named(odd):
    """Whatever stands in the place of an argument: the message begins with the function and the argument."""
    env, key = funrl.envs.make("CartPole-v1"), random.key(0)
    optimizer, cells = optim.sgd(0.1), evolution.grid_cells([0.0], [1.0], [2])
    net = nn.mlp((), 2)
    pga = evolution.pga_map_elites(4, cells, funrl.envs.make("PointRobot-misc"), net.apply, net, num_gradient=2)
    strategies = {"openes": evolution.openes(4, optimizer), "ars": evolution.ars(4, optimizer), "pgpe": evolution.pgpe(4, optimizer)}
    strategies |= {"snes": evolution.snes(4), "cma_es": evolution.cma_es(4), "genetic": evolution.genetic(4, num_parents=2, num_elites=1)}
    strategies |= {"map_elites": evolution.map_elites(4, cells), "pga_map_elites": pga}
    calls = {f"{name}: state": lambda one=one: one.ask(key, odd) for name, one in strategies.items()}
    for name, one in strategies.items():
        with pytest.raises(TypeError, match=f"^{name}: state"):
            one.tell(odd, {}, torch.zeros(4))
        with pytest.raises(TypeError, match=f"^{name}: state"):
            one.best(odd)
    state = strategies["snes"].init(key, {"x": torch.zeros(2)})
    generations = {"strategy": strategies["snes"], "fitness": len, "num_generations": 1}
    calls |= {
        "snes: key": lambda: strategies["snes"].ask(odd, state),
        "openes: shaping": lambda: evolution.openes(4, optimizer, shaping=odd),
        "cma_es: separable": lambda: evolution.cma_es(4, separable=odd),
        "episode_fitness: env_params": lambda: evolution.episode_fitness(env, len, env_params=odd if odd is not None else ()),
        "record: env_params": lambda: funrl.offline.datasets.record(None, key, odd if odd is not None else (), env=env, num_steps=2),
        "evolve: strategy": lambda: evolution.evolve(key, state, **{**generations, "strategy": odd}),
        "evolve: fitness": lambda: evolution.evolve(key, state, **{**generations, "fitness": odd}),
        "episode_fitness: env": lambda: evolution.episode_fitness(odd, len),
        "episode_fitness: act": lambda: evolution.episode_fitness(env, odd),
        "training_fitness: make": lambda: evolution.training_fitness(odd, num_updates=2),
        "first_episodes: done": lambda: evolution.first_episodes(odd),
        "coverage: archive": lambda: evolution.coverage(odd),
        "qd_score: archive": lambda: evolution.qd_score(odd),
        "insert: archive": lambda: evolution.insert(odd, {}, torch.zeros(1), torch.zeros(1, 1)),
        "centered_ranks: fitness": lambda: evolution.centered_ranks(odd),
        "standardized: fitness": lambda: evolution.standardized(odd),
        "grid_cells: ": lambda: evolution.grid_cells(odd, odd, odd),
        "cvt_cells: low": lambda: evolution.cvt_cells(key, [odd], [1.0], 2) if odd != 3 else evolution.cvt_cells(key, odd, [1.0], 2),
    }
    if isinstance(odd, torch.Tensor):  # it is a key
        del calls["snes: key"]
    for name, call in calls.items():
        with pytest.raises((TypeError, ValueError), match=f"^{name}"):
            call()
