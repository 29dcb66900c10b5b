import re

import pytest
import torch

import funrl
from funrl import checkpoint, collectors, random, record, training, tree
from funrl.algos import State, episodes
from tests.registry import ALGORITHMS
from tests.support import compilations
from tests.training.test_loop import KEY

NUM_UPDATES = 6


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """Nothing is compiled, which takes far longer than all else."""
    monkeypatch.setattr(training._experience, "compile", lambda fn, **options: fn)
    monkeypatch.setattr(collectors._pure, "compiled_program", lambda fn, **options: fn)


def make(kind, **options):
    name, env, defaults = ALGORITHMS[kind]
    return funrl.algos.make(name, funrl.envs.make(env), **{**defaults, **options})


def collector(algo, num_envs=None, **options):
    """The collector that has no processes: all else is as with those that have."""
    num_envs = algo.config.num_envs if num_envs is None else num_envs
    frames = algo.config.num_steps * num_envs
    params = algo.init(random.key(99)).learner.params  # others than those of the run, which has to publish its own
    settings = {"num_envs": num_envs, "frames_per_batch": frames, "total_frames": -1, "key": random.key(3), "backend": "eager", **options}
    return collectors.compiled(lambda: algo.env, algo.act, params, **settings)


class Dealt:
    """Batches of half of the copies, as workers that run by themselves give them: the second half twice as often as the first."""

    def __init__(self, inside, order=(1, 0, 1)):
        self.inside, self.num_envs, self.lost_frames = inside, inside.num_envs, 0
        self.order, self.given, self.waiting = order, 0, [[], []]
        self.dealt = []

    def __next__(self):
        half = self.order[self.given % len(self.order)]
        self.given += 1
        if not self.waiting[half]:
            batch = next(self.inside)
            for i, columns in enumerate(torch.arange(self.num_envs).chunk(2)):
                self.waiting[i].append(tree.map(lambda x, columns=columns: x[:, columns].clone(), batch))
        batch = self.waiting[half].pop(0)
        self.dealt.append(tree.clone(batch))
        return batch

    version = property(lambda self: self.inside.version)

    def update_params(self, params):
        self.inside.update_params(params)

    def state(self):
        return self.inside.state()

    def restore(self, state):
        self.inside.restore(state)


def train(algo, source, num_updates=NUM_UPDATES, **options):
    settings = {"evaluate_episodes": 0, "progress": False, "backend": "eager", "collector": source, **options}
    return training.train(algo, KEY, num_updates * algo.steps_per_update, **settings)


def same(one, other):
    assert tree.structure(one) == tree.structure(other)
    for path, x, y in zip(tree.paths(one), tree.leaves(one), tree.leaves(other), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True, msg=lambda text, path=path: f"{path}: {text}")


@pytest.mark.parametrize("kind", ["ppo, discrete", "ppo, continuous", "ppo, recurrent", "dqn", "sac"])
def test_a_run_is_the_loop_of_the_docstring(kind):
    algo = make(kind)
    result = train(algo, collector(algo))
    key = random.split(KEY, 1)[0]
    state = algo.init(random.fold_in(key, 0))
    with collector(algo) as source:
        for number in range(1, NUM_UPDATES + 1):
            source.update_params(state.learner.params)
            learner, metrics = algo.learn(random.fold_in(key, number), state.learner, next(source).transition)
            state = state.replace(learner=learner)
    # The collector adds up the rewards of an episode one by one, the algorithm those of a batch: the last bit may differ.
    running = state.learner.episodes.running_return
    torch.testing.assert_close(result.state.learner.episodes.running_return, running, rtol=1e-6, atol=0)
    same(tree.update(result.state, ("learner", "episodes"), result.state.learner.episodes.replace(running_return=running)), state)
    assert result.metrics.pop("staleness") == 0
    same(result.metrics, metrics)


