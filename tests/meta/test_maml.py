"""MAML for policies: what it gathers, the gradient of its update against finite differences, and what learning a task is."""

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import envs, meta, nn, optim, random, tree
from funrl.meta.maml import _baseline, _parts
from tests.support import same

OPTIONS = dict(num_envs=6, num_tasks=3, num_steps=12, num_cells=(3,))


def made(dtype=torch.float64, **options):
    env = envs.make("PointRobot-misc")
    env = env._replace(default_params=tree.to(env.default_params.replace(goal_radius=torch.tensor(0.1)), dtype))
    return meta.maml.make(env, **{**OPTIONS, **options})


def log_prob(params, observation, action):
    loc = nn.mlp((3,), 2).apply(params["policy"], observation)
    return torch.distributions.Normal(loc, params["log_std"].exp(), validate_args=False).log_prob(action).sum(-1)


def ratio(estimator, params, rows, fixed):
    """The loss by the ratio to the probabilities ``fixed`` with which the actions were drawn; no derivative is stopped."""
    observation, action, advantage, done = rows
    change = log_prob(params, observation, action) - fixed
    if estimator == "surrogate":
        return -(change.exp() * advantage).mean()
    total, sums = torch.zeros_like(change[0]), []
    for t in range(len(change)):
        after = total + change[t]
        sums.append(after.exp() - total.exp())
        total = torch.where(done[t], 0.0, after)
    return -(torch.stack(sums) * advantage).mean()


@pytest.mark.parametrize("estimator", ["surrogate", "dice"])
@pytest.mark.parametrize("inner_steps", [1, 2])
def test_the_gradient_agrees_with_differences(estimator, inner_steps):
    """Of the loss after the inner steps, on the same episodes, with ratios in the place of stopped derivatives."""
    algo = made(estimator=estimator, inner_steps=inner_steps, optimizer=optim.sgd(1.0))
    state = algo.init(random.key(0))
    _, samples = algo.collect(random.key(1), state)
    network = state.learner.params.network
    new, _ = algo.learn(random.key(2), state.learner, samples)
    vector, unravel = tree.ravel(network)
    gradient = vector - tree.ravel(new.params.network)[0]
    parts, horizon = _parts(algo.env, algo.config, None, None), 12 // (inner_steps + 1)
    gamma = torch.tensor(algo.config.gamma, dtype=torch.float64)

    def total(network, kept):
        """The mean loss; ``kept`` has the log-probabilities along the way, which are appended where it has none yet."""
        losses = []
        for task in range(3):
            params = network.params
            for k in range(inner_steps + 1):
                batch = tree.map(lambda x, k=k, task=task: x[k * horizon : (k + 1) * horizon, 2 * task : 2 * task + 2], samples)
                rows = parts.prepare(batch.replace(action=batch.extras["unclipped_action"], extras={}), gamma)
                place = task * (inner_steps + 1) + k
                if len(kept) == place:
                    kept.append(log_prob(params, *rows[:2]))
                if k == inner_steps:
                    losses.append(ratio("surrogate", params, rows, kept[place]))
                else:
                    step = torch.func.grad(lambda p, rows=rows, place=place: ratio(estimator, p, rows, kept[place]))(params)
                    params = tree.map(lambda p, s, g: p - s * g, params, network.step_size, step)
        return torch.stack(losses).mean()

    kept = []
    total(network, kept)
    offsets = 1e-5 * torch.eye(len(vector), dtype=torch.float64)
    plus, minus = vmap(lambda x: total(unravel(x), kept))(torch.cat([vector + offsets, vector - offsets])).chunk(2)
    expected = (plus - minus) / 2e-5
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
    assert all((x != 0).all() for x in tree.leaves(unravel(expected).step_size))


def test_first_order_and_fixed_step_sizes():
    moved = {}
    for name, options in (("", {}), ("first", dict(first_order=True)), ("fixed", dict(learn_step_size=False))):
        algo = made(optimizer=optim.sgd(1.0), **options)
        state = algo.init(random.key(0))
        new, metrics = algo.step(random.key(1), state)
        network = new.learner.params.network
        moved[name] = network
        assert metrics["step_size"] == torch.tensor(0.1, dtype=torch.float64)
        fixed = all(bool((x == 0.1).all()) for x in tree.leaves(network.step_size))
        assert fixed == (name == "fixed")
    same(moved["fixed"].params, moved[""].params, rtol=0, atol=0)
    assert not torch.allclose(tree.ravel(moved["first"].params)[0], tree.ravel(moved[""].params)[0], rtol=1e-6, atol=0)


def test_reptile_moves_to_the_mean_of_the_learned_parameters():
    """An SGD step of size 1; the learned parameters by loops over the tasks and over their two batches."""
    algo = made(optimizer=optim.sgd(1.0), reptile=True, learn_step_size=False)
    state = algo.init(random.key(0))
    _, samples = algo.collect(random.key(1), state)
    network, parts = state.learner.params.network, _parts(algo.env, algo.config, None, None)
    learned = []
    for task in range(3):
        params = network.params
        for k in range(2):
            batch = tree.map(lambda x, k=k, task=task: x[k * 6 : (k + 1) * 6, 2 * task : 2 * task + 2], samples)
            batch = batch.replace(action=batch.extras["unclipped_action"], extras={})
            observation, action, advantage, _ = parts.prepare(batch, torch.tensor(algo.config.gamma, dtype=torch.float64))
            step = torch.func.grad(lambda p, x=observation, a=action, w=advantage: -(log_prob(p, x, a) * w).mean())(params)
            params = tree.map(lambda p, g: p - 0.1 * g, params, step)
        learned.append(params)
    expected = tree.map(lambda *x: torch.stack(x).mean(0), *learned)
    new, metrics = algo.learn(random.key(2), state.learner, samples)
    same(new.params.network.params, expected)
    assert metrics["step_size"] == torch.tensor(0.1, dtype=torch.float64) and metrics["policy_loss"].isfinite()
    with pytest.raises(ValueError, match="reptile: learns no step sizes; set learn_step_size=False"):
        made(reptile=True)


