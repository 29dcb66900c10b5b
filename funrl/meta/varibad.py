"""VariBAD: a policy that acts by a belief about its task, which a variational encoder learns."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _check, nn, random, tree
from funrl.acting import Memory
from funrl.algos import ActorParams, Algorithm, configure, in_dtype_of, on_policy, ppo
from funrl.env import AnyEnv, Transition
from funrl.envs.tasks import Tasks
from funrl.meta._trials import in_trials
from funrl.optim import Optimizer
from funrl.policies import StatefulPolicy
from funrl.spaces import Box, Discrete

__all__ = ["VariBADConfig", "belief_loss", "make"]

_CELLS = {"gru": nn.gru, "lstm": nn.lstm, "min_gru": nn.min_gru}


@tree.dataclass
class VariBADConfig(ppo.PPOConfig):
    """The options of :func:`make`: those of :class:`funrl.algos.ppo.PPOConfig`, with other defaults, and these.

    Attributes:
        num_episodes: episodes of a task in a trial, at least 1.
        latent_size: D, the size of the latent vector that describes a task.
        decoder_cells: widths of the hidden layers of the decoder.
        model_weight: of the loss of encoder and decoder, at least 0.
        kl_weight: of the divergences in it, at least 0.
    """

    recurrent: str = tree.static(default="gru")
    num_episodes: int = tree.static(default=2)
    latent_size: int = tree.static(default=5)
    decoder_cells: tuple = tree.static(default=(32,))
    model_weight: Any = 1.0
    kl_weight: Any = 0.1


def make(env: AnyEnv, *, tasks: Tasks | None = None, optimizer: Optimizer | None = None, **options: Any) -> Algorithm:
    r"""Make VariBAD: PPO in trials of several episodes in one task, with a belief about the task among its observations.

    A recurrent encoder maps the history of the trial to a normal distribution over a latent vector m that describes the task,

    .. math:: q_t(m) = N\left(\mu_t, \operatorname{diag} \exp \ell_t\right)

    Policy and value see the observation and (mu, l), through which no gradient flows: the encoder learns only from
    :func:`belief_loss`, that is, from the prediction of rewards. So the latent vector has to determine the rewards of the task, the future
    ones too. As in :func:`funrl.meta.rl2.make`, the carry is not reset between the episodes of a trial.

    Args:
        env: a pure environment with vectors as observations, not batched, that :func:`funrl.envs.tasks.of` has tasks for; or one of trials.
        tasks: a distribution of tasks to use instead of these.
        optimizer: as for :func:`funrl.algos.ppo.make`.
        **options: fields of :class:`VariBADConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm` with the metrics of :func:`funrl.algos.ppo.make`, ``reward_error`` (the mean squared error of
        predicted rewards) and ``belief_kl``.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment, or there are no tasks for it.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("PointRobot-misc"), num_envs=4, num_steps=8)
        >>> _, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        >>> bool(metrics["reward_error"] > 0), bool(metrics["belief_kl"] > 0)
        (True, True)

    Reference: L. Zintgraf et al., "VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning", 2019, arXiv:1910.08348.
        Deviations: the decoder predicts rewards only, from state and action; encoder and policy share optimizer and minibatches; only the
            rewards in the rollout are decoded, not those of the whole trial.
    """
    config, given = configure(VariBADConfig, options, optimizer=optimizer)
    _check.fields(config, "[1, inf)", "latent_size")
    _check.integers("decoder_cells", config.decoder_cells, 1)
    _check.fields(config, "[0, inf)", "model_weight", "kl_weight")
    if config.recurrent not in _CELLS:
        raise ValueError(f"recurrent: expected one of {', '.join(_CELLS)}, got {config.recurrent!r}")
    env = in_trials(env, tasks, config.num_episodes)
    if not isinstance(env.observation_space, Box):
        raise ValueError(f"env: VariBAD needs vectors as observations, but {env.name} has {env.observation_space}")
    if config.normalize_observation:
        raise ValueError(
            "normalize_observation: the decoder reads rewards from observations, which have to stay as they are; set it to False"
        )
    space = env.action_space
    size = env.observation_space.shape[0] - 2 - (space.n if isinstance(space, Discrete) else math.prod(space.shape))
    model = _model(config)

    def further_loss(params: Any, inputs: tuple[Any, ...], hparams: VariBADConfig) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        carry, observation, reset, noise = inputs
        mean, log_variance = model.belief(params, model.features(params, carry, observation, reset))
        decode = functools.partial(model.decode, params)
        error, kl = belief_loss(observation, reset, mean, log_variance, noise, size=size, decode=decode)
        return hparams.model_weight * (error + hparams.kl_weight * kl), {"reward_error": error.detach(), "belief_kl": kl.detach()}

    return ppo.build("varibad", env, config, given, nets=_networks(config, env), further_loss=further_loss)


def belief_loss(
    observation: torch.Tensor,
    reset: torch.Tensor,
    mean: torch.Tensor,
    log_variance: torch.Tensor,
    noise: torch.Tensor,
    *,
    size: int,
    decode: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Return the two parts of the negative evidence lower bound of rewards: the error of decoded rewards, and the divergences of beliefs.

    .. math:: E = \operatorname{mean}_{t, i} \left(r_i - \hat r(s_i, a_i, m_t)\right)^2, \quad m_t = \mu_t + e^{\ell_t / 2} \epsilon_t,
        \qquad
        K = \operatorname{mean}_t KL(q_t \| q_{t-1})

    At each step t all rewards r_i of the same trial are decoded, past and future ones. Before the first step of a trial the belief is
    N(0, 1).

    Args:
        observation: floating point [B, T, F] of an environment of :func:`funrl.meta.trials`: that of the task, the last action [A], the
            last reward, and the flag of a new episode.
        reset: bool [B, T], True at the first step of a trial.
        mean: mu, floating point [B, T, D].
        log_variance: l, floating point [B, T, D].
        noise: epsilon, floating point [B, T, D], standard normal.
        size: S, the size of the task's observation: F - A - 2.
        decode: ``decode(x [..., S + A + D]) -> [...]``: the reward of an action in a state, and of the task that m describes.

    Returns:
        E [] and K [].

    Example:
        >>> zeros, reset = torch.zeros(1, 2, 3), torch.tensor([[True, False]])
        >>> belief_loss(torch.ones(1, 2, 5), reset, zeros, zeros, zeros, size=2, decode=lambda x: x[..., 0] + 2)
        (tensor(4.), tensor(0.))

    Reference: arXiv:1910.08348, equation 8.
    """
    trial = reset.long().cumsum(1)
    state, action, reward = observation[:, :-1, :size], observation[:, 1:, size:-2], observation[:, 1:, -2]
    latent = mean + (0.5 * log_variance).exp() * noise
    rows, steps = latent.shape[1], state.shape[1]
    x = torch.cat([state, action], -1)[:, None].expand(-1, rows, -1, -1)
    x = torch.cat([x, latent[:, :, None].expand(-1, -1, steps, -1)], -1)
    pairs = ((trial[:, :, None] == trial[:, None, :-1]) & ~reset[:, None, 1:]).to(reward.dtype)
    error = ((decode(x) - reward[:, None]).square() * pairs).sum() / pairs.sum().clamp(min=1.0)
    first = reset[..., None]
    old_mean, old_log = (torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1) for x in (mean, log_variance))
    old_mean, old_log = torch.where(first, 0.0, old_mean), torch.where(first, 0.0, old_log)
    kl = 0.5 * (old_log - log_variance + (log_variance - old_log).exp() + (mean - old_mean).square() * (-old_log).exp() - 1).sum(-1)
    known = reset | (torch.arange(rows, device=reset.device) > 0)  # the first row of a rollout has no previous belief
    return error, torch.where(known, kl, 0.0).sum() / known.sum().clamp(min=1)


