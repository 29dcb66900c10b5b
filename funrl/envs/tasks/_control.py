"""Tasks of control: goals, masses, lengths and forces."""

from funrl.env import Env
from funrl.envs.tasks._tasks import Tasks, uniform


def point_robot(env: Env) -> Tasks:
    """Return goals in the square of ± 0.5."""
    return uniform(env, goal=(-0.5, 0.5))


def pendulum(env: Env) -> Tasks:
    """Return rods of other masses and lengths, under other gravities."""
    return uniform(env, gravity=(8.0, 12.0), mass=(0.75, 1.25), length=(0.75, 1.25))


def cartpole(env: Env) -> Tasks:
    """Return poles of other masses and lengths, and carts that are pushed by other forces: from half to twice the usual ones."""
    return uniform(env, pole_mass=(0.05, 0.2), pole_half_length=(0.25, 1.0), force=(5.0, 20.0))


def acrobot(env: Env) -> Tasks:
    """Return links of other masses, a lower link with another centre of mass, and other torques."""
    return uniform(env, mass_1=(0.75, 1.25), mass_2=(0.75, 1.25), centre_2=(0.4, 0.6), torque=(0.75, 1.5))


def reacher(env: Env) -> Tasks:
    """Return arms with links of other lengths and masses; the hole in the middle of their reach stays within the nearest goal."""
    return uniform(env, length=(0.35, 0.65), mass=(0.5, 2.0))


CONTROL = {
    "PointRobot-misc": point_robot,
    "SparsePointRobot-misc": point_robot,
    "Pendulum-v1": pendulum,
    "CartPole-v1": cartpole,
    "Acrobot-v1": acrobot,
    "Reacher-misc": reacher,
}
