"""Analytic policy gradients: gradients of returns by differentiating through the environment."""

from typing import Any

import torch

from funrl import nn, optim, tree
from funrl.algos import _analytic as analytic, on_policy
from funrl.algos._algorithm import Algorithm, annealed
from funrl.algos._analytic import AnalyticConfig
from funrl.algos._arguments import configure
from funrl.algos._state import LearnerState
from funrl.env import AnyEnv, Transition

__all__ = ["APGConfig", "make"]


@tree.dataclass
class APGConfig(AnalyticConfig):
    """The options of :func:`make`.

    Attributes:
        num_envs: B, environments side by side.
        num_steps: T, steps of each between two updates, through which gradients flow.
        num_cells: widths of the hidden layers.
        activation: their activation, as for :func:`funrl.nn.mlp`.
        normalize_observation: normalise observations by their running mean and variance.
        initial_log_std: added to the logarithm of the standard deviation, before the tanh: about the initial one; static.
        learning_rate: of Adam, at least 0.
        anneal_steps: the learning rate falls linearly to 0 over so many environment steps; infinity: it stays.
        gamma: discount, in [0, 1].
        max_grad_norm: the gradient is shrunk to this norm; infinity: no clipping.
    """


def make(env: AnyEnv, *, actor: nn.Net | None = None, optimizer: optim.Optimizer | None = None, **options: Any) -> Algorithm:
    r"""Make analytic policy gradients for an environment of differentiable torch, with vectors and continuous actions.

    An update plays T steps of B environments and takes one step of Adam along the gradient of

    .. math:: J(\theta) = \frac{1}{TB} \sum_{t,b} \gamma^{t - t_0} r_t, \qquad
        \frac{dr_t}{d\theta} \text{ through } s_{t+1} = f(s_t, a_t), \quad a_t = \mu_\theta(s_t) + \sigma_\theta(s_t) \epsilon_t

    where t_0 is the first step of the rollout or of the episode. Actions are squashed by tanh into the bounds of the environment. What
    comes after the T steps has no effect: T has to be long enough for the task. :mod:`funrl.algos.shac` puts a value function there.

    Where a reward or a transition is not differentiable (a termination, a wall, an integer), the gradient misses its effect.

    Args:
        env: an environment of torch whose step is differentiable, such as Pendulum, PointRobot and Reacher.
        actor: a net from observations [N, D] to locations and scales [N, 2A] in the place of the hidden layers.
        optimizer: any :class:`funrl.optim.Optimizer`, which takes the place of ``learning_rate``, ``anneal_steps`` and ``max_grad_norm``;
            None: Adam with these.
        **options: fields of :class:`APGConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; its metrics are ``steps``, ``episode_return`` (also ``_min`` and ``_max``), ``episode_length``,
        ``episodes``, ``policy_loss``, ``gradient_norm`` and ``learning_rate``. Its ``learn`` plays the rollout of its own ``collect``
        again, and takes no other experience.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("Pendulum-v1"), num_envs=4, num_steps=8)
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"]
        tensor(32)

    Reference: C. D. Freeman et al., "Brax - A Differentiable Physics Engine for Large Scale Rigid Body Simulation", 2021, arXiv:2106.13281,
        section 4. Deviations: rollouts go on where the last one ended, and Adam's gradient is clipped to a norm.
    """
    config, given = configure(APGConfig, options, actor=actor, optimizer=optimizer)
    analytic.check("apg", config, env, actor)
    policy = analytic.actor_of(config, env, actor)

    def init(key: torch.Tensor, observation: torch.Tensor) -> dict[str, Any]:
        params = policy.init(key, observation)
        return {"network": {"actor": params}, "optimizer": (optimizer or on_policy.clipped_adam(0.0, 1.0)).init(params)}

    def update(key: torch.Tensor, learner: LearnerState, samples: Transition, play: Any) -> tuple[LearnerState, dict[str, torch.Tensor]]:
        hparams, params = learner.hparams, learner.params.network["actor"]
        weight = analytic.discounts(samples.done, hparams.gamma)
        gradient, loss = torch.func.grad_and_value(lambda params: -(weight * play(params).reward).mean())(params)
        learning_rate = annealed(hparams, learner.num_steps)
        stepper = optimizer or on_policy.clipped_adam(learning_rate, hparams.max_grad_norm)
        updates, state = stepper.update(gradient, learner.optimizer, params)
        network = {"actor": optim.apply_updates(params, updates)}
        metrics = {"policy_loss": loss, "gradient_norm": optim.global_norm(tree.ravel(gradient)[0])}
        if optimizer is None:
            metrics["learning_rate"] = learning_rate
        return learner.replace(params=learner.params.replace(network=network), optimizer=state), metrics

    return analytic.make("apg", env, config, policy, init=init, update=update, given=given)
