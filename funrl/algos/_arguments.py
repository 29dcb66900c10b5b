"""Replaceable parts of an algorithm: networks, optimizer, replay buffer, loss and exploration."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch

from funrl import _check, buffers, nn, optim, policies, schedules, tree
from funrl.typing import Metrics

# Metrics that a step adds itself, and metrics of losses that have one value for each sample.
_RESERVED = "steps episode_return episode_return_min episode_return_max episode_length episodes updates learning_rate".split()
_SHAPED = ("td_error", "log_prob", "statistics")
_CONVOLUTIONS = ("num_channels", "kernel_size", "stride", "layout")
# The options that each argument replaces.
_REPLACED = {
    "network": (*_CONVOLUTIONS, "num_cells", "activation", "trunk", "dueling", "noisy"),
    "buffer": ("buffer_size", "prioritized", "priority_alpha", "priority_beta"),
    "exploration": ("epsilon_start", "epsilon_end", "epsilon_steps", "exploration_noise"),
    "optimizer": ("learning_rate", "critic_learning_ratio", "anneal_steps", "max_grad_norm"),
}
# The interval of a number, which is the same in every algorithm.
_INTERVALS = {
    "[1, inf)": ("num_envs", "num_updates", "batch_size", "buffer_size", "num_epochs", "num_minibatches", "num_episodes", "num_options",
                 "num_critics", "subset", "policy_delay", "target_period", "recurrent_size"),
    "[2, inf)": ("num_atoms",),
    "[0, inf)": ("learning_starts", "learning_rate", "critic_learning_ratio", "sigma_learning_rate", "weight_decay", "value_weight",
                 "entropy_weight", "entropy_share", "deliberation_cost", "termination_weight", "priority_alpha", "priority_beta",
                 "exploration_noise", "target_noise", "target_noise_clip", "clip", "num_elites"),
    "[0, inf]": ("value_clip", "huber_delta"),
    "(0, inf)": ("initial_alpha", "sigma", "epsilon_steps"),
    "(0, inf]": ("anneal_steps", "max_grad_norm", "target_kl", "rho_clip", "c_clip"),
    "[0, 1]": ("gamma", "lambda_", "tau", "momentum", "epsilon", "epsilon_start", "epsilon_end"),
    "[0, 1)": ("max_change",),
    "[0, 0.999999]": ("uniform_mix",),
    "[-20, 20]": ("initial_log_std",),
}  # fmt: skip
# Names that other libraries use for them, the most likely first.
_WORDS = {
    "network": ("net", "model", "module", "policy", "policy_network", "value_network", "q_network", "q_net", "actor_critic", "encoder",
                "backbone", "torso", "features_extractor", "actor", "critic"),
    "actor": ("policy", "policy_network", "actor_network", "pi", "network", "net", "model"),
    "critic": ("critics", "critic_network", "q_network", "q_net", "value_network", "qf", "network", "net", "model"),
    "buffer": ("replay_buffer", "replay", "memory", "sampler"),
    "loss": ("loss_fn", "loss_function", "objective", "criterion", "critic_loss", "actor_loss"),
    "critic_loss": ("loss", "loss_fn", "loss_function", "objective", "criterion"),
    "actor_loss": ("loss", "policy_loss"),
    "exploration": ("epsilon", "eps", "noise", "action_noise", "explore", "epsilon_schedule", "noise_schedule"),
    "optimizer": ("optim", "opt", "optimiser", "optimizer_class", "optimizer_fn", "tx", "solver"),
}  # fmt: skip


def configure(kind: type, options: Mapping[str, Any], **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """Build the configuration ``kind`` from keyword options, and check the parts that the user gave.

    Args:
        kind: the class of the configuration.
        options: fields of the configuration.
        **arguments: the parts by name; None: the default.

    Returns:
        The configuration, and the arguments that are not None.

    Raises:
        ValueError: for an unknown name, a number out of its interval, or an option that one of the arguments replaces.
        TypeError: for a value of another type than that of the field, or an argument of the wrong kind.

    Example:
        >>> import funrl
        >>> kind = funrl.algos.ppo.PPOConfig
        >>> configure(kind, {"gamma": 0.9}, optimizer=None)[1]
        {}
        >>> configure(kind, {"learning_rate": 0.1}, optimizer=optim.sgd(0.1))
        Traceback (most recent call last):
        ...
        ValueError: optimizer, learning_rate: expected one of them, got both, and optimizer takes the place of ...
        >>> configure(kind, {"optim": optim.sgd(0.1)}, optimizer=None)
        Traceback (most recent call last):
        ...
        ValueError: unknown option 'optim': the argument is called optimizer; help(funrl.algos.ppo.make) says what it takes
    """
    fields = {field.name for field in dataclasses.fields(kind)}
    for name in options:
        if name not in fields:
            _check_word(kind, name, arguments)
    config = make_config(kind, dict(options))
    check_intervals(config)
    given = {name: value for name, value in arguments.items() if value is not None}
    if "actor" in given and "critic" in given:
        _check_unused("actor, critic", ("num_cells", "activation", "momentum"), options)
    for name, value in given.items():
        _check_kind(kind, name, value)
        _check_unused(name, _replaced(name, value, options), options)
    return config, given


def check_intervals(config: Any) -> None:
    """Raise a ValueError if a number in a configuration is out of the interval that its name has in every algorithm.

    Example:
        >>> import funrl
        >>> check_intervals(funrl.algos.ppo.PPOConfig(num_envs=0))
        Traceback (most recent call last):
        ...
        ValueError: num_envs: expected a number of at least 1, got 0
    """
    fields = {field.name for field in dataclasses.fields(config)}
    for interval, names in _INTERVALS.items():
        _check.fields(config, interval, *(name for name in names if name in fields))


def make_config(kind: type, options: dict[str, Any]) -> Any:
    """Build the configuration ``kind`` from keyword options; for an unknown name the error names the nearest option.

    Raises:
        ValueError: for an unknown name.
        TypeError: for a value of another type than the field's.

    Example:
        >>> @tree.dataclass
        ... class Config:
        ...     num_envs: int = tree.static(default=64)
        ...     gamma: float = 0.99
        >>> make_config(Config, {"gamma": 1})
        Config(num_envs=64, gamma=1.0)
        >>> make_config(Config, {"gama": 1})
        Traceback (most recent call last):
        ...
        ValueError: unknown option 'gama': did you mean gamma?
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, value in options.items():
        if name not in fields:
            advice = _check.nearest(name, fields)
            more = "" if advice.startswith("did") else f"; help({kind.__module__}.{kind.__qualname__}) says what each of them does"
            raise ValueError(f"unknown option {name!r}: {advice}{more}")
        expected = type(fields[name].default)
        kinds = {expected, *(kind for kind in get_args(fields[name].type) if kind is tuple)}  # both of ``int | tuple``
        if tuple in kinds and isinstance(value, list):
            value = tuple(value)
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, tuple(kinds)) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(f"{name}: expected {expected.__name__}, as its default {fields[name].default!r} is, got {value!r}")
        options = {**options, name: value}
    return kind(**options)


