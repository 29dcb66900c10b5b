"""Deep Q-networks, and the parts of Rainbow."""

from typing import Any

import torch

from funrl import buffers, nn, optim, random, schedules, tree
from funrl.algos import off_policy
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure, random_share, with_default
from funrl.algos._networks import q_network
from funrl.algos._off_policy_parts import minimize, start_optimizer
from funrl.algos._state import ActorParams, Learned
from funrl.algos.images import ImageConfig
from funrl.env import AnyEnv, Transition
from funrl.losses import c51_loss, dqn_loss
from funrl.typing import Loss, Metrics

__all__ = ["DQNConfig", "make"]


@tree.dataclass
class DQNConfig(ImageConfig, off_policy.OffPolicyConfig):
    """The options of :func:`make`, in addition to those of :class:`~funrl.algos.off_policy.OffPolicyConfig` and
    :class:`~funrl.algos.images.ImageConfig`.

    Rainbow has ``double``, ``dueling``, ``prioritized``, ``c51`` and ``noisy``, with ``n_step=3``, ``epsilon_start=0`` and
    ``epsilon_end=0``; in its paper ``priority_beta`` increases to 1.

    Attributes:
        target_period: gradient steps between two updates of the target network.
        tau: step size of such an update, in [0, 1]; 1 copies the network.
        double: double Q-learning: the network chooses the next action, and the target network evaluates it.
        dueling: separate heads for values and advantages.
        prioritized: prioritised replay: the probability of a transition is proportional to a power of its error.
        priority_alpha: that power, at least 0; like ``priority_beta`` it is a number in ``state.learner.buffer.exponents``.
        priority_beta: exponent of the importance weights that correct the sampling, at least 0; 1 corrects it fully.
        c51: learn a distribution over returns, with fixed atoms, instead of a value.
        num_atoms: K >= 2, number of atoms.
        v_min: smallest atom.
        v_max: greatest atom.
        noisy: explore by noise in the parameters.
        huber_delta: the error beyond which the loss is linear; infinity: half the squared error. Not used with ``c51``.
        epsilon_start: initial probability of a random action after ``learning_starts``, in [0, 1].
        epsilon_end: final probability of a random action, in [0, 1].
        epsilon_steps: number of environment steps over which it changes linearly.
    """

    target_period: int = tree.static(default=200)
    tau: Any = 1.0
    double: bool = tree.static(default=True)
    dueling: bool = tree.static(default=False)
    prioritized: bool = tree.static(default=False)
    priority_alpha: float = tree.static(default=0.6)
    priority_beta: float = tree.static(default=0.4)
    c51: bool = tree.static(default=False)
    num_atoms: int = tree.static(default=51)
    v_min: float = tree.static(default=0.0)
    v_max: float = tree.static(default=100.0)
    noisy: bool = tree.static(default=False)
    huber_delta: Any = 1.0
    epsilon_start: Any = 1.0
    epsilon_end: Any = 0.05
    epsilon_steps: Any = 10_000.0


