import pickle

import cloudpickle
import pytest
import torch

from funrl import envs, random, tree
from funrl.env import Env, Timestep, VectorEnv, check_env, constants, masked, with_label
from funrl.envs import vectorize
from funrl.spaces import Box, Discrete
from tests.support import counted

KEY = random.key(0)


@tree.dataclass
class BallParams:
    gravity: torch.Tensor
    max_steps: torch.Tensor


@tree.dataclass
class BallState:
    height: torch.Tensor
    speed: torch.Tensor
    time: torch.Tensor


def reset(key, env_params):
    height = random.uniform(key, dtype=env_params.gravity.dtype)
    speed = torch.zeros_like(height)
    no = torch.zeros_like(height, dtype=torch.bool)
    state = BallState(height, speed, torch.zeros_like(height, dtype=torch.int64))
    return state, Timestep(torch.stack([height, speed]), torch.zeros_like(height), no, no.clone(), {"energy": height * env_params.gravity})


def step(key, state, action, env_params):
    speed = state.speed - env_params.gravity * 0.1 + action
    height = (state.height + 0.1 * speed).clamp(0.0, 10.0)
    state = BallState(height, speed, state.time + 1)
    info = {"energy": height * env_params.gravity}
    return state, Timestep(torch.stack([height, speed]), -height, height <= 0, state.time >= env_params.max_steps, info)


def render(state, env_params):
    return torch.zeros(4, 4, 3, dtype=torch.uint8) + state.height.to(torch.uint8)


BALL = Env(
    name="Ball",
    reset=reset,
    step=step,
    observation_space=Box([0.0, float("-inf")], [10.0, float("inf")]),
    action_space=Discrete(2),
    default_params=constants(BallParams, gravity=1.0, max_steps=3),
    max_episode_steps=3,
    render=render,
)


def changed(**fields):
    """A ball whose step returns a timestep with some fields changed."""

    def bad(key, state, action, env_params):
        state, timestep = step(key, state, action, env_params)
        return state, timestep.replace(**{name: f(timestep) for name, f in fields.items()})

    return BALL._replace(step=bad)


def test_a_good_environment_passes():
    ball, steps = counted(BALL)
    for seed in range(5):
        check_env(ball, random.key(seed))
    taken = len(steps)
    check_env(ball._replace(render=None), KEY, num_steps=1)
    assert 5 < taken < len(steps)


def test_done_is_either_end():
    _, timestep = BALL.reset(KEY, BALL.default_params)
    yes = torch.tensor(True)
    assert not timestep.done and timestep.replace(terminated=yes).done and timestep.replace(truncated=yes).done


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"observation": lambda t: t.observation - 5}, "is not in Box"),
        ({"observation": lambda t: t.observation * float("nan")}, "is not in Box"),
        ({"observation": lambda t: t.observation[:1]}, r"observation: expected shape \[2\], got float32 \[1\]"),
        ({"observation": lambda t: t.observation.long()}, "observation: expected floating-point"),
        ({"observation": lambda t: t.observation.double()}, r"timestep: leaf .*observation.* is float64 \[2\]"),
        ({"reward": lambda t: t.reward[None]}, r"reward: expected a floating-point \[\], got float32 \[1\]"),
        ({"reward": lambda t: t.reward.long()}, r"reward: expected a floating-point \[\], got int64"),
        ({"reward": lambda t: t.reward / 0}, "reward: expected a finite number"),
        ({"reward": lambda t: 1.0}, r"leaf .*reward.*: expected a tensor, got a float"),
        ({"terminated": lambda t: t.terminated.float()}, r"terminated: expected bool \[\], got float32"),
        ({"truncated": lambda t: t.truncated[None]}, r"truncated: expected bool \[\], got bool \[1\]"),
        ({"info": lambda t: {}}, "step 1: timestep.*that of reset"),
    ],
)
def test_a_bad_timestep_is_named(fields, message):
    with pytest.raises((TypeError, ValueError), match=f"check_env: Ball.*{message}"):
        check_env(changed(**fields), KEY)


def test_a_reset_that_is_over_is_named():
    def bad(key, env_params):
        state, timestep = reset(key, env_params)
        return state, timestep.replace(truncated=torch.tensor(True))

    with pytest.raises(ValueError, match="reset: expected reward 0 and neither terminated nor truncated"):
        check_env(BALL._replace(reset=bad), KEY)


