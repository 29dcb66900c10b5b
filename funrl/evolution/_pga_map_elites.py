"""PGA-MAP-Elites: MAP-Elites of policies, half of whose mutations follow the gradient of a critic."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _check, buffers, optim, random, tree
from funrl.compiler import scan
from funrl.env import Env, Transition
from funrl.evolution import _archive
from funrl.evolution._archive import Archive
from funrl.evolution._map_elites import add, check_variation, varied
from funrl.evolution._strategy import Number, Strategy, guarded, like_rows, rows, start
from funrl.losses import ActorCritic, td3_actor_loss, td3_critic_loss
from funrl.nn import Net
from funrl.spaces import Box


@tree.dataclass
class PGAMAPElitesState(tree.Replaceable):
    """State of :func:`pga_map_elites`.

    Attributes:
        archive: the :class:`Archive`.
        network: :class:`funrl.losses.ActorCritic`, the greedy actor and the two critics.
        target: their targets, likewise.
        actor_optimizer: the state of Adam of the greedy actor.
        critic_optimizer: the state of Adam of the critics.
        buffer: the state of the replay buffer of all candidates' transitions.
        updates: int64 [], gradient steps of the critics so far.
    """

    archive: Archive
    network: ActorCritic
    target: ActorCritic
    actor_optimizer: Any
    critic_optimizer: Any
    buffer: Any
    updates: torch.Tensor


def pga_map_elites(
    num_candidates: int,
    cells: torch.Tensor,
    env: Env,
    actor: Callable[[Any, torch.Tensor], torch.Tensor],
    critic: Net,
    *,
    num_gradient: int | None = None,
    num_critic_updates: int = 300,
    num_actor_updates: int = 100,
    batch_size: int = 256,
    buffer_size: int = 100_000,
    learning_rate: Number = 3e-4,
    variation_learning_rate: Number = 1e-3,
    gamma: Number = 0.99,
    tau: Number = 0.005,
    noise_std: Number = 0.2,
    noise_clip: Number = 0.5,
    policy_delay: int = 2,
    sigma: Number = 0.005,
    line_sigma: Number = 0.05,
    spread: Number = 0.1,
) -> Strategy:
    """Make PGA-MAP-Elites of deterministic policies with continuous actions. Fitness is maximised.

    ``ask`` trains two critics and a greedy actor by TD3 on the transitions of all candidates so far. Then the candidates are: the
    greedy actor; solutions of the archive, each after some steps of Adam along the gradient of the first critic; and
    mutations as of :func:`map_elites`. In the first generation all are ``params`` with noise of the deviation ``spread``.

    Its state holds the replay buffer. So compile one generation, and donate the state, rather than scan over generations.

    Args:
        num_candidates: N, at least 2.
        cells: floating point [C, M], the centres of the cells, from :func:`grid_cells` or :func:`cvt_cells`.
        env: the environment, for its spaces: observations are vectors, actions a bounded Box.
        actor: ``actor(params, observation [..., D]) -> action [..., A]`` within the box.
        critic: ``init(key, observation [D], action [A])`` makes the parameters of one critic, ``apply(params, observation [..., D], action
            [..., A])`` returns [..., 1], such as ``nn.mlp((64, 64), 1)``.
        num_gradient: the number of candidates by gradients, the greedy actor included, from 1 to N; None: half of them.
        num_critic_updates: gradient steps of the critics in a generation, at least 1.
        num_actor_updates: gradient steps of each of these candidates, at least 1.
        batch_size: transitions in a step, at least 1.
        buffer_size: at least the number of transitions of a generation.
        learning_rate: of critics and greedy actor, at least 0.
        variation_learning_rate: of candidates, at least 0.
        gamma, tau, noise_std, noise_clip: as in TD3, the noise in half-widths of the box.
        policy_delay: steps of the critics for one of the greedy actor, at least 1.
        sigma, line_sigma, spread: as for :func:`map_elites`.

    Returns:
        A :class:`Strategy` whose state is a :class:`PGAMAPElitesState`. Its ``tell(state, candidates, fitness, descriptors, transitions)``
        takes transitions [K, ...] too: all that :func:`episode_fitness` with ``with_transitions`` returns.

    Raises:
        ValueError: if a number is outside its range; from ``tell``, if the shape of an argument is not as above.
        TypeError: if an argument is of another type.

    Example:
        >>> import torch, funrl
        >>> from funrl import evolution, nn, random
        >>> env, net = funrl.envs.make("PointRobot-misc"), nn.mlp((8,), 2)
        >>> def actor(params, observation):
        ...     return 0.1 * net.apply(params, observation).tanh()
        >>> cells = evolution.grid_cells([-1.0, -1.0], [1.0, 1.0], [4, 4])
        >>> options = {"num_critic_updates": 4, "num_actor_updates": 2, "batch_size": 16}
        >>> strategy = evolution.pga_map_elites(8, cells, env, actor, nn.mlp((8,), 1), **options)
        >>> def last(transitions, active):
        ...     return transitions.next_observation[-1]
        >>> act = lambda params, key, observation: (actor(params, observation), {})
        >>> fitness = evolution.episode_fitness(env, act, max_steps=10, describe=last, with_transitions=True)
        >>> state = strategy.init(random.key(0), net.init(random.key(1), torch.zeros(2)))
        >>> state, _ = evolution.evolve(random.key(2), state, strategy=strategy, fitness=fitness, num_generations=2)
        >>> bool(evolution.coverage(state.archive) > 0), state.updates
        (True, tensor(4))

    Reference: O. Nilsson, A. Cully, "Policy Gradient Assisted MAP-Elites", GECCO 2021, doi:10.1145/3449639.3459304 (no arXiv id).
        Deviation: candidates by gradients share the batches of a step.
    """
    what = "pga_map_elites"
    check_variation(what, num_candidates, cells, sigma, line_sigma, spread)
    by_gradient = num_candidates // 2 if num_gradient is None else num_gradient
    counts = {"num_critic_updates": num_critic_updates, "num_actor_updates": num_actor_updates, "batch_size": batch_size}
    counts |= {"num_gradient": by_gradient, "policy_delay": policy_delay, "buffer_size": buffer_size}
    rates = {"learning_rate": learning_rate, "variation_learning_rate": variation_learning_rate, "tau": tau}
    _check_options(what, env, num_candidates, counts, rates)
    td3 = _TD3(
        memory=buffers.uniform(buffer_size),
        networks={"actor": actor, "critic": _critics(critic)},
        adam=optim.flatten(optim.adam(learning_rate)),
        adam_of_candidates=optim.flatten(optim.adam(variation_learning_rate)),
        space=env.action_space,
        options={"gamma": gamma, "tau": tau, "noise_std": noise_std, "noise_clip": noise_clip},
        counts=counts,
    )

    def ask(key: torch.Tensor, state: PGAMAPElitesState) -> tuple[Any, PGAMAPElitesState]:
        train_key, parent_key, climb_key, vary_key = random.split(key, 4).unbind(0)
        state = _train(td3, train_key, state)
        mutants = rows(varied(vary_key, state.archive, num_candidates, sigma, line_sigma, spread))
        chosen = [rows(tree.unsqueeze(state.network.actor))]
        if by_gradient > 1:
            parents = tree.contiguous(_archive.draw(parent_key, state.archive, by_gradient - 1))
            chosen.append(rows(_climb(td3, climb_key, state, parents)))
        matrix = torch.where(state.archive.filled.any(), torch.cat([*chosen, mutants[by_gradient:]]), mutants)
        return like_rows(matrix, state.network.actor), state

    def tell(state: PGAMAPElitesState, candidates: Any, fitness: Any, descriptors: Any, transitions: Transition) -> PGAMAPElitesState:
        archive = add(what, state.archive, candidates, fitness, descriptors)
        experience = tree.to(transitions.replace(extras=(), place=()), tree.leaves(state.network.actor)[0].dtype)
        return state.replace(archive=archive, buffer=td3.memory.extend(state.buffer, experience))

    def init(key: torch.Tensor, params: Any) -> PGAMAPElitesState:
        return _init(td3, key, start(what, params), cells, env, critic)

    return guarded("pga_map_elites", PGAMAPElitesState, init, ask, tell, lambda state: _archive.elite(state.archive))


def _check_options(what: str, env: Env, num_candidates: int, counts: dict[str, Any], rates: dict[str, Any]) -> None:
    for name, value in counts.items():
        _check.integer(f"{what}: {name}", value, 1)
    if counts["num_gradient"] > num_candidates:
        raise ValueError(f"{what}: num_gradient: expected at most num_candidates = {num_candidates}, got {counts['num_gradient']}")
    for name, value in rates.items():
        _check.number(f"{what}: {name}", value, "[0, inf)", tensor=True)
    space = env.action_space
    if not isinstance(space, Box) or not space.dtype.is_floating_point or not bool((space.high - space.low).isfinite().all()):
        raise ValueError(f"{what}: env: expected a bounded floating-point Box of actions, got {space} of {env.name}")


class _TD3(NamedTuple):
    """The parts of TD3 that do not change: replay buffer, networks, optimizers, and the numbers of :func:`pga_map_elites`."""

    memory: Any
    networks: dict[str, Any]
    adam: Any
    adam_of_candidates: Any
    space: Any
    options: dict[str, Number]
    counts: dict[str, int]


def _init(td3: _TD3, key: torch.Tensor, first: Any, cells: torch.Tensor, env: Env, critic: Net) -> PGAMAPElitesState:
    like = tree.leaves(first)[0]
    example = _example(key, env, like)
    keys = random.split(random.fold_in(key, 1))
    pair = torch.func.vmap(critic.init, (0, None, None))(keys, example.observation, example.action)
    network = tree.contiguous(ActorCritic(tree.clone(first), pair))
    return PGAMAPElitesState(
        archive=_archive.empty(first, cells),
        network=network,
        target=tree.clone(network),
        actor_optimizer=td3.adam.init(network.actor),
        critic_optimizer=td3.adam.init(network.critic),
        buffer=td3.memory.init(example),
        updates=torch.zeros((), dtype=torch.int64, device=like.device),
    )


def _critics(critic: Net) -> Callable[..., torch.Tensor]:
    """Return a function of the parameters of several critics, leaves [E, ...], that returns their values [E, ...]."""

    def values(params: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(lambda one: critic.apply(one, observation, action).squeeze(-1))(params)

    return values


def _train(td3: _TD3, key: torch.Tensor, state: PGAMAPElitesState) -> PGAMAPElitesState:
    """Take the gradient steps of critics and greedy actor."""
    first = state.replace(archive=(), buffer=())
    keys = random.split(key, (td3.counts["num_critic_updates"], 2))
    last, _ = scan(lambda carry, keys: (_update(td3, carry, keys[1], _sample(td3, keys[0], state.buffer)), ()), first, keys)
    last = tree.where(td3.memory.size(state.buffer) > 0, last, first)  # there is nothing to learn from in the first generation
    return last.replace(archive=state.archive, buffer=state.buffer)


def _update(td3: _TD3, state: PGAMAPElitesState, key: torch.Tensor, batch: Transition) -> PGAMAPElitesState:
    """Take a step of TD3: of the critics always, of the greedy actor and of the targets after each ``policy_delay`` steps."""
    half, low, high = (x.to(batch.reward) for x in ((td3.space.high - td3.space.low) / 2, td3.space.low, td3.space.high))
    noise = {name: td3.options[name] * half for name in ("noise_std", "noise_clip")}
    loss = functools.partial(td3_critic_loss, gamma=td3.options["gamma"], low=low, high=high, **noise, **td3.networks)
    actor, critic = state.network.actor, state.network.critic
    gradient, _ = torch.func.grad(loss, has_aux=True)(critic, state.target, key, batch)
    change, critic_state = td3.adam.update(gradient, state.critic_optimizer, critic)
    network = ActorCritic(actor, optim.apply_updates(critic, change))
    state = state.replace(network=network, critic_optimizer=critic_state, updates=state.updates + 1)
    actor, actor_state = _actor_step(td3, td3.adam, network.critic, batch, actor, state.actor_optimizer)
    better = ActorCritic(actor, network.critic)
    target = optim.soft_update(better, state.target, tau=td3.options["tau"])
    moved = state.replace(network=better, target=target, actor_optimizer=actor_state)
    return tree.where(state.updates % td3.counts["policy_delay"] == 0, moved, state)


def _climb(td3: _TD3, key: torch.Tensor, state: PGAMAPElitesState, parents: Any) -> Any:
    """Return the parents, leaves [n, ...], after their steps along the first critic's gradient; they share the batches."""
    adam = td3.adam_of_candidates

    def ascend(carry: Any, key: torch.Tensor) -> Any:
        batch = _sample(td3, key, state.buffer)
        return torch.func.vmap(lambda *pair: _actor_step(td3, adam, state.network.critic, batch, pair[0], pair[1]))(*carry), ()

    first = (parents, torch.func.vmap(adam.init)(parents))
    return scan(ascend, first, random.split(key, td3.counts["num_actor_updates"]))[0][0]


def _actor_step(td3: _TD3, adam: Any, critic: Any, batch: Transition, actor: Any, state: Any) -> tuple[Any, Any]:
    """Take a step of Adam along the gradient of the first critic; return the actor and the state of Adam."""
    gradient, _ = torch.func.grad(td3_actor_loss, has_aux=True)(actor, critic, batch, **td3.networks)
    change, state = adam.update(gradient, state, actor)
    return optim.apply_updates(actor, change), state


def _sample(td3: _TD3, key: torch.Tensor, buffer: Any) -> Transition:
    """Draw a batch; of an empty buffer, rows of its first slot, whose updates are not used."""
    return td3.memory.sample(key, buffer.replace(size=buffer.size.clamp(min=1)), td3.counts["batch_size"]).batch


def _example(key: torch.Tensor, env: Env, like: torch.Tensor) -> Transition:
    """Return a transition of an environment, in the dtype of the parameters."""
    observation = env.observation_space.sample(key).to(like.dtype)
    action = env.action_space.sample(random.fold_in(key, 2)).to(like.dtype)
    no = torch.zeros((), dtype=torch.bool, device=key.device)
    return Transition(observation, action, torch.zeros_like(like.reshape(-1)[0]), no, no.clone(), observation.clone(), ())
