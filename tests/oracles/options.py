"""Options in plain float64 loops: returns, losses, and semi-Markov steps."""

import math


def option_values(values, beta, option, epsilon):
    """The value of an option that leads to a state with these values [K], and its advantage over a new choice there."""
    chosen = (1 - epsilon) * max(values) + epsilon * sum(values) / len(values)
    return (1 - beta) * values[option] + beta * chosen, values[option] - chosen


def returns(reward, value, arrival, terminated, truncated, gamma, lambda_):
    """The lambda-returns of one environment, from the last step to the first; value and arrival are Q(s, w) and U(w, s')."""
    result, surprise = [], 0.0  # of the later return, beyond the value of the option that was chosen there
    for r, q, u, end, cut in reversed(list(zip(reward, value, arrival, terminated, truncated, strict=True))):
        y = r if end else r + gamma * u if cut else r + gamma * (u + lambda_ * surprise)
        surprise = y - q
        result.append(y)
    return result[::-1]


def loss(samples, weight, cost, termination_weight, value_weight, entropy_weight):
    """The option-critic's loss; a sample has probabilities, action, value, target, advantage, beta, option_advantage and terminated."""
    total = 0.0
    for x, w in zip(samples, weight, strict=True):
        entropy = -sum(p * math.log(p) for p in x["probabilities"])
        one = -x["advantage"] * math.log(x["probabilities"][x["action"]]) + value_weight * 0.5 * (x["target"] - x["value"]) ** 2
        one -= entropy_weight * entropy
        if not x["terminated"]:
            one += termination_weight * x["beta"] * (x["option_advantage"] + cost)
        total += w * one
    return total / len(samples)
