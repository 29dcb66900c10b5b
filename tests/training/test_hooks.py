import json
import math
import os

import pytest
import torch

import funrl
from funrl import algos, checkpoint, random, record, schedules, training, tree
from funrl.record import loggers
from funrl.runs._run import Run
from funrl.training import Stop, every, hooks
from tests.record.drifter import DrifterState, algorithm
from tests.support import compilations
from tests.training.test_loop import KEY, by_hand, equal, train


@tree.dataclass
class Hparams:
    rate: torch.Tensor
    scale: torch.Tensor


@tree.dataclass
class Annealed:
    params: dict
    hparams: Hparams


def annealed():
    """An algorithm that tells its hyperparameters, each update."""
    algo = algorithm()

    def init(key):
        params = algo.init(key).learner.params
        return algos.State((), Annealed(params, Hparams(torch.tensor(1.0), torch.tensor(0.5, dtype=torch.float64))))

    def learn(key, learner, transitions):
        w = learner.params["w"] * learner.hparams.rate + random.normal(key, (3,))
        return learner.replace(params={**learner.params, "w": w}), {"value_loss": w.mean(), "rate": learner.hparams.rate.clone()}

    return algo._replace(init=init, learn=learn)


@pytest.mark.parametrize("num_agents", [1, 3])
def test_a_hook_sees_what_an_update_returned(num_agents):
    seen = []

    def note(step, state, metrics):
        seen.append((step, *tree.map(torch.clone, (state, metrics))))

    result = train(50, num_agents=num_agents, hooks=[note])
    assert [step for step, _, _ in seen] == [10, 20, 30, 40, 50]
    for number, (_, state, metrics) in enumerate(seen, 1):
        agents = [by_hand(algorithm(), key, number) for key in random.split(KEY, num_agents).unbind(0)]
        expected = agents[0] if num_agents == 1 else tree.stack(agents)
        equal(tree.map(lambda x: x.nan_to_num(), (state, metrics)), tree.map(lambda x: x.nan_to_num(), expected))
    equal(result.state, seen[-1][1])


@pytest.mark.parametrize(("interval", "steps"), [(10, [10, 20, 30, 40, 50]), (20, [20, 40]), (15, [20, 30, 50]), (25, [30, 50]), (60, [])])
def test_intervals(interval, steps):
    """A hook is called after the updates in which a multiple of its interval is reached, and what it adds reaches those after it."""
    seen = []

    def add(step, state, metrics):
        metrics["double"] = 2 * step

    def note(step, state, metrics):
        seen.append((step, metrics.get("double")))

    result = train(50, hooks=[every(interval, add), note])
    assert seen == [(step, 2 * step if step in steps else None) for step in (10, 20, 30, 40, 50)]
    assert "double" not in result.metrics
    seen.clear()
    train(50, hooks=[every(interval, add, note)])
    assert seen == [(step, 2 * step) for step in steps]


def test_metrics_that_a_hook_adds_are_for_hooks(tmp_path):
    train(30, out=tmp_path, hooks=[lambda step, state, metrics: metrics.update(extra=torch.tensor(1.0))])
    assert "extra" not in record.read_metrics(tmp_path / "metrics.csv")


@pytest.mark.parametrize("num_agents", [1, 2])
def test_a_hook_may_return_the_state_to_go_on_with(num_agents):
    kept = torch.zeros(3) if num_agents == 1 else torch.zeros(2, 3)

    def clear(step, state, metrics):
        return tree.update(state, ("learner", "params"), {**state.learner.params, "w": kept})

    result = train(50, num_agents=num_agents, hooks=[every(40, clear)])
    for k, key in enumerate(random.split(KEY, num_agents).unbind(0)):
        algo = algorithm()
        state, _ = by_hand(algo, key, 4)
        state = tree.update(state, ("learner", "params"), {**state.learner.params, "w": torch.zeros(3)})
        state, _ = algo.step(random.fold_in(key, 5), state)
        equal(tree.index(result.state, k) if num_agents > 1 else result.state, state)
    assert not kept.any(), "what the hook keeps was written over"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda state: 3, "what the hook .*wrong returned"),
        (lambda state: (state, {}), "what the hook .*wrong returned"),
        (
            lambda state: tree.update(state, ("learner", "count"), state.learner.count.float()),
            r"leaf \.learner\.count is float32 \[\], but in the state that it got",
        ),
    ],
)
def test_a_hook_that_returns_something_else(returned, message):
    def wrong(step, state, metrics):
        return returned(state)

    with pytest.raises(TypeError, match=message):
        train(50, hooks=[wrong])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([3], "hooks: expected a function of .*, got 3"),
        ([lambda step: None], r"hooks: expected a function of \(step, state, metrics\), got .*, which cannot be called so: too many"),
        ([every(10, print), None], "hooks: expected a function of .*, got None"),
        (3, "hooks: expected a list of functions, got 3"),
        (print, "hooks: expected a list of functions, got <built-in"),
    ],
)
def test_what_is_no_hook(given, message, monkeypatch):
    monkeypatch.setattr(training._experience, "compile", lambda fn, **options: pytest.fail("it compiles"))
    with pytest.raises(training.RunError, match=message):
        train(50, hooks=given)


