"""CartPole: balance a pole on a cart by pushing the cart left or right."""

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._checks import checked
from funrl.spaces import Box, Discrete

MAX_STEPS = 500


@tree.dataclass
class CartPoleParams:
    """Physical constants, each a floating-point [] of one dtype.

    Attributes:
        gravity: m/s².
        cart_mass: kg.
        pole_mass: kg.
        pole_half_length: m, from the pivot to the centre of the pole.
        force: N, of a push.
        dt: s, of one step.
        position_limit: m; the episode terminates beyond it on either side.
        angle_limit: rad from upright; the episode terminates beyond it on either side.
        reset_scale: ``reset`` draws each number of the state from [-reset_scale, reset_scale).
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    gravity: torch.Tensor = tree.constant(9.8)
    cart_mass: torch.Tensor = tree.constant(1.0)
    pole_mass: torch.Tensor = tree.constant(0.1)
    pole_half_length: torch.Tensor = tree.constant(0.5)
    force: torch.Tensor = tree.constant(10.0)
    dt: torch.Tensor = tree.constant(0.02)
    position_limit: torch.Tensor = tree.constant(2.4)
    angle_limit: torch.Tensor = tree.constant(0.20943951023931953)
    reset_scale: torch.Tensor = tree.constant(0.05)
    max_steps: torch.Tensor = tree.constant(MAX_STEPS)


@tree.dataclass
class CartPoleState:
    """The state of one episode; floating-point numbers have the dtype of the params.

    Attributes:
        position: [] m, of the cart.
        velocity: [] m/s.
        angle: [] rad, of the pole from upright, clockwise.
        angular_velocity: [] rad/s.
        time: int64 [], steps since the reset.
    """

    position: torch.Tensor
    velocity: torch.Tensor
    angle: torch.Tensor
    angular_velocity: torch.Tensor
    time: torch.Tensor


PARAMS = constants(CartPoleParams)
OBSERVATIONS = Box(
    [-2 * 2.4, float("-inf"), -2 * 0.20943951023931953, float("-inf")], [2 * 2.4, float("inf"), 2 * 0.20943951023931953, float("inf")]
)
ACTIONS = Discrete(2)


def reset(key: torch.Tensor, p: CartPoleParams) -> tuple[CartPoleState, Timestep]:
    """Return a state near the upright rest, and its timestep; ``key`` is int64 []."""
    noise = random.uniform(key, (4,), dtype=p.reset_scale.dtype)
    position, velocity, angle, angular_velocity = (p.reset_scale * (2 * noise - 1)).unbind(0)
    state = CartPoleState(position, velocity, angle, angular_velocity, torch.zeros_like(position, dtype=torch.int64))
    return state, first_timestep(_observe(state), position)


def step(key: torch.Tensor, state: CartPoleState, action: torch.Tensor, p: CartPoleParams) -> tuple[CartPoleState, Timestep]:
    """Push for one step of Euler's method.

    With the pole's angle θ, the masses M of the cart and m of the pole, and the half length l::

        a   = (F + m l θ'² sin θ) / (M + m)
        θ'' = (g sin θ - a cos θ) / (l (4/3 - m cos² θ / (M + m)))
        x'' = a - m l θ'' cos θ / (M + m)

    Args:
        key: int64 []; not used, the dynamics are deterministic.
        state: the state of the episode.
        action: int64 []; 0 pushes left, 1 pushes right.
        p: ``env_params``, the constants.

    Returns:
        The next state and its timestep: observation [4] (position, velocity, angle, angular velocity); reward 1;
        terminated when the cart or the pole is beyond its limit; truncated after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    mass = p.cart_mass + p.pole_mass
    moment = p.pole_mass * p.pole_half_length
    sin, cos = torch.sin(state.angle), torch.cos(state.angle)
    force = torch.where(action == 1, p.force, -p.force)
    push = (force + moment * state.angular_velocity * state.angular_velocity * sin) / mass
    angular_acceleration = (p.gravity * sin - cos * push) / (p.pole_half_length * (4.0 / 3.0 - p.pole_mass * cos * cos / mass))
    acceleration = push - moment * angular_acceleration * cos / mass
    new = CartPoleState(
        position=state.position + p.dt * state.velocity,
        velocity=state.velocity + p.dt * acceleration,
        angle=state.angle + p.dt * state.angular_velocity,
        angular_velocity=state.angular_velocity + p.dt * angular_acceleration,
        time=state.time + 1,
    )
    terminated = (new.position.abs() > p.position_limit) | (new.angle.abs() > p.angle_limit)
    return new, Timestep(_observe(new), torch.ones_like(new.position), terminated, new.time >= p.max_steps, {})


def render(state: CartPoleState, p: CartPoleParams) -> torch.Tensor:
    """Return a picture of the track, uint8 [400, 600, 3]; the lines at its ends are the limits of the position."""
    x, angle = state.position.float(), state.angle.float()
    length, limit = 2 * p.pole_half_length.float(), p.position_limit.float()
    picture = draw.canvas((400, 600), (0.0, 0.72), 5.4, device=x.device)
    picture = draw.paint(picture, picture.y + 0.12 + 0 * picture.x, draw.PALE)
    picture = draw.paint(picture, draw.capsule(picture, (-3.5, -0.12), (3.5, -0.12), 0.018), draw.STEEL)
    for end in (-limit, limit):
        picture = draw.paint(picture, draw.capsule(picture, (end, -0.30), (end, 0.06), 0.022), draw.CORAL)
    picture = draw.paint(picture, draw.box(picture, (x, -0.20), (0.34, 0.03), corner=0.03), draw.INK, 0.12)
    for side in (-0.19, 0.19):
        picture = draw.pie(picture, x + side, -0.035, 0.075)
    picture = draw.paint(picture, draw.box(picture, (x, 0.12), (0.34, 0.14), corner=0.05), draw.TEAL)
    tip = (x + length * torch.sin(angle), 0.2 + length * torch.cos(angle))
    picture = draw.paint(picture, draw.capsule(picture, (x, 0.2), tip, 0.052), draw.AMBER)
    return draw.to_uint8(draw.pie(picture, x, 0.2, 0.05))


def _observe(state: CartPoleState) -> torch.Tensor:
    return torch.stack([state.position, state.velocity, state.angle, state.angular_velocity])


def cartpole() -> Env:
    """Return CartPole-v1: a pole hinged on a cart, which is to be kept upright.

    It agrees with gymnasium's CartPole-v1 step for step, except that a step after termination is still rewarded
    with 1: what follows termination is undefined, and :func:`funrl.rollout` never asks for it.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = cartpole()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(1))
        >>> timestep.observation.shape, timestep.reward, timestep.done
        (torch.Size([4]), tensor(1.), tensor(False))

    Reference: A. Barto, R. Sutton, C. Anderson, "Neuronlike adaptive elements that can solve difficult learning control
    problems", 1983; the equations as corrected by R. Florian, "Correct equations for the dynamics of the cart-pole
    system", 2007; the constants of M. Towers et al., "Gymnasium", 2024, arXiv:2407.17032.
    """
    return checked(Env("CartPole-v1", reset, step, OBSERVATIONS, ACTIONS, PARAMS, MAX_STEPS, render), CartPoleState)
