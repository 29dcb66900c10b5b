"""Population-based training as a loop over agents in plain Python, on the climbers of tests/populations."""

import numpy as np
import torch

from funrl import random


def value(space, u):
    return float(np.exp(np.log(space[0]) + u * (np.log(space[1]) - np.log(space[0]))))


def climb(x, rate, key, wind=0.1):
    return x + rate - rate**2 / 2 + wind * random.normal(key, (2,), dtype=torch.float64).numpy()


def lineage(keys, rates, x, space, num_updates, *, period, selection, fraction, explore, factors, probability):
    """Return parents, rates and returns [U][K] of agents with these keys, which begin at x [K][2]."""
    n, x, rates = len(keys), [np.array(one) for one in x], list(rates)
    sums, counts, parents, all_rates, returns = [0.0] * n, [0] * n, [], [], []
    for update in range(1, num_updates + 1):
        step_keys = [random.fold_in(k, update) for k in keys]
        x = [climb(x[k], rates[k], random.split(step_keys[k])[1]) for k in range(n)]
        returns.append([one.mean() for one in x])
        for k in range(n):
            sums[k], counts[k] = sums[k] + x[k].mean(), counts[k] + 1
        chosen = list(range(n))
        if update % period == 0:
            scores = [sums[k] / counts[k] for k in range(n)]
            order = sorted(range(n), key=lambda k: scores[k])
            some = max(1, int(fraction * n))
            draws = [random.split(random.fold_in(k, -5)) for k in step_keys]
            for k in range(n):
                if selection == "truncation":
                    if k not in order[:some]:
                        continue
                    other = order[n - some + int(random.randint(draws[k][0], (), 0, some))]
                else:
                    other = (k + int(random.randint(draws[k][0], (), 1, n))) % n
                if scores[other] > scores[k]:
                    chosen[k] = other
            new_x, new_rates = [x[p].copy() for p in chosen], [rates[p] for p in chosen]
            for k in range(n):
                if chosen[k] == k:
                    continue
                own = random.split(draws[k][1], (1, 2))[0]
                coin = float(random.uniform(own[0], (), dtype=torch.float64))
                if explore == "perturb":
                    new_rates[k] = min(max(new_rates[k] * (factors[1] if coin < 0.5 else factors[0]), space[0]), space[1])
                elif coin < probability:
                    new_rates[k] = value(space, float(random.uniform(own[1], (), dtype=torch.float64)))
            x, rates, sums, counts = new_x, new_rates, [0.0] * n, [0] * n
        parents.append(chosen)
        all_rates.append(list(rates))
    return parents, all_rates, returns