def make(
    env: AnyEnv,
    *,
    network: nn.OwnNet = None,
    optimizer: optim.Optimizer | None = None,
    buffer: buffers.Buffer | None = None,
    exploration: schedules.Schedule | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Algorithm:
    """Make DQN for an environment with vectors, images or dicts of both as observations and discrete actions.

    Args:
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        network: a net from observations [N, ...] to the values of all actions [N, A], or [N, A, K] with ``c51``; None: the network that the
            options describe. :func:`funrl.nn.from_module` makes a net from a torch module. The noise of a noisy net explores.
        optimizer: any :class:`funrl.optim.Optimizer`; None: Adam with the options ``learning_rate`` and ``anneal_steps``. With an optimizer
            these options cannot be given, and have no effect in ``learner.hparams``.
        buffer: any buffer of :mod:`funrl.buffers` that samples single transitions; None: :func:`funrl.buffers.uniform`.
        exploration: a schedule of :mod:`funrl.schedules`, or another function of the number of environment steps so far, int64 []. It
            returns the probability of a random action, in [0, 1]; None: linear from ``epsilon_start`` to ``epsilon_end`` after
            ``learning_starts``.
        loss: ``loss(params, target, batch, *, default, **options) -> (loss, metrics)`` instead of the loss that the options describe, which
            is ``default``. Its metrics, tensors [] without gradient, are added to those of a step; one of them must be ``td_error`` [N].
        **options: fields of :class:`DQNConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``help(funrl.algos)`` lists its metrics.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> rainbow = dict(double=True, dueling=True, n_step=3, prioritized=True, c51=True, noisy=True, epsilon_start=0, epsilon_end=0)
        >>> algo = make(
        ...     funrl.envs.make("CartPole-v1"), num_steps=8, num_updates=2, batch_size=8, num_cells=(8,), learning_starts=8, **rainbow
        ... )
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["updates"], state.learner.params.random
        (tensor(2), tensor(0.))

    Reference: V. Mnih et al., "Human-level control through deep reinforcement learning", Nature 518, 2015 (no arXiv id), algorithm 1;
        M. Hessel et al., "Rainbow: Combining Improvements in Deep Reinforcement Learning", 2017, arXiv:1710.02298. Value, target and choice
        of the next action have separate noise, as in M. Fortunato et al., "Noisy Networks for Exploration", 2017, arXiv:1706.10295.
        Deviation: sums of n rewards end with their rollout: the last n - 1 of its ``num_steps`` steps bootstrap after fewer steps.
    """
    config, given = configure(DQNConfig, options, network=network, optimizer=optimizer, buffer=buffer, exploration=exploration, loss=loss)
    off_policy.check("DQN", env, config, discrete=True, observations="any" if network is not None else "images")
    if not config.v_min < config.v_max:
        raise ValueError(f"v_min, v_max: expected v_min < v_max, got {config.v_min} and {config.v_max}")
    atoms = config.num_atoms if config.c51 else 1
    q_net = q_network(config, env, network, num_atoms=atoms, dueling=config.dueling, noisy=config.noisy)
    objective = with_default(loss, c51_loss if config.c51 else dqn_loss, needed=("td_error",))

    def support(like: torch.Tensor) -> torch.Tensor:
        return torch.linspace(config.v_min, config.v_max, atoms, dtype=like.dtype, device=like.device)

    def output(params: Any, observation: torch.Tensor, key: torch.Tensor | None = None) -> torch.Tensor:
        return q_net.apply(params, observation, key=key) if q_net.noisy else q_net.apply(params, observation)

    def values(params: Any, observation: torch.Tensor, key: torch.Tensor | None = None) -> torch.Tensor:
        out = output(params, observation, key)
        return (out.softmax(-1) * support(out)).sum(-1) if config.c51 else out

    def init(key: torch.Tensor, observation: torch.Tensor) -> tuple[Any, Any, Any]:
        params = q_net.init(key, observation)
        return params, tree.map(torch.clone, params), start_optimizer(optimizer, params)

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: DQNConfig) -> Any:
        key, target_key, chooser_key = random.split(key, 3).unbind(0)
        options: dict[str, Any] = {"support": support(batch.reward)} if config.c51 else {"huber_delta": hparams.huber_delta}
        if config.double:
            options["chooser_apply"] = lambda params, observation: output(params, observation, chooser_key)
        options["apply"] = lambda params, observation: output(params, observation, key)
        options["target_apply"] = lambda params, observation: output(params, observation, target_key)

        def total(network: Any) -> tuple[torch.Tensor, Metrics]:
            return objective(network, learned.target, batch, gamma=gamma, weight=weight, **options)

        learned, metrics = minimize(total, learned, hparams.learning_rate, optimizer)
        nearer = optim.soft_update(learned.network, learned.target, tau=hparams.tau)
        target = optim.hard_update(nearer, learned.target, count=learned.num_updates + 1, period=config.target_period)
        return learned.replace(target=target), metrics

    def sample(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        return values(params.network, observation, key).argmax(-1)

    def greedy(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        return values(params.network, observation).argmax(-1)

    def schedule(hparams: DQNConfig, num_steps: torch.Tensor) -> tuple[torch.Tensor, Any]:
        return random_share(exploration, hparams, num_steps, config.learning_starts), ()

    spec = off_policy.Learner(init, learn, sample, greedy, schedule)
    replay = buffers.prioritized(config.buffer_size, config.priority_alpha, config.priority_beta) if config.prioritized else None
    return off_policy.make("dqn", env, config, spec, given, buffer=replay)
