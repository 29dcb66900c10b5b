"""Prioritised level replay: probabilities beside a loop, the buffer beside sorting, and a step that plays, scores and draws levels."""

import math

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import envs, meta, random, tree
from funrl.envs import tasks
from tests.support import same

ENV = envs.maze(["S....", ".....", ".....", ".....", "....G"])
SMALL = dict(num_envs=3, num_steps=6, num_epochs=1, num_minibatches=1, num_cells=(4,), num_channels=(2,), num_levels=5)


def filled(scores, seen, time):
    state = meta.start_levels(ENV.default_params, len(scores))
    return state.replace(score=torch.tensor(scores), seen=torch.tensor(seen), time=torch.tensor(time))


def naive(scores, seen, time, prioritization, beta, rho):
    kept = [i for i, s in enumerate(scores) if s > -math.inf]
    order = sorted(kept, key=lambda i: -scores[i])
    height = {i: 1 / (order.index(i) + 1) if prioritization == "rank" else scores[i] for i in kept}
    powers = {i: h ** (1 / beta) for i, h in height.items()}
    ages = {i: time - seen[i] for i in kept}
    result = []
    for i in range(len(scores)):
        by_score = powers[i] / sum(powers.values()) if i in kept else 0.0
        by_age = ages.get(i, 0) / sum(ages.values()) if sum(ages.values()) else by_score
        result.append((1 - rho) * by_score + rho * by_age)
    return result


@pytest.mark.parametrize("prioritization", ["rank", "proportional"])
@pytest.mark.parametrize("beta, rho", [(1.0, 0.0), (0.1, 0.3), (2.0, 1.0)])
def test_probabilities_equal_those_of_a_loop(prioritization, beta, rho):
    for scores, seen in (([0.5, 2.0, 1.0, 0.1], [3, 0, 9, 9]), ([1.5, -math.inf, 0.7, 3.0], [5, 0, 9, 0]), ([2.0, 1.0], [9, 9])):
        found = meta.level_probabilities(
            filled(scores, seen, 9), prioritization=prioritization, temperature=beta, staleness_weight=torch.tensor(rho)
        )
        expected = naive(scores, seen, 9, prioritization, beta, rho)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-6)
    assert not meta.level_probabilities(meta.start_levels(ENV.default_params, 3), prioritization=prioritization).any()


def test_levels_are_drawn_with_their_probabilities_and_not_twice():
    state, probability = filled([1.0, 1.0, 1.0, 1.0], [0] * 4, 1), torch.tensor([0.1, 0.0, 0.6, 0.3])
    keys = random.split(random.key(0), 20_000)
    one = vmap(lambda k: meta.sample_levels(k, state, probability, 1))(keys)
    torch.testing.assert_close(one[:, 0].bincount() / len(keys), probability, rtol=0, atol=0.015)
    all_four = vmap(lambda k: meta.sample_levels(k, state, probability, 4))(keys[:100])
    assert all(row == [-1, 0, 2, 3] for row in all_four.sort(1).values.tolist())


def test_the_buffer_keeps_the_highest_scores_and_their_levels():
    state, kept = meta.start_levels(ENV.default_params, 4), []
    for i in range(8):
        score = random.uniform(random.key(i), (3,))
        score[i % 3] = -torch.inf if i % 2 else score[i % 3]
        levels = tree.map(lambda x: x.expand(3, *x.shape), ENV.default_params).replace(step_cost=score.clamp(min=-1.0))
        state = meta.insert_levels(state.replace(time=torch.tensor(i)), levels, score)
        kept = sorted([*kept, *((float(s), i) for s in score if s > -torch.inf)], reverse=True)[:4]
        found = sorted(((float(s), int(t)) for s, t in zip(state.score, state.seen, strict=True) if s > -torch.inf), reverse=True)
        assert found == kept
        full = state.score > -torch.inf
        assert torch.equal(state.levels.step_cost[full], state.score[full])
    state = state.replace(time=torch.tensor(20))
    after = meta.update_levels(state, torch.tensor([2, -1, 0]), torch.tensor([0.25, 9.0, 0.5]))
    assert after.score[[2, 0]].tolist() == [0.25, 0.5] and after.seen[[2, 0]].tolist() == [20, 20]
    same((after.score[[1, 3]], after.seen[[1, 3]], after.levels), (state.score[[1, 3]], state.seen[[1, 3]], state.levels), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["magnitude", "positive"])