def test_bad_options_of_hooks():
    host = algorithm()
    host = host._replace(env=funrl.envs.vectorize(host.env, 2)._replace(host=True))
    for make, error, message in (
        (lambda: every(0, print), ValueError, "every: steps: expected an integer of at least 1, got 0"),
        (lambda: every(1.5, print), TypeError, "every: steps: expected an integer of at least 1, got 1.5"),
        (lambda: every(10), ValueError, "every: hooks: expected at least one function"),
        (lambda: every(10, every(20, print)), TypeError, "every: hooks: expected a function of"),
        (lambda: hooks.evaluation(algorithm(), KEY, 0), ValueError, "evaluation: num_episodes: expected at least 1, got 0"),
        (lambda: hooks.evaluation(host, KEY), ValueError, "evaluation: env: CartPole-v1 runs outside torch, .* give another one"),
        (lambda: hooks.checkpoints("x", keep=0), ValueError, "keep: expected an integer of at least 1, got 0"),
        (lambda: hooks.plateau("loss", 0), ValueError, "plateau: patience: expected an integer of at least 1, got 0"),
        (lambda: hooks.annealing(), ValueError, "annealing: expected at least one hyperparameter"),
        (lambda: train(50, hooks=[hooks.at_least("value_los", 1.0)]), ValueError, "no 'value_los': did you mean value_loss"),
        (
            lambda: train(50, annealed(), hooks=[hooks.annealing(rat=lambda step: 1)]),
            ValueError,
            "no hyperparameter 'rat': did you mean",
        ),
    ):
        with pytest.raises(error, match=message):
            make()


@pytest.mark.parametrize("num_agents", [1, 3])
def test_evaluation(num_agents):
    """Agents play as funrl.training.evaluate_agents lets them, and the run does not notice."""
    algo, seen = algorithm(), []

    def note(step, state, metrics):
        episodes = training.evaluate_agents(algo, state, random.fold_in(KEY, step), 4, num_agents=num_agents)
        seen.append((metrics["evaluation_return"], episodes.episode_return.mean(-1), metrics["evaluation_length"], metrics))

    result = train(50, algo, num_agents=num_agents, hooks=[every(20, hooks.evaluation(algo, KEY, 4), note)])
    assert len(seen) == 2
    for returns, expected, lengths, metrics in seen:
        assert torch.equal(returns, expected) and returns.shape == metrics["value_loss"].shape and (lengths == 4).all()
    equal(result.state, train(50, algo, num_agents=num_agents).state)


def test_evaluation_in_another_environment():
    algo, metrics = algorithm(), {"value_loss": torch.tensor(0.0)}
    env = algo.env._replace(max_episode_steps=2)
    hooks.evaluation(algo, KEY, 4, env=env)(10, algo.init(KEY), metrics)
    assert metrics["evaluation_length"] == 2


def test_a_logger_is_a_hook(tmp_path):
    algo = algorithm()
    with loggers.jsonl(tmp_path / "log.jsonl") as logger:
        train(50, algo, num_agents=2, hooks=[every(20, hooks.evaluation(algo, KEY, 2), loggers.hook(logger))])
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40] and rows[0]["evaluation_return"] == [4.0, 4.0] and "value_loss" in rows[0]


def test_checkpoints_keep_the_latest_and_the_best(tmp_path):
    """In the folder of a run, in addition to the one that it is resumed from, and each can be loaded."""
    scores = {10: 1.0, 20: 5.0, 30: math.nan, 40: 5.0, 50: 2.0, 60: 3.0}
    folder, states = tmp_path / "checkpoint", {}

    def judge(step, state, metrics):
        states[step] = tree.map(torch.clone, state)
        metrics["score"] = torch.tensor([scores[step] - 1, scores[step] + 1])

    def note(step, state, metrics):
        there.append({int(name[5:]) for name in os.listdir(folder) if name.startswith("step-")})

    there = []
    train(60, num_agents=2, out=tmp_path, hooks=[judge, hooks.checkpoints(folder, keep=2, best="score"), note], checkpoint_every=0)
    assert there == [{10}, {10, 20}, {20, 30}, {20, 30, 40}, {20, 40, 50}, {20, 50, 60}]
    assert checkpoint.best(folder).name == "step-000000000020" and checkpoint.latest(folder).name == "step-000000000060"
    loaded, meta = checkpoint.load(checkpoint.best(folder), states[20])
    equal(loaded, states[20])
    assert meta == {"step": 20, "score": 5.0}
    equal(checkpoint.load(folder / "state", states[60])[0], states[60])


def test_parameters_that_are_not_finite_are_not_kept(tmp_path):
    with pytest.raises(training.Diverged):
        train(90, algorithm(bad_params_at=3), checkpoint_every=math.inf, hooks=[hooks.checkpoints(tmp_path, keep=9)])
    assert checkpoint.latest(tmp_path).name == "step-000000000020"


