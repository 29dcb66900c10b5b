"""Offline learners: what holds for each of them, one copy of the data for all agents, and what they find where the best is known."""

import functools

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import buffers, nn, offline, optim, random, stats, tree
from funrl.env import Transition
from funrl.offline import datasets
from funrl.spaces import Box, Dict, Discrete
from tests.offline.data import SPACES, bandit, dataset
from tests.support import same, scratch

SMALL = {"num_updates": 4, "batch_size": 8, "num_cells": (8,)}
LEARNERS = {
    "bc": {},
    "bc, stochastic": {"stochastic": True},
    "filtered_bc": {"fraction": 0.4},
    "td3_bc": {},
    "awac": {},
    "iql": {"normalize_observation": True, "decay_updates": 100.0},
    "cql": {"num_actions": 2},
    "cql, calibrated": {"num_actions": 2, "calibrated": True},
    "rebrac": {},
    "sac_n": {"num_critics": 3},
    "edac": {"num_critics": 3},
    "decision_transformer": {"num_cells": None, "hidden_size": 8, "num_layers": 1, "context_length": 3, "dropout": 0.2},
}
DISCRETE = {"bc": {}, "cql": {"num_actions": None}, "decision_transformer": LEARNERS["decision_transformer"]}


def discrete_data():
    rows = dataset(lengths=(20, 15, 5), ends="tut").transition
    chosen = random.randint(random.key(3), (40,), 2, 5)
    return datasets.from_transitions(rows.replace(action=chosen), spaces=(SPACES[0], Discrete(3, start=2)))


def make(kind, data, spaces, **options):
    name = kind.split(",")[0]
    merged = {**SMALL, **LEARNERS[kind], **options}
    return offline.make(name, spaces, data, **{key: x for key, x in merged.items() if x is not None})


@functools.cache
def learner(kind, discrete=False):
    if discrete:
        return make(kind, discrete_data(), (SPACES[0], Discrete(3, start=2)), **DISCRETE[kind])
    return make(kind, dataset(lengths=(20, 15, 5), ends="tuc"), SPACES)


@pytest.mark.parametrize("kind", [*LEARNERS, *(f"{name}: discrete" for name in DISCRETE)])
def test_a_step_is_pure_maps_and_compiles(kind):
    """The batches are drawn in the program; two agents of vmap are two agents, and the state that was given stays."""
    algo = learner(kind.split(":")[0], ":" in kind)
    states = vmap(algo.init)(random.split(random.key(0), 2))
    before = tree.map(torch.clone, states)
    keys = random.split(random.key(1), 2)
    found, metrics = funrl.compile(vmap(algo.step), backend="aot_eager")(keys, states)
    assert tree.equal(states, before)
    tree.check_like(found, states, "step", "init")
    for i in range(2):
        one, numbers = algo.step(keys[i], tree.index(states, i))
        same(tree.index(found, i), one, rtol=1e-3, atol=1e-4)
        same({name: x[i] for name, x in metrics.items()}, numbers, rtol=1e-2, atol=1e-3)
        assert all(x.ndim == 0 and bool(x.isfinite()) for x in numbers.values()), numbers
    assert metrics["steps"].tolist() == [4, 4] and algo.steps_per_update == 4
    # Another hyperparameter for each agent.
    other = tree.update(states, ("learner", "hparams", "learning_rate"), torch.tensor([0.0, 1e-2]))
    if hasattr(algo.config, "actor_learning_rate"):
        other = tree.update(other, ("learner", "hparams", "actor_learning_rate"), torch.tensor([0.0, 1e-2]))
    moved = vmap(algo.step)(keys, other)[0].learner.params.network
    old = states.learner.params.network
    assert tree.equal(tree.index(moved, 0), tree.index(old, 0)) and not tree.equal(tree.index(moved, 1), tree.index(old, 1))