def test_a_state_that_changes_dtype_is_named():
    def bad(key, state, action, env_params):
        state, timestep = step(key, state, action, env_params)
        return state.replace(time=state.time.to(torch.int32)), timestep

    with pytest.raises(ValueError, match=r"step 1: state: leaf .*time is int32 \[\], but in that of reset it is int64"):
        check_env(BALL._replace(step=bad), KEY)


def test_an_argument_that_is_modified_is_named():
    def bad(key, state, action, env_params):
        new, timestep = step(key, state, action, env_params)
        state.speed.add_(1.0)
        return new, timestep

    with pytest.raises(ValueError, match="step 1: it modified its argument state"):
        check_env(BALL._replace(step=bad), KEY)

    def bad_reset(key, env_params):
        env_params.gravity.mul_(1.5)
        return reset(key, env_params)

    params = tree.map(torch.clone, BALL.default_params)
    with pytest.raises(ValueError, match="reset: it modified its argument env_params"):
        check_env(BALL._replace(reset=bad_reset, default_params=params), KEY)


def test_hidden_randomness_is_named():
    def bad(key, state, action, env_params):
        state, timestep = step(key, state, action, env_params)
        return state.replace(speed=state.speed + torch.rand(())), timestep

    with pytest.raises(ValueError, match=r"the same keys and actions gave another result .*speed"):
        check_env(BALL._replace(step=bad), KEY)


def test_a_step_that_cannot_be_vmapped_is_named():
    def bad(key, state, action, env_params):
        if state.height.item() > 100:
            action = 1 - action
        return step(key, state, action, env_params)

    with pytest.raises(ValueError, match="cannot be vmapped"):
        check_env(BALL._replace(step=bad), KEY)


def test_a_step_that_differs_under_vmap_is_named():
    def bad(key, state, action, env_params):
        inside = torch._C._functorch.is_batchedtensor(state.height)
        return step(key, state, action + (1 if inside else 0), env_params)

    with pytest.raises(ValueError, match="under vmap it gives another result than in a loop"):
        check_env(BALL._replace(step=bad), KEY)


def test_params_that_vmap_would_mix_up_are_named():
    def bad(key, state, action, env_params):
        inside = torch._C._functorch.is_batchedtensor(state.height)
        return step(key, state, action, BALL.default_params if inside else env_params)

    with pytest.raises(ValueError, match="step: under vmap it gives another result than in a loop"):
        check_env(BALL._replace(step=bad), KEY)


def test_numbers_that_ignore_the_dtype_of_the_params_are_named():
    def bad(key, env_params):
        return reset(key, tree.to(env_params, torch.float32))

    with pytest.raises(ValueError, match=r"reset: with env_params in float64, leaf .*height of the state is float32"):
        check_env(BALL._replace(reset=bad), KEY)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"action_space": 3}, TypeError, "action_space has no method sample"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps: expected an integer of at least 1"),
        ({"default_params": {"gravity": 9.8}}, TypeError, r"default_params: leaf \['gravity'\]: expected a tensor, got a float"),
        ({"reset": lambda key, env_params: reset(key, env_params)[0]}, TypeError, r"expected \(state, Timestep\), got BallState"),
        ({"render": lambda state, env_params: torch.zeros(4, 4)}, ValueError, r"render: expected uint8 \[H, W, 3\], got float32 \[4, 4\]"),
    ],
)
def test_a_bad_part_is_named(fields, error, message):
    with pytest.raises(error, match=message):
        check_env(BALL._replace(**fields), KEY)


def test_bad_arguments():
    with pytest.raises(TypeError, match="env: expected an Env or a VectorEnv, got a str"):
        check_env("CartPole-v1", KEY)
    with pytest.raises(ValueError, match="num_steps: expected an integer of at least 1"):
        check_env(BALL, KEY, num_steps=0)


def test_a_host_environment_is_neither_vmapped_nor_stepped_twice():
    env = vectorize(envs.make("CartPole-v1"), 1)
    seen = []

    def host_step(key, state, action, env_params, where=None):
        assert not torch._C._functorch.is_batchedtensor(action)
        assert state.time.item() == (seen[-1] if seen else 0)
        state, timestep = env.step(key, state, action, env_params, where)
        seen.append(state.time.item())
        return state, timestep

    def host_reset(key, env_params, state=None, where=None):
        seen.clear()
        return env.reset(key, env_params, state, where)

    check_env(env._replace(reset=host_reset, step=host_step, host=True), KEY)


BALLS = vectorize(BALL, 3)