def test_it_gathers_batches_of_tasks_before_and_after_inner_steps():
    algo = made(torch.float32)
    state = algo.init(random.key(0))
    actor, samples = algo.collect(random.key(1), state)
    tree.check_like(actor, state.actor, "the actor", "the first")
    assert samples.reward.shape == (12, 6)
    assert samples.truncated[5].logical_or(samples.terminated[5]).all() and samples.done[11].all()
    # Environments of one task share a goal, which the rewards tell.
    position = samples.next_observation
    goals = []
    for b in range(6):
        x, r = position[:, b], -samples.reward[:, b]
        # |x|² - 2 x·g + |g|² = r: linear in (g, |g|²).
        design = torch.cat([-2 * x, torch.ones(12, 1)], 1)
        goals.append(torch.linalg.lstsq(design.double(), (r - x.square().sum(1)).double()[:, None]).solution[:2, 0])
    goals = torch.stack(goals)
    torch.testing.assert_close(goals[0::2], goals[1::2], rtol=0, atol=1e-2)
    assert (goals[0] - goals[2]).norm() > 0.05
    _, metrics = algo.learn(random.key(2), state.learner, samples)
    for name, rows in (("return_before", slice(0, 6)), ("return_after", slice(6, 12))):
        torch.testing.assert_close(metrics[name], samples.reward[rows].sum() / samples.done[rows].sum())


def test_the_baseline_is_a_ridge_regression():
    numbers = torch.Generator().manual_seed(0)
    observation, to_go = torch.randn(5, 4, 2, generator=numbers).double(), torch.randn(5, 4, generator=numbers).double()
    done = torch.zeros(5, 4, dtype=torch.bool)
    done[2, 1] = done[4] = True
    rows = []
    for t in range(5):
        for b in range(4):
            time = (t - 3 if b == 1 and t > 2 else t) / 5
            x = observation[t, b]
            rows.append([*x.tolist(), *(x**2).tolist(), time, time**2, time**3, 1.0])
    x = torch.tensor(rows, dtype=torch.float64)
    weight = torch.linalg.solve(x.T @ x + 20 * 1e-4 * torch.eye(x.shape[1]).double(), x.T @ to_go.flatten())
    torch.testing.assert_close(_baseline(observation, to_go, done), (x @ weight).reshape(5, 4))


def test_learning_a_task():
    algo = made(torch.float32, num_envs=60)
    params = algo.init(random.key(0)).learner.params
    play = meta.maml.returns(algo, num_steps=3)
    drawn = tree.to(funrl.envs.tasks.of(algo.env).test(random.key(1), 4), torch.float32)
    found = meta.evaluate_adaptation(play, tree.unsqueeze(params, 0), random.key(2), drawn)
    assert found.returns.shape == (1, 4, 4) and found.returns.isfinite().all()


@pytest.mark.slow
def test_it_learns_to_learn():
    """In short episodes: one inner step gains more than at first. Measured with other seeds it takes half as many updates."""
    algo = made(torch.float32, num_tasks=10, num_envs=200, num_steps=20, learning_rate=0.01, num_cells=(16,))
    step, state = funrl.compile(algo.step), algo.init(random.key(0))
    gains = []
    for i in range(60):
        state, metrics = step(random.key(i + 1), state)
        gains.append(metrics["return_after"] - metrics["return_before"])
    assert torch.stack(gains[-10:]).mean() > torch.stack(gains[:10]).mean() + 0.1


def test_errors():
    for options, message in (
        (dict(num_tasks=4), "num_tasks: expected a divisor of num_envs = 6, got 4"),
        (dict(num_steps=13), r"num_steps: expected a multiple of inner_steps \+ 1 = 2, got 13"),
        (dict(inner_steps=0), "inner_steps: expected a number of at least 1"),
        (dict(estimator="dise"), "estimator: expected 'surrogate' or 'dice', got 'dise'"),
        (dict(inner_learning_rate=0.0), "inner_learning_rate: expected a number above 0"),
        (dict(num_tasks=6, num_steps=2), "num_envs, num_steps: expected at least two samples in each batch"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**options)
    with pytest.raises(ValueError, match="env: MAML needs vectors as observations, but Maze-misc has Box"):
        meta.maml.make(envs.maze(), **OPTIONS)
    with pytest.raises(ValueError, match="there are no tasks for MountainCarContinuous-v0"):
        meta.maml.make(envs.make("MountainCarContinuous-v0"), **OPTIONS)
    with pytest.raises(ValueError, match="env: MAML plays many tasks of a pure environment at once"):
        meta.maml.make(envs.vectorize(envs.point_robot(), 6), **OPTIONS)


def test_a_step_size_of_its_own_begins_the_inner_steps():
    """A sweep over agents would else change a hyperparameter that nothing reads after the start."""
    algo = made()
    state = vmap(algo.init)(random.split(random.key(0), 2), {"inner_learning_rate": torch.tensor([0.25, 0.5])})
    sizes = tree.leaves(state.learner.params.network.step_size)
    assert sizes and all(torch.equal(x, torch.tensor([0.25, 0.5], dtype=x.dtype)) for x in sizes)