@pytest.mark.parametrize("kind", [*LEARNERS, *(f"{name}: discrete" for name in DISCRETE)])
def test_policies_act_in_the_space(kind):
    algo = learner(kind.split(":")[0], ":" in kind)
    space = Discrete(3, start=2) if ":" in kind else SPACES[1]
    params = algo.init(random.key(0)).learner.params
    observation = torch.randn(5, 3)
    for act in (algo.act, algo.greedy):
        if hasattr(act, "start"):
            seen = {"observation": observation[0], "target_return": torch.tensor(1.0)}
            action = act.act(params, random.key(1), act.start(params, seen), seen, torch.tensor(True))[1]
            assert bool(space.contains(action))
            continue
        for x in observation:
            assert bool(space.contains(act(params, random.key(1), x)[0]))
    assert offline.make(algo.name, (SPACES[0], space), None).name == algo.name  # it acts without data
    with pytest.raises(ValueError, match="was made without data"):
        empty = offline.make(algo.name, (SPACES[0], space), None)
        empty.step(random.key(0), empty.init(random.key(0)))


def test_edac_weighs_diversity_as_its_paper():
    """A step of the critics, with gamma 0, is along the gradient of the paper's loss: squared errors without a factor, and eta ES."""
    data, eta = dataset(lengths=(20,), ends="t"), 3.0
    options = {"num_critics": 3, "num_updates": 1, "batch_size": 8, "num_cells": (8,), "activation": "tanh"}
    algo = offline.edac.make(SPACES, data, gamma=0.0, diversity=eta, optimizer=optim.sgd(0.01), **options)
    state = algo.init(random.key(0))
    batches = algo.collect(random.key(1), state)[1]
    after, _ = algo.learn(random.key(2), state.learner, batches)
    before = state.learner.params.network.critic
    params, rows = tree.map(lambda x: x.double().requires_grad_(), before), tree.map(lambda x: x[0], batches)
    action, values, slopes = rows.action.double().requires_grad_(), [], []
    for e in range(3):
        x = torch.cat([rows.observation.double(), action], -1)
        for i, layer in enumerate(params):
            x = torch.nn.functional.linear(x.tanh() if i else x, layer["weight"][e], layer["bias"][e])
        values.append(x[:, 0])
        slope = torch.autograd.grad(x.sum(), action, create_graph=True)[0]
        slopes.append(slope / slope.norm(dim=-1, keepdim=True))
    alike = sum((slopes[i] * slopes[j]).sum(-1).mean() for i in range(3) for j in range(3) if i != j) / (3 - 1)
    loss = sum((x - rows.reward).square().mean() for x in values) + eta * alike
    gradients = torch.autograd.grad(loss, tree.leaves(params))
    for old, new, gradient in zip(tree.leaves(before), tree.leaves(after.params.network.critic), gradients, strict=True):
        torch.testing.assert_close((new - old).double(), -0.01 * 0.5 * gradient, rtol=1e-3, atol=2e-7)


@pytest.mark.parametrize("name", ["td3_bc", "iql"])
def test_an_xla_program_is_the_eager_step(name):
    algo = learner(name)
    funrl.algos.check(algo, random.key(5))


def test_one_copy_of_the_data_for_all_agents():
    """16 agents of a program: what it holds beside arguments and results is less than the data, which it reads where it is."""
    n = 200_000
    yes = torch.ones(n, dtype=torch.bool)
    rows = Transition(torch.randn(n, 3), torch.zeros(n, 2), torch.zeros(n), yes, ~yes, torch.randn(n, 3), {})
    data = datasets.from_transitions(rows, spaces=SPACES)
    algo = offline.bc.make(SPACES, data, num_updates=2, batch_size=4, num_cells=(8,))
    step = funrl.compile(vmap(algo.step), backend="xla")
    states = vmap(algo.init)(random.split(random.key(0), 16))
    step(random.split(random.key(1), 16), states)
    assert scratch(step) < tree.nbytes(data) / 4
    # By reference: other values of the same tensors are seen by the next call.
    before = step(random.split(random.key(1), 16), states)[1]["actor_loss"]
    data.transition.action.fill_(1.0)
    assert not torch.equal(step(random.split(random.key(1), 16), states)[1]["actor_loss"], before)