@pytest.mark.parametrize("kind", ["ppo, continuous", "ppo, recurrent", "dqn"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, kind):
    """Also in the returns of the episodes that were running, and in what the collector numbers on."""
    algo = make(kind)
    with collector(algo) as source:
        whole = train(algo, source, out=tmp_path / "whole")
        frames, version = source.frames, source.version
    train(algo, collector(algo), 2, out=tmp_path / "run")
    with collector(algo) as source:
        again = train(algo, source, out=tmp_path / "run", resume=True)
        assert (source.frames, source.version) == (frames, version)
    same((again.state, again.metrics), (whole.state, whole.metrics))
    one, other = (record.read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "run"))
    assert list(one) == list(other) and "staleness" in one
    for name in set(one) - {"seconds"}:
        torch.testing.assert_close(torch.tensor(one[name]), torch.tensor(other[name]), rtol=0, atol=0, equal_nan=True)
    run = training.load_run(tmp_path / "run")
    same(run.state, again.state)
    assert run.updates == NUM_UPDATES and run.config["collector"] == "compiled"


@tree.dataclass
class Sum:
    """The learner of an algorithm that adds up rewards."""

    params: torch.Tensor
    episodes: episodes.Episodes


def summing():
    algo = make("dqn")

    def learn(key, learner, transitions):
        sums, metrics = episodes.record(learner.episodes, transitions)
        return Sum(learner.params + transitions.reward.sum() + random.uniform(key, ()), sums), metrics

    def act(params, key, observation):
        return random.randint(key, (), 0, 2), {}

    learner = Sum(torch.zeros(()), episodes.start(torch.zeros(2)))
    return algo._replace(init=lambda key: State((), learner), learn=learn, act=act)


def test_learning_is_one_program_and_what_the_collector_holds_is_not_written_over(monkeypatch):
    monkeypatch.setattr(training._experience, "compile", funrl.compile)
    algo, batches = summing(), []

    class Remembering(Dealt):
        def __next__(self):
            batches.append(next(self.inside))
            self.dealt.append(tree.clone(batches[-1]))
            return batches[-1]

    source = Remembering(collector(algo))
    with compilations(1):
        result = train(algo, source, backend="aot_eager")
    for given, kept in zip(batches, source.dealt, strict=True):
        same(given, kept)
    key = random.split(KEY, 1)[0]
    learner = algo.init(random.fold_in(key, 0)).learner
    for number, batch in enumerate(source.dealt, 1):
        learner, _ = algo.learn(random.fold_in(key, number), learner, batch.transition)
    same(result.state.learner, learner)


def test_the_returns_of_episodes_that_come_in_batches_of_some_copies():
    """Each episode's own, though batches are now of these copies and now of those."""
    algo = make("dqn", num_envs=2, num_steps=16)
    seen, source = [], Dealt(collector(algo, num_envs=4))

    def note(step, state, metrics):
        seen.append((metrics["episode_return"].item(), metrics["episode_length"].item()))

    train(algo, source, 12, hooks=[note])
    returns, lengths, latest, checked = {}, {}, None, 0
    for batch, (mean_return, mean_length) in zip(source.dealt, seen, strict=True):
        ended = []
        for t in range(16):
            for b in range(2):
                episode = int(batch.traj_ids[t, b])
                returns[episode] = returns.get(episode, 0.0) + float(batch.transition.reward[t, b])
                lengths[episode] = lengths.get(episode, 0) + 1
                if batch.transition.done[t, b]:
                    ended.append(episode)
        if ended:
            latest = [sum(of[e] for e in ended) / len(ended) for of in (returns, lengths)]
            checked += max(lengths[e] for e in ended) > 16
        assert latest is None or [mean_return, mean_length] == pytest.approx(latest)
    assert checked > 3, "no episode spans batches"


def test_returns_where_batches_were_discarded():
    """As an asynchronous collector discards those that are too stale: an episode's return is its length in CartPole all the same."""

    class Dropping(Dealt):
        def __next__(self):
            next(self.inside)
            return next(self.inside)

    algo, seen = make("dqn", num_envs=2, num_steps=16), []
    source = Dropping(collector(algo))

    def note(step, state, metrics):
        seen.append((metrics["episode_return"].item(), metrics["episode_length"].item()))

    train(algo, source, 12, hooks=[note])
    ended = [pair for pair in seen if pair[1] == pair[1] and pair[1] > 0]
    assert len(ended) > 6 and all(a == b for a, b in ended)


def test_parameters_that_a_hook_returns_act_in_the_next_batch_and_after_a_resume(tmp_path):
    algo = make("ppo, discrete")

    def halve(step, state, metrics):
        return tree.update(state, ("learner", "params"), tree.map(lambda x: x / 2, state.learner.params))

    with collector(algo) as source:
        whole = train(algo, source, 4, hooks=[halve])
    train(algo, collector(algo), 2, hooks=[halve], out=tmp_path)
    again = train(algo, collector(algo), 4, hooks=[halve], out=tmp_path, resume=True)
    same(again.state, whole.state)


