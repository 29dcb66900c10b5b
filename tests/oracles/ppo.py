"""One update of PPO in plain PyTorch: modules, autograd, torch.optim.Adam, and loops."""

import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal


def network(params, activation):
    """Modules with the weights of a funrl network: a dict of "policy", "value" and maybe "trunk" and "log_std"."""

    def stack(layers, last):
        modules = []
        for i, layer in enumerate(layers):
            linear = nn.Linear(*reversed(layer["weight"].shape), dtype=layer["weight"].dtype)
            with torch.no_grad():
                linear.weight.copy_(layer["weight"])
                linear.bias.copy_(layer["bias"])
            modules += [linear, activation()] if i < len(layers) - 1 or not last else [linear]
        return nn.Sequential(*modules)

    net = nn.ModuleDict({name: stack(params[name], last=name != "trunk") for name in ("policy", "value", "trunk") if name in params})
    if "log_std" in params:
        net.register_parameter("log_std", nn.Parameter(params["log_std"].clone()))
    return net


def weights(net, params):
    """The weights of ``net`` in the form of ``params``."""
    result = {}
    for name in ("policy", "value", "trunk"):
        if name in params:
            linears = [m for m in net[name] if isinstance(m, nn.Linear)]
            result[name] = tuple({"weight": m.weight.detach(), "bias": m.bias.detach()} for m in linears)
    if "log_std" in params:
        result["log_std"] = net.log_std.detach()
    return result


def forward(net, observation):
    x = net["trunk"](observation) if "trunk" in net else observation
    output = net["policy"](x)
    policy = Independent(Normal(output, net.log_std.exp().expand_as(output)), 1) if hasattr(net, "log_std") else Categorical(logits=output)
    return policy, net["value"](x)[..., 0]


def advantages(reward, value, next_value, terminated, truncated, gamma, lambda_):
    steps, copies = reward.shape
    result = torch.zeros_like(reward)
    for b in range(copies):
        running = 0.0
        for t in reversed(range(steps)):
            if terminated[t, b] or truncated[t, b]:
                running = 0.0
            bootstrap = 0.0 if terminated[t, b] else next_value[t, b]
            running = reward[t, b] + gamma * bootstrap - value[t, b] + gamma * lambda_ * running
            result[t, b] = running
    return result


def update(params, samples, order, config, activation=nn.Tanh, learning_rate=None):
    """Return the parameters after the gradient steps that ``order`` (lists of indices into the T * B samples) says.

    Args:
        params: the network.
        samples: observation and next_observation [T, B, D] as the network sees them, action, log_prob, reward, terminated, truncated.
        order: the minibatches.
        config: gamma, lambda_, clip, value_clip, value_weight, entropy_weight, max_grad_norm, normalize_advantage, learning_rate.
    """
    net = network(params, activation)
    adam = torch.optim.Adam(net.parameters(), lr=learning_rate or config.learning_rate, eps=1e-5)
    with torch.no_grad():
        _, value = forward(net, samples["observation"])
        _, next_value = forward(net, samples["next_observation"])
    advantage = advantages(samples["reward"], value, next_value, samples["terminated"], samples["truncated"], config.gamma, config.lambda_)
    target = advantage + value
    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in samples.items()}
    advantage, target, old_value = advantage.reshape(-1), target.reshape(-1), value.reshape(-1)
    for rows in order:
        policy, value = forward(net, flat["observation"][rows])
        log_ratio = policy.log_prob(flat["action"][rows]) - flat["log_prob"][rows]
        adam.zero_grad()
        objective(log_ratio, value, policy.entropy(), advantage[rows], old_value[rows], target[rows], config).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.max_grad_norm)
        adam.step()
    return weights(net, params)


def objective(log_ratio, value, entropy, advantage, old_value, target, config):
    """The loss of a minibatch."""
    if config.normalize_advantage:
        advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
    ratio = log_ratio.exp()
    gain = torch.min(ratio * advantage, ratio.clamp(1 - config.clip, 1 + config.clip) * advantage).mean()
    near = old_value + (value - old_value).clamp(-config.value_clip, config.value_clip)
    error = torch.max((value - target) ** 2, (near - target) ** 2).mean() / 2
    return -gain + config.value_weight * error - config.entropy_weight * entropy.mean()
