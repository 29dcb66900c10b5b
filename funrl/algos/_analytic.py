"""Learners that differentiate through the environment: their rollouts are played again, with gradients."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from funrl import _check, acting, nn, random, spaces, stats, tree
from funrl.algos._actor_critic import normalized
from funrl.algos._algorithm import Algorithm, check_copies, in_dtype_of, receiving, start_state
from funrl.algos._networks import batchwise, stochastic_actor
from funrl.algos._state import ActorParams, LearnerState, State
from funrl.algos.images import check_observations, is_vector
from funrl.env import AnyEnv, Transition, on_host
from funrl.transforms import VecNormParams


@tree.dataclass
class AnalyticConfig(tree.Replaceable):
    """The options of learners that differentiate through the environment. Those from ``learning_rate`` on are hyperparameters.

    Attributes:
        num_envs: B, environments side by side.
        num_steps: T, steps of each between two updates, through which gradients flow.
        num_cells: widths of the hidden layers.
        activation: their activation, as for :func:`funrl.nn.mlp`.
        normalize_observation: normalise observations by their running mean and variance.
        initial_log_std: added to the logarithm of the standard deviation, before the tanh: about the initial one; static.
        learning_rate: of Adam for the policy, at least 0.
        anneal_steps: the learning rate falls linearly to 0 over so many environment steps; infinity: it stays.
        gamma: discount, in [0, 1].
        max_grad_norm: the policy's gradient is shrunk to this norm; infinity: no clipping.
    """

    num_envs: int = tree.static(default=64)
    num_steps: int = tree.static(default=32)
    num_cells: tuple = tree.static(default=(64, 64))
    activation: str = tree.static(default="tanh")
    normalize_observation: bool = tree.static(default=False)
    initial_log_std: float = tree.static(default=0.0)
    learning_rate: Any = 2e-3
    anneal_steps: Any = float("inf")
    gamma: Any = 0.99
    max_grad_norm: Any = 1.0


def check(name: str, config: AnalyticConfig, env: AnyEnv, actor: Any) -> None:
    """Raise a ValueError unless the environment is differentiable torch with actions in a bounded box, and the options are in their ranges.

    Example:
        >>> import funrl
        >>> check("apg", AnalyticConfig(), funrl.envs.make("CartPole-v1"), None)
        Traceback (most recent call last):
        ...
        ValueError: env: apg needs continuous actions between finite bounds, but CartPole-v1 has Discrete(n=2, start=0)
    """
    check_copies(config, env)
    if on_host(env):
        raise ValueError(f"env: {name} differentiates through the environment, but {env.name} runs outside torch; use one of torch")
    space = env.action_space
    bounded = isinstance(space, spaces.Box) and space.dtype.is_floating_point and len(space.shape) == 1
    if not bounded or not bool((space.low.isfinite() & space.high.isfinite()).all()):
        raise ValueError(f"env: {name} needs continuous actions between finite bounds, but {env.name} has {space}")
    if isinstance(env.default_params, VecNormParams):
        raise ValueError(f"env: {name} does not update the moments of vec_norm; set normalize_observation=True instead")
    if actor is None:
        check_observations(env)
        if not isinstance(env.observation_space, spaces.Box) or len(env.observation_space.shape) != 1:
            raise ValueError(f"env: {name} needs vectors, but {env.name} has {env.observation_space}; give an actor of your own")
    if config.normalize_observation and not is_vector(env.observation_space):
        raise ValueError(f"normalize_observation: expected vectors, but {env.name} has {env.observation_space}; set it to False")
    _check.fields(config, "[1, inf)", "num_steps")
    _check.fields(config, "[-20, 2]", "initial_log_std")


def actor_of(config: AnalyticConfig, env: AnyEnv, actor: Any) -> nn.Net:
    """Return the network of a policy, which gives a :class:`~funrl.distributions.TanhNormal` over the box of actions.

    Example:
        >>> import funrl
        >>> net = actor_of(AnalyticConfig(), funrl.envs.make("Pendulum-v1"), None)
        >>> net.apply(net.init(random.key(0), torch.zeros(3)), torch.zeros(5, 3)).mode().shape
        torch.Size([5, 1])
    """
    space = env.action_space
    own = None if actor is None else batchwise("actor", actor, env.observation_space, 2 * space.shape[0])
    return stochastic_actor(config.num_cells, space, config.activation, own, log_std=config.initial_log_std)


def discounts(done: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    r"""Return the discount of each step since the rollout or the episode began, [T, B]; ``done`` is bool [T, B], ``gamma`` [].

    Example:
        >>> discounts(torch.tensor([[False], [True], [False]]), torch.tensor(0.5)).flatten()
        tensor([1.0000, 0.5000, 1.0000])
    """
    time = torch.arange(len(done), device=done.device)[:, None]
    last = torch.where(done, time, -1).cummax(0).values
    begin = torch.cat([torch.zeros_like(last[:1]), last[:-1] + 1])
    return gamma ** (time - begin).to(gamma.dtype)


def make(
    name: str,
    env: AnyEnv,
    config: Any,
    actor: nn.Net,
    *,
    init: Callable[[torch.Tensor, torch.Tensor], dict[str, Any]],
    update: Callable[..., tuple[LearnerState, dict[str, torch.Tensor]]],
    given: dict[str, Any] | None = None,
) -> Algorithm:
    """Make an :class:`~funrl.algos.Algorithm` whose ``learn`` plays the rollout of ``collect`` again, to differentiate through it.

    ``collect`` puts into the extras of its transitions what the rollout began with, ``replay``: the actor before it and its key, both
    repeated for each step. From transitions without it ``learn`` cannot learn.

    Args:
        name: of the algorithm.
        env: the environment.
        config: an :class:`AnalyticConfig`.
        actor: the network of the policy, ``params.network["actor"]``.
        init: ``init(key, observation) -> dict(network=..., target=..., optimizer=...)``: parts of the learner.
        update: ``update(key, learner, samples, play) -> (learner, metrics)``; ``play(actor_params)`` is the rollout of ``samples`` with
            other parameters of the policy: a Transition [T, B, ...] that is differentiable in them. Both have normalised observations.
        given: parts that the user gave.
    """

    def act(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return actor.apply(params.network["actor"], normalized(params, observation)).sample(key), {}

    def greedy(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return actor.apply(params.network["actor"], normalized(params, observation)).mode(), {}

    receive = receiving(env, config)

    def first(key: torch.Tensor, hparams: Mapping[str, torch.Tensor] = MappingProxyType({})) -> State:
        network_key, env_key = random.split(key).unbind(0)

        def parts(actor: acting.ActorState, observation: torch.Tensor, hparams: Any) -> dict[str, Any]:
            own = init(network_key, observation)
            moments = stats.moments(observation) if config.normalize_observation else ()
            return {"params": ActorParams(own.pop("network"), moments), **own}

        return start_state(env_key, env, config, hparams, parts)

    def collect(key: torch.Tensor, state: State) -> tuple[acting.ActorState, Transition]:
        learner = state.learner
        after, samples = acting.rollout(learner.params, key, state.actor, learner.env_params, env=env, act=act, num_steps=config.num_steps)
        replay = tree.map(lambda x: x.expand(config.num_steps, *x.shape).clone(), (state.actor, key.expand(config.num_envs)))
        return after, samples.replace(extras={**samples.extras, "replay": replay})

    def learn(key: torch.Tensor, learner: LearnerState, transitions: Transition) -> tuple[LearnerState, dict[str, torch.Tensor]]:
        if "replay" not in transitions.extras:
            raise ValueError(f"learn: transitions: {name} differentiates through the rollout; let the algorithm's own collect gather them")
        envs, rollout_key = tree.index(transitions.extras["replay"], 0)
        learner, samples, metrics = receive(learner, transitions.replace(extras={}))
        seen, moments = samples.observation, learner.params.observation

        def normal(samples: Transition) -> Transition:
            observation, successor = (normalized(learner.params, x) for x in (samples.observation, samples.next_observation))
            return samples.replace(observation=observation, next_observation=successor)

        def play(params: Any) -> Transition:
            policy = learner.params.replace(network={**learner.params.network, "actor": params})
            again = acting.rollout(policy, rollout_key[0], envs, learner.env_params, env=env, act=act, num_steps=config.num_steps)[1]
            return normal(in_dtype_of(learner.params, again))

        learner, own = update(key, learner, normal(samples), play)
        if config.normalize_observation:
            learner = learner.replace(params=learner.params.replace(observation=stats.update(moments, seen)))
        return learner.replace(num_steps=metrics["steps"]), {**metrics, **own}

    return Algorithm(name, env, config, first, collect, learn, act, greedy, given or {})
