"""PGA-MAP-Elites: MAP-Elites of policies, half of whose mutations follow the gradient of a critic."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, buffers, optim, random, tree
from funrl.compiler import scan
from funrl.env import Env, Transition
from funrl.evolution import _archive
from funrl.evolution._archive import Archive
from funrl.evolution._map_elites import add, check_variation, varied
from funrl.evolution._strategy import Number, Strategy, check_count, like_rows, rows, start
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
    for name, value in counts.items():
        check_count(what, name, value, 1)
    if by_gradient > num_candidates:
        raise ValueError(f"{what}: num_gradient: expected at most num_candidates = {num_candidates}, got {by_gradient}")
    for name, value in {"learning_rate": learning_rate, "variation_learning_rate": variation_learning_rate, "tau": tau}.items():
        _check.number(f"{what}: {name}", value, "[0, inf]", tensor=True)
    space = env.action_space
    if not isinstance(space, Box) or not space.dtype.is_floating_point or not bool((space.high - space.low).isfinite().all()):
        raise ValueError(f"{what}: env: expected a bounded floating-point Box of actions, got {space} of {env.name}")
    memory, adam = buffers.uniform(buffer_size), optim.flatten(optim.adam(learning_rate))
    step = optim.flatten(optim.adam(variation_learning_rate))

    def critics(params: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(lambda one: critic.apply(one, observation, action).squeeze(-1))(params)

    networks: dict[str, Any] = {"actor": actor, "critic": critics}

    def init(key: torch.Tensor, params: Any) -> PGAMAPElitesState:
        first = start(what, params)
        like = tree.leaves(first)[0]
        example = _example(key, env, like)
        keys = random.split(random.fold_in(key, 1))
        pair = torch.func.vmap(critic.init, (0, None, None))(keys, example.observation, example.action)
        network = tree.contiguous(ActorCritic(tree.clone(first), pair))
        return PGAMAPElitesState(
            archive=_archive.empty(first, cells),
            network=network,
            target=tree.clone(network),
            actor_optimizer=adam.init(network.actor),
            critic_optimizer=adam.init(network.critic),
            buffer=memory.init(example),
            updates=torch.zeros((), dtype=torch.int64, device=like.device),
        )

    def train(key: torch.Tensor, state: PGAMAPElitesState) -> PGAMAPElitesState:
        """Take the gradient steps of critics and greedy actor."""
        half = (space.high - space.low) / 2
        buffer = _readable(state.buffer)

        def update(carry: Any, keys: torch.Tensor) -> Any:
            network, target, actor_state, critic_state, updates = carry
            batch = memory.sample(keys[0], buffer, batch_size).batch
            bounds = [x.to(batch.reward) for x in (half, space.low, space.high)]
            options = {"noise_std": noise_std * bounds[0], "noise_clip": noise_clip * bounds[0], "low": bounds[1], "high": bounds[2]}
            gradient, _ = torch.func.grad(td3_critic_loss, has_aux=True)(
                network.critic, target, keys[1], batch, gamma=gamma, **networks, **options
            )
            change, critic_state = adam.update(gradient, critic_state, network.critic)
            network = ActorCritic(network.actor, optim.apply_updates(network.critic, change))
            gradient, _ = torch.func.grad(td3_actor_loss, has_aux=True)(network.actor, network.critic, batch, **networks)
            change, moved = adam.update(gradient, actor_state, network.actor)
            better = ActorCritic(optim.apply_updates(network.actor, change), network.critic)
            after = (better, optim.soft_update(better, target, tau=tau), moved)
            updates = updates + 1
            now = updates % policy_delay == 0
            network, target, actor_state = tree.where(now, after, (network, target, actor_state))
            return (network, target, actor_state, critic_state, updates), ()

        first = (state.network, state.target, state.actor_optimizer, state.critic_optimizer, state.updates)
        last, _ = scan(update, first, random.split(key, (num_critic_updates, 2)))
        last = tree.where(memory.size(state.buffer) > 0, last, first)  # there is nothing to learn from in the first generation
        names = ("network", "target", "actor_optimizer", "critic_optimizer", "updates")
        return state.replace(**dict(zip(names, last, strict=True)))

    def climb(key: torch.Tensor, state: PGAMAPElitesState, parents: Any) -> Any:
        """Return the parents, leaves [n, ...], after their steps along the first critic's gradient."""
        critic_params, buffer = state.network.critic, _readable(state.buffer)

        def ascend(carry: Any, key: torch.Tensor) -> Any:
            batch = memory.sample(key, buffer, batch_size).batch

            def one(params: Any, adam_state: Any) -> Any:
                gradient, _ = torch.func.grad(td3_actor_loss, has_aux=True)(params, critic_params, batch, **networks)
                change, adam_state = step.update(gradient, adam_state, params)
                return optim.apply_updates(params, change), adam_state

            return torch.func.vmap(one)(*carry), ()

        first = (parents, torch.func.vmap(step.init)(parents))
        return scan(ascend, first, random.split(key, num_actor_updates))[0][0]

    def ask(key: torch.Tensor, state: PGAMAPElitesState) -> tuple[Any, PGAMAPElitesState]:
        train_key, parent_key, climb_key, vary_key = random.split(key, 4).unbind(0)
        state = train(train_key, state)
        mutants = rows(varied(vary_key, state.archive, num_candidates, sigma, line_sigma, spread))
        chosen = [rows(tree.unsqueeze(state.network.actor))]
        if by_gradient > 1:
            parents = tree.contiguous(_archive.draw(parent_key, state.archive, by_gradient - 1))
            chosen.append(rows(climb(climb_key, state, parents)))
        later = torch.cat([*chosen, mutants[by_gradient:]])
        matrix = torch.where(state.archive.filled.any(), later, mutants)
        return like_rows(matrix, state.network.actor), state

    def tell(
        state: PGAMAPElitesState, candidates: Any, fitness: torch.Tensor, descriptors: torch.Tensor, transitions: Transition
    ) -> PGAMAPElitesState:
        archive = add(what, state.archive, candidates, fitness, descriptors)
        like = tree.leaves(state.network.actor)[0]
        experience = tree.to(transitions.replace(extras=(), place=()), like.dtype)
        return state.replace(archive=archive, buffer=memory.extend(state.buffer, experience))

    return Strategy(init, ask, tell, lambda state: _archive.elite(state.archive))


def _readable(buffer: Any) -> Any:
    """Return a buffer that gives batches of its first slot while it is empty, which nothing is learned from."""
    return buffer.replace(size=buffer.size.clamp(min=1))


def _example(key: torch.Tensor, env: Env, like: torch.Tensor) -> Transition:
    """Return a transition of an environment, in the dtype of the parameters."""
    observation = env.observation_space.sample(key).to(like.dtype)
    action = env.action_space.sample(random.fold_in(key, 2)).to(like.dtype)
    no = torch.zeros((), dtype=torch.bool, device=key.device)
    return Transition(observation, action, torch.zeros_like(like.reshape(-1)[0]), no, no.clone(), observation.clone(), ())
