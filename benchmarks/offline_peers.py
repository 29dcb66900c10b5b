"""Offline learners of d3rlpy, and EDAC in plain torch: what ``benchmarks/offline.py`` compares funrl with.

This file imports nothing of funrl: an interpreter that has d3rlpy runs it, with its task as JSON. d3rlpy's actions are in [-1, 1], so the
caller divides the actions of the data by the half-width of their box. Policies are written as the weights of their layers, so that both
sides are evaluated in the same environment; the decision transformer is evaluated here, in gymnasium's Pendulum-v1.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

KINDS = {"bc": "BC", "filtered_bc": "BC", "td3_bc": "TD3PlusBC", "iql": "IQL", "awac": "AWAC", "cql": "CQL", "rebrac": "ReBRAC"}
KINDS |= {"sac_n": "SAC", "discrete_bc": "DiscreteBC", "discrete_cql": "DiscreteCQL"}


def d3rlpy_learner(task: dict, data: Any, seed: int) -> tuple[Callable[[], Any], Callable[[], nn.Module]]:
    """Return a function that takes a gradient step, and one that returns the policy, or the critic of discrete actions."""
    import d3rlpy

    d3rlpy.seed(seed)
    kind = getattr(d3rlpy.algos, f"{KINDS[task['name']]}Config")
    fields = kind.__dataclass_fields__
    encoders: dict[str, Any] = {}
    for name in ("encoder_factory", "actor_encoder_factory", "critic_encoder_factory", "value_encoder_factory"):
        if name in fields:
            norm = task["name"] == "rebrac" and name == "critic_encoder_factory"
            encoders[name] = d3rlpy.models.VectorEncoderFactory(hidden_units=task["cells"], use_layer_norm=norm)
    rates = {name: task["rate"] for name in fields if name.endswith("learning_rate") and not name.startswith("alpha")}
    algo = kind(**{"batch_size": task["batch"], **encoders, **rates, **task["options"]}).create(device="cpu:0")
    algo.build_with_dataset(data)
    if task.get("same_weights"):
        orthogonal(algo.impl.policy, 0.01)

    def update() -> None:
        algo.update(data.sample_transition_batch(task["batch"]))

    return update, lambda: algo.impl.q_function[0] if KINDS[task["name"]] == "DiscreteCQL" else algo.impl.policy


def orthogonal(network: nn.Module, last: float) -> nn.Module:
    """Give a perceptron the initial weights of funrl's: orthogonal of sqrt(2), of ``last`` in the last layer, and no biases."""
    layers = [x for x in network.modules() if isinstance(x, nn.Linear)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, last if layer is layers[-1] else 2**0.5)
        nn.init.zeros_(layer.bias)
    return network


