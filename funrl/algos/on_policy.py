"""The common part of on-policy learners: collect transitions, learn from them, and discard them."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from funrl import _across, _check, acting, optim, policies, random, tree
from funrl.algos import _actor_critic as actor_critic
from funrl.algos._algorithm import Algorithm, annealed, check_copies, collecting, receiving, start_state
from funrl.algos._arguments import check_intervals, with_default
from funrl.algos._heads import check_actions
from funrl.algos._state import ActorParams, LearnerState, State
from funrl.algos.images import ImageConfig, check_layers, check_observations
from funrl.compiler import scan
from funrl.env import AnyEnv, Transition
from funrl.losses import normalize_advantage
from funrl.typing import Metrics

__all__ = ["ActorCriticConfig", "Learner", "OnPolicyConfig", "clipped_adam", "make", "networks", "stochastic"]


@tree.dataclass
class OnPolicyConfig(ImageConfig):
    """The options of every on-policy learner, in addition to those of :class:`~funrl.algos.images.ImageConfig`.

    The fields from ``learning_rate`` on are hyperparameters: ``learner.hparams`` holds them as tensors.

    Attributes:
        num_envs: B, number of environments.
        num_steps: T, steps of each environment in one update.
        num_cells: widths of the hidden layers.
        activation: activation of the hidden layers, as for :func:`funrl.nn.mlp`.
        learning_rate: learning rate of Adam, at least 0.
        anneal_steps: number of environment steps over which the learning rate falls linearly to 0; infinity: it is constant.
        gamma: discount, in [0, 1].
        max_grad_norm: gradients with a greater norm are scaled down to it; infinity: no clipping.
    """

    num_envs: int = tree.static(default=32)
    num_steps: int = tree.static(default=16)
    num_cells: tuple = tree.static(default=(64, 64))
    activation: str = tree.static(default="tanh")
    learning_rate: Any = 1e-3
    anneal_steps: Any = math.inf
    gamma: Any = 0.99
    max_grad_norm: Any = 0.5


@tree.dataclass
class ActorCriticConfig(OnPolicyConfig):
    """The options of on-policy learners with a policy and a value function, in addition to those of :class:`OnPolicyConfig`.

    Attributes:
        trunk: ``"separate"`` networks for policy and value, or one ``"shared"`` network.
        uniform_mix: discrete actions only: the weight of the uniform distribution in the policy, in [0, 1). It is static, so that 0 costs
            nothing (Hafner et al., "Mastering Diverse Domains through World Models", 2023, arXiv:2301.04104).
        initial_log_std: continuous actions only: the logarithm of the initial standard deviation; static.
        value_weight: weight of the value loss, at least 0.
        entropy_weight: weight of the entropy bonus, at least 0.
    """

    trunk: str = tree.static(default="separate")
    uniform_mix: float = tree.static(default=0.0)
    initial_log_std: float = tree.static(default=0.0)
    value_weight: Any = 0.5
    entropy_weight: Any = 0.01


class Learner(NamedTuple):
    """The parts in which on-policy algorithms differ.

    Attributes:
        init: ``init(key, observation) -> network``: the initial parameters.
        act: the exploring policy, which takes :class:`~funrl.algos.ActorParams`: a function ``act(params, key, observation) -> (action,
            extras)`` or a :class:`funrl.policies.StatefulPolicy`. Its extras have ``unclipped_action``, the action for the learner.
        greedy: the policy without exploration, of the same kind.
        prepare: ``prepare(network, samples, hparams) -> rows``: make the training data, leaves [N, ...], once per update from a
            :class:`~funrl.env.Transition` of leaves [T, B, ...] and the network that acted. ``hparams.gamma`` is [], or [T, B] if the
            environment has discounts of its own.
        loss: ``loss(network, rows, hparams) -> (loss, metrics)``; metrics are tensors [].
        num_epochs: passes over the N rows.
        num_minibatches: gradient steps in a pass; divides N. Each step uses a different random part of the rows. With 1 the rows keep their
            order.
        normalizers: ``normalizers(observation, reward) -> (moments, state)``: the initial ``params.observation`` and
            ``learner.normalizers``; ``reward`` is [B].
        normalize: ``normalize(learner, samples, hparams) -> (learner, samples)``: normalise the transitions, and update the statistics of
            the learner; ``hparams`` as for ``prepare``.
        schedule: ``schedule(hparams, num_steps)``: the fields of :class:`~funrl.algos.ActorParams` that depend on the number of environment
            steps.
        stop: ``stop(metrics, hparams) -> bool []``: True if the update ends before the gradient step that has these metrics.
        describe: ``describe(rows) -> metrics``: metrics of all rows together.
        normalized: names of fields [N, ...] of the rows that are normalised within each minibatch, by
            :func:`funrl.losses.normalize_advantage`.
        extras: names of further extras of ``act`` that are needed for learning.
        needed: names of metrics of the loss that the learner reads.
        split: ``split(rows) -> weights [K, N]``: which rows are of which of K tasks. Their gradients are then joined by
            :func:`funrl.optim.pcgrad`, and ``loss`` also takes such a ``weight=`` [N]. None: there is one gradient.
    """

    init: Callable[..., Any]
    act: Any
    greedy: Any
    prepare: Callable[..., Any]
    loss: Callable[..., Any]
    num_epochs: int = 1
    num_minibatches: int = 1
    normalizers: Callable[..., tuple[Any, Any]] = lambda observation, reward: ((), ())
    normalize: Callable[..., Any] = lambda learner, samples, hparams: (learner, samples)
    schedule: Callable[..., dict[str, Any]] = lambda hparams, num_steps: {}
    stop: Callable[..., torch.Tensor] | None = None
    describe: Callable[..., Metrics] = lambda rows: {}
    normalized: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    split: Callable[[Any], torch.Tensor] | None = None


def make(
    name: str, env: AnyEnv, config: Any, spec: Learner, given: dict[str, Any] | None = None, *, apply: Callable[..., Any] | None = None
) -> Algorithm:
    """Make an :class:`~funrl.algos.Algorithm` from a :class:`Learner`.

    An update takes ``num_epochs`` times ``num_minibatches`` steps of Adam in a scan, and clips the norm of the gradient. Continuous actions
    are projected into the action space for the environment only: the learner uses the actions before projection, which are
    ``unclipped_action`` in the extras of ``act``.

    With a host environment, ``step`` is a Python loop that calls two compiled programs, ``act`` and ``learn``. Such a step can be neither
    compiled nor vmapped.

    Args:
        name: the name of the algorithm, for ``python -m funrl train`` and messages.
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        config: an :class:`OnPolicyConfig`.
        spec: the parts that define the algorithm.
        given: the parts that the user gave instead of the default ones: ``optimizer`` instead of Adam, and ``loss(network, rows, hparams,
            default=spec.loss, apply=apply)`` instead of ``spec.loss``.
        apply: the forward pass of the network, an argument of such a loss.

    Returns:
        The algorithm. Its metrics are ``steps``, those of the episodes, those of the loss and ``gradient_norm`` (means over gradient steps)
        and, without an optimizer of the user's own, ``learning_rate``. If updates may stop early, the means include the gradient
        step at which the update stopped, which is not applied; ``learned_fraction`` is the fraction of steps before it.

    Example:
        >>> import funrl
        >>> def act(params, key, observation):
        ...     action = random.randint(key, (), 0, 2)
        ...     return action, {"unclipped_action": action}
        >>> spec = Learner(  # of the mean reward
        ...     init=lambda key, observation: torch.zeros(()),
        ...     act=act,
        ...     greedy=act,
        ...     prepare=lambda network, samples, hparams: samples.reward.flatten(),
        ...     loss=lambda network, rows, hparams: ((rows - network).square().mean(), {"value": network.detach()}),
        ... )
        >>> config = funrl.algos.a2c.A2CConfig(learning_rate=0.25)
        >>> algo = make("mean", funrl.envs.make("CartPole-v1"), config, spec)
        >>> state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        >>> state.learner.params.network, metrics["gradient_norm"]
        (tensor(0.2500), tensor(2.))
    """
    recurrent = isinstance(spec.act, policies.StatefulPolicy)
    given = given or {}
    optimizer = given.get("optimizer")
    joining = (lambda stepper: stepper) if spec.split is None else optim.pcgrad
    if "loss" in given:
        spec = spec._replace(loss=with_default(given["loss"], spec.loss, needed=spec.needed, apply=apply))
    receive = receiving(env, config, "unclipped_action", *spec.extras, *(("memory",) if recurrent else ()))

    def init(key: torch.Tensor, hparams: Mapping[str, torch.Tensor] = MappingProxyType({})) -> State:
        network_key, env_key = random.split(key).unbind(0)

        def parts(actor: acting.ActorState, observation: Any, hparams: Any) -> dict[str, Any]:
            moments, normalizers = spec.normalizers(observation, actor.timestep.reward)
            network = spec.init(network_key, observation)
            none = torch.zeros((), dtype=torch.int64, device=key.device)
            return {
                "params": ActorParams(network, moments).replace(**spec.schedule(hparams, none)),
                "optimizer": joining(optimizer or clipped_adam(0.0, 1.0)).init(network),
                "normalizers": normalizers,
            }

        state = start_state(env_key, env, config, hparams, parts, discounts=True)
        if not recurrent:
            return state
        actor = acting.with_memory(state.learner.params, state.actor, env=env, policy=spec.act)
        return state.replace(actor=tree.map(torch.Tensor.contiguous, actor))

    def learn(key: torch.Tensor, learner: LearnerState, transitions: Transition) -> tuple[LearnerState, Metrics]:
        learner, samples, episode_metrics = receive(learner, transitions)
        samples = samples.replace(action=samples.extras["unclipped_action"])
        discount = samples.extras.get("discount", learner.hparams.gamma)  # that of each step, if the environment has one
        hparams = learner.hparams.replace(gamma=discount)
        learner, samples = spec.normalize(learner, samples, hparams)
        rows = spec.prepare(learner.params.network, samples.replace(place=()), hparams)
        learning_rate = annealed(learner.hparams, learner.num_steps)
        stepper = joining(optimizer or clipped_adam(learning_rate, learner.hparams.max_grad_norm))
        network, state, metrics = _fit(key, learner, rows, spec, stepper)
        num_steps = episode_metrics["steps"]
        params = learner.params.replace(network=network, **spec.schedule(learner.hparams, num_steps))
        metrics = {**episode_metrics, **metrics, **spec.describe(rows)}
        if optimizer is None:
            metrics["learning_rate"] = learning_rate
        return learner.replace(params=params, optimizer=state, num_steps=num_steps), metrics

    return Algorithm(name, env, config, init, collecting(env, spec.act, config.num_steps), learn, spec.act, spec.greedy, given)


def _fit(
    key: torch.Tensor, learner: LearnerState, rows: Any, spec: Learner, optimizer: optim.Optimizer
) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """Take all gradient steps of an update; return the network, the optimizer's state and the means of the metrics."""
    hparams = learner.hparams

    def loss(network: Any, part: Any) -> tuple[torch.Tensor, Metrics]:
        return spec.loss(network, part, hparams)

    def descend(carry: tuple[Any, Any, torch.Tensor], minibatch: tuple[torch.Tensor, Metrics]) -> tuple[Any, Any]:
        (network, state, going), (indices, normalized) = carry, minibatch
        part = rows if spec.num_minibatches == 1 else tree.index(rows, indices)
        part = part.replace(**normalized) if normalized else part
        if spec.split is None:
            gradient, (_, metrics) = torch.func.grad_and_value(loss, has_aux=True)(network, part)
        else:
            one = torch.func.grad(lambda network, weight: spec.loss(network, part, hparams, weight=weight)[0])
            gradient = torch.func.vmap(one, (None, 0))(network, spec.split(part))
            _, metrics = loss(network, part)
        gradient, metrics = _across.mean((gradient, metrics))
        with _across.undivided():
            updates, stepped = optimizer.update(gradient, state, network)
        whole = gradient if spec.split is None else tree.map(lambda g: g.sum(0), gradient)
        after = (optim.apply_updates(network, updates), stepped)
        if spec.stop is not None:
            going = going & ~spec.stop(metrics, hparams)
            after = tree.where(going, after, (network, state))
        # The norm of one vector, which the clipping computes too, so that a program computes it once.
        return (*after, going), ({**metrics, "gradient_norm": optim.global_norm(tree.ravel(whole)[0])}, going)

    order = _minibatches(key, rows, spec)
    normalized = {name: torch.func.vmap(normalize_advantage)(getattr(rows, name)[order]) for name in spec.normalized}
    going = torch.ones_like(order[:1, 0], dtype=torch.bool)[0]
    (network, state, _), (metrics, going) = scan(descend, (learner.params.network, learner.optimizer, going), (order, normalized))
    if spec.stop is None:
        return network, state, tree.map(lambda x: x.mean(0), metrics)
    share = going.to(metrics["gradient_norm"].dtype)
    looked = torch.cat([torch.ones_like(share[:1]), share[:-1]])  # 1 for the steps up to and including the one that stopped
    metrics = tree.map(lambda x: (x * looked).sum() / looked.sum(), metrics)
    return network, state, {**metrics, "learned_fraction": share.mean()}


