"""MinAtar's Seaquest: a submarine collects divers, shoots enemies, and surfaces before its oxygen runs out."""

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._minatar import _screen as screen

NAME = "Seaquest-MinAtar"


@tree.dataclass
class SeaquestParams:
    """The constants of the game; int64 [] unless another type is named.

    Attributes:
        sticky_action_prob: floating-point []; the probability that the last action is repeated instead of the given one.
        submarine_prob: floating-point []; the probability that a new enemy is a submarine and not a fish.
        oxygen: the oxygen of a full tank; each step under water uses 1.
        shot_interval: the number of steps between shots of the player.
        spawn_interval: the initial number of steps between new enemies.
        move_interval: the initial number of steps that an enemy waits between moves.
        enemy_shot_interval: the number of steps that a submarine waits between shots.
        diver_spawn_interval: the number of steps between new divers.
        diver_move_interval: the number of steps that a diver waits between moves.
        ramping: bool []; whether enemies appear more often and move faster with each surfacing.
        max_steps: the number of steps after which the episode is truncated.
    """

    sticky_action_prob: torch.Tensor = tree.constant(0.1)
    submarine_prob: torch.Tensor = tree.constant(1 / 3)
    oxygen: torch.Tensor = tree.constant(200)
    shot_interval: torch.Tensor = tree.constant(5)
    spawn_interval: torch.Tensor = tree.constant(20)
    move_interval: torch.Tensor = tree.constant(5)
    enemy_shot_interval: torch.Tensor = tree.constant(10)
    diver_spawn_interval: torch.Tensor = tree.constant(30)
    diver_move_interval: torch.Tensor = tree.constant(5)
    ramping: torch.Tensor = tree.constant(True)
    max_steps: torch.Tensor = tree.constant(screen.MAX_STEPS)


@tree.dataclass
class Actors(tree.Replaceable):
    """A table of actors with N entries, some of them empty.

    Attributes:
        row: int64 [N].
        column: int64 [N]; -1: the entry is empty.
        right: bool [N]; it moves to the right, else to the left.
        born: int64 [N], the step since the reset at which it appeared; different for all actors of a table.
    """

    row: torch.Tensor
    column: torch.Tensor
    right: torch.Tensor
    born: torch.Tensor


@tree.dataclass
class SeaquestState:
    """The state of one episode.

    Attributes:
        row: int64 [], of the player, 0 (the surface) to 8.
        column: int64 [], of the player's front.
        right: bool []; the player faces right, else left.
        surfaced: bool []; the player is at the surface since the last step at least.
        oxygen: int64 [], the remaining oxygen.
        divers_aboard: int64 [], at most 6.
        bullets: Actors [10], of the player.
        enemies: Actors [32].
        enemy_submarine: bool [32]; it is a submarine, else a fish.
        enemy_timer: int64 [32], steps until its next move.
        divers: Actors [4].
        shots_left: bool [10, 10], the enemies' shots that move to the left.
        shots_right: bool [10, 10], those that move to the right.
        shot_timer: int64 [], steps until the player can fire.
        spawn_interval: int64 [], its present value.
        spawn_timer: int64 [], steps until the next enemy.
        move_interval: int64 [], its present value.
        ramps: int64 [], how often the intervals have decreased.
        last_action: int64 [], the last executed action.
        time: int64 [], steps since the reset.
    """

    row: torch.Tensor
    column: torch.Tensor
    right: torch.Tensor
    surfaced: torch.Tensor
    oxygen: torch.Tensor
    divers_aboard: torch.Tensor
    bullets: Actors
    enemies: Actors
    enemy_submarine: torch.Tensor
    enemy_timer: torch.Tensor
    divers: Actors
    shots_left: torch.Tensor
    shots_right: torch.Tensor
    shot_timer: torch.Tensor
    spawn_interval: torch.Tensor
    spawn_timer: torch.Tensor
    move_interval: torch.Tensor
    ramps: torch.Tensor
    last_action: torch.Tensor
    time: torch.Tensor


PARAMS = constants(SeaquestParams)
COLOURS = (draw.TEAL, draw.LEAF, draw.AMBER, draw.PALE, draw.INK, draw.CORAL, draw.STEEL, draw.TEAL, draw.AMBER, draw.AMBER)
# The maximum numbers of actors at a time: an actor crosses the screen in at most ten moves.
BULLETS, ENEMIES, DIVERS = 10, 32, 4
CREW = 6
# More than the steps of any episode.
_LATE = 1 << 40


