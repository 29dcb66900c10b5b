import pytest
import torch

import funrl
from funrl import buffers, random, tree


def transition(steps=4):
    return {
        "reward": torch.ones(steps),
        "terminated": torch.zeros(steps, dtype=torch.bool),
        "truncated": torch.zeros(steps, dtype=torch.bool),
        "next_observation": torch.zeros(steps, 3),
    }


def test_n_step_of_a_rollout_and_of_slices_from_a_buffer():
    env = funrl.envs.make("CartPole-v1")
    reset, key = random.split(random.key(0))
    state = torch.func.vmap(env.reset, (0, None))(random.split(reset, 2), env.default_params)
    act = lambda params, key, observation: (random.randint(key, (), 0, 2), {})  # noqa: E731
    _, batch = funrl.rollout(None, key, state, env.default_params, env=env, act=act, num_steps=30)
    whole = buffers.n_step(batch, n=3, gamma=0.9)
    assert isinstance(whole.transition, funrl.env.Transition)
    buffer = buffers.sequence(30, 3, slices="masked")
    state = buffer.extend(buffer.init(tree.index(batch, 0)), batch)
    sample = buffer.sample(random.key(1), state, 20)
    parts = tree.index(buffers.n_step(sample.batch, n=3, gamma=0.9), 0)
    time, env_index = sample.indices // 2, sample.indices % 2
    assert tree.allclose(parts, tree.index(whole, (time, env_index)))


def test_compiled_and_batched():
    f = lambda t: buffers.n_step(t, n=3, gamma=0.9)  # noqa: E731
    t = {**transition(6), "reward": torch.arange(6.0), "terminated": torch.tensor([0, 0, 1, 0, 0, 0], dtype=torch.bool)}
    assert tree.allclose(funrl.compile(f, backend="aot_eager")(t), f(t))
    several = tree.stack([t, tree.map(lambda x: x.flip(0), t)])
    assert tree.allclose(torch.func.vmap(f)(several), tree.stack([f(x) for x in tree.unbind(several)]))
    double = tree.to(t, torch.float64)
    assert {x.dtype for x in tree.leaves(f(double)) if x.is_floating_point()} == {torch.float64}


def test_split_trajectories_compiled():
    f = lambda x, done: buffers.split_trajectories({"x": x}, done, num_trajectories=4)  # noqa: E731
    x, done = torch.arange(10).reshape(5, 2), torch.tensor([[0, 1], [1, 0], [0, 0], [0, 1], [0, 1]], dtype=torch.bool)
    result = funrl.compile(f, backend="aot_eager")(x, done)
    assert tree.equal(result, f(x, done)) and result.batch["x"].shape == (5, 4)
    assert result.mask.sum(0).tolist() == [2, 3, 1, 3]


def test_split_trajectories_of_the_introductions_collector():
    # Two collectors of three environments, 10 steps of each: six trajectories side by side.
    batch = {"observation": torch.zeros(10, 6, 3), "done": torch.zeros(10, 6, dtype=torch.bool)}
    split = buffers.split_trajectories(batch)
    assert split.mask.shape == (10, 6) and split.mask.all() and split.batch["observation"].shape == (10, 6, 3)
    assert split.traj_ids[0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda t: buffers.n_step(t, n=0, gamma=0.9), ValueError, "n: expected an integer of at least 1, got 0"),
        (lambda t: buffers.n_step(t, n=2, gamma=1.1), ValueError, r"gamma: expected a number in \[0, 1\], got 1.1"),
        (lambda t: buffers.n_step(t, n=2, gamma=torch.ones(2)), TypeError, r"gamma: expected a number or a floating-point tensor \[\]"),
        (
            lambda t: buffers.n_step({**t, "reward": torch.ones(4, 1)}, n=2, gamma=0.9),
            ValueError,
            r"terminated: expected the shape \[4, 1\]",
        ),
        (lambda t: buffers.n_step({**t, "reward": torch.ones(4).long()}, n=2, gamma=0.9), TypeError, "reward: expected a floating-point"),
        (lambda t: buffers.n_step({**t, "truncated": torch.ones(4)}, n=2, gamma=0.9), TypeError, "truncated: expected a bool tensor"),
        (lambda t: buffers.n_step({"reward": t["reward"]}, n=2, gamma=0.9), ValueError, "there is no 'terminated'"),
        (
            lambda t: buffers.n_step({**t, "next_observation": torch.ones(3, 3)}, n=2, gamma=0.9),
            ValueError,
            "next_observation: expected the",
        ),
        (lambda t: buffers.n_step({**t, "reward": torch.ones(())}, n=2, gamma=0.9), ValueError, "reward: expected the shape"),
        (lambda t: buffers.split_trajectories({"x": torch.ones(4, 2)}), TypeError, "the end of an episode is unknown for a dict"),
        (lambda t: buffers.split_trajectories({"x": torch.ones(4, 2)}, torch.ones(4, 2)), TypeError, "done: expected a bool tensor"),
        (
            lambda t: buffers.split_trajectories({"x": torch.ones(4, 2)}, torch.ones(4, 1) > 0),
            ValueError,
            r"done: expected a bool tensor \[4, 2\]",
        ),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call(transition())
