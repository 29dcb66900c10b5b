"""Short-horizon actor-critic: analytic policy gradients over a few steps, with a value function at their end."""

from typing import Any

import torch

from funrl import _check, nn, optim, random, tree
from funrl.algos import _analytic as analytic, on_policy
from funrl.algos._algorithm import Algorithm, annealed
from funrl.algos._analytic import AnalyticConfig
from funrl.algos._arguments import configure
from funrl.algos._networks import batchwise
from funrl.algos._state import LearnerState
from funrl.compiler import scan
from funrl.env import AnyEnv, Transition
from funrl.returns import td_lambda

__all__ = ["SHACConfig", "make"]


@tree.dataclass
class SHACConfig(AnalyticConfig):
    """The options of :func:`make`. Those from ``learning_rate`` on are hyperparameters, which ``learner.hparams`` has as tensors.

    Attributes:
        num_envs: B, environments side by side.
        num_steps: T, steps of each between two updates, through which gradients flow; short.
        num_cells: widths of the hidden layers of policy and value.
        activation: their activation, as for :func:`funrl.nn.mlp`.
        normalize_observation: normalise observations by their running mean and variance.
        initial_log_std: added to the logarithm of the standard deviation, before the tanh: about the initial one; static.
        num_epochs: passes of the critic over the T * B samples.
        num_minibatches: gradient steps of the critic in a pass; divides T * B.
        learning_rate: of Adam for the policy, at least 0; that of the critic is ``critic_learning_ratio`` times as great.
        anneal_steps: both learning rates fall linearly to 0 over so many environment steps; infinity: they stay.
        gamma: discount, in [0, 1].
        max_grad_norm: both gradients are shrunk to this norm; infinity: no clipping.
        lambda_: of the critic's targets, TD(λ), in [0, 1].
        tau: how far the target critic moves towards the critic at each update, in (0, 1].
        critic_learning_ratio: the learning rate of the critic divided by that of the policy, at least 0.
    """

    num_steps: int = tree.static(default=32)
    activation: str = tree.static(default="elu")
    normalize_observation: bool = tree.static(default=True)
    initial_log_std: float = tree.static(default=-1.0)
    num_epochs: int = tree.static(default=16)
    num_minibatches: int = tree.static(default=4)
    lambda_: Any = 0.95
    tau: Any = 0.8
    critic_learning_ratio: Any = 0.05


