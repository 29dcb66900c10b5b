"""The option-critic: options, their terminations and the choice among them, learned together."""

import functools
from typing import Any

import torch

from funrl import acting, optim, policies, random, tree
from funrl.algos import on_policy
from funrl.algos._actor_critic import normalized
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure
from funrl.algos._heads import check_actions, project_action
from funrl.algos._networks import OptionNetworks, option_networks
from funrl.algos._state import ActorParams
from funrl.algos.images import check_observations
from funrl.env import AnyEnv, Transition
from funrl.losses import OptionBatch, option_critic_loss, take
from funrl.returns import gae
from funrl.typing import Loss, Metrics

__all__ = ["OptionCriticConfig", "make"]


@tree.dataclass
class OptionCriticConfig(on_policy.OnPolicyConfig):
    """The options of :func:`make`, in addition to those of :class:`~funrl.algos.on_policy.OnPolicyConfig`.

    Attributes:
        num_options: K, at least 1; with 1 the learner is an actor-critic.
        uniform_mix: as for :class:`~funrl.algos.on_policy.ActorCriticConfig`.
        initial_log_std: as for :class:`~funrl.algos.on_policy.ActorCriticConfig`; all options have the same deviations.
        lambda_: lambda of the returns of options, in [0, 1].
        epsilon: probability that the next option is a random one, in [0, 1].
        deliberation_cost: by how much another option has to be better before an option learns to terminate; at least 0.
        termination_weight: weight of the loss of the terminations, at least 0.
        value_weight: weight of the value loss, at least 0.
        entropy_weight: weight of the entropy bonus, at least 0.
    """

    num_options: int = tree.static(default=4)
    uniform_mix: float = tree.static(default=0.0)
    initial_log_std: float = tree.static(default=0.0)
    lambda_: Any = 0.95
    epsilon: Any = 0.1
    deliberation_cost: Any = 0.01
    termination_weight: Any = 1.0
    value_weight: Any = 0.5
    entropy_weight: Any = 0.01