def test_a_stream_learns_the_same(tmp_path):
    data = dataset(lengths=(40, 60), ends="tu")
    datasets.save(data, tmp_path / "rows")
    algos = [offline.td3_bc.make(SPACES, source, **SMALL) for source in (data, datasets.stream(tmp_path / "rows"))]
    assert [algo.host for algo in algos] == [False, True]
    state = algos[0].init(random.key(0))
    expected, _ = algos[0].step(random.key(1), state)
    found, _ = algos[1].step(random.key(1), algos[1].init(random.key(0)))
    same(found, expected, rtol=1e-3, atol=1e-5)
    for name in ("rebrac", "filtered_bc", "decision_transformer"):
        with pytest.raises(TypeError, match=r"give stream\.dataset"):
            offline.make(name, SPACES, algos[1].data)


def test_observations_are_normalised_in_learning_and_acting():
    data = dataset(lengths=(40, 60), ends="tu")
    moved = data.transition.replace(
        observation=data.transition.observation * 50 + 100, next_observation=data.transition.next_observation * 50 + 100
    )
    other = datasets.from_transitions(moved, end=data.end, spaces=SPACES)
    found = []
    for source, observation in ((data, torch.tensor([0.5, -1.0, 0.2])), (other, torch.tensor([125.0, 50.0, 110.0]))):
        algo = offline.td3_bc.make(SPACES, source, normalize_observation=True, **SMALL)
        state = algo.init(random.key(0))
        assert isinstance(state.learner.params.observation, stats.Moments)
        state, _ = algo.step(random.key(1), state)
        found.append(algo.greedy(state.learner.params, random.key(2), observation)[0])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_own_parts():
    net = nn.from_module(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)))
    algo = offline.bc.make(SPACES, dataset(), actor=net, optimizer=optim.sgd(0.1), num_updates=2, batch_size=4)
    state, _ = algo.step(random.key(1), algo.init(random.key(0)))
    assert set(algo.given) == {"actor", "optimizer"} and int(state.learner.num_updates) == 2
    with pytest.raises(ValueError, match="optimizer, learning_rate: expected one of them"):
        offline.iql.make(SPACES, dataset(), optimizer=optim.sgd(0.1), learning_rate=0.1)


def test_what_does_not_fit_is_named():
    data = dataset()
    with pytest.raises(ValueError, match="unknown option 'expectil': did you mean expectile"):
        offline.iql.make(SPACES, data, expectil=0.9)
    with pytest.raises(ValueError, match=r"expectile: expected a number in \[0, 1\], got 2\.0"):
        offline.iql.make(SPACES, data, expectile=2.0)
    with pytest.raises(ValueError, match="env: IQL expects a floating-point Box"):
        offline.iql.make((SPACES[0], Discrete(3)), None)
    with pytest.raises(ValueError, match="dataset: expected actions as in Discrete"):
        offline.cql.make((SPACES[0], Discrete(3)), data.replace(transition=data.transition.replace(action=data.transition.action[:, 0])))
    with pytest.raises(ValueError, match=r"dataset: expected observations as in .* got rows of shape \[3\]"):
        offline.bc.make((Box(-1.0, 1.0, (4,)), SPACES[1]), data)
    with pytest.raises(ValueError, match="env: behavioural cloning expects observations that are vectors"):
        offline.bc.make((Dict({"a": SPACES[0]}), SPACES[1]), None)
    with pytest.raises(ValueError, match="policy_delay: expected a divisor of num_updates = 3, got 2"):
        offline.td3_bc.make(SPACES, data, num_updates=3)
    with pytest.raises(TypeError, match=r"dataset: expected a Dataset of funrl\.offline\.datasets, got a str"):
        offline.bc.make(SPACES, "data.hdf5")
    narrow = (SPACES[0], Box(-0.5, 0.5, (2,)))
    with pytest.warns(UserWarning, match=r"td3_bc: dataset: action: \d of 9 rows are outside Box\(-0\.5, 0\.5"):
        offline.td3_bc.make(narrow, data)
    with pytest.raises(ValueError, match=r"bc: dataset: action: \d+ of 40 rows are outside Discrete"):
        offline.bc.make((SPACES[0], Discrete(2, start=2)), discrete_data())
    with pytest.raises(ValueError, match="has no environment to act in"):
        algo = offline.bc.make(SPACES, data, **SMALL)
        funrl.training.evaluate_agents(algo, algo.init(random.key(0)), random.key(1), 1)


