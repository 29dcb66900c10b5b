"""MinAtar's Space Invaders: shoot the aliens that come down, and dodge their bullets."""

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._minatar import _screen as screen

NAME = "SpaceInvaders-MinAtar"


@tree.dataclass
class SpaceInvadersParams:
    """The constants of the game; int64 [] unless another type is named.

    Attributes:
        sticky_action_prob: floating-point []; the probability that the last action is repeated instead of the given one.
        shot_interval: the number of steps between shots of the cannon.
        alien_shot_interval: the number of steps between shots of the aliens.
        alien_move_interval: the number of steps between moves of the aliens in the first wave; or the number of aliens, if that is less.
        least_move_interval: the minimum of this interval, which decreases by one with each wave.
        ramping: bool []; whether it decreases.
        max_steps: the number of steps after which the episode is truncated.
    """

    sticky_action_prob: torch.Tensor = tree.constant(0.1)
    shot_interval: torch.Tensor = tree.constant(5)
    alien_shot_interval: torch.Tensor = tree.constant(10)
    alien_move_interval: torch.Tensor = tree.constant(12)
    least_move_interval: torch.Tensor = tree.constant(6)
    ramping: torch.Tensor = tree.constant(True)
    max_steps: torch.Tensor = tree.constant(screen.MAX_STEPS)


@tree.dataclass
class SpaceInvadersState:
    """The state of one episode.

    Attributes:
        cannon: int64 [], its column; it is in the last row.
        bullets: bool [10, 10], those that go up.
        alien_bullets: bool [10, 10], those that go down.
        aliens: bool [10, 10].
        aliens_right: bool []; the aliens go to the right, else to the left.
        alien_move_interval: int64 [], its present value.
        alien_move_timer: int64 [], steps until the aliens go.
        alien_shot_timer: int64 [], steps until one fires.
        shot_timer: int64 [], steps until the cannon can fire.
        last_action: int64 [], the last executed action.
        time: int64 [], steps since the reset.
    """

    cannon: torch.Tensor
    bullets: torch.Tensor
    alien_bullets: torch.Tensor
    aliens: torch.Tensor
    aliens_right: torch.Tensor
    alien_move_interval: torch.Tensor
    alien_move_timer: torch.Tensor
    alien_shot_timer: torch.Tensor
    shot_timer: torch.Tensor
    last_action: torch.Tensor
    time: torch.Tensor


PARAMS = constants(SpaceInvadersParams)
COLOURS = (draw.TEAL, draw.CORAL, draw.CORAL, draw.CORAL, draw.AMBER, draw.INK)


def reset(key: torch.Tensor, p: SpaceInvadersParams) -> tuple[SpaceInvadersState, Timestep]:
    """Return the state with the first wave of aliens, always the same, and its timestep; ``key`` is int64 []."""
    zero = torch.zeros_like(key)
    none = torch.zeros((screen.SIZE, screen.SIZE), dtype=torch.bool, device=key.device)
    state = SpaceInvadersState(
        cannon=zero + 5,
        bullets=none,
        alien_bullets=none.clone(),
        aliens=_wave(key.device),
        aliens_right=torch.zeros_like(key, dtype=torch.bool),
        alien_move_interval=zero + p.alien_move_interval,
        alien_move_timer=zero + p.alien_move_interval,
        alien_shot_timer=zero + p.alien_shot_interval,
        shot_timer=zero,
        last_action=zero.clone(),
        time=zero.clone(),
    )
    return state, first_timestep(_observe(state, p), p.sticky_action_prob)


