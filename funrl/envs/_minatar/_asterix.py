"""MinAtar's Asterix: collect treasure and avoid the enemies that cross the screen."""

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._minatar import _screen as screen

NAME = "Asterix-MinAtar"


@tree.dataclass
class AsterixParams:
    """The constants of the game; int64 [] unless another type is named.

    Attributes:
        sticky_action_prob: floating-point []; the probability that the last action is repeated instead of the given one.
        gold_prob: floating-point []; the probability that a new actor is treasure and not an enemy.
        spawn_interval: the initial number of steps between new actors.
        move_interval: the initial number of steps between moves of all actors except the player.
        ramping: bool []; whether both intervals decrease.
        ramp_interval: the number of steps between these decreases, minus two.
        max_steps: the number of steps after which the episode is truncated.
    """

    sticky_action_prob: torch.Tensor = tree.constant(0.1)
    gold_prob: torch.Tensor = tree.constant(1 / 3)
    spawn_interval: torch.Tensor = tree.constant(10)
    move_interval: torch.Tensor = tree.constant(5)
    ramping: torch.Tensor = tree.constant(True)
    ramp_interval: torch.Tensor = tree.constant(100)
    max_steps: torch.Tensor = tree.constant(screen.MAX_STEPS)


@tree.dataclass
class AsterixState:
    """The state of one episode. The actor of lane i is in row i + 1; a lane has at most one.

    Attributes:
        row: int64 [], of the player, 1 to 8.
        column: int64 [], of the player.
        lane_column: int64 [8], the column of the lane's enemy or treasure; -1: the lane is empty.
        lane_right: bool [8]; it moves to the right, else to the left.
        lane_gold: bool [8]; it is treasure, else an enemy.
        spawn_interval: int64 [], its present value.
        spawn_timer: int64 [], steps until the next new actor.
        move_interval: int64 [], its present value.
        move_timer: int64 [], steps until the next move.
        ramp_timer: int64 [], steps until the intervals decrease, plus one.
        ramps: int64 [], the number of decreases so far.
        last_action: int64 [], the last executed action.
        time: int64 [], steps since the reset.
    """

    row: torch.Tensor
    column: torch.Tensor
    lane_column: torch.Tensor
    lane_right: torch.Tensor
    lane_gold: torch.Tensor
    spawn_interval: torch.Tensor
    spawn_timer: torch.Tensor
    move_interval: torch.Tensor
    move_timer: torch.Tensor
    ramp_timer: torch.Tensor
    ramps: torch.Tensor
    last_action: torch.Tensor
    time: torch.Tensor


PARAMS = constants(AsterixParams)
COLOURS = (draw.TEAL, draw.CORAL, draw.PALE, draw.AMBER)


def reset(key: torch.Tensor, p: AsterixParams) -> tuple[AsterixState, Timestep]:
    """Return the state with the player alone in the middle, always the same, and its timestep; ``key`` is int64 []."""
    zero = torch.zeros_like(key)
    none = torch.zeros((8,), dtype=torch.bool, device=key.device)
    state = AsterixState(
        row=zero + 5,
        column=zero + 5,
        lane_column=none.long() - 1,
        lane_right=none,
        lane_gold=none.clone(),
        spawn_interval=zero + p.spawn_interval,
        spawn_timer=zero + p.spawn_interval,
        move_interval=zero + p.move_interval,
        move_timer=zero + p.move_interval,
        ramp_timer=zero + p.ramp_interval,
        ramps=zero,
        last_action=zero.clone(),
        time=zero.clone(),
    )
    return state, first_timestep(_observe(state, p), p.sticky_action_prob)


