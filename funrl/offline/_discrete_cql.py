"""Conservative Q-learning of discrete actions."""

import dataclasses
from typing import Any

import torch

from funrl import _check, nn, tree
from funrl.algos import ActorParams, Learned, apply_gradients, batchwise, start_optimizer
from funrl.algos.off_policy import Learner
from funrl.env import AnyEnv, Transition
from funrl.losses import discrete_cql_loss
from funrl.offline import _skeleton as skeleton
from funrl.offline._parts import no_schedule
from funrl.optim import soft_update

_CONTINUOUS = ("num_actions", "calibrated", "initial_alpha", "actor_learning_rate", "entropy_share")


def learner(env: AnyEnv, config: Any, optimizer: Any, *, actor: Any, critic: Any) -> Learner:
    """Return the parts of CQL for discrete actions.

    Raises:
        ValueError: if an option is one of continuous actions.

    Example:
        >>> import funrl
        >>> funrl.offline.cql.make(funrl.envs.make("CartPole-v1"), None, num_actions=3)
        Traceback (most recent call last):
        ...
        ValueError: num_actions: is for continuous actions, and CartPole-v1 has discrete ones; leave it out
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    changed = [name for name in _CONTINUOUS if getattr(config, name) != defaults[name]]
    for name in (*changed, *(("actor",) if actor is not None else ())):
        raise ValueError(f"{name}: is for continuous actions, and {env.name} has discrete ones; leave it out")
    skeleton.check("CQL", env, config, actions="either", observations="vectors" if critic is None else "any")
    _check.fields(config, "[0, inf)", "penalty_weight")
    _check.fields(config, "[0, 1]", "tau")
    count = env.action_space.n
    net = batchwise("critic", critic, env.observation_space, count)
    net = net or nn.mlp(config.num_cells, count, activation=config.activation, out_init=nn.orthogonal(1.0))

    def init(key: torch.Tensor, observation: Any) -> tuple[Any, Any, Any]:
        network = net.init(key, observation)
        return network, tree.map(torch.clone, network), start_optimizer(optimizer, network)

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        gradient, (_, metrics) = torch.func.grad_and_value(discrete_cql_loss, has_aux=True)(
            learned.network, learned.target, batch, apply=net.apply, gamma=gamma, penalty_weight=hparams.penalty_weight, weight=weight
        )
        learned = apply_gradients(learned, gradient, hparams.learning_rate, optimizer)
        return learned.replace(target=soft_update(learned.network, learned.target, tau=hparams.tau)), metrics

    def act(params: ActorParams, key: torch.Tensor, observation: Any) -> torch.Tensor:
        return net.apply(params.network, observation).argmax(-1)

    return Learner(init, learn, act, act, no_schedule)