def wrapped(**functions):
    """Three balls, some of whose functions, with a mask or without, return what another function makes of their result."""

    def changed(name):
        def f(*arguments):
            result = getattr(BALLS, name)(*arguments)
            masked = len(arguments) > {"reset": 2, "step": 4, "render": 2}[name]
            edit = functions.get(f"masked {name}" if masked else name)
            return result if edit is None else edit(arguments, result)

        return f

    return BALLS._replace(**{name: changed(name) for name in ("reset", "step", "render")})


def edit(part, **fields):
    """Return a function that changes fields of the state (part 0) or the timestep (part 1) of a result."""

    def f(arguments, result):
        result = list(result)
        result[part] = result[part].replace(**{name: g(result[part]) for name, g in fields.items()})
        return tuple(result)

    return f


def test_a_good_batched_environment_passes():
    balls, steps = counted(BALLS)
    for seed in range(3):
        check_env(balls, random.key(seed))
    ball, its_steps = counted(vectorize(BALL, 1)._replace(host=True))
    check_env(ball, KEY)
    assert len(steps) >= 3 and its_steps


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ({"reset": edit(1, reward=lambda t: t.reward.sum())}, r"reset: reward: expected a floating-point \[3\], got float32 \[\]"),
        ({"reset": edit(1, terminated=lambda t: t.terminated[0])}, r"reset: terminated: expected bool \[3\], got bool \[\]"),
        ({"reset": edit(1, observation=lambda t: t.observation[0])}, r"reset: observation: leaf .*one row for each copy, \[3, ...\]"),
        ({"reset": edit(0, time=lambda s: s.time[0])}, r"reset: state: leaf .*time: expected one row for each copy"),
        ({"step": edit(1, observation=lambda t: t.observation - torch.tensor([[0.0], [0.0], [20.0]]))}, "step 1: .*is not in Box"),
        ({"step": edit(1, reward=lambda t: t.reward / torch.tensor([1.0, 1.0, 0.0]))}, "step 1: reward: expected a finite number"),
        ({"render": lambda arguments, image: image[0]}, r"render: expected uint8 \[3, H, W, 3\]"),
        ({"masked reset": edit(0, speed=lambda s: s.speed + 1)}, "reset with a mask: in the rows of the mask it gives another result than"),
        ({"masked step": edit(1, reward=lambda t: t.reward - 1)}, "step with a mask: in the rows of the mask it gives another result than"),
        ({"masked step": lambda a, r: BALLS.step(*a[:4])}, "step with a mask: it changed the state of a row that is not in the mask"),
        ({"masked reset": lambda a, r: BALLS.reset(*a[:2])}, "reset with a mask: it changed the state of a row that is not in the mask"),
        ({"masked step": lambda a, r: (a[1].speed.add_(1.0), r)[1]}, "step with a mask: it modified its argument state"),
    ],
)
def test_a_bad_batched_environment_is_named(functions, message):
    with pytest.raises((TypeError, ValueError), match=f"check_env: Ball: {message}"):
        check_env(wrapped(**functions), KEY, num_steps=2)


def test_a_batch_has_copies():
    with pytest.raises(ValueError, match="num_envs: expected an integer of at least 1, got 0"):
        check_env(BALLS._replace(num_envs=0), KEY)


def test_the_two_kinds_and_their_fields():
    eight = ("name", "reset", "step", "observation_space", "action_space", "default_params", "max_episode_steps", "render")
    assert Env._fields == eight and VectorEnv._fields == (*eight, "num_envs", "close", "host")
    assert BALLS.close() is None and not BALLS.host and BALLS.below is BALL and BALL.below is None
    assert not isinstance(BALLS, Env) and not isinstance(BALL, VectorEnv)


@pytest.mark.parametrize("env", [BALL, BALLS], ids=["one", "several"])
def test_replace_and_pickle_keep_how_an_environment_was_made(env):
    env = with_label(env._replace(step=max), "quick()", below=env)
    for copy in (env._replace(max_episode_steps=7), pickle.loads(cloudpickle.dumps(env))):
        assert type(copy) is type(env) and copy.label == "quick()" and repr(copy) == repr(env)
    assert repr(env).endswith("    quick(),\n)") and env._replace(max_episode_steps=7).max_episode_steps == 7


def test_a_mask_of_a_single_environment():
    reset, step = masked(BALL)
    state, _ = reset(KEY, BALL.default_params)
    for where in (False, True):
        where = torch.tensor(where)
        new, after = step(random.key(1), state, torch.tensor(1.0), BALL.default_params, where)
        assert torch.equal(new.time, state.time + where) and after.reward.shape == ()
        again, _ = reset(random.key(2), BALL.default_params, new, where)
        assert torch.equal(again.speed, (BALL.reset(random.key(2), BALL.default_params)[0] if where else new).speed)
