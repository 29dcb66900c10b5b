"""The skeleton of evolutionary learners: candidates act for whole episodes, and a strategy hears of their fitness."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from funrl import _check, acting, nn, random, stats, tree
from funrl.algos._actor_critic import normalized
from funrl.algos._algorithm import Algorithm, check_copies, receiving, start_state
from funrl.algos._arguments import configure
from funrl.algos._heads import action_head, check_actions, project_action
from funrl.algos._networks import batchwise
from funrl.algos._state import ActorParams, LearnerState, State
from funrl.algos.images import ImageConfig, above, check_layers, check_observations, encoder
from funrl.env import AnyEnv, Transition, VectorEnv
from funrl.evolution import Strategy, first_episodes, rows


@tree.dataclass
class EvolutionConfig(ImageConfig):
    """The options of every evolutionary learner, and those of :class:`~funrl.algos.images.ImageConfig`.

    Attributes:
        num_envs: B, environments side by side: those of all candidates of a generation.
        num_steps: T, steps after which an episode is cut off; 0: as many as the environment's episodes have at most.
        num_episodes: E, episodes of each candidate, whose returns are averaged; divides B. There are N = B / E candidates.
        num_cells: widths of the hidden layers.
        activation: their activation, as for :func:`funrl.nn.mlp`.
        normalize_observation: scale observations by their running moments.
    """

    num_envs: int = tree.static(default=64)
    num_steps: int = tree.static(default=0)
    num_episodes: int = tree.static(default=1)
    num_cells: tuple = tree.static(default=(16,))
    activation: str = tree.static(default="tanh")
    normalize_observation: bool = tree.static(default=False)


def evolving(
    name: str, env: AnyEnv, kind: type, options: Mapping[str, Any], strategy: Callable[[int, Any], Strategy], **arguments: Any
) -> Algorithm:
    """Make an :class:`~funrl.algos.Algorithm` of a :class:`funrl.evolution.Strategy`.

    An update is a generation: ``collect`` asks for N candidates, each of which acts for E episodes from their start, without noise in its
    actions; ``learn`` tells the strategy the mean of their returns. The transitions have in their extras ``candidate`` [T, B, D], the
    parameters that acted, so that experience of another policy cannot be learned from.

    Args:
        name: its name for ``python -m funrl train``.
        env: a pure environment, not batched.
        kind: the class of its configuration, an :class:`EvolutionConfig`.
        options: fields of the configuration.
        strategy: ``strategy(num_candidates, hparams)``, whose ``ask`` returns its state as it was.
        **arguments: the parts that the user gave, such as ``network``; None: the default.

    Returns:
        The algorithm. ``learner.params`` are the ``best`` of the strategy, ``learner.optimizer`` is its state. Its metrics are ``steps``,
        ``episode_return`` (of the candidates; also ``_min`` and ``_max``), ``episode_length``, ``episodes``, and ``fitness_mean``,
        ``fitness_max`` and ``fitness_min`` over candidates.

    Raises:
        ValueError: if an option is out of its range or does not fit the environment.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.snes.make(funrl.envs.make("CartPole-v1"), num_envs=8, num_episodes=2, num_steps=50)
        >>> state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        >>> metrics["steps"], bool(metrics["fitness_max"] <= 50)
        (tensor(400), True)
    """
    config, given = configure(kind, options, **arguments)
    check(config, env, given.get("network"))
    config = config.replace(num_steps=config.num_steps or env.max_episode_steps)
    number, each = config.num_envs // config.num_episodes, config.num_episodes
    net, act = _policy(config, env, given.get("network"))
    receive = receiving(env, config)

    def init(key: torch.Tensor, hparams: Mapping[str, torch.Tensor] = MappingProxyType({})) -> State:
        network_key, env_key, strategy_key = random.split(key, 3).unbind(0)

        def parts(actor: acting.ActorState, observation: Any, hparams: Any) -> dict[str, Any]:
            chosen = strategy(number, hparams)
            state = chosen.init(strategy_key, net.init(network_key, observation))
            moments = stats.moments(observation) if config.normalize_observation else ()
            return {"params": ActorParams(tree.clone(chosen.best(state)), moments), "optimizer": state}

        return start_state(env_key, env, config, hparams, parts)

    def collect(key: torch.Tensor, state: State) -> tuple[acting.ActorState, Transition]:
        ask_key, reset_key, step_key = random.split(key, 3).unbind(0)
        learner = state.learner
        candidates, _ = strategy(number, learner.hparams).ask(ask_key, learner.optimizer)
        actor = acting.start(reset_key, learner.env_params, env=env, num_envs=config.num_envs)

        def run(network: Any, key: torch.Tensor, actor: acting.ActorState) -> tuple[acting.ActorState, Transition]:
            params = learner.params.replace(network=network)
            return acting.rollout(params, key, actor, learner.env_params, env=env, act=act, num_steps=config.num_steps)

        keys = random.split(step_key, number)
        actor, transitions = torch.func.vmap(run)(candidates, keys, tree.reshape(actor, (number, each)))
        transitions = tree.map(lambda x: x.movedim(0, 1).flatten(1, 2), transitions)  # [N, T, E, ...] to [T, B, ...]
        matrix = rows(candidates).repeat_interleave(each, 0)
        extras = {"candidate": matrix.expand(config.num_steps, *matrix.shape)}
        return tree.flatten_batch(actor), transitions.replace(extras=extras)

    def learn(key: torch.Tensor, learner: LearnerState, transitions: Transition) -> tuple[LearnerState, dict[str, torch.Tensor]]:
        _check_candidates(name, transitions)
        learner, samples, metrics = receive(learner, transitions, fresh=True)
        returns = torch.where(first_episodes(samples.done), samples.reward, 0.0).sum(0)
        fitness = returns.reshape(number, each).mean(1)
        candidates = torch.func.vmap(tree.ravel(learner.params.network)[1])(samples.extras["candidate"][0, ::each])
        chosen = strategy(number, learner.hparams)
        state = chosen.tell(learner.optimizer, candidates, fitness)
        params = learner.params.replace(network=tree.clone(chosen.best(state)))
        if config.normalize_observation:
            params = params.replace(observation=stats.update(params.observation, samples.observation))
        ends = {"fitness_mean": fitness.mean(), "fitness_max": fitness.amax(), "fitness_min": fitness.amin()}
        return learner.replace(params=params, optimizer=state, num_steps=metrics["steps"]), {**metrics, **ends}

    return Algorithm(name, env, config, init, collect, learn, act, act, given)


def _check_candidates(name: str, transitions: Transition) -> None:
    if "candidate" not in transitions.extras:
        raise ValueError(
            f"learn: transitions: expected those of {name}'s own collect, in which each candidate of a generation acts; the workers of a "
            "collector act with one policy"
        )


def check(config: Any, env: AnyEnv, network: Any = None) -> None:
    """Raise a ValueError unless what all evolutionary configurations share is in its range and fits the environment.

    Example:
        >>> import funrl
        >>> check(EvolutionConfig(num_episodes=3), funrl.envs.make("CartPole-v1"))
        Traceback (most recent call last):
        ...
        ValueError: num_episodes: expected a divisor of num_envs = 64, got 3; num_envs counts those of all candidates
    """
    check_copies(config, env)
    if isinstance(env, VectorEnv):
        kind = "runs outside torch" if env.host else f"has {env.num_envs} copies"
        raise ValueError(f"env: expected a single pure environment, as each candidate has its own, but {env.name} {kind}")
    _check.fields(config, "[0, inf)", "num_steps")
    _check.divisor("num_episodes", config.num_episodes, config.num_envs, "num_envs", "num_envs counts those of all candidates")
    check_actions(env)
    if network is None:
        check_observations(env)
        check_layers(config, env)


def _policy(config: Any, env: AnyEnv, network: Any) -> tuple[nn.Net, Callable[..., Any]]:
    """Return the network of a policy, and the policy: the mode of what its outputs stand for."""
    head = action_head(env.action_space)
    if network is not None:
        net = batchwise("network", network, env.observation_space, head.size)
    else:
        layers = nn.mlp(config.num_cells, head.size, activation=config.activation, out_init=nn.orthogonal(0.01))
        below = encoder(config, env.observation_space)
        net = layers if below is None else above(below, layers)
    project = functools.partial(project_action, env.action_space)

    def act(params: ActorParams, key: torch.Tensor, observation: Any) -> tuple[Any, dict[str, Any]]:
        output = net.apply(params.network, normalized(params, observation))
        return project(head.distribution(output, output.new_zeros(head.num_scales)).mode()), {}

    return net, act