def make(
    env: AnyEnv, *, actor: nn.Net | None = None, critic: nn.Net | None = None, optimizer: optim.Optimizer | None = None, **options: Any
) -> Algorithm:
    r"""Make SHAC for an environment of differentiable torch, with vectors and continuous actions.

    An update plays T steps of B environments and takes one step of Adam along the gradient of

    .. math:: J(\theta) = \frac{1}{TB} \sum_b \left( \sum_t \gamma^{t - t_0} r_t + \sum_{t \in E} \gamma^{t + 1 - t_0} V_{\bar\phi}(s_{t+1})
        \right)

    through the environment, where t_0 is the first step of the rollout or of the episode, and E are the steps at which the rollout ends or
    the episode is truncated (not terminated). Then it fits the critic to targets of TD(λ), made by the target critic, with ``num_epochs``
    passes over the T * B samples. Short rollouts keep gradients small where long ones would make them explode. The policy follows the slope
    of the critic, not its height: a critic that is fitted too closely to each batch misleads it, so ``critic_learning_ratio`` should be
    well below 1: from 0.02 to 0.1.

    Args:
        env: an environment of torch whose step is differentiable, such as Pendulum, PointRobot and Reacher.
        actor: a net from observations [N, D] to locations and scales [N, 2A] in the place of the hidden layers.
        critic: a net from observations [N, D] to values [N, 1].
        optimizer: any :class:`funrl.optim.Optimizer` for both, which takes the place of the learning rates, ``anneal_steps`` and
            ``max_grad_norm``; None: Adam with these.
        **options: fields of :class:`SHACConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; its metrics are ``steps``, ``episode_return`` (also ``_min`` and ``_max``), ``episode_length``,
        ``episodes``, ``policy_loss``, ``value_loss``, ``value_mean``, ``gradient_norm`` (of the policy) and ``learning_rate``. Its
        ``learn`` plays the rollout of its own ``collect`` again, and takes no other experience.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("Reacher-misc"), num_envs=4, num_steps=8)
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"]
        tensor(32)

    Reference: J. Xu et al., "Accelerated Policy Learning with Parallel Differentiable Simulation", 2022, arXiv:2204.07137. Deviations: the
        standard deviation of the policy depends on the observation, and the networks have no layer normalisation.
    """
    config, given = configure(SHACConfig, options, actor=actor, critic=critic, optimizer=optimizer)
    analytic.check("shac", config, env, actor)
    _check.fields(config, "(0, 1]", "tau")
    on_policy.check_minibatches(config)
    policy = analytic.actor_of(config, env, actor)
    own = batchwise("critic", critic, env.observation_space, 1)
    value_net = own or nn.mlp(config.num_cells, 1, activation=config.activation, out_init=nn.orthogonal(1.0))

    def adam(learning_rate: Any, max_norm: Any) -> optim.Optimizer:
        return optimizer or optim.flatten(optim.chain(optim.clip_by_global_norm(max_norm), optim.adam(learning_rate, 0.7, 0.95)))

    def estimate(params: Any, observation: torch.Tensor) -> torch.Tensor:
        return value_net.apply(params, observation).squeeze(-1)

    def init(key: torch.Tensor, observation: torch.Tensor) -> dict[str, Any]:
        actor_key, critic_key = random.split(key).unbind(0)
        network = {"actor": policy.init(actor_key, observation), "critic": value_net.init(critic_key, observation)}
        state = {name: adam(0.0, 1.0).init(params) for name, params in network.items()}
        return {"network": network, "target": tree.clone(network["critic"]), "optimizer": state}

    def update(key: torch.Tensor, learner: LearnerState, samples: Transition, play: Any) -> tuple[LearnerState, dict[str, torch.Tensor]]:
        hparams, network, target = learner.hparams, learner.params.network, learner.target
        weight = analytic.discounts(samples.done, hparams.gamma)
        last = torch.arange(config.num_steps, device=weight.device)[:, None] == config.num_steps - 1
        bootstraps = (last | samples.done) & ~samples.terminated

        def policy_loss(params: Any) -> torch.Tensor:
            again = play(params)
            value = torch.where(bootstraps, estimate(target, again.next_observation), 0.0)
            return -(weight * (again.reward + hparams.gamma * value)).mean()

        gradient, loss = torch.func.grad_and_value(policy_loss)(network["actor"])
        learning_rate = annealed(hparams, learner.num_steps)
        updates, actor_state = adam(learning_rate, hparams.max_grad_norm).update(gradient, learner.optimizer["actor"], network["actor"])
        value, next_value = estimate(target, torch.stack([samples.observation, samples.next_observation])).unbind(0)
        goal = td_lambda(samples.reward, next_value, samples.terminated, samples.truncated, gamma=hparams.gamma, lambda_=hparams.lambda_)
        rows = tree.flatten_batch((samples.observation, goal))
        critic_adam = adam(hparams.critic_learning_ratio * learning_rate, hparams.max_grad_norm)
        critic_params, critic_state, value_loss = _fit(
            key, network["critic"], learner.optimizer["critic"], rows, config, critic_adam, estimate
        )
        network = {"actor": optim.apply_updates(network["actor"], updates), "critic": critic_params}
        learner = learner.replace(
            params=learner.params.replace(network=network),
            target=optim.soft_update(critic_params, target, tau=hparams.tau),
            optimizer={"actor": actor_state, "critic": critic_state},
        )
        metrics = {"policy_loss": loss, "value_loss": value_loss, "value_mean": value.mean()}
        metrics["gradient_norm"] = optim.global_norm(tree.ravel(gradient)[0])
        return learner, metrics if optimizer is not None else {**metrics, "learning_rate": learning_rate}

    return analytic.make("shac", env, config, policy, init=init, update=update, given=given)


def _fit(
    key: torch.Tensor, params: Any, state: Any, rows: Any, config: SHACConfig, optimizer: optim.Optimizer, estimate: Any
) -> tuple[Any, Any, torch.Tensor]:
    """Fit the critic to its targets; return its parameters, the optimizer's state and the mean loss."""
    size = rows[1].shape[0]
    order = torch.func.vmap(random.permutation, (0, None))(random.split(key, config.num_epochs), size)

    def loss(params: Any, part: Any) -> torch.Tensor:
        observation, goal = part
        return (estimate(params, observation) - goal).square().mean()

    def step(carry: tuple[Any, Any], indices: torch.Tensor) -> tuple[tuple[Any, Any], torch.Tensor]:
        params, state = carry
        gradient, value = torch.func.grad_and_value(loss)(params, tree.index(rows, indices))
        updates, state = optimizer.update(gradient, state, params)
        return (optim.apply_updates(params, updates), state), value

    (params, state), losses = scan(step, (params, state), order.reshape(config.num_epochs * config.num_minibatches, -1))
    return params, state, losses.mean()