def _minibatches(key: torch.Tensor, rows: Any, spec: Learner) -> torch.Tensor:
    """Return the indices [num_epochs * num_minibatches, ...] of the rows of each gradient step."""
    example = tree.leaves(rows)[0]
    if spec.num_minibatches == 1:
        return torch.arange(example.shape[0], device=example.device).expand(spec.num_epochs, -1)
    order = torch.func.vmap(random.permutation, (0, None))(random.split(key, spec.num_epochs), example.shape[0])
    return order.reshape(spec.num_epochs * spec.num_minibatches, -1)


def clipped_adam(learning_rate: Any, max_grad_norm: Any) -> optim.Optimizer:
    """Return an optimizer that clips the global norm of the gradient, and then applies Adam with epsilon 1e-5, on one flat vector.

    Example:
        >>> updates, _ = (adam := clipped_adam(0.1, 0.5)).update(torch.ones(4), adam.init(torch.zeros(4)), torch.zeros(4))
        >>> updates
        tensor([-0.1000, -0.1000, -0.1000, -0.1000])
    """
    return optim.flatten(optim.chain(optim.clip_by_global_norm(max_grad_norm), optim.adam(learning_rate, eps=1e-5)))


def networks(config: Any, env: AnyEnv, network: Any = None) -> actor_critic.Network:
    """Make the policy and the value function that a configuration describes, with a recurrent cell where it has ``recurrent``.

    Args:
        config: an :class:`ActorCriticConfig`; perhaps with ``recurrent`` and ``recurrent_size``, as :class:`funrl.algos.ppo.PPOConfig`.
        env: the environment, already checked by :func:`check_actor_critic`.
        network: a net or a :class:`funrl.policies.ActorCritic` of the user's own, as for :func:`funrl.algos.ppo.make`.

    Returns:
        A NamedTuple of ``init(key, observation) -> params``, ``policy(choose) -> act``, ``values(params, samples)``, ``rows(x)``,
        ``inputs(samples)``, ``both(params, inputs) -> (distribution, value)`` and ``project(action)``.

    Example:
        >>> import funrl
        >>> nets = networks(ActorCriticConfig(), funrl.envs.make("CartPole-v1"))
        >>> policy, value = nets.both(nets.init(random.key(0), torch.zeros(4)), torch.zeros(5, 4))
        >>> policy.logits.shape, value.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """
    recurrent = getattr(config, "recurrent", "none") != "none"
    return (actor_critic.make_recurrent if recurrent else actor_critic.make)(config, env, network)


