"""The decision transformer."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, optim, random, tree
from funrl.algos import ActorParams, Algorithm, Learned, configure, half_width, in_dtype_of, minimize
from funrl.algos.off_policy import Learner
from funrl.env import AnyEnv, Transition
from funrl.losses import decision_transformer_loss
from funrl.nn import Net
from funrl.offline import _skeleton as skeleton
from funrl.offline._dataset import Dataset, check_dataset
from funrl.offline._skeleton import EnvOrSpaces, OfflineConfig
from funrl.offline._transformer import episode_transformer, last_rows
from funrl.offline._views import Window, windows
from funrl.policies import StatefulPolicy
from funrl.spaces import Discrete
from funrl.transforms import compose, target_return
from funrl.typing import Metrics

__all__ = ["DTConfig", "make"]


@tree.dataclass
class DTConfig(OfflineConfig):
    """The options of :func:`make`: those of :class:`~funrl.offline.OfflineConfig` except networks and ``gamma``, and these.

    Attributes:
        context_length: K, steps that the model sees.
        hidden_size, num_layers, num_heads, dropout: of the transformer.
        max_steps: longest episode that has embeddings of its own.
        target_return: the return that the policy is asked for when it acts.
        return_scale: returns to go are divided by it, above 0.
        weight_decay: of AdamW, at least 0.
        max_grad_norm: gradients are clipped to this norm, above 0.
        warmup_updates: the learning rate rises linearly over so many gradient steps, at least 1.
    """

    num_updates: int = tree.static(default=20)
    batch_size: int = tree.static(default=64)
    num_cells: tuple = tree.static(default=())
    activation: str = tree.static(default="gelu")
    normalize_observation: bool = tree.static(default=True)
    context_length: int = tree.static(default=20)
    hidden_size: int = tree.static(default=128)
    num_layers: int = tree.static(default=3)
    num_heads: int = tree.static(default=1)
    dropout: float = tree.static(default=0.1)
    max_steps: int = tree.static(default=1000)
    target_return: float = tree.static(default=0.0)
    return_scale: float = tree.static(default=1000.0)
    learning_rate: Any = 1e-4
    weight_decay: Any = 1e-4
    max_grad_norm: Any = 0.25
    warmup_updates: Any = 10_000.0


def make(env: EnvOrSpaces, dataset: Dataset | None, **options: Any) -> Algorithm:
    """Make the decision transformer: a sequence model of episodes, which acts by predicting the actions of an episode with a given return.

    Windows of ``context_length`` steps end at rows that are drawn uniformly; they are shorter, and padded, where an episode begins, as when
    the policy acts. The environment of the algorithm has the return that is left to reach among its observations
    (:func:`funrl.transforms.target_return`), and the policy is a :class:`funrl.policies.StatefulPolicy`.

    Args:
        env: the environment of the data, for its spaces and for evaluation; or the pair of its spaces.
        dataset: the data, of continuous or discrete actions, in memory or memory-mapped; None: the learner only acts.
        **options: fields of :class:`DTConfig`; ``target_return`` above all.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``state.learner.params.network`` are the parameters of the transformer.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the data.
        TypeError: if an option has another type than its default, or ``dataset`` is a stream.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> data = funrl.offline.datasets.record(None, funrl.random.key(0), env=env, num_steps=200, num_envs=2)
        >>> algo = make(env, data, target_return=100.0, num_updates=2, batch_size=4, hidden_size=8, num_layers=1, context_length=5)
        >>> state, metrics = algo.step(funrl.random.key(2), algo.init(funrl.random.key(1)))
        >>> sorted(metrics)
        ['actor_loss', 'learning_rate', 'steps', 'updates']

    Reference: L. Chen et al., "Decision Transformer: Reinforcement Learning via Sequence Modeling", 2021, arXiv:2106.01345. Deviation:
        windows end, and do not begin, at uniformly drawn rows.
    """
    config, _ = configure(DTConfig, options)
    env = skeleton.environment("decision_transformer", env, dataset)
    skeleton.check("the decision transformer", env, None, discrete=True)
    _check_config(config)
    data: Any = dataset  # windows are drawn where there is one
    step = None if dataset is None else check_dataset("decision_transformer", dataset).step
    space: Any = env.action_space
    first = space.start if isinstance(space, Discrete) else 0

    def draw(index: torch.Tensor) -> Window:
        return windows(data, index, config.context_length, step)

    def rows_of(window: Window) -> Transition:
        rows = window.transition
        action = torch.where(window.mask, rows.action, first) if first else rows.action
        return rows.replace(action=action, extras={"return_to_go": window.return_to_go, "step": window.step, "mask": window.mask})

    algo = skeleton.make("decision_transformer", env, dataset, config, _learner(env, config), draw=draw, rows_of=rows_of)
    return algo if env.name == "offline" else algo._replace(env=compose(env, target_return(config.target_return)))


def _learner(env: AnyEnv, config: DTConfig) -> Learner:
    space: Any = env.action_space
    discrete = isinstance(space, Discrete)
    net, predict = _model(config, space)

    def init(key: torch.Tensor, observation: torch.Tensor) -> tuple[Any, Any, Any]:
        action = observation.new_zeros(space.shape, dtype=torch.int64 if discrete else observation.dtype)
        network = net.init(key, observation, action)
        return network, (), _optimizer(config, 0.0).init(network)

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        scale = 1.0 if discrete else half_width(space, batch.reward)
        window, dropout_key = Window(batch, **batch.extras), key if config.dropout else None

        def loss(network: Any) -> tuple[torch.Tensor, Metrics]:
            return decision_transformer_loss(network, window, apply=predict, key=dropout_key, scale=scale)

        rate = hparams.learning_rate * ((learned.num_updates + 1) / hparams.warmup_updates).clamp(max=1.0)
        learned, metrics = minimize(loss, learned, rate, _optimizer(hparams, rate))
        return learned, {**metrics, "learning_rate": rate}

    act, greedy = (_policy(predict, config, space, env.observation_space.shape[0], random_draw=draw) for draw in (True, False))
    return Learner(init, learn, act, greedy)


def _model(config: DTConfig, space: Any) -> tuple[Net, Callable[..., torch.Tensor]]:
    """Return the transformer, and the function of its parameters that predicts actions in the box, or the logits of discrete ones."""
    discrete = isinstance(space, Discrete)
    names = ("hidden_size", "num_layers", "num_heads", "max_steps", "dropout")
    size, num_actions = (space.n, space.n) if discrete else (space.shape[0], None)
    net = episode_transformer(num_outputs=size, num_actions=num_actions, **{name: getattr(config, name) for name in names})

    def predict(params: Any, observation: Any, action: Any, to_go: Any, step: Any, mask: Any, *, key: Any = None) -> torch.Tensor:
        given = action if discrete else action / half_width(space, action)
        output = net.apply(params, observation, given, to_go / config.return_scale, step, mask, key=key)
        if discrete:
            return output
        middle = ((space.low + space.high) / 2).to(output)
        return middle + half_width(space, output) * torch.tanh(output)

    return net, predict


def _policy(predict: Any, config: DTConfig, space: Any, width: int, *, random_draw: bool) -> Any:
    """Return the policy: its memory is the last K steps."""
    discrete = isinstance(space, Discrete)

    def begin(params: ActorParams, observation: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        zero = next(x for x in tree.leaves(params.network) if x.is_floating_point()).new_zeros(config.context_length)
        count = zero.long()
        action = count if discrete else zero.new_zeros(config.context_length, *space.shape)
        seen = zero.new_zeros(config.context_length, width)
        return {"observation": seen, "action": action, "return_to_go": zero, "step": count.clone(), "mask": zero > 0}

    def act(params: ActorParams, key: torch.Tensor, state: Any, observation: Any, reset: torch.Tensor) -> tuple[Any, torch.Tensor, Any]:
        observation = in_dtype_of(params.network, observation)
        state = tree.where(reset, tree.map(torch.zeros_like, state), state)
        step = torch.where(state["mask"][-1], state["step"][-1] + 1, 0)
        row = {
            "observation": skeleton.normalized(params, observation["observation"]),
            "action": torch.zeros_like(state["action"][-1]),
            "return_to_go": observation["target_return"],
            "step": step,
            "mask": torch.ones_like(state["mask"][-1]),
        }
        state = last_rows(state, row)
        output = predict(params.network, *[state[name] for name in ("observation", "action", "return_to_go", "step", "mask")])[-1]
        action = output
        if discrete:
            action = random.categorical(key, output) if random_draw else output.argmax(-1)
        state = {**state, "action": torch.cat([state["action"][:-1], action[None]])}
        return state, action + space.start if discrete and space.start else action, {}

    def init(key: torch.Tensor, observation: Any) -> Any:
        raise ValueError("decision_transformer: init: the algorithm makes the parameters; give algo.init(key).learner.params")

    return StatefulPolicy(init, begin, act)


def _optimizer(hparams: Any, rate: Any) -> optim.Optimizer:
    return optim.chain(optim.clip_by_global_norm(hparams.max_grad_norm), optim.adamw(rate, weight_decay=hparams.weight_decay))


def _check_config(config: DTConfig) -> None:
    for name, default in (("num_cells", ()), ("activation", "gelu"), ("gamma", 0.99)):
        if getattr(config, name) != default:
            raise ValueError(f"{name}: a decision transformer has none; leave it out")
    _check.fields(config, "[1, inf)", "context_length", "hidden_size", "num_layers", "num_heads", "max_steps", "warmup_updates")
    _check.fields(config, "(0, inf)", "return_scale", "max_grad_norm")
    _check.fields(config, "[0, 1)", "dropout")
    _check.fields(config, "(-inf, inf)", "target_return")