def test_a_run_is_loaded_from_its_best_checkpoint(tmp_path):
    algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8, num_minibatches=2, num_cells=(8,))
    states = []
    given = [
        lambda step, state, metrics: states.append(tree.map(torch.clone, state)),
        lambda step, state, metrics: metrics.update(score=torch.tensor(float(step == 32))),
        hooks.checkpoints(tmp_path / "checkpoint", best="score"),
    ]
    train(48, algo, out=tmp_path, hooks=given)
    run = training.load_run(tmp_path, file=checkpoint.best(tmp_path / "checkpoint"))
    assert isinstance(run, Run) and run.updates == 2
    for x, y in zip(tree.leaves(run.state), tree.leaves(states[1]), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
    assert {x.device.type for x in tree.leaves(training.load_run(tmp_path, device="meta").state)} == {"meta"}
    with pytest.raises(checkpoint.CheckpointError, match=r"state: its notes have no step; give one that training\.hooks\.checkpoints"):
        training.load_run(tmp_path, file=tmp_path / "checkpoint" / "state")


@pytest.mark.parametrize("num_agents", [1, 2])
def test_a_run_that_is_stopped_early(tmp_path, capsys, num_agents):
    """It ends after the update under way, with a checkpoint, an evaluation and all that a run leaves; and it can be resumed."""
    after = []

    def stop(step, state, metrics):
        if step == 30:
            raise Stop("it is good enough")

    result = train(
        90,
        num_agents=num_agents,
        out=tmp_path,
        evaluate_episodes=2,
        progress=True,
        checkpoint_every=math.inf,
        hooks=[stop, lambda step, state, metrics: after.append(step)],
    )
    assert (result.updates, result.steps, result.stopped) == (3, 30, "it is good enough") and after == [10, 20, 30]
    assert result.evaluation is not None and "stopped after 30 steps: it is good enough" in capsys.readouterr().err
    assert (tmp_path / "learning_curve.png").exists()
    equal(checkpoint.load(tmp_path / "checkpoint" / "state", result.state)[0], result.state)
    again = train(90, num_agents=num_agents, out=tmp_path, resume=True)
    whole = train(90, num_agents=num_agents)
    equal(again.state, whole.state)
    assert again.stopped is None and whole.stopped is None and again.updates == whole.updates == 9


def test_a_metric_that_is_great_enough_stops():
    metrics = {20: 1.0, 40: math.nan, 60: 3.0}

    def judge(step, state, seen):
        seen["score"] = torch.tensor([metrics[step] - 0.5, metrics[step] + 0.5])

    assert train(60, num_agents=2, hooks=[every(20, judge, hooks.at_least("score", 3.5))]).stopped is None
    result = train(90, num_agents=2, hooks=[every(20, judge, hooks.at_least("score", 3.0))])
    assert result.steps == 60 and result.stopped == "score is 3, at least 3"


def test_a_metric_that_does_not_grow_stops():
    scores = [1.0, 3.0, 2.0, math.nan, 4.0, 4.0, 3.0, 4.0, 9.0]

    def judge(step, state, seen):
        seen["score"] = torch.tensor(scores[step // 10 - 1])

    result = train(90, hooks=[judge, hooks.plateau("score", 3)])
    assert result.steps == 80 and result.stopped == "score was not above 4 for 3 calls"
    assert train(90, hooks=[judge, hooks.plateau("score", 4)]).stopped is None


@pytest.mark.parametrize("num_agents", [1, 2])
def test_annealing(tmp_path, num_agents):
    """Hyperparameters follow their schedules, also where a run is resumed, and nothing compiles again."""
    seen = []

    def options():
        schedule = hooks.annealing(rate=schedules.linear(1.0, 0.0, 100), scale=lambda step: 0.25 if step > 20 else 0.75)
        return dict(hooks=[schedule, lambda step, state, metrics: seen.append(metrics["rate"].clone())], num_agents=num_agents)

    with compilations(1):
        whole = train(60, annealed(), backend="aot_eager", **options())
    torch.testing.assert_close(torch.stack(seen).reshape(6, num_agents)[:, 0], torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6, 0.5]))
    assert whole.state.learner.hparams.scale.dtype == torch.float64 and (whole.state.learner.hparams.scale == 0.25).all()
    train(30, annealed(), out=tmp_path, **options())
    equal(train(60, annealed(), out=tmp_path, resume=True, **options()).state, whole.state)


def test_annealing_of_what_is_no_hyperparameter():
    algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
    state = algo.init(KEY)
    for name, advice in (("num_epochs", "choose one of"), ("clipp", "did you mean clip")):
        with pytest.raises(ValueError, match=f"there is no hyperparameter '{name}': {advice}"):
            hooks.annealing(**{name: lambda step: 1.0})(0, state, {})


def test_what_a_hook_raises_ends_the_run_and_the_checkpoint_stays(tmp_path):
    def fail(step, state, metrics):
        if step == 40:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(90, out=tmp_path, checkpoint_every=0, hooks=[fail])
    state, meta = checkpoint.load(tmp_path / "checkpoint" / "state", algorithm().init(KEY))
    assert meta["update"] == 3 and isinstance(state.learner, DrifterState)