def found_actions(name, **options):
    """The actions that five agents find in the bandit whose best action is 0.5, of uniform data."""
    data = bandit()
    algo = offline.make(name, (data.observation_space, data.action_space), data, num_updates=100, batch_size=64, **options)
    step = funrl.compile(vmap(algo.step), donate=1)
    states = vmap(algo.init)(random.split(random.key(0), 5))
    for i in range(8):
        states, _ = step(random.split(random.fold_in(random.key(1), i), 5), states)
    observations = random.normal(random.key(2), (20, 2))
    act = lambda params, x: algo.greedy(params, random.key(3), x)[0]  # noqa: E731
    return vmap(vmap(act, (None, 0)), (0, None))(states.learner.params, observations).mean((1, 2))


CELLS = {"num_cells": (32,), "learning_rate": 3e-3}


@pytest.mark.slow
def test_td3_bc_finds_the_best_action_and_cloning_the_mean():
    """Means over 20 observations, of each of five seeds: the best action is 0.5, that of the data 0."""
    assert bool((found_actions("bc", **CELLS).abs() < 0.15).all())
    best = found_actions("td3_bc", alpha=20.0, **CELLS)
    assert bool(((best - 0.5).abs() < 0.15).all()), best


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("iql", {"temperature": 30.0}),
        ("awac", {"temperature": 30.0}),
        ("cql", {"penalty_weight": 0.1, "num_actions": 4, "actor_learning_rate": 3e-3}),
        pytest.param("rebrac", {"actor_beta": 0.01, "critic_beta": 0.01}, marks=pytest.mark.weekly),
        pytest.param("sac_n", {"num_critics": 4}, marks=pytest.mark.weekly),
        pytest.param("edac", {"num_critics": 4}, marks=pytest.mark.weekly),
        pytest.param("filtered_bc", {}, marks=pytest.mark.weekly),
    ],
)
def test_learners_find_the_best_action(name, options):
    """Of each of five seeds. Minutes of compiling together."""
    best = found_actions(name, **CELLS, **options)
    assert bool(((best - 0.5).abs() < 0.2).all()), best


@pytest.mark.nightly
def test_the_decision_transformer_does_what_it_is_asked_for():
    data = bandit()
    options = {"hidden_size": 16, "num_layers": 1, "context_length": 2, "return_scale": 1.0, "learning_rate": 1e-2, "warmup_updates": 10.0}
    algo = offline.decision_transformer.make((data.observation_space, data.action_space), data, dropout=0.0, num_updates=100, **options)
    step, state = funrl.compile(algo.step, donate=1), algo.init(random.key(0))
    for i in range(10):
        state, _ = step(random.fold_in(random.key(1), i), state)
    params = state.learner.params
    seen = {"observation": torch.zeros(2), "target_return": torch.tensor(1.0)}
    action = algo.greedy.act(params, random.key(0), algo.greedy.start(params, seen), seen, torch.tensor(True))[1]
    assert abs(float(action) - 0.5) < 0.2, action


def test_the_transformer_sees_neither_padding_nor_what_comes_later():
    data = dataset(lengths=(20, 15, 5), ends="tuc")
    algo = learner("decision_transformer")
    params = algo.init(random.key(0)).learner.params
    window = datasets.windows(data, torch.tensor([1]), 3)  # one row of padding, then two
    losses = []
    for padding in (0.0, 7.0):
        rows = tree.map(lambda x: x.clone(), window)
        rows.transition.observation[0, 0] = padding
        rows.return_to_go[0, 0] = padding
        batches = tree.map(lambda x: x.expand(4, *x.shape), rows)
        state = algo.init(random.key(0))
        losses.append(
            algo.learn(random.key(1), state.learner, tree.map(lambda x: x.expand(4, 8, *x.shape[2:]).clone(), batches))[1]["actor_loss"]
        )
    torch.testing.assert_close(*losses)
    assert params is not None


