"""MinAtar's Freeway: move a chicken across eight lanes of cars as often as possible."""

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._minatar import _screen as screen

NAME = "Freeway-MinAtar"
CHICKEN = 4  # the column in which it walks


@tree.dataclass
class FreewayParams:
    """The constants of the game; int64 [] except the first.

    Attributes:
        sticky_action_prob: floating-point []; the probability that the last action is repeated instead of the given one.
        player_speed: the number of steps between moves of the chicken.
        time_limit: the episode terminates with the step after this number of steps.
        max_steps: the number of steps after which the episode is truncated.
    """

    sticky_action_prob: torch.Tensor = tree.constant(0.1)
    player_speed: torch.Tensor = tree.constant(3)
    time_limit: torch.Tensor = tree.constant(2500)
    max_steps: torch.Tensor = tree.constant(screen.MAX_STEPS)


@tree.dataclass
class FreewayState:
    """The state of one episode. The car of lane i is in row i + 1.

    Attributes:
        row: int64 [], of the chicken.
        move_timer: int64 [], steps until it can move.
        column: int64 [8], of the cars.
        speed: int64 [8]; a car moves one cell every abs(speed) + 1 steps, to the right if it is positive.
        timer: int64 [8], steps until it moves.
        last_action: int64 [], the last executed action.
        time: int64 [], steps since the reset.
    """

    row: torch.Tensor
    move_timer: torch.Tensor
    column: torch.Tensor
    speed: torch.Tensor
    timer: torch.Tensor
    last_action: torch.Tensor
    time: torch.Tensor


PARAMS = constants(FreewayParams)
COLOURS = (draw.AMBER, draw.INK, draw.CORAL, draw.TEAL, draw.LEAF, draw.STEEL, draw.PALE)


def reset(key: torch.Tensor, p: FreewayParams) -> tuple[FreewayState, Timestep]:
    """Return a state with the chicken at the bottom and cars of random speeds, and its timestep; ``key`` is int64 []."""
    speed = _speeds(random.uniform(key, (8,)))
    zero = torch.zeros((), dtype=torch.int64, device=key.device)
    state = FreewayState(
        row=zero + 9,
        move_timer=zero + p.player_speed,
        column=torch.zeros_like(speed),
        speed=speed,
        timer=speed.abs(),
        last_action=zero,
        time=zero.clone(),
    )
    return state, first_timestep(_observe(state, p), p.sticky_action_prob)


def step(key: torch.Tensor, state: FreewayState, action: torch.Tensor, p: FreewayParams) -> tuple[FreewayState, Timestep]:
    """Move the chicken, then the cars.

    Args:
        key: int64 []; for the random repetition of the action, and the new speeds after a crossing.
        state: the state of the episode.
        action: int64 []; 2 up, 4 down; 0, 1, 3 and 5 do nothing.
        p: ``env_params``, the constants.

    Returns:
        The next state and its timestep: observation bool [10, 10, 7]; reward 1 for a crossing, else 0; terminated once ``time_limit``
        steps are exceeded; truncated after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    u = _draws(key)
    action = screen.stick(u[0], action, state.last_action, p.sticky_action_prob)
    way = screen.down(action)
    goes = (way != 0) & (state.move_timer == 0)
    row = (state.row + way * goes).clamp(0, 9)
    move_timer = (torch.where(goes, p.player_speed, state.move_timer) - 1).clamp(min=0)
    won = row == 0
    row = torch.where(won, 9, row)

    speed = torch.where(won, _speeds(u[1:]), state.speed)
    timer = torch.where(won, speed.abs(), state.timer)
    drives = timer == 0
    column = (state.column + speed.sign() * drives) % screen.SIZE
    here = tree.one_hot(row - 1, 8)
    hit = (here & ((state.column == CHICKEN) | (column == CHICKEN))).any()
    new = FreewayState(
        row=torch.where(hit, 9, row),
        move_timer=move_timer,
        column=column,
        speed=speed,
        timer=torch.where(drives, speed.abs(), timer - 1),
        last_action=action,
        time=state.time + 1,
    )
    return new, Timestep(_observe(new, p), won.to(p.sticky_action_prob.dtype), new.time > p.time_limit, new.time >= p.max_steps, {})


def _draws(key: torch.Tensor) -> torch.Tensor:
    """Return the random numbers of a step [9]: whether the action is repeated, and the cars' speeds."""
    return random.uniform(key, (9,))


def _speeds(u: torch.Tensor) -> torch.Tensor:
    """Return speeds, int64 [8], from -5 to -1 and from 1 to 5: the first bit of a number is the direction, the rest the speed."""
    speed = screen.pick((2 * u).frac(), 5) + 1
    return torch.where(u < 0.5, -speed, speed)


def _observe(state: FreewayState, p: FreewayParams) -> torch.Tensor:
    trail = screen.lanes((state.column - state.speed.sign()) % screen.SIZE)
    kinds = tree.one_hot(state.speed.abs() - 1, 5)
    road = torch.cat([screen.lanes(state.column)[..., None], trail[..., None] & kinds[:, None, :]], -1)
    chicken = screen.cell(state.row, torch.full_like(state.row, CHICKEN))
    return torch.cat([chicken[..., None], screen.pad(road)], -1)


def freeway() -> Env:
    """Return Freeway-MinAtar: a chicken crosses eight lanes of cars, and starts again from the bottom.

    The chicken goes up or down at most every third step. A car that meets it sends it back to the bottom. At the top it earns 1, is
    back at the bottom, and all cars draw new speeds. The episode terminates with step 2,501 (``env_params.time_limit`` + 1), as in the
    minatar package, and is truncated after ``env_params.max_steps``, 10,000 by default.

    The observation is bool [10, 10, 7]: chicken, car, and five channels of trails (where a car came from), one for each speed from fast
    to slow. The actions are MinAtar's six: 0 nothing, 1 left, 2 up, 3 right, 4 down, 5 fire, of which 2 and 4 matter here. With a
    probability of ``env_params.sticky_action_prob`` the last action is taken again instead. It agrees with the minatar package step for
    step, where the last action of an episode can be repeated in the next one.

    Pictures show the chicken yellow, cars dark, and trails from red (fast) to grey (slow).

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = freeway()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(2))
        >>> timestep.observation.shape, timestep.reward, state.row
        (torch.Size([10, 10, 7]), tensor(0.), tensor(9))

    Reference: K. Young, T. Tian, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement Learning Experiments",
    2019, arXiv:1903.03176.
    """
    return screen.game(NAME, FreewayState, reset, step, _observe, PARAMS, COLOURS)
