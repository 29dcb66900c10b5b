"""Small environments to transform: one with all kinds of observations, and its twin that runs on the host."""

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, VectorEnv, constants
from funrl.spaces import Binary, Box, Dict, Discrete, MultiDiscrete

HEIGHT, WIDTH = 12, 10


@tree.dataclass
class ArcadeParams:
    gain: torch.Tensor
    cost: torch.Tensor
    max_steps: torch.Tensor


@tree.dataclass
class ArcadeState:
    position: torch.Tensor
    score: torch.Tensor
    lives: torch.Tensor
    time: torch.Tensor


SPACES = {
    "pixels": Box(0, 255, (HEIGHT, WIDTH, 3), torch.uint8),
    "position": Box([-8.0, -8.0, float("-inf")], [8.0, 8.0, float("inf")]),
    "velocity": Box(-1.0, 1.0, (2,)),
    "level": Discrete(4, start=1),
    "keys": MultiDiscrete((3, 2)),
    "flags": Binary((2,)),
    "lives": Discrete(4),
    "mask": Binary((3,)),
}


def picture(position, time):
    """uint8 [H, W, 3], another one at each step."""
    rows = torch.arange(HEIGHT, device=position.device).reshape(-1, 1, 1)
    columns = torch.arange(WIDTH, device=position.device).reshape(1, -1, 1)
    channels = torch.arange(3, device=position.device)
    return ((17 * rows + 29 * columns + 71 * channels + 13 * time + (position[0] * 50).long()) % 256).to(torch.uint8)


def mask(state):
    """bool [3]: which actions are allowed; one of them is not."""
    return torch.arange(3, device=state.time.device) != (state.time + state.lives) % 3


SHOW = {
    "pixels": lambda state: picture(state.position, state.time),
    "position": lambda state: state.position,
    "velocity": lambda state: torch.sin(7 * state.position[:2]),
    "level": lambda state: state.time % 4 + 1,
    "keys": lambda state: torch.stack([state.time % 3, state.time % 2]),
    "flags": lambda state: torch.stack([state.time % 2 == 0, state.time % 3 == 0]),
    "lives": lambda state: state.lives,
    "mask": mask,
}


def arcade(names=tuple(SHOW), *, continuous=False, max_steps=5):
    """Three lives, at most ``max_steps`` steps; a dict of observations of all kinds, or one of them alone; and more in info."""

    def timestep(state, reward, params):
        observation = SHOW[names](state) if isinstance(names, str) else {name: SHOW[name](state) for name in names}
        info = {"mask": mask(state), "lives": state.lives, "energy": state.score * params.gain}
        return Timestep(observation, reward, state.lives <= 0, state.time >= params.max_steps, info)

    params = constants(ArcadeParams, gain=1.0, cost=1.0, max_steps=max_steps)

    def reset(key, env_params=params):
        position = 2 * random.uniform(key, (3,), dtype=env_params.gain.dtype) - 1
        score = torch.zeros_like(position[0])
        lives = torch.full_like(score, 3, dtype=torch.int64)
        state = ArcadeState(position, score, lives, torch.zeros_like(lives))
        return state, timestep(state, torch.zeros_like(score), env_params)

    def step(key, state, action, env_params=params):
        position_key, life_key = random.split(key).unbind(0)
        push = action.to(state.position.dtype).sum()
        noise = random.uniform(position_key, (3,), dtype=state.position.dtype) - 0.5
        position = (state.position + 0.1 * env_params.gain * (push + noise)).clamp(-8, 8)
        lost = random.bernoulli(life_key, 0.3)
        reward = push * position[0] - env_params.cost
        state = ArcadeState(position, state.score + reward, state.lives - lost.long(), state.time + 1)
        return state, timestep(state, reward, env_params)

    return Env(
        name="Arcade",
        reset=reset,
        step=step,
        observation_space=SPACES[names] if isinstance(names, str) else Dict({name: SPACES[name] for name in names}),
        action_space=Box([[-2.0, -1.0]], [[2.0, 3.0]]) if continuous else Discrete(3),
        default_params=params,
        max_episode_steps=max_steps,
        render=lambda state, env_params: picture(state.position, state.time),
    )


def counter():
    """Next to nothing happens: the time goes on until ``max_steps``; it is quick to compile."""
    params = constants(ArcadeParams, gain=1.0, cost=1.0, max_steps=4)

    def show(time, action, env_params):
        number = time.to(env_params.gain.dtype)
        truncated = time >= env_params.max_steps
        return time, Timestep(number[None] * env_params.gain, action * env_params.cost, torch.zeros_like(truncated), truncated, {})

    def reset(key, env_params=params):
        zero = torch.zeros_like(key)
        return show(zero, zero.to(env_params.gain.dtype), env_params)

    def step(key, state, action, env_params=params):
        return show(state + 1, action.to(env_params.gain.dtype), env_params)

    return Env("Counter", reset, step, Box(0.0, float("inf"), (1,)), Discrete(3), params, 4, None)


def constant(observation, space):
    """An arcade that always shows the same."""
    env = arcade("position")

    def show(result):
        return result[0], result[1].replace(observation=observation)

    return env._replace(
        reset=lambda key, env_params: show(env.reset(key, env_params)),
        step=lambda key, state, action, env_params: show(env.step(key, state, action, env_params)),
        observation_space=space,
    )


@tree.dataclass
class Token:
    """The state that a host environment returns: the steps since the reset, int64 [] or [B]."""

    number: torch.Tensor


def host(env, num_envs=1):
    """Copies of ``env`` as if they ran outside torch: they hold their own states, step in a loop, and refuse stale tokens and vmap."""
    held = [None] * num_envs
    times = torch.zeros(num_envs, dtype=torch.int64)
    everyone = torch.ones(num_envs, dtype=torch.bool)

    def rows(value):
        if any(torch._C._functorch.is_batchedtensor(x) for x in tree.leaves(value)):
            raise RuntimeError("a host environment cannot be vmapped")
        return value

    def check(state):
        if not isinstance(state, Token) or not torch.equal(rows(state.number), times):
            raise RuntimeError("the state is stale, or of another environment")

    def hand_out(results):
        """Keep the states of those copies that moved, and return the timesteps; the rows of the others hold nothing of use."""
        for i, (state, _) in results.items():
            held[i] = state
        useless = tree.map(torch.zeros_like, next(iter(results.values()))[1])
        return Token(times.clone()), tree.stack([results[i][1] if i in results else useless for i in range(num_envs)])

    def reset(key, env_params=env.default_params, state=None, where=None):
        if where is not None:
            check(state)
        where = everyone if where is None else where
        times[where] = 0
        key = random.split(rows(key), num_envs)
        return hand_out({i: env.reset(key[i], env_params) for i in where.nonzero().flatten().tolist()})

    def step(key, state, action, env_params=env.default_params, where=None):
        check(state)
        where = everyone if where is None else where
        times[where] += 1
        key, action = random.split(rows(key), num_envs), rows(action)
        chosen = where.nonzero().flatten().tolist()
        return hand_out({i: env.step(key[i], held[i], tree.index(action, i), env_params) for i in chosen})

    return VectorEnv(*env._replace(reset=reset, step=step, render=None), num_envs=num_envs, host=True)