def test_the_mixed_buffer_and_the_hand_over():
    env = funrl.envs.make("Pendulum-v1")
    data = datasets.record(None, random.key(0), env=env, num_steps=100, num_envs=2)
    column = {"return_to_go": data.return_to_go}
    data = data.replace(transition=data.transition.replace(extras=column, reward=torch.ones(100)))
    buffer = offline.mixed_buffer(data, buffers.uniform(50), share=0.25)
    zero = tree.map(lambda x: torch.zeros_like(x[0]), data.transition.replace(extras={}))
    state = buffer.extend(buffer.init(zero), tree.map(lambda x: torch.zeros_like(x[:10]), data.transition.replace(extras={})))
    batch = buffer.sample(random.key(1), state, 8).batch
    assert batch.reward.tolist() == [0.0] * 6 + [1.0] * 2
    assert batch.extras["return_to_go"][:6].tolist() == [-torch.inf] * 6 and bool(batch.extras["return_to_go"][6:].isfinite().all())

    options = {"batch_size": 8, "num_cells": (8,), "num_actions": 2}
    before = offline.cql.make(env, data, calibrated=True, num_updates=2, **options)
    after = offline.cql.online(env, data, calibrated=True, num_steps=4, num_updates=2, num_envs=2, **options)
    trained, _ = before.step(random.key(2), before.init(random.key(1)))
    state = offline.hand_over(after.init(random.key(3)), trained)
    assert tree.equal(state.learner.params.network, trained.learner.params.network) and int(state.learner.num_updates) == 2
    same(
        after.greedy(state.learner.params, random.key(4), torch.ones(3)),
        before.greedy(trained.learner.params, random.key(4), torch.ones(3)),
    )
    state, metrics = after.step(random.key(5), state)
    assert int(metrics["steps"]) == 8 and int(metrics["updates"]) == 4 and bool(metrics["critic_loss"].isfinite())


def test_rlpd_has_the_options_of_its_paper():
    """Table 1 and algorithm 1 of arXiv:2302.02948: to each environment step 20 gradient steps of the critics and one of the actor."""
    found = offline.defaults("rlpd")
    paper = {"num_critics": 10, "subset": 2, "policy_delay": 20, "num_updates": 20 * found["num_steps"], "offline_share": 0.5}
    paper |= {"entropy_share": 0.5, "learning_rate": 3e-4, "gamma": 0.99, "tau": 0.005, "initial_alpha": 1.0, "batch_size": 256}
    assert {name: found[name] for name in paper} == paper
    critic = offline.rlpd.make(funrl.envs.make("Pendulum-v1"), None, num_cells=(4,)).init(random.key(0)).learner.params.network.critic
    assert [set(layer) for layer in critic] == [{"weight", "bias", "norm"}, {"weight", "bias"}] and critic[0]["weight"].shape[0] == 10


@pytest.mark.parametrize("name", ["rlpd", "iql_online", "awac_online", "cql_online"])
def test_online_learners_keep_the_contract(name):
    env = funrl.envs.make("Pendulum-v1")
    data = datasets.record(None, random.key(0), env=env, num_steps=100, num_envs=2)
    options = {"num_steps": 4, "num_updates": 4, "num_envs": 2, "batch_size": 8, "num_cells": (8,), "buffer_size": 64, "learning_starts": 0}
    options |= {"rlpd": {"num_critics": 3, "policy_delay": 2}, "cql_online": {"num_actions": 2}}.get(name, {})
    algo = offline.make(name, env, data, **options)
    states, keys = vmap(algo.init)(random.split(random.key(1), 2)), random.split(random.key(2), 2)
    found, metrics = funrl.compile(vmap(algo.step), backend="aot_eager")(keys, states)
    one, _ = algo.step(keys[0], tree.index(states, 0))
    same(tree.index(found, 0), one, rtol=1e-3, atol=1e-4)
    assert metrics["updates"].tolist() == [4, 4]