def reset(key: torch.Tensor, p: SeaquestParams) -> tuple[SeaquestState, Timestep]:
    """Return the state with the player alone at the surface, always the same, and its timestep; ``key`` is int64 []."""
    zero = torch.zeros_like(key)
    no = torch.zeros_like(key, dtype=torch.bool)
    none = torch.zeros((screen.SIZE, screen.SIZE), dtype=torch.bool, device=key.device)
    state = SeaquestState(
        row=zero,
        column=zero + 5,
        right=no,
        surfaced=~no,
        oxygen=zero + p.oxygen,
        divers_aboard=zero.clone(),
        bullets=_nobody(BULLETS, key.device),
        enemies=_nobody(ENEMIES, key.device),
        enemy_submarine=torch.zeros((ENEMIES,), dtype=torch.bool, device=key.device),
        enemy_timer=torch.zeros((ENEMIES,), dtype=torch.int64, device=key.device),
        divers=_nobody(DIVERS, key.device),
        shots_left=none,
        shots_right=none.clone(),
        shot_timer=zero.clone(),
        spawn_interval=zero + p.spawn_interval,
        spawn_timer=zero + p.spawn_interval,
        move_interval=zero + p.move_interval,
        ramps=zero.clone(),
        last_action=zero.clone(),
        time=zero.clone(),
    )
    return state, first_timestep(_observe(state, p), p.sticky_action_prob)


def step(key: torch.Tensor, state: SeaquestState, action: torch.Tensor, p: SeaquestParams) -> tuple[SeaquestState, Timestep]:
    """Add new actors, then move the player, its bullets, divers, enemies and their shots, then use oxygen.

    A bullet that moves hits fish before submarines and old ones before new ones; if enemies move to a bullet, it hits submarines before
    fish and new ones before old ones. A submarine that is hit during its move still fires.

    Args:
        key: int64 []; for the random repetition of the action, and for new actors.
        state: the state of the episode.
        action: int64 []; 1 left, 2 up, 3 right, 4 down, 5 fire; 0 does nothing.
        p: ``env_params``, the constants.

    Returns:
        The next state and its timestep: observation bool [10, 10, 10]; reward 1 for each enemy that is hit, and up to 10 for a crew of six
        brought to the surface, by the oxygen that is left; terminated when an enemy or a shot comes to the player, when it surfaces
        without a diver, or when it has no oxygen; truncated after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    time = state.time
    sticks, side, kind, lane, diver_side, diver_lane = _draws(key).unbind(0)
    action = screen.stick(sticks, action, state.last_action, p.sticky_action_prob)

    spawns = state.spawn_timer == 0
    enemies, new = _enemy_enters(state, spawns, side, lane)
    submarine = torch.where(new, kind < p.submarine_prob, state.enemy_submarine)
    timer = torch.where(new, state.move_interval, state.enemy_timer)
    divers = _diver_enters(state, diver_side, diver_lane, p)

    fires = (action == screen.FIRE) & (state.shot_timer == 0)
    row = (state.row + screen.down(action)).clamp(0, 8)
    column = (state.column + screen.right(action)).clamp(0, 9)
    right = torch.where(action == screen.RIGHT, True, state.right & (action != screen.LEFT))
    bullets, _ = _enter(state.bullets, fires, row, column, right, time)
    bullets = bullets.replace(column=screen.drive(bullets.column, bullets.right, bullets.column >= 0))
    bullets, enemies, kills = _hits(bullets, enemies, enemies.column >= 0, enemies.born + torch.where(submarine, _LATE, 0))

    divers, rescued = _rescue(divers, row, column, state.divers_aboard, time, p)
    aboard = state.divers_aboard + rescued

    caught = _here(enemies, row, column).any()
    there, moves = enemies.column >= 0, (enemies.column >= 0) & (timer == 0)
    timer = torch.where(moves, state.move_interval, timer - 1)
    enemies = enemies.replace(column=screen.drive(enemies.column, enemies.right, moves))
    here = _here(enemies, row, column)
    shots_left, shots_right, shot = _shots_fly(state, enemies, there & submarine, row, column, p)
    later = torch.where(submarine, 0, _LATE) - enemies.born
    bullets, enemies, more = _hits(bullets, enemies, moves & ~here & (enemies.column >= 0), later)

    deep = row > 0
    surfaces = ~deep & ~state.surfaced
    saved = surfaces & (aboard != 0)
    bonus = torch.where(saved & (aboard == CREW), state.oxygen * 10 // p.oxygen, 0)
    new = SeaquestState(
        row=row,
        column=column,
        right=right,
        surfaced=~deep & (state.surfaced | saved),
        oxygen=torch.where(saved, p.oxygen, state.oxygen - deep.long()),
        divers_aboard=torch.where(saved, torch.where(aboard == CREW, 0, aboard) - 1, aboard),
        bullets=bullets,
        enemies=enemies,
        enemy_submarine=submarine,
        enemy_timer=timer,
        divers=divers,
        shots_left=shots_left,
        shots_right=shots_right,
        shot_timer=(torch.where(fires, p.shot_interval, state.shot_timer) - 1).clamp(min=0),
        spawn_timer=(torch.where(spawns, state.spawn_interval, state.spawn_timer) - 1).clamp(min=0),
        **screen.pace(state, saved & p.ramping, least=2),
        last_action=action,
        time=time + 1,
    )
    terminated = caught | here.any() | shot | (state.oxygen <= 0) | (surfaces & (aboard == 0))
    return new, Timestep(_observe(new, p), (kills + more + bonus).to(p.sticky_action_prob.dtype), terminated, new.time >= p.max_steps, {})


def _enemy_enters(state: SeaquestState, spawns: torch.Tensor, side: torch.Tensor, lane: torch.Tensor) -> tuple[Actors, torch.Tensor]:
    """Let an enemy into a random lane where none comes the other way; return the enemies, and which of them is new."""
    enemies, from_left, lane = state.enemies, side < 0.5, 1 + screen.pick(lane, 8)
    opposite = ((enemies.column >= 0) & (enemies.row == lane) & (enemies.right != from_left)).any()
    return _enter(enemies, spawns & ~opposite, lane, torch.where(from_left, 0, screen.SIZE - 1), from_left, state.time)


def _diver_enters(state: SeaquestState, side: torch.Tensor, lane: torch.Tensor, p: SeaquestParams) -> Actors:
    """Let a diver into a random lane where it is time for one."""
    from_left = side < 0.5
    due = (state.time > 0) & (state.time % p.diver_spawn_interval == 0)
    return _enter(state.divers, due, 1 + screen.pick(lane, 8), torch.where(from_left, 0, screen.SIZE - 1), from_left, state.time)[0]


def _shots_fly(
    state: SeaquestState, enemies: Actors, submarine: torch.Tensor, row: torch.Tensor, column: torch.Tensor, p: SeaquestParams
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Let the submarines whose turn it is fire, then move all shots by a cell; return them, and whether one hits the player."""
    shoots = submarine & ((state.time - enemies.born + 1) % (p.enemy_shot_interval + 1) == 0)
    left = state.shots_left | _cells(enemies.row, enemies.column, shoots & ~enemies.right)
    right = state.shots_right | _cells(enemies.row, enemies.column, shoots & enemies.right)
    fired = left | right
    left, right = screen.shift(left, 0, -1), screen.shift(right, 0, 1)
    return left, right, (screen.cell(row, column) & (fired | left | right)).any()


