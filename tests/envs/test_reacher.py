import mujoco
import numpy as np
import pytest
import torch

from funrl import random
from funrl.envs import reacher
from funrl.envs._reacher import ReacherState

N = 200
LINK = (
    '<inertial pos="{half} 0 0" mass="{mass}" diaginertia="1e-6 {inertia} {inertia}"/>'
    '<joint name="{name}" type="hinge" axis="0 0 1" damping="{damping}"/>'
)


def model(length, mass, damping):
    """MuJoCo's model of two rods."""
    first, second = (
        LINK.format(half=l / 2, mass=m, inertia=m * l * l / 12, name=name, damping=damping)
        for l, m, name in zip(length, mass, "ab", strict=True)
    )
    text = (
        f'<mujoco><option gravity="0 0 0"/><worldbody><body>{first}<body pos="{length[0]} 0 0">{second}</body></body></worldbody>'
        '<actuator><motor joint="a"/><motor joint="b"/></actuator></mujoco>'
    )
    return mujoco.MjModel.from_xml_string(text)


@pytest.mark.parametrize(("length", "mass"), [((0.5, 0.5), (1.0, 1.0)), ((0.4, 0.6), (1.5, 0.7))])
def test_accelerations_are_those_of_mujoco(oracle, length, mass):
    env, numbers = reacher(), np.random.default_rng(0)
    angle, velocity, action = numbers.uniform(-4, 4, (N, 2)), numbers.normal(0, 3, (N, 2)), numbers.uniform(-1.5, 1.5, (N, 2))
    theirs = model(length, mass, 0.2)
    data, expected = mujoco.MjData(theirs), []
    for q, v, u in zip(angle, velocity, action, strict=True):
        data.qpos, data.qvel, data.ctrl = q, v, u.clip(-1, 1)
        mujoco.mj_forward(theirs, data)
        expected.append(data.qacc.copy())
    double = dict(dtype=torch.float64)
    params = env.default_params.replace(
        **{name: x.double() for name, x in vars(env.default_params).items() if x.is_floating_point()}
        | dict(length=torch.tensor(length, **double), mass=torch.tensor(mass, **double))
    )
    params = params.replace(damping=torch.tensor(0.2, **double), dt=torch.tensor(0.05, **double))
    times = torch.arange(N) % 60
    state = ReacherState(torch.as_tensor(angle), torch.as_tensor(velocity), torch.zeros(N, 2, **double), times)
    new, timestep = oracle.step(env, state, torch.as_tensor(action), params)
    np.testing.assert_allclose((new.angular_velocity.numpy() - velocity) / 0.05, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(new.angle, angle + 0.05 * new.angular_velocity.numpy(), rtol=1e-12)
    total = new.angle.numpy().cumsum(1)
    tip = np.stack([(np.array(length) * f(total)).sum(1) for f in (np.cos, np.sin)], 1)
    np.testing.assert_allclose(timestep.observation[:, 8:], -tip, rtol=1e-10, atol=1e-12)
    smoothing, cost = params.smoothing.item(), params.control_cost.item()
    reward = -(np.sqrt((tip**2).sum(1) + smoothing**2) - smoothing) - cost * (action.clip(-1, 1) ** 2).sum(1)
    np.testing.assert_allclose(timestep.reward, reward, rtol=1e-10)
    np.testing.assert_array_equal(timestep.truncated, times.numpy() + 1 >= 50)
    assert not timestep.terminated.any()


def test_goals_are_within_reach():
    env = reacher()
    state, timestep = torch.func.vmap(env.reset, (0, None))(random.split(random.key(0), 2000), env.default_params)
    distance = state.goal.norm(dim=1)
    assert 0.3 <= distance.min() < 0.31 and 0.89 < distance.max() <= 0.9
    assert (state.angle.abs().amax(0) > 3.1).all() and not state.angular_velocity.any()
    assert torch.equal(timestep.observation[:, 6:8], state.goal)
