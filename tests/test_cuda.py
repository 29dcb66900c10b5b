"""A GPU does what the CPU does: the same keys give the same experience, and learners learn the same from it."""

import functools

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import checkpoint, distributions, envs, random, returns, tree
from funrl.acting import evaluate, rollout
from tests.buffers.test_contract import BUFFERS, change, items
from tests.registry import ALGORITHMS
from tests.support import traced
from tests.transforms.test_contract import CASES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

AGENTS = 2
# Inductor takes a quarter of a minute and more for each.
COMPILED = ("ppo, discrete", "ppo, continuous", "ppo, recurrent", "rainbow", "sac")


def same(one, other, **tolerances):
    """Require that two trees are the same, the first of them on the GPU."""
    assert tree.structure(one) == tree.structure(other)
    for path, x, y in zip(tree.paths(one), tree.leaves(one), tree.leaves(other), strict=True):
        assert x.device.type == "cuda", f"{path} is on {x.device}"
        torch.testing.assert_close(x.cpu(), y, equal_nan=True, msg=lambda text, path=path: f"{path}: {text}", **tolerances)


def experience(env, device):
    key, env_params = random.key(0, device=device), tree.to(env.default_params, device)
    reset_key, rollout_key = random.split(key).unbind(0)
    start = vmap(env.reset, (0, None))(random.split(reset_key, 3), env_params)
    return rollout(None, rollout_key, start, env_params, env=env, num_steps=8)


@pytest.mark.parametrize("name", envs.names())
def test_environments(name):
    same(experience(envs.make(name), "cuda"), experience(envs.make(name), "cpu"), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_transforms(name):
    make, transform = CASES[name]
    same(experience(transform(make()), "cuda"), experience(transform(make()), "cpu"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BUFFERS)
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_buffers(name, how):
    case = buffer, make = BUFFERS[name]
    run = functools.partial(change, case)
    if how == "compiled":
        run = funrl.compile(run)

    def results(device, run):
        state = buffer.init(tree.to(make(0), device))
        state = buffer.extend(state, tree.to(items(make, 0, 5), device))
        return run(random.key(3, device=device), state, tree.to(items(make, 5, 8), device))

    same(results("cuda", run), results("cpu", functools.partial(change, case)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["eager", "compiled"])
def test_returns(form):
    def estimate(reward, value, next_value, terminated, truncated):
        return returns.gae(reward, value, next_value, terminated, truncated, gamma=0.99, lambda_=0.95)

    key = random.split(random.key(0), 5)
    columns = [random.normal(k, (40, 3)) for k in key[:3]] + [random.bernoulli(k, 0.1, (40, 3)) for k in key[3:]]
    found = (estimate if form == "eager" else funrl.compile(estimate))(*[x.cuda() for x in columns])
    same(found, estimate(*columns), rtol=1e-4, atol=1e-5)


def test_distributions():
    for make in (distributions.Normal, distributions.TanhNormal, distributions.TruncatedNormal):
        loc, scale = torch.linspace(-0.9, 0.9, 5), torch.linspace(0.1, 2.0, 5)
        ends = {} if make is distributions.Normal else {"low": -1.0, "high": 1.0}

        def draw(device, make=make, loc=loc, scale=scale, ends=ends):
            return make(loc.to(device), scale.to(device), **ends).sample_with_log_prob(random.key(0, device=device))

        same(draw("cuda"), draw("cpu"), rtol=1e-4, atol=1e-4)


def nearly(one, other):
    """Require what ``same`` does, but for one number in a hundred: Adam makes a whole step of the rounding of a gradient near 0."""
    assert tree.structure(one) == tree.structure(other)
    for path, x, y in zip(tree.paths(one), tree.leaves(one), tree.leaves(other), strict=True):
        assert x.device.type == "cuda", f"{path} is on {x.device}"
        far = ~torch.isclose(x.cpu().double(), y.double(), rtol=1e-2, atol=1e-3, equal_nan=True)
        assert far.double().mean() <= 0.01, f"{path}: {x[far.to(x.device)]} and {y[far]}"


def learned(algo, device, updates, step):
    keys = lambda seed: random.split(random.key(seed, device=device), AGENTS)  # noqa: E731
    states, metrics = vmap(algo.init)(keys(0)), None
    for i in range(updates):
        states, metrics = step(keys(i + 1), states)
    return states, metrics


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_algorithms(algorithm, kind):
    algo = algorithm(kind)
    nearly(learned(algo, "cuda", 2, vmap(algo.step)), learned(algo, "cpu", 2, vmap(algo.step)))


@pytest.mark.parametrize("kind", COMPILED)
def test_compiled_algorithms(algorithm, kind):
    algo = algorithm(kind)
    step = funrl.compile(vmap(algo.step), donate=1)
    found = learned(algo, "cuda", 3, step)
    nearly(found, learned(algo, "cpu", 3, vmap(algo.step)))
    before = traced()
    step(random.split(random.key(9, device="cuda"), AGENTS), found[0])
    assert traced() == before, "it compiled again"


def test_train_checkpoint_and_evaluate(tmp_path):
    algo = funrl.algos.ppo.make(envs.make("CartPole-v1"), num_envs=4, num_steps=8, num_cells=(8,))
    options = dict(num_agents=2, progress=False, evaluate_episodes=0, backend="eager")
    result = funrl.train(algo, random.key(0, device="cuda"), 64, out=tmp_path / "run", **options)
    run = funrl.training.load_run(tmp_path / "run")
    same(result.state, run.state, rtol=0, atol=0)
    resumed = funrl.train(algo, random.key(0, device="cuda"), 96, out=tmp_path / "run", resume=True, **options)
    whole = funrl.train(algo, random.key(0, device="cuda"), 96, **options)
    same(resumed.state, tree.to(whole.state, "cpu"), rtol=0, atol=0)
    params = tree.index(result.state.learner.params, 0)
    env_params = tree.to(algo.env.default_params, "cuda")
    found = evaluate(params, random.key(1, device="cuda"), env_params, env=algo.env, act=algo.greedy, num_episodes=4)
    expected = evaluate(tree.to(params, "cpu"), random.key(1), algo.env.default_params, env=algo.env, act=algo.greedy, num_episodes=4)
    same(found, expected)
    checkpoint.save(result.state, tmp_path / "state", {})
    again, _ = checkpoint.load(tmp_path / "state", result.state)
    same(again, tree.to(result.state, "cpu"), rtol=0, atol=0)