def perceptron(sizes: list[int]) -> nn.Sequential:
    """Return a perceptron of ReLU units."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def edac_learner(task: dict, arrays: Any, seed: int) -> tuple[Callable[[], Any], Callable[[], nn.Module]]:
    """Return the same two functions of EDAC, by the equations of arXiv:2110.01548, algorithm 1.

    It has E critics with the target r + gamma (min Q' - alpha log pi), and eta times the mean, over states, of the sum over pairs of
    critics of the cosine between their gradients in the action, divided by E - 1; its temperature's loss has log alpha, as the authors'.
    """
    torch.manual_seed(seed)
    options, rate = task["options"], task["rate"]
    data = {
        name: torch.from_numpy(np.asarray(arrays[name], dtype=np.float32)) for name in ("observations", "actions", "rewards", "terminals")
    }
    data["next"] = torch.from_numpy(arrays["next_observations"])
    width, size, count = data["observations"].shape[1], data["actions"].shape[1], options["n_critics"]
    actor = perceptron([width, *task["cells"], 2 * size])
    critics, targets = ([perceptron([width + size, *task["cells"], 1]) for _ in range(count)] for _ in range(2))
    unit = task["reach"] if task.get("same_weights") else 1.0  # of the actions that critics see
    if task.get("same_weights"):
        orthogonal(actor, 0.01)
        critics = [orthogonal(q, 1.0) for q in critics]
    for a, b in zip(critics, targets, strict=True):
        b.load_state_dict(a.state_dict())
    log_alpha = torch.zeros((), requires_grad=True)
    of_critics = [p for q in critics for p in q.parameters()]
    optimizers = [torch.optim.Adam(x, lr=rate) for x in (actor.parameters(), of_critics, [log_alpha])]

    def draw(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loc, log_std = actor(x).chunk(2, -1)
        normal = torch.distributions.Normal(loc, log_std.clamp(-5, 2).exp())
        u = normal.rsample()
        return u.tanh(), (normal.log_prob(u) - 2 * (np.log(2.0) - u - F.softplus(-2 * u))).sum(-1)

    def values(networks: list, x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return torch.stack([q(torch.cat([x, unit * a], -1)).squeeze(-1) for q in networks])

    def update() -> None:
        index = torch.randint(len(data["rewards"]), (task["batch"],))
        x, a, r, over, y = (data[name][index] for name in ("observations", "actions", "rewards", "terminals", "next"))
        own, log_prob = draw(x)
        alpha = log_alpha.exp().detach()
        actor_loss = (alpha * log_prob - values(critics, x, own).amin(0)).mean()
        gradients = torch.autograd.grad(actor_loss, list(actor.parameters()))
        with torch.no_grad():
            after, after_log_prob = draw(y)
            target = r + options["gamma"] * (1 - over) * (values(targets, y, after).amin(0) - alpha * after_log_prob)
        at = a.clone().requires_grad_()
        q = values(critics, x, at)
        slopes = torch.stack([torch.autograd.grad(each.sum(), at, create_graph=True)[0] for each in q])
        slopes = slopes / (slopes.norm(dim=-1, keepdim=True) + 1e-10)
        alike = torch.einsum("ind,jnd->nij", slopes, slopes) * (1 - torch.eye(count))
        loss = (q - target).square().mean(1).sum() + options["eta"] * alike.sum((1, 2)).mean() / (count - 1)
        temperature_loss = -(log_alpha * (log_prob.detach() - size).mean())
        optimizers[1].zero_grad()
        loss.backward()
        for p, g in zip(actor.parameters(), gradients, strict=True):
            p.grad = g
        log_alpha.grad = torch.autograd.grad(temperature_loss, log_alpha)[0]
        for each in optimizers:
            each.step()
        with torch.no_grad():
            for b, c in zip([p for q in targets for p in q.parameters()], of_critics, strict=True):
                b.lerp_(c, options["tau"])

    return update, lambda: actor


def layers_of(policy: nn.Module, width: int, size: int) -> list[np.ndarray]:
    """Return weights and biases of a greedy policy, layer by layer; of a Gaussian one, those of the mean."""
    linear = [x for name, x in policy.named_modules() if isinstance(x, nn.Linear) and "logstd" not in name]
    if linear[0].in_features != width or linear[-1].out_features not in (size, 2 * size):
        raise SystemExit(f"offline_peers: layers in an order that is not understood: {policy}")
    arrays = [x.detach().numpy() for layer in linear for x in (layer.weight, layer.bias)]
    return [*arrays[:-2], arrays[-2][:size], arrays[-1][:size]]


def decision_transformer(task: dict, data: Any, seed: int) -> tuple[float, float]:
    """Return the rate of d3rlpy's decision transformer, and its mean return over episodes of gymnasium's environment."""
    import d3rlpy
    import gymnasium

    d3rlpy.seed(seed)
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=[task["hidden"]], exclude_last_activation=True)
    scaler = d3rlpy.preprocessing.MultiplyRewardScaler(1.0 / task["scale"])
    shared = {"batch_size": task["batch"], "learning_rate": task["rate"], "encoder_factory": encoder, "reward_scaler": scaler}
    algo = d3rlpy.algos.DecisionTransformerConfig(**shared, **task["options"]).create(device="cpu:0")
    algo.build_with_dataset(data)
    start = time.process_time()
    for _ in range(task["updates"]):
        algo.update(data.sample_trajectory_batch(task["batch"], length=task["options"]["context_size"]))
    rate = task["updates"] / (time.process_time() - start)
    actor, env, total = algo.as_stateful_wrapper(target_return=task["target"]), gymnasium.make("Pendulum-v1"), 0.0
    mean, std = (np.array(task[name], np.float32) for name in ("mean", "std"))
    for i in range(task["episodes"]):
        actor.reset()
        x, r, done = env.reset(seed=1000 * seed + i)[0], 0.0, False
        while not done:
            action = actor.predict((x.astype(np.float32) - mean) / std, r)
            x, r, a, b, _ = env.step(np.clip(action, -1, 1) * task["reach"])
            total, done = total + float(r), a or b
    return rate, total / task["episodes"]


def main(task: dict) -> dict:
    """Train the agents of a task in turn, write their policies, and return the rate of gradient steps a second of CPU time."""
    torch.set_num_threads(1)
    arrays = np.load(task["data"])
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    data: Any = None
    if task["name"] != "edac":
        import d3rlpy

        data = d3rlpy.dataset.MDPDataset(*(arrays[name] for name in names))
    if task["name"] == "decision_transformer":
        found = [decision_transformer(task, data, seed) for seed in range(task["seeds"])]
        return {"rate": found[0][0], "scores": [x[1] for x in found]}
    width = arrays["observations"].shape[1]
    size = arrays["actions"].shape[1] if arrays["actions"].ndim == 2 else int(arrays["actions"].max()) + 1
    policies, rate = {}, 0.0
    for seed in range(task["seeds"]):
        update, policy = edac_learner(task, arrays, seed) if task["name"] == "edac" else d3rlpy_learner(task, data, seed)
        for _ in range(20):
            update()
        start = time.process_time()
        for _ in range(task["updates"] - 20):
            update()
        rate = (task["updates"] - 20) / (time.process_time() - start)
        policies |= {f"{seed}_{i:02d}": x for i, x in enumerate(layers_of(policy(), width, size))}
    np.savez(task["out"], **policies)
    return {"rate": rate}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
