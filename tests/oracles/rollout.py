"""Acting in an environment as a plain Python loop, one environment at a time, with a reset by hand."""

from funrl import tree
from funrl.env import Transition


def rollout(params, state, env_params, *, env, act, act_keys, step_keys, reset_keys):
    """Return the last states and the transitions [T][B] of B environments, with the keys of each step given: [T, B]."""
    steps, copies = act_keys.shape
    columns, last = [], []
    for b in range(copies):
        env_state, before = tree.index(state, b)
        column = []
        for t in range(steps):
            action, extras = act(params, act_keys[t, b], before.observation)
            env_state, after = env.step(step_keys[t, b], env_state, action, env_params)
            column.append(
                Transition(before.observation, action, after.reward, after.terminated, after.truncated, after.observation, extras)
            )
            before = after
            if bool(after.terminated) or bool(after.truncated):
                env_state, before = env.reset(reset_keys[t, b], env_params)
        columns.append(tree.stack(column))
        last.append((env_state, before))
    return tree.stack(last), tree.stack(columns, dim=1)


def evaluate(params, start, env_params, *, env, act, act_keys, step_keys):
    """Play one episode from ``start`` with the keys [T] given; return its return, its length, and whether it ended."""
    env_state, timestep = start
    total = 0.0
    for t in range(len(act_keys)):
        action, _ = act(params, act_keys[t], timestep.observation)
        env_state, timestep = env.step(step_keys[t], env_state, action, env_params)
        total += float(timestep.reward)
        if bool(timestep.terminated) or bool(timestep.truncated):
            return total, t + 1, True
    return total, len(act_keys), False
