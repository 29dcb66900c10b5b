"""Recording of data sets: by acting in an environment, and from the replay buffer of a learner."""

from typing import Any

import torch

from funrl import _check, random, tree
from funrl.acting import rollout, start
from funrl.algos import Algorithm, State
from funrl.compiler import compile
from funrl.env import AnyEnv, Env, Transition, VectorEnv, on_host
from funrl.offline._dataset import Dataset, follows, from_rollouts, from_transitions
from funrl.policies import StatefulPolicy


def record(
    params: Any,
    key: torch.Tensor,
    env_params: Any = None,
    *,
    env: AnyEnv,
    act: Any = None,
    num_steps: int,
    num_envs: int = 16,
    dtype: torch.dtype | None = torch.float32,
) -> Dataset:
    """Record transitions of a policy in an environment, pure or on the host.

    A pure environment runs in ``num_envs`` copies, a rollout of each as one compiled program; a batched one has its own copies. A piece
    that ends only because the recording ends bootstraps from its last successor.

    Args:
        params: the parameters of ``act``.
        key: a key [].
        env_params: the physical constants; None: ``env.default_params``.
        env: the environment.
        act: ``act(params, key, observation) -> (action, extras)``, or a :class:`funrl.policies.StatefulPolicy`. None: random actions.
        num_steps: transitions, over all copies; rounded up to whole rows of copies, and then cut.
        num_envs: copies of a single pure environment.
        dtype: of floating-point columns, as learners use them; None: that of the environment.

    Returns:
        A :class:`Dataset` of ``num_steps`` rows.

    Raises:
        ValueError: if ``num_steps`` or ``num_envs`` is below 1.

    Example:
        >>> import funrl
        >>> data = record(None, random.key(0), env=funrl.envs.make("Pendulum-v1"), num_steps=1000, num_envs=5)
        >>> data.size, len(data.episode_return), data.transition.action.shape
        (1000, 5, torch.Size([1000, 1]))
    """
    _check.key("record: key", key)
    _check.instance("record: env", env, (Env, VectorEnv), "funrl.envs.make makes one", "an environment")
    if act is not None and not isinstance(act, StatefulPolicy):
        _check.function("record: act", act, "give act(params, key, observation) -> (action, extras), a StatefulPolicy, or None")
    if dtype is not None:
        _check.instance("record: dtype", dtype, torch.dtype, "such as torch.float32")
    _check.integer("record: num_steps", num_steps, 1)
    _check.integer("record: num_envs", num_envs, 1)
    if env_params is not None:
        _check.instance("record: env_params", env_params, type(env.default_params), "env.default_params.replace changes some")
    env_params = env.default_params if env_params is None else env_params
    lanes = env.num_envs if isinstance(env, VectorEnv) else num_envs
    copies = None if isinstance(env, VectorEnv) else num_envs
    start_key, step_key = random.split(key).unbind(0)
    actor = start(start_key, env_params, env=env, num_envs=copies, act=act, params=params)
    total = -(-num_steps // lanes)
    length = min(total, 1000)

    def steps(params: Any, key: torch.Tensor, actor: Any) -> Any:
        return rollout(params, key, actor, env_params, env=env, act=act, num_steps=length)

    step = steps if on_host(env) else compile(steps)
    batches = []
    for i in range(-(-total // length)):
        actor, batch = step(params, random.fold_in(step_key, i), actor)
        batches.append(_cast(batch.replace(extras={}, place=()), dtype))
    whole: Transition = tree.index(tree.cat(batches), slice(0, total))
    data = from_rollouts(whole, spaces=env, what="record")
    if data.size == num_steps:
        return data
    data = tree.map(lambda x: x[:num_steps], data)
    return from_transitions(data.transition, end=data.end, spaces=env, what="record")


def from_replay(algo: Any, state: Any, *, dtype: torch.dtype | None = torch.float32) -> Dataset:
    """Return the transitions in the replay buffer of an off-policy learner, the oldest first: the data called medium-replay.

    Args:
        algo: the :class:`funrl.algos.Algorithm`, with the buffer that its configuration describes and ``n_step`` 1.
        state: its state, of one agent.
        dtype: of floating-point columns; None: that of the buffer.

    Raises:
        ValueError: if there is no such buffer, or it is empty.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.sac.make(funrl.envs.make("Pendulum-v1"), num_envs=2, num_steps=8, buffer_size=64, learning_starts=1000)
        >>> state, _ = algo.step(random.key(1), algo.init(random.key(0)))
        >>> data = from_replay(algo, state)
        >>> data.size, bool((data.transition.observation[1:8] == data.transition.next_observation[:7]).all())
        (16, True)
    """
    _check.instance("from_replay: algo", algo, Algorithm, "funrl.algos.make returns one")
    _check.instance("from_replay: state", state, State, "algo.init(key) returns the first one")
    ring = getattr(state.learner.buffer, "ring", state.learner.buffer)
    if not all(hasattr(ring, name) for name in ("data", "cursor", "size")) or not isinstance(ring.data, Transition):
        raise ValueError(f"from_replay: state: expected a learner with a buffer of single transitions, got that of {algo.name}")
    if getattr(algo.config, "n_step", 1) != 1:
        raise ValueError(f"from_replay: algo: expected n_step=1, as the buffer has joined steps, got {algo.config.n_step}")
    size, cursor, capacity = int(ring.size), int(ring.cursor), ring.data.reward.shape[0]
    lanes = algo.config.num_envs
    if size < lanes:
        raise ValueError("from_replay: state: expected a buffer with transitions, got an empty one; train the run first")
    order = (torch.arange(cursor - size, cursor) % capacity)[size % lanes :]
    rows = _cast(tree.map(lambda x: x[order.to(x.device)], ring.data), dtype)
    first = getattr(algo.env.action_space, "start", 0)
    if isinstance(first, int) and first:
        rows = rows.replace(action=rows.action + first)
    steps = tree.reshape(rows, (-1, lanes), batch_dims=1)
    data = from_rollouts(steps.replace(extras={}), spaces=algo.env, what="from_replay")
    # A run that was resumed on the host began new episodes without a flag.
    cut = torch.cat([~follows(data.transition), torch.ones_like(data.end[:1])])
    return from_transitions(data.transition, end=data.end | cut, spaces=algo.env, what="from_replay")


def _cast(rows: Any, dtype: torch.dtype | None) -> Any:
    return rows if dtype is None else tree.to(rows, dtype)
