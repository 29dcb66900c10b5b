"""A2C whose discount, λ, entropy weight or learning rate are learned online, by differentiating through its updates."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from funrl import _across, _check, optim, random, tree
from funrl.acting import ActorState
from funrl.algos import (
    ActorParams,
    Algorithm,
    LearnerState,
    State,
    a2c,
    annealed,
    collecting,
    configure,
    in_dtype_of,
    on_policy,
    receiving,
    start_state,
)
from funrl.env import AnyEnv, Transition
from funrl.nn import Net
from funrl.optim import Optimizer
from funrl.policies import ActorCritic
from funrl.returns import gae
from funrl.transforms import VecNormParams

__all__ = ["MetaA2CConfig", "make"]

_FRACTIONS = ("gamma", "lambda_")  # between 0 and 1
_POSITIVE = ("entropy_weight", "learning_rate")
_EDGE = 1e-4  # the minimum distance of a fraction from 0 and 1


@tree.dataclass
class MetaA2CConfig(a2c.A2CConfig):
    """The options of :func:`make`: those of :class:`funrl.algos.a2c.A2CConfig`, and these.

    Attributes:
        lambda_: of generalized advantage estimation, in [0, 1]; at the ends it hardly moves.
        learned: the hyperparameters that are learned: some of ``"gamma"``, ``"lambda_"``, ``"entropy_weight"`` and ``"learning_rate"``.
            They begin at the values of these options.
        meta_learning_rate: of Adam for them, at least 0; they move in the logit of a fraction, and in the logarithm of the others.
        reference_gamma: the discount by which an update is judged, in [0, 1].
        reference_lambda: the λ by which an update is judged, in [0, 1].
    """

    learned: str = tree.static(default="gamma,lambda_")
    lambda_: Any = 0.95
    meta_learning_rate: Any = 3e-3
    reference_gamma: Any = 0.99
    reference_lambda: Any = 1.0


@tree.dataclass
class PreviousUpdate:
    """The start of the last update, to differentiate through it after its result has acted.

    Attributes:
        network: the parameters before it.
        optimizer: the state of the optimizer before it.
        samples: the transitions that it learned from, leaves [T, B, ...].
        happened: bool [], whether there has been one.
    """

    network: Any
    optimizer: Any
    samples: Transition
    happened: torch.Tensor


def make(env: AnyEnv, *, network: Net | ActorCritic | None = None, optimizer: Optimizer | None = None, **options: Any) -> Algorithm:
    r"""Make A2C with meta-gradients, for the environments of :func:`funrl.algos.a2c.make`.

    An update of the parameters depends on the hyperparameters eta. The transitions tau' that the policy with the new parameters theta'
    collects next measure the quality of the update, and so of eta:

    .. math:: \theta' = \theta + f(\tau, \theta, \eta), \qquad
        \Delta\eta = -\beta\, \frac{\partial J'(\tau', \theta', \bar\eta)}{\partial \theta'}
        \frac{\partial f(\tau, \theta, \eta)}{\partial \eta}

    f is a step of Adam on the loss of A2C, with advantages and value targets that depend on gamma and lambda; J' is the loss of the policy
    on tau', with advantages of ``reference_gamma`` and ``reference_lambda``, which are fixed. Both factors are one gradient here, through
    loss, clipping and Adam. Then theta' takes a step on tau' with the new eta.

    ``learner.hparams`` has the current values, which are metrics too; ``learner.target`` is a :class:`PreviousUpdate`.

    Args:
        env: a pure environment, or a batched one of ``num_envs`` copies, which may run on the host.
        network: as for :func:`funrl.algos.a2c.make`.
        optimizer: as for :func:`funrl.algos.a2c.make`. Its updates must be differentiable in the gradients, as those of :mod:`funrl.optim`
            are; with it the learning rate cannot be learned.
        **options: fields of :class:`MetaA2CConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`. Its metrics are ``steps``, ``episode_return`` and the like, ``policy_loss``, ``value_loss``,
        ``entropy``, ``gradient_norm``, ``meta_loss`` (J'), and of each learned hyperparameter its value, ``gamma`` for example, and the
        derivative of J' by its logit or logarithm, ``gamma_gradient``.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        >>> metrics["gamma"], metrics["gamma_gradient"]  # the first update has none before it
        (tensor(0.9900), tensor(0.))

    Reference: Z. Xu, H. van Hasselt, D. Silver, "Meta-Gradient Reinforcement Learning", 2018, arXiv:1805.09801. Deviations: Adam instead of
        RMSProp; policy and value are not given eta as an input; only the direct effect of eta on the last update counts (mu = 0, as there).
    """
    config, given = configure(MetaA2CConfig, options, network=network, optimizer=optimizer)
    _check_config(config, env, network, optimizer)
    names = tuple(config.learned.split(","))
    nets, stepper = on_policy.networks(config, env, network), _stepper(optimizer)
    (act, greedy), receive = on_policy.stochastic(nets), receiving(env, config, "unclipped_action")

    def init(key: torch.Tensor, hparams: Mapping[str, torch.Tensor] = MappingProxyType({})) -> State:
        network_key, env_key = random.split(key).unbind(0)

        def parts(actor: ActorState, observation: Any, hparams: MetaA2CConfig) -> dict[str, Any]:
            params = ActorParams(nets.init(network_key, observation))
            state, none = stepper(hparams, 0.0).init(params.network), torch.zeros_like(actor.timestep.terminated[0])
            network, before = tree.clone((params.network, state))
            target = PreviousUpdate(network, before, _no_samples(random.fold_in(network_key, 0), act, params, actor, config), none)
            return {
                "params": params,
                "target": target,
                "optimizer": {"network": state, "meta": optim.adam(0.0).init(_raw(hparams, names))},
            }

        return start_state(env_key, env, config, hparams, parts)

    def learn(key: torch.Tensor, learner: LearnerState, transitions: Transition) -> tuple[LearnerState, dict[str, torch.Tensor]]:
        learner, samples, received = receive(learner, transitions)
        samples = samples.replace(action=samples.extras["unclipped_action"], extras={}, place=())
        hparams, meta_state, meta_metrics = _meta_step(nets, stepper, names, learner, samples)
        before = PreviousUpdate(learner.params.network, learner.optimizer["network"], samples, torch.ones_like(learner.target.happened))
        network, state, metrics = _update(nets, stepper(hparams, annealed(hparams, learner.num_steps)), before, hparams)
        learner = learner.replace(
            params=learner.params.replace(network=network),
            target=before,
            optimizer={"network": state, "meta": meta_state},
            hparams=hparams,
            num_steps=received["steps"],
        )
        return learner, {**received, **metrics, **meta_metrics}

    return Algorithm("meta_a2c", env, config, init, collecting(env, act, config.num_steps), learn, act, greedy, given)


def _stepper(optimizer: Optimizer | None) -> Callable[..., Optimizer]:
    """Return ``stepper(hparams, learning_rate)``: the optimizer of an update."""
    return lambda hparams, learning_rate: optimizer or on_policy.clipped_adam(learning_rate, hparams.max_grad_norm)


def _meta_step(
    nets: Any, stepper: Any, names: tuple[str, ...], learner: LearnerState, samples: Transition
) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """Take a step of Adam in the hyperparameters; without a previous update they stay. Return them, the state of Adam, and metrics."""
    happened, raw = learner.target.happened, _raw(learner.hparams, names)
    gradient, meta_loss = torch.func.grad_and_value(_judge)(raw, nets, stepper, learner, samples)
    gradient = tree.map(lambda g: torch.where(happened, g, 0.0), gradient)
    updates, state = optim.adam(learner.hparams.meta_learning_rate).update(gradient, learner.optimizer["meta"], raw)
    state = tree.where(happened, state, learner.optimizer["meta"])
    values = _values(tree.map(lambda x, u: x + torch.where(happened, u, 0.0), raw, updates))
    values = {name: torch.where(happened, x, getattr(learner.hparams, name)) for name, x in values.items()}
    gradients = {f"{name.rstrip('_')}_gradient": gradient[name] for name in names}
    return learner.hparams.replace(**values), state, {"meta_loss": torch.where(happened, meta_loss, 0.0), **values, **gradients}


def _judge(raw: dict[str, torch.Tensor], nets: Any, stepper: Any, learner: LearnerState, samples: Transition) -> torch.Tensor:
    """Return J' of the parameters that the previous update results in with hyperparameters ``raw``."""
    hparams = learner.hparams.replace(**_values(raw))
    steps = learner.num_steps - _across.count() * samples.reward.numel()
    network, _, _ = _update(nets, stepper(hparams, annealed(hparams, steps.clamp(min=0))), learner.target, hparams)
    fixed = hparams.reference_gamma, hparams.reference_lambda
    advantage, _ = _advantages(nets, tree.map(torch.detach, network), samples, *fixed)
    distribution, _ = nets.both(network, nets.inputs(samples))
    return -(nets.rows(advantage) * distribution.log_prob(nets.rows(samples.action))).mean()


def _update(nets: Any, optimizer: Optimizer, before: PreviousUpdate, hparams: Any) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """Take a step of A2C that is differentiable in the hyperparameters; return the network, the optimizer's state, and metrics."""
    samples = before.samples
    advantage, target = nets.rows(_advantages(nets, before.network, samples, hparams.gamma, hparams.lambda_))

    def loss(network: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        distribution, value = nets.both(network, nets.inputs(samples))
        policy_loss = -(advantage * distribution.log_prob(nets.rows(samples.action))).mean()
        value_loss, entropy = 0.5 * (target - value).square().mean(), distribution.entropy().mean()
        metrics = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        return policy_loss + hparams.value_weight * value_loss - hparams.entropy_weight * entropy, metrics

    gradient, metrics = torch.func.grad(loss, has_aux=True)(before.network)
    updates, state = optimizer.update(gradient, before.optimizer, before.network)
    metrics["gradient_norm"] = optim.global_norm(tree.ravel(gradient)[0])
    return optim.apply_updates(before.network, updates), state, tree.map(torch.detach, metrics)


def _advantages(nets: Any, network: Any, samples: Transition, gamma: Any, lambda_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages and value targets [T, B] of generalized advantage estimation."""
    value, next_value = (x.detach() for x in nets.values(network, samples))
    return gae(samples.reward, value, next_value, samples.terminated, samples.truncated, gamma=gamma, lambda_=lambda_)


def _no_samples(key: torch.Tensor, act: Any, params: ActorParams, actor: ActorState, config: MetaA2CConfig) -> Transition:
    """Return zeros [T, B, ...] in the form of the transitions of an update; the key is for an action that is not used."""
    observation, reward, flags = actor.timestep.observation, actor.timestep.reward, actor.timestep.terminated
    _, extras = act(params, key, tree.index(observation, 0))
    action = tree.map(lambda x: x.expand(config.num_envs, *x.shape), extras["unclipped_action"])
    empty = in_dtype_of(params, Transition(observation, action, reward, flags, flags, observation, {}))
    return tree.map(lambda x: torch.zeros_like(x).expand(config.num_steps, *x.shape).clone(), empty)


def _raw(hparams: Any, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Return the logits of fractions and the logarithms of other hyperparameters."""
    return {name: torch.logit(getattr(hparams, name), eps=_EDGE) if name in _FRACTIONS else getattr(hparams, name).log() for name in names}


def _values(raw: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.sigmoid(x) if name in _FRACTIONS else x.exp() for name, x in raw.items()}


def _check_config(config: MetaA2CConfig, env: AnyEnv, network: Any, optimizer: Optimizer | None) -> None:
    on_policy.check_actor_critic(config, env, network)
    _check.fields(config, "[0, 1]", "reference_gamma", "reference_lambda")
    _check.fields(config, "[0, inf)", "meta_learning_rate")
    known, names = (*_FRACTIONS, *_POSITIVE), config.learned.split(",")
    if len(set(names)) < len(names) or not set(names) <= set(known):
        raise ValueError(f"learned: expected some of {', '.join(known)}, each once and with commas, got {config.learned!r}")
    if optimizer is not None and "learning_rate" in names:
        raise ValueError(
            "learned, optimizer: expected no 'learning_rate' in learned with an optimizer, which has its own; leave either out"
        )
    _check.fields(config, "(0, inf)", *(name for name in names if name in _POSITIVE))
    if isinstance(env.default_params, VecNormParams):
        raise ValueError("env: meta_a2c does not update the moments of vec_norm; scale observations by transforms.observation_norm")
