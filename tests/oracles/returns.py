"""Returns as the sums that define them, forwards from each step, in plain float64 loops over arrays [T, B]."""

import numpy as np


def _each(f, *arrays):
    """Apply ``f(arrays[t0:, b], ...)`` to what lies ahead of each step."""
    steps, copies = arrays[0].shape[:2]
    return np.array([[f(*(x[t:, b] for x in arrays)) for b in range(copies)] for t in range(steps)], dtype=np.float64)


def _length(terminated, truncated):
    """Return the number of steps to the end of the episode, or of the data."""
    ends = np.flatnonzero(terminated | truncated)
    return int(ends[0]) + 1 if len(ends) else len(terminated)


def reward_to_go(reward, terminated, truncated, gamma):
    def total(reward, terminated, truncated):
        return sum(gamma**k * float(reward[k]) for k in range(_length(terminated, truncated)))

    return _each(total, reward, terminated, truncated)


def n_step(reward, next_value, terminated, truncated, gamma, n):
    return _each(lambda *ahead: _n_step(*ahead, gamma, n), reward, next_value, terminated, truncated)


def _n_step(reward, next_value, terminated, truncated, gamma, n):
    m = min(n, _length(terminated, truncated))
    bootstrap = 0.0 if terminated[m - 1] else float(next_value[m - 1])
    return sum(gamma**k * float(reward[k]) for k in range(m)) + gamma**m * bootstrap


def td_lambda(reward, next_value, terminated, truncated, gamma, lambda_):
    """The average of all n-step returns: the longest has the weight of all that would follow."""

    def average(*ahead):
        longest = _length(*ahead[2:])
        returns = [_n_step(*ahead, gamma, n) for n in range(1, longest + 1)]
        return sum((1 - lambda_) * lambda_**i * g for i, g in enumerate(returns[:-1])) + lambda_ ** (longest - 1) * returns[-1]

    return _each(average, reward, next_value, terminated, truncated)


def retrace(reward, q_value, next_value, terminated, truncated, ratio, gamma, lambda_):
    def target(reward, q_value, next_value, terminated, truncated, ratio):
        total, weight = float(q_value[0]), 1.0
        for s in range(_length(terminated, truncated)):
            if s:
                weight *= gamma * lambda_ * min(1.0, float(ratio[s]))
            bootstrap = 0.0 if terminated[s] else gamma * float(next_value[s])
            total += weight * (float(reward[s]) + bootstrap - float(q_value[s]))
        return total

    return _each(target, reward, q_value, next_value, terminated, truncated, ratio)


def vtrace(reward, value, next_value, terminated, truncated, ratio, gamma, lambda_, rho_clip, c_clip, advantage_clip):
    """Return advantages and targets; the target is equation 1 of the paper, where V(s_{t+1}) is V(s'_t)."""

    def target(reward, value, next_value, terminated, truncated, ratio):
        total, weight = float(value[0]), 1.0
        for s in range(_length(terminated, truncated)):
            bootstrap = 0.0 if terminated[s] else gamma * float(next_value[s])
            total += weight * min(rho_clip, float(ratio[s])) * (float(reward[s]) + bootstrap - float(value[s]))
            weight *= gamma * lambda_ * min(c_clip, float(ratio[s]))
        return total

    targets = _each(target, reward, value, next_value, terminated, truncated, ratio)
    advantages = np.zeros_like(targets)
    steps, copies = targets.shape
    for t in range(steps):
        for b in range(copies):
            q = 0.0 if terminated[t, b] else float(next_value[t, b])
            if t + 1 < steps and not (terminated[t, b] or truncated[t, b]):
                q += lambda_ * (targets[t + 1, b] - float(value[t + 1, b]))
            advantages[t, b] = min(advantage_clip, float(ratio[t, b])) * (float(reward[t, b]) + gamma * q - float(value[t, b]))
    return advantages, targets
