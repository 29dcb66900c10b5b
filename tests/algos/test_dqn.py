import itertools

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import random, tree
from tests.algos import gradient_steps
from tests.registry import OFF_POLICY, RAINBOW

SMALL = dict(OFF_POLICY, num_cells=(8, 8))
PARTS = {
    "double": dict(double=True),
    "dueling": dict(dueling=True),
    "n_step": dict(n_step=3),
    "prioritized": dict(prioritized=True),
    "c51": dict(c51=True, num_atoms=11, v_min=-1.0, v_max=10.0),
    "noisy": dict(noisy=True, epsilon_start=0.0, epsilon_end=0.0),
}


def make(env="CartPole-v1", **options):
    env = funrl.envs.make(env) if isinstance(env, str) else env
    return funrl.algos.dqn.make(env, **{**SMALL, "double": False, **options})


def picture():
    """Catch, whose board [10, 5] is seen as a picture of one channel."""
    return funrl.transforms.unsqueeze(-1)(funrl.envs.make("Catch-bsuite"))


def run(algo, steps, seed=0):
    states = [algo.init(random.key(seed))]
    for i in range(steps):
        state, metrics = algo.step(random.fold_in(random.key(seed + 1), i), states[-1])
        assert all(x.isfinite() for name, x in metrics.items() if not name.startswith("episode_"))
        states.append(state)
    return states


@pytest.mark.parametrize("parts", [(), *((part,) for part in PARTS), *itertools.combinations(PARTS, 5), tuple(PARTS)], ids="+".join)
def test_parts_of_rainbow(parts):
    """None, each alone, all but one, and all."""
    algo = make(**{key: value for part in parts for key, value in PARTS[part].items()})
    state, _, last = run(algo, 2)
    network = state.learner.params.network
    assert not torch.equal(tree.ravel(network)[0], tree.ravel(last.learner.params.network)[0]) and last.learner.num_updates == 4
    # Each part is there where it is asked for, and only there.
    paths = tree.paths(state)
    assert any("advantage" in path for path in paths) == ("dueling" in parts)
    assert any("discount" in path for path in paths) == ("n_step" in parts)
    assert hasattr(state.learner.buffer, "priorities") == ("prioritized" in parts)
    assert {22 if "c51" in parts else 2} <= {len(x) for x in tree.leaves(network)}
    act = vmap(algo.act, (None, 0, 0))
    observations = torch.linspace(-1, 1, 200)[:, None] * torch.ones(4)
    still = last.learner.params.replace(random=torch.tensor(0.0))
    first, other = (act(still, random.split(random.key(i), 200), observations)[0] for i in (5, 6))
    assert torch.equal(first, other) == ("noisy" not in parts)


def test_double_learning_lets_the_network_choose(monkeypatch):
    steps = gradient_steps.record(monkeypatch)
    for double in (False, True):
        algo = make(double=double)
        state = algo.init(random.key(0))
        other = algo.init(random.key(5)).learner.params.network
        algo.step(random.key(1), tree.update(state, ("learner", "target"), other))
        step = steps[-1]
        values = lambda params: vmap(lambda x: q_values(params, x))(step.batch.next_observation)  # noqa: B023, E731
        chosen = values(step.before.network if double else step.before.target).argmax(-1, keepdim=True)
        expected = step.batch.reward + 0.99 * ~step.batch.terminated * values(step.before.target).gather(-1, chosen).squeeze(-1)
        torch.testing.assert_close(step.metrics["target_mean"], expected.mean())


def q_values(network, x):
    layers = network[0][0]
    for i, layer in enumerate(layers):
        x = layer["weight"] @ x + layer["bias"]
        x = x.relu() if i < len(layers) - 1 else x
    return x


@pytest.mark.parametrize("prioritized", [False, True])
def test_steps_of_adam_agree_with_plain_pytorch(monkeypatch, prioritized):
    steps = gradient_steps.record(monkeypatch)
    first, last = run(make(num_updates=5, learning_rate=0.01, target_period=2, gamma=0.9, huber_delta=0.5, prioritized=prioritized), 1)
    params = [x.clone().requires_grad_() for x in tree.leaves(first.learner.params.network)]
    unflatten = lambda leaves: tree.unflatten(tree.structure(first.learner.params.network), leaves)  # noqa: E731
    target = [x.clone() for x in tree.leaves(first.learner.target)]
    optimizer = torch.optim.Adam(params, lr=0.01)
    for i, step in enumerate(steps):
        batch = step.batch
        q = lambda leaves, x: vmap(lambda x: q_values(unflatten(leaves), x))(x)  # noqa: E731
        y = batch.reward + 0.9 * ~batch.terminated * q(target, batch.next_observation).amax(-1)
        chosen = q(params, batch.observation).gather(-1, batch.action[:, None]).squeeze(-1)
        loss = (step.weight * torch.nn.functional.huber_loss(chosen, y.detach(), delta=0.5, reduction="none")).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (i + 1) % 2 == 0:
            target = [x.detach().clone() for x in params]
    assert len(steps) == 5
    for got, expected in ((last.learner.params.network, params), (last.learner.target, target)):
        for x, y in zip(tree.leaves(got), expected, strict=True):
            torch.testing.assert_close(x, y.detach(), rtol=1e-4, atol=1e-6)


