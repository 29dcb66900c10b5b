"""The interface of algorithms, and their shared parts: configurations, hyperparameters, collection of experience."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from funrl import _across, _check, acting, envs, policies, random, schedules, tree
from funrl.algos import episodes
from funrl.algos._state import LearnerState, State
from funrl.compiler import compile
from funrl.env import AnyEnv, Env, Place, Transition, VectorEnv, on_host
from funrl.transforms import VecNormParams, check_vec_norm, update_vec_norm
from funrl.typing import Metrics


class Algorithm(NamedTuple):
    """A learner as pure functions, which ``torch.func.vmap`` maps over agents and ``funrl.compile`` compiles to one program.

    Attributes:
        name: the name of the algorithm, for ``python -m funrl train`` and messages.
        env: the environment that it learns in.
        config: its configuration, with the default hyperparameters. T is ``config.num_steps``, B is ``config.num_envs``.
        init: ``init(key) -> State``, on the device of the key. Those of funrl also accept ``init(key, hparams)``: a dict of tensors [] that
            replace hyperparameters of ``config``, and may differ between vmapped agents.
        collect: ``collect(key, state) -> (ActorState, Transition)``: act for T steps in B environments, with exploration; leaves [T, B,
            ...].
        learn: ``learn(key, learner, transitions) -> (LearnerState, metrics)``: one update from such transitions, which ``collect``, a
            collector or another process has made with ``act``. ``metrics`` is a dict of tensors []. Pure, with host environments too.
        act: ``act(params, key, observation) -> (action, extras)``, with exploration; ``params`` is ``state.learner.params``. For a
            recurrent policy it is a :class:`funrl.policies.StatefulPolicy`; ``funrl.rollout`` and ``funrl.evaluate`` accept both.
        greedy: the same without exploration.
        given: the parts that the user gave instead of the default ones, such as ``network`` or ``optimizer``, by name. They are not in the
            configuration.
        data: the data set from which an offline learner draws batches in ``collect``; None: it learns from its environment.
    """

    name: str
    env: AnyEnv
    config: Any
    init: Callable[..., Any]
    collect: Callable[[Any, Any], tuple[acting.ActorState, Transition]]
    learn: Callable[[Any, Any, Transition], tuple[Any, dict[str, torch.Tensor]]]
    act: Callable[[Any, Any, Any], Any] | policies.StatefulPolicy
    greedy: Callable[[Any, Any, Any], Any] | policies.StatefulPolicy
    given: Mapping[str, Any] = MappingProxyType({})
    data: Any = None

    def step(self, key: torch.Tensor, state: State) -> tuple[State, Metrics]:
        """Collect experience, and learn from it: one update.

        With a host environment only the learning is compiled, and a learner with a replay buffer is donated: continue with the returned
        state.

        Args:
            key: a key []; of the two keys in ``split(key)`` ``collect`` gets the first, and ``learn`` the second.
            state: the agent.

        Returns:
            The agent after the update, and its metrics, a dict of tensors [].
        """
        collect_key, learn_key = random.split(key).unbind(0)
        actor, transitions = self.collect(collect_key, state)
        learn = _compiled(self.learn, getattr(state.learner, "buffer", ()) != ()) if self.host else self.learn
        learner, metrics = learn(learn_key, state.learner, transitions)
        return State(actor, learner), metrics

    @property
    def host(self) -> bool:
        """True if ``collect`` runs outside torch, in a host environment or from files; ``step`` can then not be compiled."""
        return on_host(self.env) if self.data is None else getattr(self.data, "host", False)

    @property
    def steps_per_update(self) -> int:
        """The number of environment steps of one ``step``, over all environments; for an offline learner, of gradient steps.

        The environments of a learner of :func:`funrl.distributed.data_parallel` are those of all processes.
        """
        if self.data is not None:
            return self.config.num_updates
        return self.config.num_steps * self.config.num_envs * self.given.get("processes", 1)


def _compiled(learn: Any, donate: bool) -> Callable[..., Any]:
    """Return ``learn`` compiled. It is compiled once, and kept as long as ``learn`` itself lives."""
    programs = vars(getattr(learn, "__func__", learn)).setdefault("_funrl_programs", {})
    if donate not in programs:
        programs[donate] = compile(learn, donate=1 if donate else ())
    return programs[donate]


def start_actor(key: torch.Tensor, env: AnyEnv, config: Any, *, discounts: bool = False) -> tuple[Any, acting.ActorState]:
    """Return a copy of the parameters of an environment, and ``config.num_envs`` copies of it at the start of an episode.

    Raises:
        ValueError: if its timesteps have discounts of their own, unless ``discounts`` says that the learner uses them.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> _, actor = start_actor(random.key(0), env, funrl.algos.ppo.PPOConfig(num_envs=2))
        >>> actor.timestep.observation.shape
        torch.Size([2, 4])
    """
    env_params = tree.map(torch.clone, tree.to(env.default_params, key.device))
    actor = acting.start(key, env_params, env=env, num_envs=config.num_envs if isinstance(env, Env) else None)
    if not discounts and isinstance(actor.timestep.discount, torch.Tensor):
        raise ValueError(
            f"env: expected one whose steps all have the learner's discount, got {env.name} with discounts of its own; take an off-policy "
            "learner, or one such as a2c, ppo or option_critic"
        )
    return env_params, actor


def start_state(
    key: torch.Tensor,
    env: AnyEnv,
    config: Any,
    hparams: Mapping[str, torch.Tensor],
    parts: Callable[[acting.ActorState, Any, Any], dict[str, Any]],
    *,
    discounts: bool = False,
) -> State:
    """Return the initial state of a learner: the environments at the start of an episode, hyperparameters, counts of 0, and its own parts.

    Args:
        key: a key [], for the environments.
        env: the environment.
        config: the configuration, with ``num_envs``.
        hparams: the hyperparameters that ``init`` was given, tensors [] by name.
        parts: ``parts(actor, observation, hparams)`` returns further fields of :class:`~funrl.algos.LearnerState`; ``observation`` is the
            first of one environment, in the dtype of the rewards.
        discounts: as for :func:`start_actor`.

    Example:
        >>> import funrl
        >>> env, config = funrl.envs.make("CartPole-v1"), funrl.algos.ppo.PPOConfig(num_envs=2)
        >>> state = start_state(random.key(0), env, config, {}, lambda actor, observation, hparams: {"params": observation})
        >>> state.learner.params.shape, state.learner.num_steps
        (torch.Size([4]), tensor(0))
    """
    env_params, actor = start_actor(key, env, config, discounts=discounts)
    reward = actor.timestep.reward
    observation = tree.map(lambda x: x[0].to(reward.dtype), actor.timestep.observation)
    own = make_hparams(config, torch.zeros_like(reward[0]), hparams)
    learner = LearnerState(
        hparams=own,
        num_steps=torch.zeros((), dtype=torch.int64, device=key.device),
        env_params=env_params,
        episodes=episodes.start(reward),
        **parts(actor, observation, own),
    )
    # Contiguous, like the leaves of a loaded checkpoint: the last bits of a product depend on strides.
    return tree.map(torch.Tensor.contiguous, State(actor, learner))


class Rollouts:
    """A function ``collect`` that :func:`collecting` made, and that needs no more than a rollout of the policy."""

    def __init__(self, env: AnyEnv, act: Any, num_steps: int) -> None:
        self.env, self.act, self.num_steps = env, act, num_steps

    def __call__(self, key: torch.Tensor, state: State) -> tuple[acting.ActorState, Transition]:
        learner = state.learner
        return acting.rollout(learner.params, key, state.actor, learner.env_params, env=self.env, act=self.act, num_steps=self.num_steps)


def collecting(env: AnyEnv, act: Any, num_steps: int) -> Rollouts:
    """Return the function ``collect`` of an :class:`Algorithm`: rollouts with ``act``, which is compiled if ``env`` runs on the host.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> algo = funrl.algos.ppo.make(env, num_envs=2, num_steps=8)
        >>> _, transitions = collecting(env, algo.act, 5)(random.key(1), algo.init(random.key(0)))
        >>> transitions.reward.shape
        torch.Size([5, 2])
    """
    if on_host(env):
        act = act._replace(act=compile(act.act)) if isinstance(act, policies.StatefulPolicy) else compile(act)
    return Rollouts(env, act, num_steps)


def check(algo: Algorithm, key: torch.Tensor) -> None:
    """Raise unless an algorithm of pure functions fulfils the contract of :class:`Algorithm`, also compiled.

    One update is computed eagerly and by :func:`funrl.compile`, for one agent and for two under vmap. The results agree, the state keeps
    its structure, shapes and dtypes, metrics are tensors [], and no argument is changed.

    Args:
        algo: the algorithm, with a pure environment and small sizes, because it also runs eagerly.
        key: int64 [].

    Raises:
        TypeError: if ``algo`` is not an :class:`Algorithm`.
        ValueError: if its environment runs on the host, or it breaks the contract; the message says where and how.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> check(funrl.algos.a2c.make(env, num_envs=2, num_steps=4), funrl.random.key(0))
    """
    _check.instance("algos.check: algo", algo, Algorithm, "funrl.algos.make returns one")
    if on_host(algo.env):
        raise ValueError(f"algos.check: algo: {algo.env.name} runs outside torch, so that its step cannot be compiled; check it in another")
    init_key, step_key = random.split(key)
    state = algo.init(init_key)
    before = tree.map(torch.clone, state)
    expected = algo.step(step_key, state)
    what = f"algos.check: {algo.name}"
    tree.check_like(expected[0], state, f"{what}: the state that step returned", "that of init")
    for name, x in expected[1].items():
        if not isinstance(x, torch.Tensor) or x.ndim:
            raise ValueError(f"{what}: the metric {name!r} is {tree.describe_leaf(x)}; expected a tensor []")
    if not all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(tree.leaves(state), tree.leaves(before), strict=True)):
        raise ValueError(f"{what}: step changed its argument state; return new tensors instead")
    states, keys = torch.func.vmap(algo.init)(random.split(init_key)), random.split(step_key)
    both = torch.func.vmap(algo.step)(keys, states)
    found = compile(lambda *args: (algo.step(*args[:2]), torch.func.vmap(algo.step)(*args[2:])))(step_key, state, keys, states)
    for one, other, how in zip(found, (expected, both), ("compiled", "compiled under vmap"), strict=True):
        for path, x, y in zip(tree.paths(other), tree.leaves(one), tree.leaves(other), strict=True):
            if not torch.allclose(x.double(), y.double(), rtol=1e-2, atol=1e-3, equal_nan=True):
                raise ValueError(f"{what}: {how}, step gives another leaf {path} than eagerly")


def environment(env: Any, num_envs: int) -> Any:
    """Return an environment, or make the one with a name: with ``num_envs`` copies if it runs on the host.

    Example:
        >>> environment("CartPole-v1", 4), environment("gymnasium:CartPole-v1", 4).num_envs
        (Env(CartPole-v1), 4)
    """
    if not isinstance(env, str):
        return env
    made = envs.make(env)
    if not isinstance(made, VectorEnv):
        return made
    made.close()
    return envs.make(env, num_envs=num_envs)


def check_copies(config: Any, env: AnyEnv) -> None:
    """Raise a TypeError unless ``env`` is an environment, and a ValueError unless it is single and pure or has ``config.num_envs`` copies.

    Example:
        >>> import funrl
        >>> check_copies(funrl.algos.ppo.PPOConfig(num_envs=8), funrl.envs.vectorize(funrl.envs.make("CartPole-v1"), 4))
        Traceback (most recent call last):
        ...
        ValueError: num_envs: CartPole-v1 has 4 copies, got 8; make both equal
    """
    remedy = "funrl.envs.make makes one, and funrl.algos.make takes its name, too"
    _check.instance("env", env, (Env, VectorEnv), remedy, "a funrl.env.Env or VectorEnv")
    if isinstance(env, VectorEnv) and env.num_envs != config.num_envs:
        copies = f"{env.num_envs} copies" if env.num_envs > 1 else "1 copy"
        raise ValueError(f"num_envs: {env.name} has {copies}, got {config.num_envs}; make both equal")


def check_experience(learner: Any, transitions: Transition, config: Any, *extras: str) -> None:
    """Raise unless ``learner`` is a LearnerState, and the transitions are [num_steps, num_envs, ...] with the named extras.

    Example:
        >>> import funrl
        >>> flag = torch.zeros(3, 2, dtype=torch.bool)
        >>> transitions = Transition((), (), torch.zeros(3, 2), flag, flag, (), {})
        >>> check_experience(LearnerState(()), transitions, funrl.algos.ppo.PPOConfig(num_steps=3, num_envs=2))
        >>> check_experience(LearnerState(()), transitions, funrl.algos.ppo.PPOConfig(num_steps=3, num_envs=2), "log_prob")
        Traceback (most recent call last):
        ...
        ValueError: learn: transitions: extras lack 'log_prob'; let the algorithm's own act choose the actions
    """
    remedy = "give state.learner" if isinstance(learner, State) else "algo.init(key).learner is one"
    _check.instance("learn: learner", learner, LearnerState, remedy)
    shape, expected = tuple(transitions.reward.shape), (config.num_steps, config.num_envs)
    if shape != expected:
        raise ValueError(
            f"learn: transitions: expected leaves [{expected[0]}, {expected[1]}, ...], num_steps by num_envs, got a reward {list(shape)}; "
            "gather so many, or make the algorithm for what is gathered"
        )
    missing = [name for name in extras if name not in transitions.extras]
    if missing:
        raise ValueError(f"learn: transitions: extras lack {missing[0]!r}; let the algorithm's own act choose the actions")


def receiving(env: AnyEnv, config: Any, *extras: str) -> Callable[..., tuple[LearnerState, Transition, Metrics]]:
    """Return the function ``receive(learner, transitions) -> (learner, samples, metrics)``, with which ``learn`` begins.

    It checks the transitions by :func:`check_experience`, and returns them in the dtype of the parameters. The learner has the new sums of
    the episodes, and ``env_params`` with the new moments of :func:`funrl.transforms.vec_norm`, if any; experience of a collector does not
    change these, because the collector does not update its own. The metrics are ``steps``, which are the learner's steps after this update,
    and those of the episodes. With ``fresh=True`` all environments were reset before the first of these steps.

    Raises:
        ValueError: if a transform above ``vec_norm`` changes observations.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> state = algo.init(random.key(0))
        >>> _, samples, metrics = receiving(algo.env, algo.config)(state.learner, algo.collect(random.key(1), state)[1])
        >>> samples.reward.shape, metrics["steps"]
        (torch.Size([8, 2]), tensor(16))
    """
    moving = isinstance(env.default_params, VecNormParams)
    if moving:
        check_vec_norm(env)

    def receive(learner: LearnerState, transitions: Transition, *, fresh: bool = False) -> tuple[LearnerState, Transition, Metrics]:
        check_experience(learner, transitions, config, *extras)
        samples = in_dtype_of(learner.params, transitions)
        sums, metrics = episodes.record((learner.in_new_episodes() if fresh else learner).episodes, samples)
        if moving and not isinstance(samples.place, Place):
            learner = learner.replace(env_params=update_vec_norm(learner.env_params, samples.next_observation, env=env))
        num_steps = learner.num_steps + _across.count() * config.num_envs * config.num_steps
        return learner.replace(episodes=sums), samples, {"steps": num_steps, **metrics}

    return receive


def in_dtype_of(params: Any, value: Any) -> Any:
    """Return a tree with its floating-point tensors in the dtype of the parameters, as the observations of MuJoCo are in float64.

    Example:
        >>> in_dtype_of({"weight": torch.zeros(2)}, torch.zeros(3, dtype=torch.float64)).dtype
        torch.float32
    """
    if not all(isinstance(x, torch.Tensor) for x in tree.leaves(value)):
        other = next(x for x in tree.leaves(value) if not isinstance(x, torch.Tensor))
        _check.fail(TypeError, "observation", "tensors", _check.describe(other), "torch.as_tensor makes one of an array of NumPy")
    return tree.to(value, next(x.dtype for x in tree.leaves(params) if x.is_floating_point()))


def make_hparams(config: Any, like: torch.Tensor, given: Mapping[str, torch.Tensor] = MappingProxyType({})) -> Any:
    """Return a configuration whose hyperparameters, the fields that are not static, are tensors like ``like`` [].

    Args:
        config: the configuration.
        like: floating point [].
        given: tensors [] in the place of some of its values, by name.

    Example:
        >>> import funrl
        >>> make_hparams(funrl.algos.ddpg.DDPGConfig(), torch.zeros(())).gamma
        tensor(0.9900)
        >>> make_hparams(funrl.algos.ddpg.DDPGConfig(), torch.zeros(()), {"gamma": torch.tensor(0.5)}).gamma
        tensor(0.5000)
    """
    names = [field.name for field in dataclasses.fields(config) if not field.metadata.get("static")]
    own = {name: torch.full_like(like, getattr(config, name)) for name in names if name not in given}
    return config.replace(**own, **{name: torch.zeros_like(like) + given[name].to(like) for name in names if name in given})


def annealed(hparams: Any, num_steps: torch.Tensor) -> torch.Tensor:
    """Return the learning rate [], which falls linearly to 0 over ``anneal_steps`` environment steps.

    Example:
        >>> import funrl
        >>> hparams = make_hparams(funrl.algos.ddpg.DDPGConfig(learning_rate=0.5, anneal_steps=100.0), torch.zeros(()))
        >>> annealed(hparams, torch.tensor(75))
        tensor(0.1250)
    """
    return hparams.learning_rate * schedules.linear(1.0, 0.0, hparams.anneal_steps)(num_steps)