def make(
    env: AnyEnv,
    *,
    optimizer: optim.Optimizer | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Algorithm:
    r"""Make the option-critic for an environment with vectors, images or dicts of both as observations.

    An option has a policy :math:`\pi_\omega`, and terminates in a state with probability :math:`\beta_\omega(s)`. The next option is the
    one of greatest value, or with probability ε a random one. The value of an option that leads to s' is

    .. math:: U(\omega, s') = (1 - \beta_\omega(s')) Q_\Omega(s', \omega) + \beta_\omega(s') V_\Omega(s'), \qquad
        V_\Omega = (1 - \epsilon) \max_\omega Q_\Omega + \frac \epsilon K \sum_\omega Q_\Omega

    An update collects T steps of B environments, and takes one gradient step on :func:`funrl.losses.option_critic_loss` with all samples.
    The returns y of options have U in the place of the value of the successor (:func:`funrl.returns.gae`):

    .. math:: y_t = r_t + \gamma \left(U(\omega_t, s_{t+1}) + \lambda (y_{t+1} - Q_\Omega(s_{t+1}, \omega_{t+1}))\right)

    and :math:`y_t = r_t` where the episode terminates.

    Args:
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        optimizer: as for :func:`funrl.algos.a2c.make`.
        loss: ``loss(params, rows, hparams, *, default, apply) -> (loss, metrics)`` instead of :func:`funrl.losses.option_critic_loss`, as
            for :func:`funrl.algos.a2c.make`; ``rows`` is an :class:`~funrl.losses.OptionBatch`, and ``apply(params, observation, option)``
            returns the distribution, the value and the probability of a termination.
        **options: fields of :class:`OptionCriticConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`, whose ``act`` and ``greedy`` are stateful policies: their state is the current option, int64 [].
        Both terminate options at random; ``greedy`` takes the best option and its most likely action.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("FourRooms-misc"), num_envs=4, num_steps=8, num_options=2)
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> state.actor.memory.state.shape, metrics["steps"]
        (torch.Size([4]), tensor(32))

    Reference: P.-L. Bacon, J. Harb, D. Precup, "The Option-Critic Architecture", 2016, arXiv:1609.05140; the returns and the deliberation
        cost are those of J. Harb, P.-L. Bacon, M. Klissarov, D. Precup, "When Waiting is not an Option: Learning Options with a
        Deliberation Cost",
        2017, arXiv:1709.04571. Deviations: those of :func:`funrl.algos.a2c.make` and :func:`funrl.losses.option_critic_loss`.
    """
    config, given = configure(OptionCriticConfig, options, optimizer=optimizer, loss=loss)
    on_policy.check(config, env)
    check_observations(env)
    check_actions(env, config.uniform_mix, config.initial_log_std)
    # Policies know the space, and not the environment, so that they can be sent to workers.
    nets, project = option_networks(config, env), functools.partial(project_action, env.action_space)

    def act(params: ActorParams, key: torch.Tensor, option: torch.Tensor, observation: Any, reset: torch.Tensor) -> tuple[Any, Any, Any]:
        choice_key, action_key = random.split(key).unbind(0)
        x = normalized(params, observation)
        after = nets.choose(params.network, choice_key, option, x, reset, params.random)
        action, log_prob = nets.policy(params.network, x, after).sample_with_log_prob(action_key)
        extras = {"log_prob": log_prob, "unclipped_action": action, "option": after, "memory": acting.Memory(option, reset)}
        return after, project(action), extras

    def greedy(params: ActorParams, key: torch.Tensor, option: torch.Tensor, observation: Any, reset: torch.Tensor) -> tuple[Any, Any, Any]:
        x = normalized(params, observation)
        after = nets.choose(params.network, key, option, x, reset, torch.zeros_like(params.random))
        return after, project(nets.policy(params.network, x, after).mode()), {"option": after}

    def start(params: ActorParams, observation: Any) -> torch.Tensor:
        return torch.zeros_like(params.random, dtype=torch.int64)

    def own_loss(params: Any, rows: OptionBatch, hparams: OptionCriticConfig) -> tuple[torch.Tensor, Metrics]:
        names = ("deliberation_cost", "termination_weight", "value_weight", "entropy_weight")
        return option_critic_loss(params, rows, apply=nets.all, **{name: getattr(hparams, name) for name in names})

    def params_of(key: torch.Tensor, observation: Any) -> ActorParams:
        network = nets.init(key, observation)
        return ActorParams(network, random=tree.leaves(network)[0].new_full((), config.epsilon))

    spec = on_policy.Learner(
        nets.init,
        policies.StatefulPolicy(params_of, start, act),
        policies.StatefulPolicy(params_of, start, greedy),
        functools.partial(_prepare, nets),
        own_loss,
        schedule=lambda hparams, num_steps: {"random": hparams.epsilon.clone()},
        extras=("option",),
    )
    return on_policy.make("option_critic", env, config, spec, given, apply=nets.all)


def _prepare(nets: OptionNetworks, params: Any, samples: Transition, hparams: OptionCriticConfig) -> OptionBatch:
    """Return the rows to learn from: advantages and targets of the options that acted, and what another option would have gained."""
    option = samples.extras["option"]
    both = nets.values(params, tree.stack([samples.observation, samples.next_observation]))
    value, continued = take(both, option.expand(2, *option.shape))
    chosen = (1 - hparams.epsilon) * both[1].max(-1).values + hparams.epsilon * both[1].mean(-1)
    beta = nets.termination(params, samples.next_observation, option)
    arrival = (1 - beta) * continued + beta * chosen
    advantage, target = gae(
        samples.reward, value, arrival, samples.terminated, samples.truncated, gamma=hparams.gamma, lambda_=hparams.lambda_
    )
    return tree.flatten_batch(
        OptionBatch(
            samples.observation, samples.action, option, advantage, target, samples.next_observation, continued - chosen,
            samples.terminated,
        )
    )  # fmt: skip
