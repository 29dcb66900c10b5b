"""The common part of off-policy learners: collect transitions, write them to a replay buffer, and learn from samples of it."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from funrl import _check, acting, buffers, random, tree
from funrl.algos._algorithm import Algorithm, annealed, check_copies, collecting, in_dtype_of, receiving, start_state
from funrl.algos._arguments import check_intervals
from funrl.algos._state import ActorParams, Learned, LearnerState, State
from funrl.algos.images import advice, check_observations, is_vector
from funrl.compiler import scan
from funrl.env import AnyEnv, Place, Transition
from funrl.spaces import Box, Dict, Discrete
from funrl.typing import Metrics

__all__ = ["Learner", "OffPolicyConfig", "make"]


@tree.dataclass
class OffPolicyConfig(tree.Replaceable):
    """The options of every off-policy learner.

    The fields from ``learning_rate`` on are hyperparameters: ``learner.hparams`` holds them as tensors.

    If a hyperparameter of exploration is replaced, the next ``step`` still acts with the old value.

    Attributes:
        num_envs: B, number of environments.
        num_steps: T, steps of each environment in one update.
        num_updates: gradient steps in one update; with T * B there is one for each environment step.
        batch_size: transitions in a gradient step.
        buffer_size: capacity of the replay buffer, in transitions.
        n_step: n, the number of rewards that are summed before the bootstrap (fewer at the end of a rollout); at most ``num_steps``. With n
            > 1, a change of ``gamma`` has no effect on transitions that are already in the buffer.
        learning_starts: environment steps with random actions, before the first gradient step.
        num_cells: widths of the hidden layers of every network.
        activation: activation of the hidden layers, as for :func:`funrl.nn.mlp`.
        learning_rate: learning rate of Adam, at least 0.
        anneal_steps: number of environment steps over which the learning rate falls linearly to 0; infinity: it is constant.
        gamma: discount, in [0, 1].
    """

    num_envs: int = tree.static(default=1)
    num_steps: int = tree.static(default=32)
    num_updates: int = tree.static(default=32)
    batch_size: int = tree.static(default=256)
    buffer_size: int = tree.static(default=100_000)
    n_step: int = tree.static(default=1)
    learning_starts: int = tree.static(default=1_000)
    num_cells: tuple = tree.static(default=(64, 64))
    activation: str = tree.static(default="relu")
    learning_rate: Any = 1e-3
    anneal_steps: Any = math.inf
    gamma: Any = 0.99


class Learner(NamedTuple):
    """The parts in which off-policy algorithms differ.

    Attributes:
        init: ``init(key, observation) -> (network, target, optimizer state)``: the initial values.
        learn: ``learn(key, learned, batch, gamma, weight, hparams) -> (learned, metrics)``: take one gradient step on a
            :class:`~funrl.env.Transition` of leaves [N, ...]; ``gamma`` is [N]. Metrics are tensors [], except ``td_error`` [N].
        sample: ``sample(params, key, observation) -> action``: the exploring policy, which takes :class:`~funrl.algos.ActorParams`.
            Discrete actions are counted from 0.
        greedy: the policy without exploration, with the same signature.
        schedule: ``schedule(hparams, num_steps) -> (random, noise)``: the fields of :class:`~funrl.algos.ActorParams` after
            ``learning_starts``; None: no random actions, and no noise.
        delayed: an update after every ``delay``-th gradient step, on the same batch, with the signature of ``learn``. Its metrics have
            other names than those of ``learn``, without ``td_error``.
        delay: number of gradient steps between two delayed updates; divides ``num_updates``.
    """

    init: Callable[..., Any]
    learn: Callable[..., Any]
    sample: Callable[..., Any]
    greedy: Callable[..., Any]
    schedule: Callable[..., Any] | None = None
    delayed: Callable[..., Any] | None = None
    delay: int = 1


def make(
    name: str, env: AnyEnv, config: Any, spec: Learner, given: dict[str, Any] | None = None, *, buffer: buffers.Buffer | None = None
) -> Algorithm:
    """Make an :class:`~funrl.algos.Algorithm` from a :class:`Learner`.

    An update writes T steps of B environments to the buffer, samples ``num_updates`` batches from it, and takes a gradient step on each in
    a scan. If the buffer has priorities, they are updated after the last of these steps. (An item that was sampled twice gets one of its
    two errors.) Before ``learning_starts`` parameters and priorities do not change; the metrics are the losses of the initial parameters.

    With a host environment, ``step`` is a Python loop that calls two compiled programs, ``act`` and ``learn``. Such a step can be neither
    compiled nor vmapped. It changes the given state in place, environments and buffer: continue with the returned state.

    Args:
        name: the name of the algorithm, for ``python -m funrl train`` and messages.
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        config: an :class:`OffPolicyConfig`.
        spec: the parts that define the algorithm.
        given: the parts that the user gave instead of the default ones, such as ``buffer``.
        buffer: the default buffer, with ``config.buffer_size`` items; None: :func:`funrl.buffers.uniform`. If it has ``update_priority``,
            the priorities are ``td_error``.

    Returns:
        The algorithm.

    Raises:
        ValueError: if ``spec.delay`` does not divide ``num_updates``.

    Example:
        >>> import funrl
        >>> spec = Learner(  # of the mean reward
        ...     init=lambda key, observation: (torch.zeros(()), torch.zeros(()), ()),
        ...     learn=lambda key, learned, batch, gamma, weight, hparams: (
        ...         learned.replace(network=batch.reward.mean()), {"td_error": batch.reward - learned.network}
        ...     ),
        ...     sample=lambda params, key, observation: torch.tensor(0),
        ...     greedy=lambda params, key, observation: torch.tensor(1),
        ... )
        >>> config = funrl.algos.crossq.CrossQConfig(num_steps=8, num_updates=2, learning_starts=0, buffer_size=100)
        >>> algo = make("mean", funrl.envs.make("CartPole-v1"), config, spec)
        >>> state, _ = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> state.learner.params.network, algo.greedy(state.learner.params, funrl.random.key(0), None)
        (tensor(1.), (tensor(1), {}))
    """
    given, receive = given or {}, receiving(env, config)
    replay: buffers.Buffer = given.get("buffer", buffer) or buffers.uniform(config.buffer_size)
    _check_sizes(config, spec, replay, "buffer" in given)
    act, greedy = _policies(env, spec)

    def init(key: torch.Tensor, hparams: Mapping[str, torch.Tensor] = MappingProxyType({})) -> State:
        network_key, env_key = random.split(key).unbind(0)

        def parts(actor: acting.ActorState, observation: Any, hparams: Any) -> dict[str, Any]:
            timed = isinstance(actor.timestep.discount, torch.Tensor)
            _check_discounts(timed, config, replay)
            network, target, optimizer = spec.init(network_key, observation)
            none, first = torch.zeros((), dtype=torch.int64, device=key.device), tree.index(actor.timestep.observation, 0)
            return {
                "params": ActorParams(network, **_exploration(spec, config, hparams, none)),
                "target": target,
                "optimizer": optimizer,
                "buffer": _start_buffer(replay, _example(env, config, first, torch.zeros_like(actor.timestep.reward[0]), timed)),
                "num_updates": none,
            }

        return start_state(env_key, env, config, hparams, parts, discounts=True)

    def learn(key: torch.Tensor, learner: LearnerState, transitions: Transition) -> tuple[LearnerState, Metrics]:
        learner, samples, episode_metrics = receive(learner, transitions)
        memory = replay.extend(learner.buffer, _rows(env, config, samples, learner.hparams, replay.num_envs is not None))
        sample_keys, learn_keys = random.split(key, (2, config.num_updates)).unbind(0)
        batches = torch.func.vmap(lambda key: replay.sample(key, memory, config.batch_size))(sample_keys)
        _check_batches(batches, config)

        learning_rate = annealed(learner.hparams, learner.num_steps)
        before = Learned(learner.params.network, learner.target, learner.optimizer, learner.num_updates)
        after, metrics = fit(spec, config, before, learn_keys, batches, learner.hparams.replace(learning_rate=learning_rate))
        num_steps = episode_metrics["steps"]
        learning = num_steps >= config.learning_starts
        after, error = tree.where(learning, after, before), metrics.pop("td_error")
        memory = _set_priorities(replay, memory, batches, error, learning)
        learner = learner.replace(
            params=ActorParams(after.network, **_exploration(spec, config, learner.hparams, num_steps)),
            target=after.target,
            optimizer=after.optimizer,
            buffer=memory,
            num_steps=num_steps,
            num_updates=after.num_updates,
        )
        means = {name: x.mean(0) for name, x in metrics.items()}
        rate = {} if "optimizer" in given else {"learning_rate": learning_rate}
        return learner, {**episode_metrics, **means, "td_error": error.mean(), "updates": after.num_updates, **rate}

    return Algorithm(name, env, config, init, collecting(env, act, config.num_steps), learn, act, greedy, given)


def _policies(env: AnyEnv, spec: Learner) -> tuple[Any, Any]:
    """Return ``act`` and ``greedy`` with actions as the environment takes them; in the buffer discrete actions are counted from 0."""
    start, space = _first(env), Discrete(env.action_space.n) if isinstance(env.action_space, Discrete) else env.action_space

    def act(params: ActorParams, key: torch.Tensor, observation: Any) -> tuple[torch.Tensor, Metrics]:
        sample_key, uniform_key, coin_key = random.split(key, 3).unbind(0)
        action = spec.sample(params, sample_key, in_dtype_of(params, observation))
        uniform = space.sample(uniform_key).to(action.dtype)
        action = torch.where(random.uniform(coin_key, (), dtype=params.random.dtype) < params.random, uniform, action)
        return action + start if start else action, {}

    def greedy(params: ActorParams, key: torch.Tensor, observation: Any) -> tuple[torch.Tensor, Metrics]:
        action = spec.greedy(params, key, in_dtype_of(params, observation))
        return action + start if start else action, {}

    return act, greedy


def _first(env: AnyEnv) -> int:
    return env.action_space.start if isinstance(env.action_space, Discrete) else 0


def _exploration(spec: Learner, config: Any, hparams: Any, num_steps: torch.Tensor) -> dict[str, Any]:
    """Return the fields of :class:`~funrl.algos.ActorParams` that depend on the number of environment steps."""
    share, noise = spec.schedule(hparams, num_steps) if spec.schedule else (torch.zeros_like(hparams.gamma), ())
    # A copy, which does not share memory with a hyperparameter.
    return {"random": torch.where(num_steps < config.learning_starts, 1.0, share), "noise": tree.map(torch.clone, noise)}


def _example(env: AnyEnv, config: Any, observation: Any, zero: torch.Tensor, timed: bool) -> Transition:
    """Return an example of a buffer item. It has a discount with n-step returns, or if ``timed``: ``env`` returns one for each step."""
    observation, flag = tree.to(observation, zero.dtype), torch.zeros_like(zero, dtype=torch.bool)
    kind = torch.int64 if isinstance(env.action_space, Discrete) else zero.dtype
    action = torch.zeros(env.action_space.shape, dtype=kind, device=zero.device)
    return Transition(observation, action, zero, flag, flag, observation, {"discount": zero} if config.n_step > 1 or timed else {})


def _start_buffer(buffer: buffers.Buffer, example: Transition) -> Any:
    try:
        return buffer.init(example)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"buffer: it does not take single transitions ({error}); give one such as buffers.uniform or buffers.prioritized"
        ) from error


def _rows(env: AnyEnv, config: Any, samples: Transition, hparams: Any, ordered: bool) -> Transition:
    """Return the transitions for the buffer, leaves [T * B, ...]; n-step transitions have a ``discount`` in their extras.

    ``ordered``: the buffer needs consecutive steps of each environment. The next batch of a collector may come from another worker, so the
    last step before such a gap is marked as truncated.
    """
    start = _first(env)
    if ordered and isinstance(samples.place, Place):
        number, count = samples.place.number, samples.place.step_count
        broken = (number[1:] != number[:-1]) | (count[1:] != count[:-1] + 1)
        samples = samples.replace(truncated=samples.truncated | torch.cat([broken, torch.ones_like(broken[:1])]))
    own = {name: x for name, x in samples.extras.items() if name == "discount"}
    samples = samples.replace(action=samples.action - start if start else samples.action, extras=own, place=())
    if config.n_step > 1:
        joined = buffers.n_step(samples, n=config.n_step, gamma=hparams.gamma)
        samples = joined.transition.replace(extras={"discount": joined.discount})
    return tree.reshape(samples, (config.num_envs * config.num_steps,), batch_dims=2)


def _check_discounts(timed: bool, config: Any, buffer: buffers.Buffer) -> None:
    if timed and (config.n_step > 1 or buffer.num_envs is not None):
        expected = "n_step = 1 and a buffer that does not change rewards, as the environment returns a discount for each step"
        _check.fail(ValueError, "n_step, buffer", expected, f"n_step = {config.n_step}")


def _check_sizes(config: Any, spec: Learner, buffer: buffers.Buffer, own: bool) -> None:
    num = config.num_envs * config.num_steps
    if num > buffer.capacity and own:
        raise ValueError(f"buffer: it holds {buffer.capacity} items, less than the {num} transitions of one update; make a larger one")
    if num > buffer.capacity:
        raise ValueError(
            f"buffer_size: {config.buffer_size} is less than the {config.num_envs} * {config.num_steps} transitions of one update; "
            "increase it"
        )
    if buffer.num_envs not in (None, config.num_envs):
        raise ValueError(
            f"buffer: it was made for num_envs = {buffer.num_envs}, but the algorithm has num_envs = {config.num_envs}; make both equal"
        )
    if buffer.num_envs is not None and config.n_step > 1:
        raise ValueError(f"buffer, n_step: expected n_step = 1 with a buffer that changes rewards, got {config.n_step}; leave n_step out")
    _check.divisor("policy_delay", spec.delay, config.num_updates, "num_updates", "change either")


def _check_batches(batches: Any, config: Any) -> None:
    reward = batches.batch.reward if isinstance(batches, buffers.Sample) and isinstance(batches.batch, Transition) else None
    if reward is None or reward.shape != (config.num_updates, config.batch_size):
        got = type(batches).__name__ if reward is None else f"a reward {list(reward.shape[1:])}"
        raise ValueError(
            f"buffer: expected it to sample {config.batch_size} single transitions, got {got}; give it one such as buffers.uniform or "
            "buffers.prioritized"
        )


def _set_priorities(buffer: buffers.Buffer, memory: Any, batches: buffers.Sample, error: torch.Tensor, learning: torch.Tensor) -> Any:
    """If there are priorities, set those of the sampled items to their TD errors; before ``learning_starts``, to the greatest one."""
    if buffer.update_priority is None:
        return memory
    priority = torch.where(learning, error, memory.exponents.greatest)
    return buffer.update_priority(memory, batches.indices.reshape(-1), priority.reshape(-1))


def fit(
    spec: Learner, config: Any, learned: Learned, keys: torch.Tensor, batches: buffers.Sample, hparams: Any
) -> tuple[Learned, dict[str, torch.Tensor]]:
    """Take a gradient step on each batch; return the new state, and metrics with a row for each step.

    Args:
        spec: the parts of the learner.
        config: has ``num_updates`` U.
        learned: the state that the steps change.
        keys: int64 [U], a key for each step.
        batches: leaves [U, N, ...]; if the extras have a ``discount``, it is used instead of ``hparams.gamma``.
        hparams: the hyperparameters.

    Example:
        >>> from funrl.algos import crossq
        >>> step = lambda key, learned, batch, gamma, weight, hparams: (learned.replace(network=batch.reward.mean()), {})
        >>> flag = torch.zeros(2, 3, dtype=torch.bool)
        >>> batches = Transition(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3), flag, flag, torch.zeros(2, 3), {})
        >>> sample = buffers.Sample(batches, torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 3))
        >>> config = crossq.CrossQConfig(num_updates=2, gamma=torch.tensor(0.9))
        >>> spec = Learner(None, step, None, None, None)
        >>> learned = Learned(torch.tensor(0.0), (), (), torch.tensor(0))
        >>> fit(spec, config, learned, random.split(random.key(0)), sample, config)[0].num_updates
        tensor(2)
    """

    def applied(update: Any, key: torch.Tensor, learned: Learned, sample: buffers.Sample) -> tuple[Learned, Metrics]:
        batch = sample.batch
        gamma = batch.extras["discount"] if "discount" in batch.extras else hparams.gamma.expand(batch.reward.shape)
        return update(key, learned, batch, gamma, sample.weights.to(batch.reward.dtype), hparams)

    def once(learned: Learned, x: Any) -> tuple[Learned, Metrics]:
        learned, metrics = applied(spec.learn, x[0], learned, x[1])
        return learned.replace(num_updates=learned.num_updates + 1), metrics

    def several(learned: Learned, x: Any) -> tuple[Learned, Any]:
        keys, samples = x
        learned, metrics = scan(once, learned, (keys[:-1], samples))
        learned, further = applied(spec.delayed, keys[-1], learned, tree.index(samples, -1))
        return learned, (metrics, further)

    if spec.delayed is None:
        return scan(once, learned, (keys, batches))
    num_groups = config.num_updates // spec.delay
    grouped = tree.reshape(batches, (num_groups, spec.delay), batch_dims=1)
    keys = torch.func.vmap(lambda key: random.split(key, spec.delay + 1))(keys[:num_groups])
    learned, (metrics, further) = scan(several, learned, (keys, grouped))
    return learned, {**tree.map(lambda x: x.flatten(0, 1), metrics), **further}


def check(name: str, env: AnyEnv, config: Any, *, discrete: bool, observations: str = "vectors") -> None:
    """Raise a ValueError unless the options of :class:`OffPolicyConfig` and the environment fit a learner called ``name``.

    ``observations`` says which are allowed: ``"vectors"`` (and dicts of them), ``"images"`` (and dicts of both), or ``"any"``.

    Example:
        >>> import funrl
        >>> check("DQN", funrl.envs.make("Pendulum-v1"), OffPolicyConfig(), discrete=True)
        Traceback (most recent call last):
        ...
        ValueError: env: DQN expects Discrete actions, got Box(...); for continuous ones take ddpg, td3 or sac
    """
    check_copies(config, env)
    check_intervals(config)
    _check.fields(config, "[1, inf)", "num_steps")
    _check.fields(config, f"[1, {config.num_steps}]", "n_step")
    actions, space = env.action_space, env.observation_space
    if discrete and not isinstance(actions, Discrete):
        raise ValueError(f"env: {name} expects Discrete actions, got {actions}; for continuous ones take ddpg, td3 or sac")
    if not discrete and isinstance(actions, Discrete):
        raise ValueError(f"env: {name} expects a Box of actions, got {actions}; for discrete ones take dqn or sac_discrete")
    if not discrete:
        box = actions if isinstance(actions, Box) and actions.dtype.is_floating_point and len(actions.shape) == 1 else None
        if box is None or not all(map(math.isfinite, [*box.low.tolist(), *box.high.tolist()])):
            raise ValueError(f"env: {name} expects a floating-point Box of actions of shape [A] with finite ends, got {actions}")
    if observations == "images":
        check_observations(env)
    elif observations == "vectors" and not _vectors(space):
        raise ValueError(
            f"env: {name} expects observations that are vectors (a floating-point Box of shape [D]) or a Dict of them, got {space}"
            f"{advice(space)}; "
            "with networks of your own for actor and critic it accepts any observations"
        )


def _vectors(space: Any) -> bool:
    """Return True for a space of vectors, or a Dict of them."""
    return all(map(_vectors, space.spaces.values())) if isinstance(space, Dict) else is_vector(space)