def stochastic(network: actor_critic.Network, *, with_value: bool = False) -> tuple[Any, Any]:
    """Return ``act`` and ``greedy`` of a :class:`Learner` with a stochastic policy; ``with_value`` adds ``value`` to the extras.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> network = actor_critic.make(ActorCriticConfig(), env)
        >>> act, greedy = stochastic(network)
        >>> act(ActorParams(network.init(random.key(0), torch.zeros(4))), random.key(1), torch.zeros(4))[1]["log_prob"]
        tensor(-0.6931)
    """

    def sample(distribution: Any, value: Any, key: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        action, log_prob = distribution.sample_with_log_prob(key)
        extras = {"log_prob": log_prob, "unclipped_action": action}
        return network.project(action), {**extras, "value": value()} if with_value else extras

    def mode(distribution: Any, value: Any, key: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        return network.project(distribution.mode()), {"value": value()} if with_value else {}

    return network.policy(sample), network.policy(mode)


def check(config: Any, env: AnyEnv, network: Any = None) -> None:
    """Raise a ValueError unless the options of :class:`OnPolicyConfig` fit the environment.

    Example:
        >>> import funrl
        >>> check(OnPolicyConfig(num_steps=0), funrl.envs.make("CartPole-v1"))
        Traceback (most recent call last):
        ...
        ValueError: num_steps: expected a number of at least 1, got 0
    """
    check_copies(config, env)
    check_intervals(config)
    _check.fields(config, "[1, inf)", "num_steps")
    if network is None:
        check_layers(config, env)


def check_actor_critic(config: Any, env: AnyEnv, network: Any = None) -> None:
    """Raise a ValueError unless an :class:`ActorCriticConfig` fits the environment.

    With a ``network`` any observations are allowed, and with a :class:`funrl.policies.ActorCritic` any actions.

    Example:
        >>> import funrl
        >>> check_actor_critic(ActorCriticConfig(trunk="both"), funrl.envs.make("CartPole-v1"))
        Traceback (most recent call last):
        ...
        ValueError: trunk: expected 'separate' or 'shared', got 'both'
    """
    check(config, env, network)
    _check.one_of("trunk", config.trunk, ("separate", "shared"))
    if network is None:
        check_observations(env)
    if not isinstance(network, policies.ActorCritic):
        check_actions(env, config.uniform_mix, config.initial_log_std)


def check_minibatches(config: Any) -> None:
    """Raise a ValueError unless ``num_minibatches`` divides the samples of an update.

    Example:
        >>> import funrl
        >>> check_minibatches(funrl.algos.ppo.PPOConfig(num_envs=3, num_steps=3, num_minibatches=2))
        Traceback (most recent call last):
        ...
        ValueError: num_minibatches: expected a divisor of num_envs * num_steps = 9, got 2
    """
    _check.divisor("num_minibatches", config.num_minibatches, config.num_envs * config.num_steps, "num_envs * num_steps")