def test_the_target_is_copied_once_a_period():
    states = run(make(num_updates=2, target_period=6, learning_rate=0.01), 7)
    copied = [torch.equal(tree.ravel(x.learner.target)[0], tree.ravel(x.learner.params.network)[0]) for x in states]
    assert copied == [True, False, False, True, False, False, True, False]
    for i in (1, 2, 4, 5, 7):
        kept = states[i // 3 * 3].learner.target
        assert torch.equal(tree.ravel(states[i].learner.target)[0], tree.ravel(kept)[0])


def test_the_target_moves_once_a_period(monkeypatch):
    steps = gradient_steps.record(monkeypatch)
    run(make(num_updates=7, target_period=3, tau=0.25, learning_rate=0.01), 1)
    for i, step in enumerate(steps, start=1):
        share = 0.25 if i % 3 == 0 else 0.0
        expected = tree.map(lambda x, y: share * x + (1 - share) * y, step.after.network, step.before.target)  # noqa: B023
        torch.testing.assert_close(tree.ravel(step.after.target)[0], tree.ravel(expected)[0])
    assert len(steps) == 7


def test_the_share_of_random_actions_falls():
    algo = make(learning_starts=16, epsilon_start=0.8, epsilon_end=0.2, epsilon_steps=32)
    states = run(algo, 7)
    shares = [state.learner.params.random.item() for state in states]
    assert shares == pytest.approx([1, 1, 0.8, 0.65, 0.5, 0.35, 0.2, 0.2])
    assert make(learning_starts=0, epsilon_start=0.8).init(random.key(0)).learner.params.random == pytest.approx(0.8)
    x, keys = torch.full((4,), 0.3), random.split(random.key(1), 10_000)
    for state in (states[4], states[7]):
        action = vmap(algo.act, (None, 0, None))(state.learner.params, keys, x)[0]
        off = (action != algo.greedy(state.learner.params, random.key(0), x)[0]).float().mean()
        assert abs(off - state.learner.params.random / 2) < 4 * 0.5 / 100
    differ = states[0].learner.hparams.replace(epsilon_start=torch.tensor(0.6))
    assert algo.step(random.key(1), tree.update(states[2], ("learner", "hparams"), differ))[0].learner.params.random == pytest.approx(0.5)


def test_priorities_are_those_of_the_last_errors(monkeypatch):
    steps = gradient_steps.record(monkeypatch)
    for c51 in (False, True):
        steps.clear()
        _, state = run(make(prioritized=True, priority_alpha=0.7, batch_size=3, num_steps=16, c51=c51), 1)
        rows, weights = state.learner.buffer.ring.data.observation, state.learner.buffer.priorities.weights
        expected = torch.ones(len(rows))
        for step in steps:
            index = (step.batch.observation[:, None] == rows[:32]).all(-1).long().argmax(-1)
            assert torch.equal(rows[index], step.batch.observation)
            expected[index] = step.metrics["td_error"].add(1e-8).pow(0.7)
        assert 0 < (expected[:32] != 1).sum() <= 6 and state.learner.buffer.ring.size == 32
        torch.testing.assert_close(weights[:32], expected[:32])
        assert not weights[32:].any()


def test_priorities_stay_before_learning_starts():
    states = run(make(prioritized=True, learning_starts=24), 3)
    for state in states[1:3]:
        weights = state.learner.buffer.priorities.weights[: state.learner.buffer.ring.size]
        assert len(weights.unique()) == 1 and weights[0] > 0 and state.learner.buffer.exponents.greatest == 1
    weights = states[3].learner.buffer.priorities.weights[:24]
    assert 1 < len(weights.unique()) <= 17


def test_errors_draw_and_weights_make_up_for_it(monkeypatch):
    steps = gradient_steps.record(monkeypatch)
    algo = make(prioritized=True, priority_beta=1.0, batch_size=32)
    _, state, _ = run(algo, 2)
    probabilities = state.learner.buffer.priorities.weights / state.learner.buffer.priorities.weights.sum()
    assert len(probabilities[probabilities > 0].unique()) > 2
    last = steps[-1]
    assert last.weight.max() == 1 and len(last.weight.unique()) > 2 and (last.weight > 0).all()


@pytest.mark.parametrize("parts", [(), ("dueling", "c51", "noisy")], ids="+".join)
def test_learns_from_pictures(parts):
    options = {key: value for part in parts for key, value in PARTS[part].items()}
    first, last = run(make(picture(), num_channels=(4,), num_steps=9, **options), 1)
    kernels = [[x for x in tree.leaves(state.learner.params.network) if x.shape[1:] == (1, 3, 3)] for state in (first, last)]
    assert len(kernels[0]) == 1 and not torch.equal(kernels[0][0], kernels[1][0])
    assert last.learner.buffer.data.observation.shape == (64, 10, 5, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n_step=5), "n_step: expected a number at least 1 and at most 4, got 5"),
        (dict(target_period=0), "target_period: expected a number at least 1, got 0"),
        (dict(num_atoms=1), "num_atoms: expected a number at least 2, got 1"),
        (dict(v_min=1.0, v_max=1.0), "v_min, v_max: expected v_min < v_max, got 1.0 and 1.0"),
        (dict(tau=1.5), "tau: expected a number at least 0 and at most 1, got 1.5"),
        (dict(epsilon_end=1.5), "epsilon_end: expected a number at least 0 and at most 1, got 1.5"),
        (dict(epsilon_steps=0.0), "epsilon_steps: expected a number above 0, got 0.0"),
        (dict(priority_alpha=-0.1), "priority_alpha: expected a number at least 0"),
        (dict(huber_delta=-1.0), "huber_delta: expected a number at least 0"),
        (dict(kernel_size=0), "kernel_size: expected a whole number of at least 1"),
    ],
)
def test_option_errors(options, message):
    with pytest.raises(ValueError) as raised:
        make(**options)
    assert message in str(raised.value)


def test_rainbow_is_all_of_its_parts():
    assert set(RAINBOW) - {"epsilon_start", "epsilon_end"} == set(PARTS)
