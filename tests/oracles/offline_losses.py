"""Losses of offline learners in plain PyTorch: a loop over samples, critics and pairs, the rest for autograd.

Networks are functions of one observation (and action); samples are those of :mod:`tests.oracles.losses`.
"""

import math

import torch

from tests.oracles.losses import samples, target


def expectile(u, tau):
    return (1 - tau) * u**2 if u < 0 else tau * u**2


def cloning(batch, weight, actor, scale):
    total = 0.0
    for sample, w in zip(samples(batch), weight, strict=True):
        apart = [((x - y) / scale) ** 2 for x, y in zip(actor(sample["observation"]), sample["action"], strict=True)]
        total = total + w * sum(apart) / len(apart)
    return total / len(weight)


def advantage_weighted(batch, weight, advantage, log_prob, beta, most):
    total = 0.0
    for sample, w, a in zip(samples(batch), weight, advantage, strict=True):
        share = min(math.exp(min(beta * float(a), 700.0)), most)
        total = total - w * share * log_prob(sample["observation"], sample["action"])
    return total / len(weight)


def iql_value(batch, weight, value, target_critics, tau):
    total = 0.0
    for sample, w in zip(samples(batch), weight, strict=True):
        s, a = sample["observation"], sample["action"]
        with torch.no_grad():
            q = min(critic(s, a) for critic in target_critics)
        total = total + w * expectile(q - value(s), tau)
    return total / len(weight)


def squared(batch, weight, critics, targets):
    """The sum over critics of squared errors, with a target for each sample."""
    total = 0.0
    for sample, w, y in zip(samples(batch), weight, targets, strict=True):
        for critic in critics:
            total = total + w * (y - critic(sample["observation"], sample["action"])) ** 2
    return total / len(weight)


def iql_targets(batch, gamma, value):
    with torch.no_grad():
        return [target(sample, gamma, value(sample["next_observation"])) for sample in samples(batch)]


def policy_targets(batch, gamma, critics, actions):
    with torch.no_grad():
        rows = zip(samples(batch), actions, strict=True)
        return [target(sample, gamma, min(q(sample["next_observation"], a) for q in critics)) for sample, a in rows]


def rebrac_targets(batch, gamma, critics, actions, beta, scale):
    result = []
    with torch.no_grad():
        for i, (sample, a) in enumerate(zip(samples(batch), actions, strict=True)):
            value = min(q(sample["next_observation"], a) for q in critics)
            if batch.extras["has_next"][i]:
                value = value - beta * sum(((x - y) / scale) ** 2 for x, y in zip(a, batch.extras["next_action"][i], strict=True))
            result.append(target(sample, gamma, value))
    return result


def regularised_actor(batch, weight, actor, values, alpha, beta, scale, mean):
    """TD3+BC (alpha, mean distance) and ReBRAC (alpha 1, summed distance): ``values(observation, action)`` is the critic."""
    chosen = [actor(sample["observation"]) for sample in samples(batch)]
    q = [values(sample["observation"], a) for sample, a in zip(samples(batch), chosen, strict=True)]
    size = sum(abs(float(x.detach())) for x in q) / len(q)
    total = 0.0
    for sample, w, a, x in zip(samples(batch), weight, chosen, q, strict=True):
        apart = [((y - z) / scale) ** 2 for y, z in zip(a, sample["action"], strict=True)]
        apart = sum(apart) / len(apart) if mean else sum(apart)
        total = total + w * (beta * apart - alpha / size * x)
    return total / len(weight)


def cql(batch, weight, critics, target_critics, gamma, alpha, next_actions, drawn, bound=None):
    """``drawn[i]`` is the list of (action, log density, whether it is the policy's) that are asked about in sample i."""
    targets = policy_targets(batch, gamma, target_critics, next_actions)
    total, penalties = 0.0, 0.0
    for i, (sample, w, y) in enumerate(zip(samples(batch), weight, targets, strict=True)):
        s, a = sample["observation"], sample["action"]
        for critic in critics:
            terms = []
            for action, log_density, own in drawn[i]:
                q = critic(s, action)
                if own and bound is not None:
                    q = torch.maximum(q, bound[i])
                terms.append(torch.exp(q) / torch.exp(log_density))
            penalty = torch.log(sum(terms) / len(terms)) - critic(s, a)
            total = total + w * (0.5 * (y - critic(s, a)) ** 2 + alpha * penalty)
            penalties = penalties + penalty.detach() / len(critics) / len(weight)
    return total / len(weight), penalties


def discrete_cql(batch, weight, apply, target_apply, gamma, alpha):
    total = 0.0
    for sample, w in zip(samples(batch), weight, strict=True):
        with torch.no_grad():
            best = int(apply(sample["next_observation"]).argmax())
            y = target(sample, gamma, target_apply(sample["next_observation"])[best])
        q = apply(sample["observation"])
        chosen = q[int(sample["action"])]
        total = total + w * (0.5 * (y - chosen) ** 2 + alpha * (torch.log(sum(torch.exp(x) for x in q)) - chosen))
    return total / len(weight)


def diversity(batch, weight, critics, width=1e-5):
    """EDAC's, without its gradient: actions are moved by finite differences."""
    total = 0.0
    for sample, w in zip(samples(batch), weight, strict=True):
        s, a = sample["observation"], sample["action"]
        directions = []
        for critic in critics:
            slope = []
            for k in range(len(a)):
                e = torch.zeros_like(a)
                e[k] = width
                slope.append(float(critic(s, a + e) - critic(s, a - e)) / (2 * width))
            norm = math.sqrt(sum(x * x for x in slope))
            directions.append([x / norm for x in slope])
        pairs = 0.0
        for i, one in enumerate(directions):
            pairs += sum(sum(x * y for x, y in zip(one, other, strict=True)) for j, other in enumerate(directions) if i != j)
        total += float(w) * pairs / (len(critics) - 1)
    return total / len(weight)