def step(key: torch.Tensor, state: AsterixState, action: torch.Tensor, p: AsterixParams) -> tuple[AsterixState, Timestep]:
    """Add a new actor if one is due, then move the player, then the others.

    Args:
        key: int64 []; for the random repetition of the action, and for new actors.
        state: the state of the episode.
        action: int64 []; 1 left, 2 up, 3 right, 4 down; 0 and 5 do nothing.
        p: ``env_params``, the constants.

    Returns:
        The next state and its timestep: observation bool [10, 10, 4]; reward 1 for a treasure, else 0; terminated when the player meets
        an enemy; truncated after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    sticks, side, kind, place = _draws(key).unbind(0)
    action = screen.stick(sticks, action, state.last_action, p.sticky_action_prob)

    spawns, from_left = state.spawn_timer == 0, side < 0.5
    free = state.lane_column < 0
    new = spawns & free & (screen.rank(free) == screen.pick(place, free.sum()))
    lane_column = torch.where(new, torch.where(from_left, 0, screen.SIZE - 1), state.lane_column)
    lane_right = torch.where(new, from_left, state.lane_right)
    lane_gold = torch.where(new, kind < p.gold_prob, state.lane_gold)

    row = (state.row + screen.down(action)).clamp(1, 8)
    column = (state.column + screen.right(action)).clamp(0, 9)
    here = tree.one_hot(row - 1, 8)
    met = here & (lane_column == column)
    lane_column = torch.where(met & lane_gold, -1, lane_column)
    moves = state.move_timer == 0
    lane_column = screen.drive(lane_column, lane_right, moves)
    met_again = here & (lane_column == column) & moves
    lane_column = torch.where(met_again & lane_gold, -1, lane_column)
    met = met | met_again

    ramping = p.ramping & ((state.spawn_interval > 1) | (state.move_interval > 1))
    ramps = ramping & (state.ramp_timer < 0)
    new = AsterixState(
        row=row,
        column=column,
        lane_column=lane_column,
        lane_right=lane_right,
        lane_gold=lane_gold,
        spawn_timer=torch.where(spawns, state.spawn_interval, state.spawn_timer) - 1,
        move_timer=torch.where(moves, state.move_interval, state.move_timer) - 1,
        ramp_timer=torch.where(ramps, p.ramp_interval, state.ramp_timer - ramping.long()),
        **screen.pace(state, ramps, least=1),
        last_action=action,
        time=state.time + 1,
    )
    reward = (met & lane_gold).any().to(p.sticky_action_prob.dtype)
    return new, Timestep(_observe(new, p), reward, (met & ~lane_gold).any(), new.time >= p.max_steps, {})


def _draws(key: torch.Tensor) -> torch.Tensor:
    """Return the random numbers of a step [4]: whether the action is repeated; side, kind and lane of a newcomer."""
    return random.uniform(key, (4,))


def _observe(state: AsterixState, p: AsterixParams) -> torch.Tensor:
    there = screen.lanes(state.lane_column)
    behind = screen.lanes(state.lane_column - torch.where(state.lane_right, 1, -1)) & (state.lane_column >= 0)[:, None]
    gold = state.lane_gold[:, None]
    lanes = screen.pad(torch.stack([there & ~gold, behind, there & gold], -1))
    return torch.cat([screen.cell(state.row, state.column)[..., None], lanes], -1)


def asterix() -> Env:
    """Return Asterix-MinAtar: enemies and treasure cross the screen in eight lanes, and the player moves among them.

    The player moves one cell in one of the four directions. New actors enter at a random side of a random empty lane and cross it.
    A treasure earns 1. Over time they appear more often and move faster (``env_params.ramping``). The episode terminates when the
    player meets an enemy, and is truncated after ``env_params.max_steps``, 10,000 by default.

    The observation is bool [10, 10, 4]: player, enemy, trail (the cell behind each enemy and treasure), treasure. The actions are
    MinAtar's six: 0 nothing, 1 left, 2 up, 3 right, 4 down, 5 fire, of which the last does nothing here. With a probability of
    ``env_params.sticky_action_prob`` the last action is taken again instead. It agrees with the minatar package step for step,
    which has no time limit, and where the last action of an episode can be repeated in the next one.

    Pictures show the player green, enemies red, treasure yellow, trails grey.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = asterix()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(2))
        >>> timestep.observation.shape, timestep.reward, state.row
        (torch.Size([10, 10, 4]), tensor(0.), tensor(4))

    Reference: K. Young, T. Tian, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement Learning Experiments",
    2019, arXiv:1903.03176.
    """
    return screen.game(NAME, AsterixState, reset, step, _observe, PARAMS, COLOURS)