def step(key: torch.Tensor, state: SpaceInvadersState, action: torch.Tensor, p: SpaceInvadersParams) -> tuple[SpaceInvadersState, Timestep]:
    """Move the cannon, then bullets, then aliens; let an alien fire, and remove those that are hit.

    The alien that fires is the lowest one of the column nearest to the cannon, of two columns the left one.

    Args:
        key: int64 []; for the random repetition of the action.
        state: the state of the episode.
        action: int64 []; 1 left, 3 right, 5 fire; 0, 2 and 4 do nothing.
        p: ``env_params``, the constants.

    Returns:
        The next state and its timestep: observation bool [10, 10, 6]; reward 1 for each alien that is hit; terminated when a bullet or an
        alien comes to the cannon, or aliens in the last row meet the edge; truncated after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    action = screen.stick(_draws(key), action, state.last_action, p.sticky_action_prob)
    fires = (action == screen.FIRE) & (state.shot_timer == 0)
    cannon = (state.cannon + screen.right(action)).clamp(0, 9)
    bullets = screen.shift(state.bullets, -1, 0) | (screen.cell(8, cannon) & fires)
    alien_bullets = screen.shift(state.alien_bullets, 1, 0)

    index = torch.arange(screen.SIZE, device=cannon.device)
    row, column = index[:, None], index
    moves = state.alien_move_timer == 0
    turn = moves & (state.aliens & (column == torch.where(state.aliens_right, 9, 0))).any()
    landed = turn & (state.aliens & (row == 9)).any()
    ahead = torch.where(state.aliens_right, screen.shift(state.aliens, 0, 1), screen.shift(state.aliens, 0, -1))
    aliens = torch.where(turn, state.aliens.roll(1, 0), torch.where(moves, ahead, state.aliens))
    hit = (screen.cell(9, cannon) & (alien_bullets | state.aliens | aliens)).any()

    # minatar's order of the search for the alien that fires: by columns, near ones and left ones first, then from below.
    order = 10 * (2 * (column - cannon).abs() + (column > cannon).long()) + 9 - row
    shoots = (state.alien_shot_timer == 0) & (order == torch.where(aliens, order, 1000).min())
    alien_bullets = alien_bullets | (shoots & aliens)
    kills = aliens & bullets
    left = aliens & ~kills
    cleared = ~left.any()
    shrinks = cleared & p.ramping & (state.alien_move_interval > p.least_move_interval)
    new = SpaceInvadersState(
        cannon=cannon,
        bullets=bullets & ~kills,
        alien_bullets=alien_bullets,
        aliens=left | (cleared & _wave(cannon.device)),
        aliens_right=state.aliens_right ^ turn,
        alien_move_interval=state.alien_move_interval - shrinks.long(),
        alien_move_timer=torch.where(moves, torch.minimum(state.aliens.sum(), state.alien_move_interval), state.alien_move_timer) - 1,
        alien_shot_timer=torch.where(state.alien_shot_timer == 0, p.alien_shot_interval, state.alien_shot_timer) - 1,
        shot_timer=(torch.where(fires, p.shot_interval, state.shot_timer) - 1).clamp(min=0),
        last_action=action,
        time=state.time + 1,
    )
    return new, Timestep(_observe(new, p), kills.sum().to(p.sticky_action_prob.dtype), hit | landed, new.time >= p.max_steps, {})


def _draws(key: torch.Tensor) -> torch.Tensor:
    """Return the random number of a step: whether the action is repeated."""
    return random.uniform(key)


def _wave(device: torch.device) -> torch.Tensor:
    index = torch.arange(screen.SIZE, device=device)
    return (index[:, None] < 4) & (index >= 2) & (index < 8)


def _observe(state: SpaceInvadersState, p: SpaceInvadersParams) -> torch.Tensor:
    cannon = screen.cell(9, state.cannon)
    left, right = state.aliens & ~state.aliens_right, state.aliens & state.aliens_right
    return torch.stack([cannon, state.aliens, left, right, state.bullets, state.alien_bullets], -1)


def space_invaders() -> Env:
    """Return SpaceInvaders-MinAtar: a cannon at the bottom shoots at a cluster of aliens, which come down and shoot back.

    The aliens go sideways, together; at the edge they go down one row and turn. Each that is hit earns 1. They go faster when few are
    left, and each wave goes faster than the one before (``env_params.ramping``). The episode terminates when a bullet or an alien comes
    to the cannon, or when aliens in the last row come to the edge; it is truncated after ``env_params.max_steps``, 10,000 by default.

    The observation is bool [10, 10, 6]: cannon, alien, alien while they go left, alien while they go right, bullet of the cannon, bullet
    of an alien. The actions are MinAtar's six: 0 nothing, 1 left, 2 up, 3 right, 4 down, 5 fire, of which 2 and 4 do nothing here.
    With a probability of ``env_params.sticky_action_prob`` the last action is taken again instead. It agrees with the minatar package
    step for step, which has no time limit, and where the last action of an episode can be repeated in the next one.

    Pictures show the cannon green, aliens red, bullets yellow, those of aliens dark.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = space_invaders()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(5))
        >>> timestep.observation.shape, timestep.reward, int(state.bullets.sum()), int(state.aliens.sum())
        (torch.Size([10, 10, 6]), tensor(0.), 1, 24)

    Reference: K. Young, T. Tian, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement Learning Experiments",
    2019, arXiv:1903.03176.
    """
    return screen.game(NAME, SpaceInvadersState, reset, step, _observe, PARAMS, COLOURS)