def scheduled(exploration: schedules.Schedule, num_steps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the value [] of a schedule of exploration, in the dtype of ``like``.

    Raises:
        ValueError: if it is not a tensor [].

    Example:
        >>> scheduled(lambda steps: 0.5 ** (steps / 10), torch.tensor(20), torch.zeros(()))
        tensor(0.2500)
    """
    value = exploration(num_steps)
    if not isinstance(value, torch.Tensor) or value.ndim:
        got = tree.describe_leaf(value)
        raise ValueError(f"exploration: expected a tensor [] at a number of steps, got {got}; schedules.constant(0.1) is such a function")
    return value.to(like.dtype, copy=True)


def random_share(exploration: schedules.Schedule | None, hparams: Any, num_steps: torch.Tensor, start: int = 0) -> torch.Tensor:
    """Return the probability [] of a random action: that of the user's schedule; None: linear, as the options say, after ``start`` steps.

    Example:
        >>> import funrl
        >>> hparams = funrl.algos.dqn.DQNConfig(epsilon_start=1.0, epsilon_end=0.0, epsilon_steps=torch.tensor(10.0))
        >>> random_share(None, hparams, torch.tensor(105), 100)
        tensor(0.5000)
    """
    if exploration is not None:
        return scheduled(exploration, num_steps, hparams.gamma)
    steps = (num_steps - start).clamp(min=0)
    return schedules.linear(hparams.epsilon_start, hparams.epsilon_end, hparams.epsilon_steps)(steps)


def with_default(loss: Any, default: Callable[..., Any], *, needed: tuple[str, ...] = (), **further: Any) -> Callable[..., Any]:
    """Return a loss of the user's own with the signature that the algorithm calls, or ``default`` if it is None.

    Args:
        loss: ``loss(*args, default=default, **options) -> (loss, metrics)``, or None.
        default: the loss of the algorithm, which is called in the same way, without ``default`` and ``further``.
        needed: names of metrics that the algorithm reads.
        **further: further arguments of the user's loss.

    Raises:
        ValueError: when called, if a metric is missing that the algorithm reads.
        TypeError: when called, if it does not return such a pair.

    Example:
        >>> def doubled(params, *, default):
        ...     loss, metrics = default(params)
        ...     return 2 * loss, {**metrics, "size": loss.detach()}
        >>> with_default(doubled, lambda params: (params.square(), {}))(torch.tensor(3.0))
        (tensor(18.), {'size': tensor(9.)})
    """
    if loss is None:
        return default

    def called(*args: Any, **options: Any) -> tuple[torch.Tensor, Metrics]:
        result = loss(*args, default=default, **further, **options)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            raise TypeError(f"loss: expected it to return the pair (loss, metrics), got a {type(result).__name__}; metrics may be {{}}")
        value, metrics = result
        missing = [name for name in needed if name not in metrics]
        if missing:
            raise ValueError(f"loss: expected {missing[0]!r} among its metrics, which the algorithm reads, got {sorted(metrics)}")
        reserved = [name for name in metrics if name in _RESERVED]
        if reserved:
            raise ValueError(f"loss: expected metrics of other names than the learner's own, got {reserved[0]!r}; call it otherwise")
        for name, x in {"loss": value, **metrics}.items():
            if name not in _SHAPED and (not isinstance(x, torch.Tensor) or x.ndim):
                raise ValueError(f"loss: expected tensors [] for the loss and its metrics, got {tree.describe_leaf(x)} for {name!r}")
        return value, tree.map(torch.detach, metrics)

    return called


def _check_unused(name: str, replaced: tuple[str, ...], options: Mapping[str, Any]) -> None:
    for option in replaced:
        if option in options:
            raise ValueError(f"{name}, {option}: expected one of them, got both, and {name} takes the place of {option}; leave either out")


def _replaced(name: str, value: Any, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options that an argument replaces."""
    if name == "network" and isinstance(value, policies.ActorCritic):
        return (*_REPLACED[name], "uniform_mix", "initial_log_std", "recurrent", "recurrent_size")
    if name == "network" and options.get("recurrent", "none") != "none":  # the hidden layers are above the recurrent layer
        return _CONVOLUTIONS
    return _REPLACED.get(name, ())


def _check_word(kind: type, name: str, arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError if ``name`` is another name of an argument."""
    meant = [argument for argument, words in _WORDS.items() if name == argument or name in words]
    here = [argument for argument in meant if argument in arguments]
    page = f"help({kind.__module__}.make)"
    if here:
        verb = "the argument is called" if len(here) == 1 else "the arguments are called"
        raise ValueError(
            f"unknown option {name!r}: {verb} {' and '.join(here)}; {page} says what {'it takes' if len(here) == 1 else 'they take'}"
        )
    if meant:
        raise ValueError(
            f"unknown option {name!r}: this algorithm has no such part; those that can be replaced are {', '.join(arguments)}, see {page}"
        )


def _check_kind(kind: type, name: str, value: Any) -> None:
    """Raise a TypeError unless the value has the kind that its argument needs."""
    if name in ("network", "actor", "critic"):
        _check_net(name, value, whole=name == "network" and hasattr(kind, "trunk"))
        if getattr(value, "noisy", False) and not hasattr(kind, "noisy"):
            raise ValueError(f"{name}: expected one without noise, got a noisy net, which only DQN explores with")
    if (name.endswith("loss") or name == "exploration") and (not callable(value) or isinstance(value, type | torch.nn.Module)):
        raise TypeError(f"{name}: expected a function, got {_check.describe(value)}; help({kind.__module__}.make) says of what")
    if name == "buffer":
        _check.instance(name, value, buffers.Buffer, "call the factory, as in buffers.uniform(100_000)", "a funrl.buffers.Buffer")
    if name == "popart":
        _check.instance(name, value, nn.PopArt, "call the factory, as in nn.popart(task, num_tasks)", "a funrl.nn.PopArt")
    if name == "optimizer":
        _check.instance(name, value, optim.Optimizer, "call the factory, as in optim.adamw(1e-3)", "a funrl.optim.Optimizer")


def _check_net(name: str, net: Any, *, whole: bool) -> None:
    if whole and isinstance(net, policies.ActorCritic):
        return
    if isinstance(net, torch.nn.Module):
        raise TypeError(f"{name}: expected a net of pure functions, got a module of torch; give funrl.nn.from_module({name})")
    expected = f"a net, such as funrl.nn.mlp makes{' or a funrl.policies.ActorCritic' if whole else ''}"
    _check.has(name, net, ("init", "apply", "noisy"), expected)