def _draws(key: torch.Tensor) -> torch.Tensor:
    """Return the random numbers of a step [6]: whether the action is repeated; side, kind and row of an enemy; side and row of a diver."""
    return random.uniform(key, (6,))


def _nobody(places: int, device: torch.device) -> Actors:
    zeros = torch.zeros((places,), dtype=torch.int64, device=device)
    return Actors(row=zeros, column=zeros - 1, right=zeros.bool(), born=zeros.clone())


def _enter(
    actors: Actors, where: torch.Tensor, row: torch.Tensor, column: torch.Tensor, right: torch.Tensor, time: torch.Tensor
) -> tuple[Actors, torch.Tensor]:
    """Add an actor if ``where`` is True and there is an empty entry; return the actors, and the mask [N] of the new one."""
    index = torch.arange(actors.column.shape[0], device=row.device)
    new = where & (index == torch.where(actors.column < 0, index, len(index)).amin())
    joined = Actors(
        row=torch.where(new, row, actors.row),
        column=torch.where(new, column, actors.column),
        right=torch.where(new, right, actors.right),
        born=torch.where(new, time, actors.born),
    )
    return joined, new


def _here(actors: Actors, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """Return the mask of the actors at a cell, bool [N]."""
    return (actors.row == row) & (actors.column == column)


def _hits(bullets: Actors, enemies: Actors, where: torch.Tensor, order: torch.Tensor) -> tuple[Actors, Actors, torch.Tensor]:
    """Let each bullet hit the first by ``order`` [N] of the enemies ``where`` it is; return both without those, and how many enemies."""
    meets = where & (bullets.row[:, None] == enemies.row) & (bullets.column[:, None] == enemies.column)
    first = torch.where(meets, order, 2 * _LATE).amin(1)
    hit = (meets & (order == first[:, None])).any(0)
    bullets = bullets.replace(column=torch.where(meets.any(1), -1, bullets.column))
    return bullets, enemies.replace(column=torch.where(hit, -1, enemies.column)), hit.sum()


def _rescue(
    divers: Actors, row: torch.Tensor, column: torch.Tensor, aboard: torch.Tensor, time: torch.Tensor, p: SeaquestParams
) -> tuple[Actors, torch.Tensor]:
    """Take divers aboard before and after their move, new ones first, up to the limit; return the other divers, and the number taken."""
    moves = (time - divers.born + 1) % (p.diver_move_interval + 1) == 0
    moved = divers.replace(column=screen.drive(divers.column, divers.right, moves))
    met = _here(divers, row, column) | _here(moved, row, column)
    taken = met & (aboard + (met & (divers.born > divers.born[:, None])).sum(1) < CREW)
    return moved.replace(column=torch.where(taken, -1, moved.column)), taken.sum()


def _cells(row: torch.Tensor, column: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return bool [10, 10], True at the cells of the actors in the mask ``where``."""
    index = torch.arange(screen.SIZE, device=row.device)
    return (where[:, None, None] & (row[:, None, None] == index[:, None]) & (column[:, None, None] == index)).any(0)


def _trail(actors: Actors) -> torch.Tensor:
    return _cells(actors.row, actors.column - torch.where(actors.right, 1, -1), actors.column >= 0)


def _observe(state: SeaquestState, p: SeaquestParams) -> torch.Tensor:
    enemies, divers, bullets = state.enemies, state.divers, state.bullets
    index = torch.arange(screen.SIZE, device=state.row.device)
    bottom = index[:, None] == screen.SIZE - 1
    planes = (
        screen.cell(state.row, state.column),
        screen.cell(state.row, state.column - torch.where(state.right, 1, -1)),
        _cells(bullets.row, bullets.column, bullets.column >= 0),
        _trail(enemies) | _trail(divers),
        state.shots_left | state.shots_right,
        _cells(enemies.row, enemies.column, ~state.enemy_submarine),
        _cells(enemies.row, enemies.column, state.enemy_submarine),
        bottom & (index < state.oxygen.clamp(min=0) * 10 // p.oxygen),
        bottom & (index >= 9 - state.divers_aboard) & (index < 9),
        _cells(divers.row, divers.column, divers.column >= 0),
    )
    return torch.stack(planes, -1)


def seaquest() -> Env:
    """Return Seaquest-MinAtar: a submarine collects divers, shoots enemies, and surfaces before its oxygen runs out.

    The player goes one cell in each of the four directions, and fires where it faces. Fish and enemy submarines cross the screen, and
    submarines fire as well; each that is hit earns 1. Divers cross it too, and up to six can be aboard. At the surface the tank is
    filled: with a crew of six that earns a tenth of the rest in percent, up to 10, and all go ashore; with fewer, one does. Each time
    enemies come more often, and every second time they go faster (``env_params.ramping``). The episode terminates when an enemy or a shot
    comes to the player, when it surfaces without a diver, or when it has no oxygen left; it is truncated after
    ``env_params.max_steps``, 10,000 by default.

    The observation is bool [10, 10, 10]: front and back of the player, its bullets, trail (the cell behind each fish, submarine and diver),
    shots of enemies, fish, enemy submarines, oxygen (a bar in the last row), divers aboard (another bar there), divers. The actions are
    MinAtar's
    six: 0 nothing, 1 left, 2 up, 3 right, 4 down, 5 fire. With a probability of ``env_params.sticky_action_prob`` the last action is taken
    again instead.

    It agrees with the minatar package step for step, which has no time limit, and where the last action of an episode can be repeated in
    the next one;
    as there, bringing a crew of six to the surface leaves -1 divers aboard, and as ``-1`` is not none, the next surfacing is free.
    It has at most 32 enemies, 10 bullets and 4 divers, more than possible with the default constants; with other constants, further
    actors do not appear. If two enemies agree in all data that minatar stores, it may remove the wrong one; this game does not.

    Pictures show the player green, bullets and divers yellow, fish red, submarines and their shots dark.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = seaquest()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(4))
        >>> timestep.observation.shape, timestep.reward, state.row, state.oxygen
        (torch.Size([10, 10, 10]), tensor(0.), tensor(1), tensor(199))

    Reference: K. Young, T. Tian, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement Learning Experiments",
    2019, arXiv:1903.03176.
    """
    return screen.game(NAME, SeaquestState, reset, step, _observe, PARAMS, COLOURS)