def test_staleness_is_told():
    algo, seen = make("dqn"), []
    source = Dealt(collector(algo, num_envs=4), order=(0, 1))
    train(algo, source, 4, hooks=[lambda step, state, metrics: seen.append(metrics["staleness"].item())])
    assert seen == [0, 1, 0, 1]


def test_frames_that_are_lost_are_told(tmp_path, capsys):
    algo = make("dqn")
    train(algo, collector(algo), 2, out=tmp_path, progress=True)
    source = collector(algo)
    source.restore = lambda state: setattr(source, "lost_frames", 1_234)
    capsys.readouterr()
    train(algo, source, 3, out=tmp_path, resume=True, progress=True)
    line = capsys.readouterr().err.splitlines()[1]
    assert line == "continuing after update 2; 1,234 frames that were in flight at the checkpoint are collected again"
    train(algo, collector(algo), 4, out=tmp_path, resume=True, progress=True)
    assert capsys.readouterr().err.splitlines()[1] == "continuing after update 3"


def test_a_run_on_the_host_says_what_resuming_does(tmp_path, capsys):
    with funrl.envs.make("gymnasium:CartPole-v1", num_envs=2) as env:
        algo = funrl.algos.make("ppo", env, num_steps=8, num_minibatches=2, num_cells=(8,))
        eager = algo._replace(collect=lambda key, state: (state.actor, ()), learn=lambda *args: (args[1], {"value_loss": torch.zeros(())}))
        for updates, resume in ((1, False), (2, True)):
            options = dict(out=tmp_path, resume=resume, evaluate_episodes=0)
            training.train(eager, KEY, updates * 16, **options)
    lines = capsys.readouterr().err.splitlines()
    (told,) = [line for line in lines if line.startswith("continuing")]
    assert told == (
        "continuing after update 1; gymnasium:CartPole-v1 runs outside torch and ended with its process: new episodes begin, and all else "
        "continues; a synchronous collector can resume within episodes"
    )


@pytest.mark.parametrize(
    ("kind", "options", "num_agents", "message"),
    [
        ("dqn", {}, 2, "num_agents: a collector gathers for one agent, got 2"),
        (
            "dqn",
            {"num_envs": 4},
            1,
            r"collector: expected batches \[4, 2\] \(num_steps by num_envs of dqn\), got \[4, 4\]; make it with frames_p",
        ),
        ("dqn", {"frames_per_batch": 16}, 1, r"collector: expected batches \[4, 2\] .*, got \[8, 2\]; make it with frames_per_batch=8"),
        ("dqn", {"total_frames": 24}, 1, "collector: it ended after 24 frames, before the run did; make it with total_frames=-1"),
    ],
)
def test_a_collector_that_does_not_fit(kind, options, num_agents, message):
    algo = make(kind)
    with collector(algo, **options) as source, pytest.raises(training.RunError, match=message):
        train(algo, source, num_agents=num_agents)


def test_batches_that_are_cut_into_trajectories():
    """Even where they have the right shape by chance: time has to come first."""
    algo = make("dqn", num_envs=4, num_steps=4)
    with (
        collector(algo, split_trajectories=True) as source,
        pytest.raises(training.RunError, match="make it with split_trajectories=False"),
    ):
        train(algo, source)


def test_what_is_no_collector():
    algo = make("dqn")
    with pytest.raises(training.RunError, match=re.escape("collector: expected one that funrl.collectors makes, got list")):
        train(algo, [])


def test_a_run_with_a_collector_is_not_resumed_without(tmp_path):
    algo = make("dqn")
    train(algo, collector(algo), 2, out=tmp_path)
    with pytest.raises(training.RunError, match="cannot resume: the run there has collector = 'compiled', not None"):
        train(algo, None, 4, out=tmp_path, resume=True)
    with pytest.raises(checkpoint.CheckpointError, match=r"leaf \[1\]\.tracker\.steps is int64 \[2\] in the file, but"):
        train(algo, collector(algo, num_envs=4), 4, out=tmp_path, resume=True)
    same(checkpoint.load(tmp_path / "checkpoint" / "state", algo.init(KEY), at="[0]")[0].learner.num_steps, torch.tensor(16))
