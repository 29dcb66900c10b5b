"""The skeleton of off-policy learners: act, remember, and learn from what is drawn from memory, as one program."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import buffers, nn, optim, random, tree
from funrl.algos.algorithm import Algorithm, check_range
from funrl.algos.episodes import Episodes
from funrl.algos.episodes import record as record_episodes
from funrl.algos.episodes import start as start_episodes
from funrl.env import Env, Timestep, Transition
from funrl.interaction import rollout
from funrl.losses import ActorCritic, SoftActorCritic, soft_update
from funrl.program import compile, scan
from funrl.spaces import Binary, Box, Discrete

__all__ = [
    "Acting",
    "Learner",
    "OffPolicyConfig",
    "OffPolicyState",
    "Stage",
    "check",
    "init_actor_critic",
    "init_soft_actor_critic",
    "make",
    "soft",
]


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig:
    """What every off-policy learner has: fixed for a program, save the first values of hyperparameters (from ``learning_rate`` on).

    Attributes:
        num_envs: B, environments side by side.
        num_steps: T, steps of each between two stretches of learning.
        num_updates: gradient steps in each stretch; T * B of them are one for each environment step.
        batch_size: transitions in a gradient step.
        buffer_size: transitions that are remembered.
        learning_starts: environment steps with random actions, before anything is learned.
        num_cells: widths of the hidden layers of every network.
        activation: their activation, as for :func:`funrl.nn.mlp`.
        learning_rate: of Adam, at least 0.
        gamma: discount, in [0, 1].
    """

    num_envs: int = 1
    num_steps: int = 32
    num_updates: int = 32
    batch_size: int = 256
    buffer_size: int = 100_000
    learning_starts: int = 1_000
    num_cells: tuple = (64, 64)
    activation: str = "relu"
    learning_rate: float = 1e-3
    gamma: float = 0.99


@tree.dataclass
class Acting:
    """What acting needs.

    Attributes:
        network: the learned parameters.
        random: floating point [], the probability that an action is drawn uniformly.
        noise: floating point [], what else exploration depends on, or ().
    """

    network: Any
    random: torch.Tensor
    noise: Any


@tree.dataclass
class OffPolicyState:
    """All that one learner is.

    Attributes:
        params: :class:`Acting`.
        target: the parameters that targets are made of, or the running statistics of critics without such.
        optimizer: the state of the optimisers.
        buffer: the state of the replay buffer.
        envs: the environments' states and latest timesteps, leaves [B, ...].
        env_params: their physical constants.
        episodes: :class:`funrl.algos.episodes.Episodes`.
        hparams: hyperparameters, each a tensor [].
        num_steps: int64 [], environment steps so far, over all B.
        num_updates: int64 [], gradient steps so far.
    """

    params: Acting
    target: Any
    optimizer: Any
    buffer: Any
    envs: tuple[Any, Timestep]
    env_params: Any
    episodes: Episodes
    hparams: Any
    num_steps: torch.Tensor
    num_updates: torch.Tensor


class Stage(NamedTuple):
    """What is done with one batch.

    Attributes:
        losses: pairs ``(fields, loss)``: for each in turn, those fields of the network, or with () all of it, take a step of Adam by the
            gradient of ``loss(network, target, key, batch, gamma, weight, hparams) -> (loss, metrics)``. The batch is a
            :class:`~funrl.env.Transition` of leaves [N, ...], ``gamma`` and ``weight`` are [N]. Metrics are tensors [], but
            ``td_error`` [N], which the first loss returns, and maybe ``target``, a tree to replace the target by.
        follow: ``follow(params, target, hparams, num_updates) -> target``, then; params are what the target is a copy of.
    """

    losses: tuple[tuple[tuple[str, ...], Callable[..., Any]], ...]
    follow: Callable[..., Any] | None


class Learner(NamedTuple):
    """What tells one off-policy algorithm from another.

    Attributes:
        hparams: the class of its hyperparameters; its fields are the names of floats in the configuration.
        init: ``init(key, observation) -> network``.
        target: ``target(network)``, what there is a target of.
        learn: a gradient step.
        sample: ``sample(acting, key, observation) -> action``, as it explores by itself; in the units of the buffer.
        greedy: the same signature, without exploration.
        schedule: ``schedule(hparams, num_steps) -> (random, noise)`` of :class:`Acting`, once ``learning_starts`` is over.
        delayed: what follows every ``delay``-th gradient step, on its batch.
        delay: as above; divides ``num_updates``.
    """

    hparams: type
    init: Callable[..., Any]
    target: Callable[..., Any]
    learn: Stage
    sample: Callable[..., Any]
    greedy: Callable[..., Any]
    schedule: Callable[..., Any]
    delayed: Stage | None = None
    delay: int = 1


def make(name: str, env: Env, config: Any, learner: Learner, buffer: buffers.Buffer, *, n_step: int = 1) -> Algorithm:
    """Make an :class:`~funrl.algos.algorithm.Algorithm` of a :class:`Learner`.

    A step rolls out T steps of B environments, writes them to the buffer, draws ``num_updates`` batches from it and scans over them.
    Priorities, where the buffer has them, change after the last of these. Nothing is learned before ``learning_starts``: until then
    metrics only say what the losses are.

    In an environment on the host a step is a loop of Python around two programs; it can be neither compiled nor vmapped, and uses
    the given state up, as the environment does: the buffer is written in place.

    Args:
        name: what ``python -m funrl train`` knows it by.
        env: a pure environment, or a batched one of ``num_envs`` copies, which may run on the host.
        config: an :class:`OffPolicyConfig`.
        learner: what is particular to the algorithm.
        buffer: of ``config.buffer_size`` items; with ``update_priority``, ``td_error`` goes there.
        n_step: over how many steps rewards are summed up before the bootstrap.

    Returns:
        The algorithm; its state is an :class:`OffPolicyState`.

    Raises:
        ValueError: if ``learner.delay`` does not divide ``num_updates``.

    Example:
        >>> import funrl
        >>> def loss(network, target, key, batch, gamma, weight, hparams):  # learns the mean reward
        ...     error = batch.reward - network
        ...     return error.square().mean(), {"td_error": error.detach()}
        >>> learner = Learner(
        ...     hparams=funrl.algos.crossq.CrossQHparams,
        ...     init=lambda key, observation: observation.new_zeros(()),
        ...     target=lambda network: network,
        ...     learn=Stage((((), loss),), None),
        ...     sample=lambda params, key, observation: torch.tensor(0),
        ...     greedy=lambda params, key, observation: torch.tensor(1),
        ...     schedule=lambda hparams, num_steps: (torch.zeros(()), ()),
        ... )
        >>> config = funrl.algos.crossq.CrossQConfig(num_steps=8, num_updates=8, learning_starts=0, learning_rate=0.1)
        >>> algo = make("mean", funrl.envs.make("CartPole-v1"), config, learner, buffers.uniform(100))
        >>> state, _ = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> 0.5 < state.params.network < 1, algo.greedy(state.params, funrl.random.key(0), None)
        (tensor(True), (tensor(1), {}))
    """
    steps_per_update = config.num_envs * config.num_steps
    losses = (*learner.learn.losses, *(learner.delayed.losses if learner.delayed else ()))
    num_groups = config.num_updates // learner.delay
    if config.num_updates % learner.delay:
        raise ValueError(f"num_updates: expected a multiple of the policy's delay of {learner.delay}, got {config.num_updates}")
    start = env.action_space.start if isinstance(env.action_space, Discrete) else None
    outer = env
    if start:
        outer = env._replace(step=lambda key, state, action, env_params: env.step(key, state, action + start, env_params))
    space = Discrete(env.action_space.n) if start else env.action_space

    def explore(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        sample_key, uniform_key, coin_key = random.split(key, 3).unbind(0)
        action = learner.sample(params, sample_key, observation)
        uniform = space.sample(uniform_key).to(action.dtype)
        return torch.where(random.uniform(coin_key, (), dtype=params.random.dtype) < params.random, uniform, action), {}

    def shift(action: torch.Tensor) -> torch.Tensor:
        return action + start if start else action

    def act(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return shift(explore(params, key, observation)[0]), {}

    def greedy(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return shift(learner.greedy(params, key, observation)), {}

    def exploration(hparams: Any, num_steps: torch.Tensor) -> tuple[torch.Tensor, Any]:
        share, noise = learner.schedule(hparams, num_steps)
        return torch.where(num_steps < config.learning_starts, 1.0, share), tree.map(torch.clone, noise)  # no alias of a hyperparameter

    def remembered(samples: Transition, hparams: Any) -> Transition:
        """Return rows for the buffer, leaves [T * B, ...]; over several steps, with what the bootstrap is multiplied by."""
        samples = samples.replace(extras={})
        if n_step > 1:
            joined = buffers.n_step(samples, n=n_step, gamma=hparams.gamma)
            samples = joined.transition.replace(extras={"discount": joined.discount})
        return tree.reshape(samples, (steps_per_update,), batch_dims=2)

    def init(key: torch.Tensor) -> OffPolicyState:
        network_key, env_key = random.split(key).unbind(0)
        env_params = tree.map(torch.clone, tree.to(env.default_params, key.device))  # its own: a state may be donated
        if env.num_envs is None:
            envs = torch.func.vmap(env.reset, (0, None))(random.split(env_key, config.num_envs), env_params)
        else:
            envs = env.reset(env_key, env_params)
        observation, zero = envs[1].observation[0], torch.zeros_like(envs[1].reward[0])
        hparams = learner.hparams(
            **{field.name: torch.full_like(zero, getattr(config, field.name)) for field in dataclasses.fields(learner.hparams)}
        )
        count = torch.zeros((), dtype=torch.int64, device=key.device)
        network = learner.init(network_key, observation.to(zero.dtype))
        chance, noise = exploration(hparams, count)
        action = torch.zeros(space.shape, dtype=torch.int64 if isinstance(space, Discrete) else zero.dtype, device=key.device)
        flag = torch.zeros_like(zero, dtype=torch.bool)
        extras = {"discount": zero} if n_step > 1 else {}
        return OffPolicyState(
            params=Acting(network, chance, noise),
            target=tree.map(torch.clone, learner.target(network)),
            optimizer=tuple([optim.adam(0.0).init(tree.ravel(_part(network, fields))[0]) for fields, _ in losses]),
            buffer=buffer.init(Transition(observation, action, zero, flag, flag, observation, extras)),
            envs=envs,
            env_params=env_params,
            episodes=start_episodes(envs[1].reward),
            hparams=hparams,
            num_steps=count,
            num_updates=count.clone(),
        )

    def step(key: torch.Tensor, state: OffPolicyState) -> tuple[OffPolicyState, dict[str, torch.Tensor]]:
        return advance(key, state, explore, learn_from)

    def host_step(key: torch.Tensor, state: OffPolicyState) -> tuple[OffPolicyState, dict[str, torch.Tensor]]:
        return advance(key, state, compiled_explore, compiled_learn_from)

    def advance(key: torch.Tensor, state: OffPolicyState, act: Any, learn: Any) -> tuple[OffPolicyState, dict[str, torch.Tensor]]:
        rollout_key, learn_key = random.split(key).unbind(0)
        envs, samples = rollout(state.params, rollout_key, state.envs, state.env_params, env=outer, act=act, num_steps=config.num_steps)
        state, metrics = learn(learn_key, state.replace(envs=()), samples)
        return state.replace(envs=envs), metrics

    def learn_from(key: torch.Tensor, state: OffPolicyState, samples: Transition) -> tuple[OffPolicyState, dict[str, torch.Tensor]]:
        hparams = state.hparams
        episodes, episode_metrics = record_episodes(state.episodes, samples)
        memory = buffer.extend(state.buffer, remembered(samples, hparams))
        draw_key, learn_key, delayed_key = random.split(key, 3).unbind(0)
        draw_keys = random.split(draw_key, config.num_updates)
        draws = torch.func.vmap(lambda key: buffer.sample(key, memory, config.batch_size))(draw_keys)

        # One vector for each part: a loop pays for every tensor that it carries.
        parts = [tree.ravel(_part(state.params.network, fields)) for fields, _ in losses]
        target, unravel_target = tree.ravel(state.target)

        def applied(stage: Stage, keys: torch.Tensor, carry: Any, draw: buffers.Sample) -> tuple[Any, dict[str, torch.Tensor]]:
            vectors, target, optimizer, count = carry
            batch, metrics = draw.batch, {}
            gamma = batch.extras["discount"] if n_step > 1 else hparams.gamma.expand(batch.reward.shape)
            weight = draw.weights.to(batch.reward.dtype)
            first = 0 if stage is learner.learn else len(learner.learn.losses)
            for i, ((fields, loss), key) in enumerate(zip(stage.losses, keys.unbind(0), strict=True), first):
                network = whole(vectors)

                def of(
                    vector: torch.Tensor, i: int = i, fields: Any = fields, loss: Any = loss, network: Any = network, key: Any = key
                ) -> Any:
                    return loss(
                        _with_part(network, fields, parts[i][1](vector)), unravel_target(target), key, batch, gamma, weight, hparams
                    )

                gradient, (_, said) = torch.func.grad_and_value(of, has_aux=True)(vectors[i])
                updates, moved = optim.adam(hparams.learning_rate).update(gradient, optimizer[i], vectors[i])
                vectors = (*vectors[:i], vectors[i] + updates, *vectors[i + 1 :])
                optimizer = (*optimizer[:i], moved, *optimizer[i + 1 :])
                metrics |= said
            if stage is learner.learn:
                count = count + 1
            if "target" in metrics:
                target = tree.ravel(metrics.pop("target"))[0]
            if stage.follow is not None:
                target = stage.follow(followed(vectors), target, hparams, count)
            return (vectors, target, optimizer, count), metrics

        def whole(vectors: tuple[torch.Tensor, ...]) -> Any:
            network = state.params.network
            for (fields, _), (_, unravel), vector in zip(losses, parts, vectors, strict=True):
                network = _with_part(network, fields, unravel(vector))
            return network

        def followed(vectors: tuple[torch.Tensor, ...]) -> torch.Tensor:
            """Return what the target is a copy of as one vector, of slices of those that hold it."""
            leaves, form = tree.flatten(state.params.network)
            numbered, place = tree.unflatten(form, range(len(leaves))), {}
            for vector, (fields, _) in zip(vectors, losses, strict=True):
                start = 0
                for i in tree.leaves(_part(numbered, fields)):
                    place[i] = (vector, start, start + leaves[i].numel())
                    start += leaves[i].numel()
            runs: list[tuple[torch.Tensor, int, int]] = []
            for vector, start, end in [place[i] for i in tree.leaves(learner.target(numbered))]:
                if runs and runs[-1][0] is vector and runs[-1][2] == start:
                    start = runs.pop()[1]
                runs.append((vector, start, end))
            return torch.cat([vector[start:end] for vector, start, end in runs])

        def once(carry: Any, x: Any) -> tuple[Any, dict[str, torch.Tensor]]:
            return applied(learner.learn, x[0], carry, x[1])

        def several(carry: Any, x: Any) -> tuple[Any, Any]:
            keys, delayed_keys, draws = x
            carry, metrics = scan(once, carry, (keys, draws))
            carry, further = applied(learner.delayed, delayed_keys, carry, tree.index(draws, -1))
            return carry, (metrics, further)

        before = (tuple([vector for vector, _ in parts]), target, state.optimizer, state.num_updates)
        keys = random.split(learn_key, (config.num_updates, len(learner.learn.losses)))
        if learner.delayed is None:
            after, metrics = scan(once, before, (keys, draws))
        else:
            keys, draws_in_groups = tree.reshape((keys, draws), (num_groups, learner.delay), batch_dims=1)
            delayed_keys = random.split(delayed_key, (num_groups, len(learner.delayed.losses)))
            after, (metrics, further) = scan(several, before, (keys, delayed_keys, draws_in_groups))
            metrics = {**tree.map(lambda x: x.flatten(0, 1), metrics), **further}
        num_steps = state.num_steps + steps_per_update
        after = tree.where(num_steps >= config.learning_starts, after, before)
        error = metrics.pop("td_error")
        if buffer.update_priority is not None:
            memory = buffer.update_priority(memory, draws.indices.reshape(-1), error.reshape(-1))
        vectors, target, optimizer, num_updates = after
        state = state.replace(
            params=Acting(whole(vectors), *exploration(hparams, num_steps)),
            target=unravel_target(target),
            optimizer=optimizer,
            buffer=memory,
            episodes=episodes,
            num_steps=num_steps,
            num_updates=num_updates,
        )
        metrics = {name: x.mean(0) for name, x in metrics.items()}
        return state, {"steps": num_steps, **episode_metrics, **metrics, "td_error": error.mean(), "updates": num_updates}

    compiled_explore, compiled_learn_from = compile(explore), compile(learn_from, donate=1)
    return Algorithm(name, env, config, init, host_step if env.host else step, act, greedy, steps_per_update)


def init_actor_critic(key: torch.Tensor, actor: nn.Net, critic: nn.Net, observation: torch.Tensor, space: Box) -> ActorCritic:
    """Return the first parameters of an actor and of the critics of its actions.

    Example:
        >>> from funrl.algos.networks import deterministic_actor, q_ensemble
        >>> space = Box(-2.0, 2.0, (1,))
        >>> actor, critic = deterministic_actor((8,), space, "relu"), q_ensemble(2, (8,), "relu")
        >>> init_actor_critic(random.key(0), actor, critic, torch.zeros(3), space).critic[0]["weight"].shape
        torch.Size([2, 8, 4])
    """
    actor_key, critic_key = random.split(key).unbind(0)
    return ActorCritic(actor.init(actor_key, observation), critic.init(critic_key, observation, observation.new_zeros(space.shape)))


def init_soft_actor_critic(
    key: torch.Tensor, actor: nn.Net, critic: nn.Net, observation: torch.Tensor, space: Box, alpha: float
) -> SoftActorCritic:
    """Return the first parameters of an actor, of the critics of its actions, and the temperature ``alpha``.

    Example:
        >>> from funrl.algos.networks import q_ensemble, stochastic_actor
        >>> space = Box(-2.0, 2.0, (1,))
        >>> actor, critic = stochastic_actor((8,), space, "relu"), q_ensemble(2, (8,), "relu")
        >>> init_soft_actor_critic(random.key(0), actor, critic, torch.zeros(3), space, 1.0).log_alpha
        tensor(0.)
    """
    both = init_actor_critic(key, actor, critic, observation, space)
    return SoftActorCritic(both.actor, both.critic, observation.new_full((), alpha).log())


def _part(network: Any, fields: tuple[str, ...]) -> Any:
    return tuple([getattr(network, name) for name in fields]) if fields else network


def _with_part(network: Any, fields: tuple[str, ...], part: Any) -> Any:
    return network.replace(**dict(zip(fields, part, strict=True))) if fields else part


def soft(params: torch.Tensor, target: torch.Tensor, hparams: Any, num_updates: torch.Tensor) -> torch.Tensor:
    """The ``follow`` of a :class:`Stage` whose target moves by ``hparams.tau`` each time.

    Example:
        >>> from types import SimpleNamespace
        >>> soft(torch.ones(2), torch.zeros(2), SimpleNamespace(tau=torch.tensor(0.5)), torch.tensor(1))
        tensor([0.5000, 0.5000])
    """
    return soft_update(params, target, tau=hparams.tau)


def check(name: str, env: Env, config: Any, *, discrete: bool, images: bool = False) -> None:
    """Raise a ValueError unless the environment and what all off-policy configurations share fit a learner called ``name``.

    Example:
        >>> import funrl
        >>> check("DQN", funrl.envs.make("Pendulum-v1"), OffPolicyConfig(), discrete=True)
        Traceback (most recent call last):
        ...
        ValueError: env: DQN expects Discrete actions, got Box(...); for continuous ones take ddpg, td3 or sac
    """
    check_range(config, ("num_envs", "num_steps", "num_updates", "batch_size", "buffer_size"), 1)
    check_range(config, ("learning_starts", "learning_rate"), 0)
    check_range(config, ("gamma",), 0, 1)
    actions, space = env.action_space, env.observation_space
    if discrete and not isinstance(actions, Discrete):
        raise ValueError(f"env: {name} expects Discrete actions, got {actions}; for continuous ones take ddpg, td3 or sac")
    if not discrete and isinstance(actions, Discrete):
        raise ValueError(f"env: {name} expects a Box of actions, got {actions}; for discrete ones take dqn or sac_discrete")
    if not discrete:
        fits = isinstance(actions, Box) and actions.dtype.is_floating_point and len(actions.shape) == 1
        if not fits or not all(map(math.isfinite, [*actions.low.tolist(), *actions.high.tolist()])):
            raise ValueError(f"env: {name} expects a floating-point Box of actions of shape [A] with finite ends, got {actions}")
    vector = isinstance(space, Box) and len(space.shape) == 1 and space.dtype.is_floating_point
    image = images and isinstance(space, Box | Binary) and len(space.shape) == 3
    if not vector and not image:
        also = " or images (a Box or Binary of shape [H, W, C])" if images else ""
        raise ValueError(
            f"env: {name} expects observations that are vectors (a floating-point Box of shape [D]){also}, got {space}; "
            "transforms.flatten_observation and transforms.cast make vectors"
        )
    if config.num_envs * config.num_steps > config.buffer_size:
        raise ValueError(
            f"buffer_size: {config.buffer_size} is less than the {config.num_envs} * {config.num_steps} transitions of one step; raise it"
        )
    if env.num_envs is None and env.host:
        raise ValueError(f"env: {env.name} is a single environment outside torch; make it with num_envs={config.num_envs}")
    if env.num_envs not in (None, config.num_envs):
        raise ValueError(f"num_envs: {env.name} has {env.num_envs} copies, got {config.num_envs}; make both equal")