def test_a_step_scores_the_levels_it_played(kind):
    algo = meta.plr.make(ENV, score=kind, replay_probability=0.7, **SMALL)
    state = algo.init(random.key(0))
    known = {}  # of a level, its last score
    for i in range(6):
        learner, buffer = state.learner, state.learner.buffer
        collect_key, _ = random.split(random.key(i)).unbind(0)
        _, transitions = algo.collect(collect_key, state)
        # Each copy begins at the start of its level.
        position = transitions.observation[0, :, 1].flatten(1).argmax(-1)
        start = learner.env_params.start
        assert torch.equal(position, start[:, 0] * 5 + start[:, 1])
        walls = (transitions.observation[:, :, 0] == 1).permute(1, 0, 2, 3)
        assert (walls == learner.env_params.walls[:, None]).all()

        nets = funrl.algos.on_policy.networks(algo.config, ENV)
        value, next_value = nets.values(learner.params.network, transitions)
        flags = (transitions.terminated, transitions.truncated)
        advantage, _ = funrl.returns.gae(transitions.reward, value, next_value, *flags, gamma=0.99, lambda_=0.95)
        expected = (advantage.abs() if kind == "magnitude" else advantage.clamp(min=0)).mean(0)
        for b, place in enumerate(buffer.places.tolist()):
            if place >= 0:
                assert torch.equal(buffer.levels.levels.walls[place], learner.env_params.walls[b])
            known[level_of(learner.env_params, b)] = float(expected[b])
        state, metrics = algo.step(random.key(i), state)
        torch.testing.assert_close(metrics["level_score"], expected.mean(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(metrics["replayed_fraction"], (buffer.places >= 0).float().mean())
        levels = state.learner.buffer.levels
        assert levels.time == i + 1 and metrics["num_levels"] == (levels.score > -torch.inf).sum()
        for n in (levels.score > -torch.inf).nonzero().flatten().tolist():
            torch.testing.assert_close(float(levels.score[n]), known[level_of(levels.levels, n)], rtol=1e-4, atol=1e-5)
    assert metrics["num_levels"] == 5 and metrics["replayed_fraction"] > 0


def level_of(params, n):
    return tuple(torch.cat([params.walls[n].flatten().long(), params.start[n], params.goal[n]]).tolist())


def test_scores_have_the_unit_of_the_values():
    """With normalised rewards their scale makes no difference to scores, as it makes none to values."""
    scores = []
    for scale in (1.0, 1000.0):
        algo = meta.plr.make(ENV, tasks=tasks.of(ENV), normalize_reward=True, **SMALL)
        state = algo.init(random.key(0))
        _, transitions = algo.collect(random.key(1), state)
        reward = scale * random.normal(random.key(2), tuple(transitions.reward.shape))
        scores.append(algo.learn(random.key(3), state.learner, transitions.replace(reward=reward))[1]["level_score"])
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-4)


def test_scores_take_the_discount_of_each_step():
    algo = meta.plr.make(ENV, **SMALL)
    state = algo.init(random.key(0))
    _, transitions = algo.collect(random.key(1), state)
    own = transitions.replace(extras={**transitions.extras, "discount": torch.full_like(transitions.reward, 0.3)})
    hparams = state.learner.hparams.replace(gamma=torch.tensor(0.3))
    one, other, without = (
        algo.learn(random.key(2), learner, x)[1]["level_score"]
        for learner, x in ((state.learner, own), (state.learner.replace(hparams=hparams), transitions), (state.learner, transitions))
    )
    torch.testing.assert_close(one, other)
    assert (one - without).abs() > 1e-4


def test_levels_that_were_played_just_now_are_not_stale():
    """With staleness alone, they are drawn again only if no others are there."""
    algo = meta.plr.make(ENV, replay_probability=0.6, staleness_weight=1.0, **{**SMALL, "num_levels": 9})
    state, replayed = algo.init(random.key(0)), 0
    for i in range(8):
        state, _ = algo.step(random.key(i), state)
        levels, places = state.learner.buffer.levels, state.learner.buffer.places
        assert levels.time == i + 1
        old = ((levels.score > -torch.inf) & (levels.seen < i)).sum()
        drawn = places[places >= 0]
        if old > 0:
            assert (levels.seen[drawn] < i).all()
            replayed += len(drawn)
    assert replayed > 5


def test_without_replay_all_levels_are_new_and_of_training():
    algo = meta.plr.make(ENV, **SMALL)
    zero = algo.init(random.key(0), {"replay_probability": torch.tensor(0.0)})
    for i in range(3):
        zero, metrics = algo.step(random.key(i), zero)
        assert metrics["replayed_fraction"] == 0 and (zero.learner.buffer.places == -1).all()
        assert not tasks.of(ENV).is_held_out(zero.learner.env_params).any()


def test_errors():
    with pytest.raises(ValueError, match="num_levels: expected at least num_envs = 3, got 2"):
        meta.plr.make(ENV, **{**SMALL, "num_levels": 2})
    with pytest.raises(ValueError, match="prioritization: expected 'rank' or 'proportional', got 'age'"):
        meta.plr.make(ENV, prioritization="age")
    with pytest.raises(ValueError, match=r"replay_probability: expected a number in \[0, 1\], got 2"):
        meta.plr.make(ENV, replay_probability=2.0)
    with pytest.raises(ValueError, match="there are no tasks for Catch-bsuite"):
        meta.plr.make(envs.catch())
    with pytest.raises(TypeError, match=r"env: expected a funrl\.env\.Env or VectorEnv, got None"):
        meta.plr.make(None)
    state = meta.start_levels(ENV.default_params, 2)
    with pytest.raises(ValueError, match="insert_levels: levels: expected at most 2"):
        meta.insert_levels(state, tree.map(lambda x: x.expand(3, *x.shape), ENV.default_params), torch.ones(3))
    with pytest.raises(ValueError, match="sample_levels: n: expected from 1 to the 2 places of the buffer, got 3"):
        meta.sample_levels(random.key(0), state, torch.ones(2), 3)
