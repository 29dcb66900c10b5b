"""PGA-MAP-Elites: the greedy actor, the mutations by gradients, and one program."""

import pytest
import torch

import funrl
from funrl import evolution, nn, random, tree
from tests.support import same

ENV, NET, CRITIC = funrl.envs.make("PointRobot-misc"), nn.mlp((6,), 2), nn.mlp((8,), 1)
CELLS = evolution.grid_cells([-1.0, -1.0], [1.0, 1.0], [4, 4])
OPTIONS = dict(num_critic_updates=6, num_actor_updates=3, batch_size=16, buffer_size=1000, learning_rate=1e-2)


def actor(params, observation):
    return 0.1 * NET.apply(params, observation).tanh()


def act(params, key, observation):
    return actor(params, observation), {}


def last(transitions, active):
    return transitions.next_observation[-1]


FITNESS = evolution.episode_fitness(ENV, act, max_steps=12, describe=last, with_transitions=True)


def strategy(n=6, **options):
    return evolution.pga_map_elites(n, CELLS, ENV, actor, CRITIC, **{**OPTIONS, **options})


def begin(search):
    return search.init(random.key(0), NET.init(random.key(1), torch.zeros(2)))


def generations(search, number=3):
    def run(key, state):
        return evolution.evolve(key, state, strategy=search, fitness=FITNESS, num_generations=number)

    return run


def test_candidates_are_the_greedy_actor_the_climbers_and_the_mutants():
    search = strategy(num_gradient=3, sigma=0.0, line_sigma=0.0, variation_learning_rate=0.05)
    state, _ = generations(search, 2)(random.key(2), begin(search))
    before = tree.clone(state)
    candidates, asked = search.ask(random.key(3), state)
    same(state, before, rtol=0, atol=0)
    assert asked.updates == state.updates + 6
    rows, elites = (torch.func.vmap(lambda one: tree.ravel(one)[0])(x) for x in (candidates, state.archive.params))
    same(rows[0], tree.ravel(asked.network.actor)[0], rtol=0, atol=0)
    distance = torch.cdist(rows, elites[state.archive.filled]).amin(1)
    assert (distance[3:] < 1e-6).all() and (distance[1:3] > 1e-3).all()
    # A climber has a larger value at the observations of the buffer than the solution that it came from.
    observation = state.buffer.data.observation[:72]
    value = lambda params: CRITIC.apply(tree.index(asked.network.critic, 0), observation, actor(params, observation)).mean()  # noqa: E731
    nearest = torch.cdist(rows[1:3], elites).argmin(1)
    for i in range(2):
        assert value(tree.index(candidates, i + 1)) > value(tree.index(state.archive.params, nearest[i]))


def test_critics_learn_and_targets_follow():
    search = strategy()
    first = begin(search)
    one, _ = generations(search, 1)(random.key(2), first)
    same((one.network, one.target), (first.network, first.target), rtol=0, atol=0)  # there was nothing to learn from
    assert one.updates == 0 and one.buffer.size == 72
    two, _ = generations(search, 2)(random.key(2), first)
    assert two.updates == 6 and two.buffer.size == 144
    moved = [(tree.ravel(x)[0] - tree.ravel(y)[0]).abs().max() for x, y in ((two.network, one.network), (two.target, one.target))]
    assert moved[0] > 20 * moved[1] > 0


def test_generations_vmap_and_compile():
    search = strategy()
    run = generations(search)
    keys = random.split(random.key(5), 2)
    states = tree.stack([begin(search), begin(search)])
    singles = tree.stack([run(key, begin(search)) for key in keys.unbind(0)])
    found = funrl.compile(torch.func.vmap(run), backend="aot_eager")(keys, states)
    same(found, singles, rtol=1e-2, atol=1e-3)
    assert (torch.func.vmap(evolution.coverage)(found[0].archive) > 0).all()


@pytest.mark.parametrize(
    "make, error, text",
    [
        (lambda: strategy(num_gradient=7), ValueError, "pga_map_elites: num_gradient: expected at most num_candidates = 6, got 7"),
        (
            lambda: strategy(num_critic_updates=0),
            ValueError,
            "pga_map_elites: num_critic_updates: expected an integer of at least 1, got 0",
        ),
        (lambda: strategy(learning_rate=-1.0), ValueError, "pga_map_elites: learning_rate"),
        (
            lambda: evolution.pga_map_elites(6, CELLS, funrl.envs.make("CartPole-v1"), actor, CRITIC),
            ValueError,
            "pga_map_elites: env: expected a bounded floating-point Box of actions",
        ),
    ],
)
def test_bad_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()
