"""Losses of off-policy learners in plain PyTorch: a loop over samples, targets under no_grad, the rest for autograd.

Networks are functions of one observation (and action). A sample is a dict of observation, action, reward, terminated, next_observation.
"""

import math

import torch


def samples(batch):
    names = ("observation", "action", "reward", "terminated", "next_observation")
    return [{name: getattr(batch, name)[i] for name in names} for i in range(batch.reward.shape[0])]


def target(sample, gamma, value):
    return sample["reward"] if sample["terminated"] else sample["reward"] + gamma * value


def ddpg_critic(batch, weight, gamma, critic, target_actor, target_critic):
    total = 0.0
    for sample, w in zip(samples(batch), weight, strict=True):
        with torch.no_grad():
            s = sample["next_observation"]
            y = target(sample, gamma, target_critic(s, target_actor(s)))
        total = total + w * (y - critic(sample["observation"], sample["action"])) ** 2
    return total / len(weight)


def ddpg_actor(batch, weight, actor, critic):
    total = 0.0
    for sample, w in zip(samples(batch), weight, strict=True):
        total = total - w * critic(sample["observation"], actor(sample["observation"]))
    return total / len(weight)


def td3_critic(batch, weight, gamma, critics, target_actor, target_critics, noise, clip, low, high):
    total = 0.0
    for sample, w, e in zip(samples(batch), weight, noise, strict=True):
        with torch.no_grad():
            s = sample["next_observation"]
            a = (target_actor(s) + e.clamp(-clip, clip)).clamp(low, high)
            y = target(sample, gamma, min(q(s, a) for q in target_critics))
        for q in critics:
            total = total + w * (y - q(sample["observation"], sample["action"])) ** 2
    return total / len(weight)


def gaussian(net):
    """The density of a normal policy whose deviation is 0.3 + sigmoid(mean), at mean + deviation * noise."""

    def policy(observation, noise):
        mean = net(observation)
        deviation = 0.3 + 1 / (1 + torch.exp(-mean))
        log_prob = sum(-0.5 * e**2 - math.log(math.sqrt(2 * math.pi)) - torch.log(s) for e, s in zip(noise, deviation, strict=True))
        return mean + deviation * noise, log_prob

    return policy


def soft_critic(batch, weight, gamma, alpha, critics, policy, target_critics, noise):
    """SAC's; ``policy(observation, noise) -> (action, log_prob)``."""
    total = 0.0
    for sample, w, e in zip(samples(batch), weight, noise, strict=True):
        with torch.no_grad():
            s = sample["next_observation"]
            a, log_prob = policy(s, e)
            y = target(sample, gamma, min(q(s, a) for q in target_critics) - alpha * log_prob)
        for q in critics:
            total = total + w * 0.5 * (y - q(sample["observation"], sample["action"])) ** 2
    return total / len(weight)


def soft_actor(batch, weight, alpha, judge, policy, noise):
    """SAC's with ``judge(observation, action)`` the smaller of two, REDQ's with the mean of all. Returns also each log_prob."""
    total, log_probs = 0.0, []
    for sample, w, e in zip(samples(batch), weight, noise, strict=True):
        a, log_prob = policy(sample["observation"], e)
        total = total + w * (alpha * log_prob - judge(sample["observation"], a))
        log_probs.append(log_prob.detach())
    return total / len(weight), log_probs


def temperature(log_alpha, log_probs, weight, target_entropy):
    return sum(-w * log_alpha * (x + target_entropy) for x, w in zip(log_probs, weight, strict=True)) / len(weight)


def soft_discrete_critic(batch, weight, gamma, alpha, critics, policy, target_critics):
    """``policy(observation) -> probabilities [A]``, critics give [A]."""
    total = 0.0
    for sample, w in zip(samples(batch), weight, strict=True):
        with torch.no_grad():
            s = sample["next_observation"]
            probs, qs = policy(s), [q(s) for q in target_critics]
            value = sum(p * (min(q[a] for q in qs) - alpha * p.log()) for a, p in enumerate(probs))
            y = target(sample, gamma, value)
        for q in critics:
            total = total + w * 0.5 * (y - q(sample["observation"])[sample["action"]]) ** 2
    return total / len(weight)


def soft_discrete_actor(batch, weight, alpha, critics, policy):
    total, log_probs = 0.0, []
    for sample, w in zip(samples(batch), weight, strict=True):
        probs, qs = policy(sample["observation"]), [q(sample["observation"]) for q in critics]
        total = total + w * sum(p * (alpha * p.log() - min(q[a] for q in qs)) for a, p in enumerate(probs))
        log_probs.append(sum(p * p.log() for p in probs).detach())
    return total / len(weight), log_probs


def project(atoms, probs, support):
    """Share the mass of each atom between its two neighbours on the support: lists of numbers."""
    low, high, spacing = support[0], support[-1], support[1] - support[0]
    result = [0.0] * len(support)
    for y, p in zip(atoms, probs, strict=True):
        place = (min(max(y, low), high) - low) / spacing
        below = min(int(place), len(support) - 2)
        result[below] += p * (below + 1 - place)
        result[below + 1] += p * (place - below)
    return result