class _Model(NamedTuple):
    """The recurrent cell of the encoder, the layer from its features to mean and log-variance of the belief, and the decoder of rewards."""

    cell: Any
    head: nn.Net
    decoder: nn.Net

    def belief(self, params: Any, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_variance = self.head.apply(params["belief"], features).chunk(2, -1)
        return mean, log_variance.clamp(-10.0, 4.0)

    def with_belief(self, params: Any, observation: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Return the inputs of policy and value: the observation and the belief, through which no gradient flows."""
        return torch.cat([observation, *(x.detach() for x in self.belief(params, features))], -1)

    def features(self, params: Any, carry: Any, observation: torch.Tensor, reset: torch.Tensor) -> torch.Tensor:
        """Return the features [B, T, F] of observations [B, T, D]."""
        return self.cell.unroll(params["cell"], carry, _swapped(observation), reset.transpose(0, 1))[1].transpose(0, 1)

    def decode(self, params: Any, x: torch.Tensor) -> torch.Tensor:
        return self.decoder.apply(params["decoder"], x).squeeze(-1)


def _swapped(x: Any) -> Any:
    """Swap the dimensions of time and batch."""
    return tree.permute(x, (1, 0))


def _model(config: VariBADConfig) -> _Model:
    head, decoder = nn.mlp((), 2 * config.latent_size, out_init=nn.orthogonal(0.1)), nn.mlp(config.decoder_cells, 1, activation="relu")
    return _Model(_CELLS[config.recurrent](config.recurrent_size), head, decoder)


def _networks(config: VariBADConfig, env: AnyEnv) -> Any:
    """Return networks of the form of :func:`funrl.algos.on_policy.networks`."""
    heads, model = _heads(config, env), _model(config)
    cell = model.cell

    def init(key: torch.Tensor, observation: torch.Tensor) -> dict[str, Any]:
        cell_key, belief_key, heads_key, decoder_key = random.split(key, 4).unbind(0)
        params = {"cell": cell.init(cell_key, observation)}
        _, features = cell.apply(params["cell"], cell.start(observation), observation, None)
        params["belief"] = model.head.init(belief_key, features)
        params["heads"] = heads.init(heads_key, model.with_belief(params, observation, features))
        example = observation.new_zeros(observation.shape[0] - 2 + config.latent_size)
        return {**params, "decoder": model.decoder.init(decoder_key, example)}

    def policy(choose: Callable[..., Any]) -> StatefulPolicy:
        def start(params: ActorParams, observation: torch.Tensor) -> Any:
            return cell.start(in_dtype_of(params.network, observation))

        def act(params: ActorParams, key: torch.Tensor, carry: Any, observation: torch.Tensor, reset: torch.Tensor) -> tuple[Any, Any, Any]:
            choose_key, noise_key = random.split(key).unbind(0)
            network, observation = params.network, in_dtype_of(params.network, observation)
            after, features = cell.apply(network["cell"], carry, observation, reset)
            distribution, value = heads.both(network["heads"], model.with_belief(network, observation, features))
            action, extras = choose(distribution, lambda: value, choose_key)
            noise = random.normal(noise_key, (config.latent_size,), dtype=observation.dtype)
            return after, action, {**extras, "memory": Memory(carry, reset), "latent_noise": noise}

        return StatefulPolicy(lambda key, observation: ActorParams(init(key, observation)), start, act)

    def values(params: Any, samples: Transition) -> tuple[torch.Tensor, torch.Tensor]:
        before = samples.extras["memory"]
        carry, features = cell.apply(params["cell"], before.state, samples.observation, before.reset)
        _, following = cell.apply(params["cell"], carry, samples.next_observation, None)
        pairs = ((samples.observation, features), (samples.next_observation, following))
        value, next_value = heads.both(params["heads"], torch.stack([model.with_belief(params, *pair) for pair in pairs]))[1]
        return value, next_value

    def inputs(samples: Transition) -> tuple[Any, ...]:
        before = samples.extras["memory"]
        return tree.index(before.state, 0), *_swapped((samples.observation, before.reset, samples.extras["latent_noise"]))

    def both(params: Any, x: tuple[Any, ...]) -> tuple[Any, torch.Tensor]:
        carry, observation, reset, _ = x
        features = model.features(params, carry, observation, reset).detach()
        return heads.both(params["heads"], model.with_belief(params, observation, features))

    return heads._replace(init=init, policy=policy, values=values, rows=_swapped, inputs=inputs, both=both)


def _heads(config: VariBADConfig, env: AnyEnv) -> Any:
    """Make policy and value of observations with beliefs."""
    width = env.observation_space.shape[0] + 2 * config.latent_size
    known = env._replace(observation_space=Box(float("-inf"), float("inf"), (width,)))
    return on_policy.networks(config.replace(recurrent="none"), known)
