"""One update of recurrent PPO in plain PyTorch: torch's own cells in a loop over steps, and autograd through all of it."""

import torch
from torch import nn

from tests.oracles.ppo import advantages, forward, network, objective, weights


class MinGRUCell(nn.Module):
    """Feng et al., 2024, section 3.1: the gates of a step do not depend on the one before."""

    def __init__(self, inputs, size, dtype):
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * size, dtype=dtype)

    def forward(self, x, h):
        gate, new = self.linear(x).chunk(2, -1)
        gate = torch.sigmoid(gate)
        return (1 - gate) * h + gate * new


NAMES = {
    "gru": (nn.GRUCell, {"weight_ih": "weight_input", "weight_hh": "weight_hidden", "bias_ih": "bias_input", "bias_hh": "bias_hidden"}),
    "min_gru": (MinGRUCell, {"linear.weight": "weight", "linear.bias": "bias"}),
}
NAMES["lstm"] = (nn.LSTMCell, NAMES["gru"][1])


def make_cell(kind, params, inputs, size):
    """A cell of torch with the parameters of ours."""
    make, names = NAMES[kind]
    cell = make(inputs, size, dtype=next(iter(params.values())).dtype)
    cell.load_state_dict({theirs: params[ours] for theirs, ours in names.items()})
    return cell


def cell_weights(kind, cell):
    return {ours: cell.get_parameter(theirs).detach() for theirs, ours in NAMES[kind][1].items()}


def run(cell, carry, observation, next_observation, reset):
    """Return the outputs of the cell for the observations [T, B, D], and for their successors as if each were the last."""
    features, successors = [], []
    for t in range(len(observation)):
        carry = [torch.where(reset[t].unsqueeze(-1), torch.zeros_like(x), x) for x in carry]
        carry = step(cell, observation[t], carry)
        features.append(carry[0])
        successors.append(step(cell, next_observation[t], carry)[0])
    return torch.stack(features), torch.stack(successors)


def step(cell, x, carry):
    new = cell(x, tuple(carry) if len(carry) > 1 else carry[0])
    return list(new) if isinstance(new, tuple) else [new]


def update(params, samples, start, order, config, activation=nn.Tanh):
    """Return the parameters after the gradient steps that ``order`` (lists of environments) says.

    Args:
        params: the network.
        samples: as for tests.oracles.ppo.update, and ``reset`` [T, B], True where an observation begins an episode.
        start: the carry before the first step, a list of tensors [B, H].
        order: the minibatches.
        config: as for tests.oracles.ppo.update, with ``recurrent``.
    """
    net = network(params, activation)
    inputs, size = samples["observation"].shape[-1], start[0].shape[-1]
    cell = make_cell(config.recurrent, params["memory"]["cell"], inputs, size)
    learned = [*net.parameters(), *cell.parameters()]
    adam = torch.optim.Adam(learned, lr=config.learning_rate, eps=1e-5)
    with torch.no_grad():
        features, successors = run(cell, start, samples["observation"], samples["next_observation"], samples["reset"])
        _, value = forward(net, features)
        _, next_value = forward(net, successors)
    advantage = advantages(samples["reward"], value, next_value, samples["terminated"], samples["truncated"], config.gamma, config.lambda_)
    target = advantage + value
    for envs in order:
        part = {name: x[:, envs] for name, x in samples.items()}
        features, _ = run(cell, [x[envs] for x in start], part["observation"], part["next_observation"], part["reset"])
        policy, new = forward(net, features)
        log_ratio = policy.log_prob(part["action"]) - part["log_prob"]
        adam.zero_grad()
        objective(log_ratio, new, policy.entropy(), advantage[:, envs], value[:, envs], target[:, envs], config).backward()
        torch.nn.utils.clip_grad_norm_(learned, config.max_grad_norm)
        adam.step()
    return {**weights(net, params), "memory": {"below": (), "cell": cell_weights(config.recurrent, cell)}}
