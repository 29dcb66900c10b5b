"""Generalized advantage estimation and the PPO loss as plain float64 loops."""

import math

import numpy as np


def gae(reward, value, next_value, terminated, truncated, gamma, lambda_):
    """Sum the discounted one-step errors of each step, forwards, up to the end of its episode: arrays [T, B]."""
    steps, copies = reward.shape
    advantage = np.zeros((steps, copies), dtype=np.float64)
    for b in range(copies):
        for start in range(steps):
            weight = 1.0
            for t in range(start, steps):
                bootstrap = 0.0 if terminated[t, b] else gamma * float(next_value[t, b])
                advantage[start, b] += weight * (float(reward[t, b]) + bootstrap - float(value[t, b]))
                if terminated[t, b] or truncated[t, b]:
                    break
                weight *= gamma * lambda_
    return advantage


def ppo(log_prob, old_log_prob, advantage, value, old_value, target, entropy, clip, value_clip, value_weight, entropy_weight):
    """Return the PPO loss and its metrics of samples [N], one by one."""
    n = len(log_prob)
    sums = {"policy_loss": 0.0, "value_loss": 0.0, "entropy": 0.0, "approximate_kl": 0.0, "clip_fraction": 0.0}
    for i in range(n):
        log_ratio = float(log_prob[i]) - float(old_log_prob[i])
        ratio = math.exp(log_ratio)
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        sums["policy_loss"] -= min(ratio * float(advantage[i]), bounded * float(advantage[i]))
        moved = float(old_value[i]) + min(max(float(value[i]) - float(old_value[i]), -value_clip), value_clip)
        sums["value_loss"] += 0.5 * max((float(value[i]) - float(target[i])) ** 2, (moved - float(target[i])) ** 2)
        sums["entropy"] += float(entropy[i])
        sums["approximate_kl"] += ratio - 1 - log_ratio
        sums["clip_fraction"] += abs(ratio - 1) > clip
    means = {name: total / n for name, total in sums.items()}
    return means["policy_loss"] + value_weight * means["value_loss"] - entropy_weight * means["entropy"], means
