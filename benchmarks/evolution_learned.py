"""Parts of :mod:`benchmarks.evolution` that learn: archives of MAP-Elites, and a drift function that OpenES finds for PPO."""

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

import funrl
from benchmarks.evolution import keep
from benchmarks.history import RESULTS
from funrl import evolution, losses, nn, optim, random, tree
from funrl.algos import ppo

SEEDS = 5
CANDIDATES = 128
GENERATIONS = 300


def final_position(transitions: Any, active: torch.Tensor) -> torch.Tensor:
    """Return where the robot is at the end of its first episode, [2]."""
    return transitions.next_observation[active.sum() - 1]


def swing(transitions: Any, active: torch.Tensor) -> torch.Tensor:
    """Return the mean height of the pendulum, and its mean absolute torque as a share of the most, [2]."""
    return torch.stack([transitions.observation[:, 0].mean(), transitions.action.abs().mean() / 2])


# Environment, steps of an episode, scale of actions, descriptor, its bounds and the cells along each.
ARCHIVES = {
    "PointRobot, final position": ("PointRobot-misc", 20, 0.1, final_position, ([-1.5, -1.5], [1.5, 1.5], [16, 16])),
    "Pendulum, height and torque": ("Pendulum-v1", 200, 2.0, swing, ([-1.0, 0.0], [1.0, 1.0], [10, 10])),
}


def archive() -> None:
    """Fill archives by MAP-Elites, by PGA-MAP-Elites, and by random parameters."""
    rows = [
        "| archive | strategy | evaluations | coverage of each seed | QD score over that of random, mean | seconds |",
        "|---|---|---|---|---|---|",
    ]
    text = f"{SEEDS} seeds, one program for each row; policies with 16 hidden units.\n\n"
    for title in ARCHIVES:
        rows += archives_of(title)
        keep("archive", text + "\n".join(rows))


def archives_of(title: str) -> list[str]:
    """Return the rows of one archive."""
    name, steps, scale, describe, grid = ARCHIVES[title]
    env, cells = funrl.envs.make(name), evolution.grid_cells(*grid)
    inputs, outputs = env.observation_space.shape[0], env.action_space.shape[0]
    net = nn.mlp((16,), outputs, out_init=nn.orthogonal(0.5))

    def actor(params: Any, observation: torch.Tensor) -> torch.Tensor:
        return scale * net.apply(params, observation).tanh()

    def act(params: Any, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        return actor(params, observation), {}

    options = {"max_steps": steps, "describe": describe}
    plain, with_transitions = (evolution.episode_fitness(env, act, with_transitions=flag, **options) for flag in (False, True))
    line = evolution.map_elites(CANDIDATES, cells, sigma=0.05, line_sigma=0.2, spread=1.0)
    gaussian = evolution.map_elites(CANDIDATES, cells, sigma=0.2, spread=1.0)
    updates = {"num_critic_updates": 50, "num_actor_updates": 10, "batch_size": 64}
    pga = evolution.pga_map_elites(CANDIDATES, cells, env, actor, nn.mlp((64, 64), 1), sigma=0.05, line_sigma=0.2, spread=1.0, **updates)
    rows, first_score = [], None
    for label, strategy, fitness, generations in (
        ("random parameters", None, plain, GENERATIONS),
        ("MAP-Elites, Gaussian mutation", gaussian, plain, GENERATIONS),
        ("MAP-Elites, directional variation", line, plain, GENERATIONS),
        ("PGA-MAP-Elites", pga, with_transitions, 60),
    ):
        begin = time.perf_counter()

        def search(key: torch.Tensor, strategy: Any = strategy, fitness: Any = fitness, generations: int = generations) -> Any:
            keys = random.split(key, 3)
            params = net.init(keys[1], torch.zeros(inputs))
            strategy = strategy or drawing(line, params)
            state, _ = evolution.evolve(
                keys[2], strategy.init(keys[0], params), strategy=strategy, fitness=fitness, num_generations=generations
            )
            return evolution.coverage(state.archive), evolution.qd_score(state.archive, -steps * 20.0)

        coverage, score = funrl.compile(torch.func.vmap(search))(random.split(random.key(0), SEEDS))
        first_score = score.mean().item() if first_score is None else first_score
        shown = ", ".join(f"{x:.3f}" for x in coverage.tolist())
        ratio, seconds = score.mean().item() / first_score, time.perf_counter() - begin
        rows.append(f"| {title} | {label} | {generations * CANDIDATES:,} | {shown} | {ratio:.3f} | {seconds:.0f} |")
        print(rows[-1], flush=True)
    return rows


def drawing(strategy: evolution.Strategy, params: Any) -> evolution.Strategy:
    """Return MAP-Elites whose candidates are always those of its first generation: random parameters."""

    def ask(key: torch.Tensor, state: Any) -> Any:
        return strategy.ask(key, strategy.init(key, params))[0], state

    return strategy._replace(ask=ask)


# Run by the interpreter of the peers: QDax on its planar arm, from the same first candidates, cells and sizes of mutations.
QDAX = r"""
import functools, json, sys
import jax, jax.numpy as jnp
from qdax.core.emitters.mutation_operators import isoline_variation
from qdax.core.emitters.standard_emitters import MixingEmitter
from qdax.core.map_elites import MAPElites
from qdax.tasks.arm import arm_scoring_function
from qdax.utils.metrics import default_qd_metrics
told = json.loads(sys.argv[1])
side = (jnp.arange(told["side"]) + 0.5) / told["side"]
cells = jnp.stack(jnp.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
variation = functools.partial(isoline_variation, iso_sigma=told["sigma"], line_sigma=told["line_sigma"])
emitter = MixingEmitter(lambda x, key: (x, key), variation, 1.0, told["candidates"])
search = MAPElites(arm_scoring_function, emitter, functools.partial(default_qd_metrics, qd_offset=1.0))
update, found = jax.jit(search.update), []
for seed in range(told["seeds"]):
    key = jax.random.PRNGKey(seed)
    first = 0.5 + told["spread"] * jax.random.normal(key, (told["candidates"], told["joints"]))
    repertoire, state, _ = search.init(first, cells, key)
    for i in range(told["generations"] - 1):
        repertoire, state, metrics = update(repertoire, state, jax.random.fold_in(key, i))
    found.append([float(metrics["coverage"]) / 100, float(metrics["qd_score"])])
print(json.dumps(found))
"""
ARM = {"joints": 8, "side": 32, "sigma": 0.01, "line_sigma": 0.1, "spread": 0.3}


def arm(peers: str) -> None:
    """Fill the archive of QDax's planar arm: where its end is, and how equal its joints are; beside QDax."""
    told = {**ARM, "seeds": SEEDS, "candidates": CANDIDATES, "generations": GENERATIONS}
    cells = evolution.grid_cells([0.0, 0.0], [1.0, 1.0], [ARM["side"]] * 2)
    options = {name: ARM[name] for name in ("sigma", "line_sigma", "spread")}
    strategy = evolution.map_elites(CANDIDATES, cells, **options)

    def fitness(key: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = candidates.clamp(0.0, 1.0)
        angles = (2 * torch.pi * x - torch.pi).cumsum(1)
        end = torch.stack([angles.cos().sum(1), angles.sin().sum(1)], 1) / (2 * ARM["joints"]) + 0.5
        return -x.std(1, correction=0), end

    def search(key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys = random.split(key)
        first = strategy.init(keys[0], torch.full((ARM["joints"],), 0.5))
        state, _ = evolution.evolve(keys[1], first, strategy=strategy, fitness=fitness, num_generations=GENERATIONS)
        return evolution.coverage(state.archive), evolution.qd_score(state.archive, -1.0)

    coverage, score = funrl.compile(torch.func.vmap(search))(random.split(random.key(0), SEEDS))
    rows = {"funrl": list(zip(coverage.tolist(), score.tolist(), strict=True))}
    if peers:
        done = subprocess.run([peers, "-c", QDAX, json.dumps(told)], capture_output=True, text=True, check=True)
        rows["QDax"] = json.loads(done.stdout.splitlines()[-1])
    lines = [
        f"{ARM['joints']} joints, {len(cells)} cells, {GENERATIONS * CANDIDATES:,} evaluations, directional variation of {ARM['sigma']}",
        f"and {ARM['line_sigma']}, {SEEDS} seeds: mean (lowest to highest).",
        "",
        "| | coverage | QD score |",
        "|---|---|---|",
    ]
    for name, found in rows.items():
        cells_of = [f"{sum(x) / len(x):.4g} ({min(x):.4g} to {max(x):.4g})" for x in zip(*found, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells_of)} |")
    print("\n".join(lines), flush=True)
    keep("arm", "\n".join(lines))


INNER = dict(num_envs=4, num_steps=64, num_epochs=4, num_minibatches=4, num_cells=(16,), learning_rate=5e-3, entropy_weight=0.0)
UPDATES, META_GENERATIONS, META_CANDIDATES, META_SEEDS, TEST_SEEDS, HIDDEN = 30, 60, 32, 2, 256, 16
LOSSES = ("PPO's clip", "DPO's drift", "fitted to the clip", "evolved")
HELD_OUT = {"Acrobot-v1": 120, "CartPole-v1": 30}  # and new seeds of the environment of the search


def like_clip(key: torch.Tensor) -> losses.LearnedDrift:
    """Return a drift of a network that was fitted to PPO's clip, where the search begins."""
    init_key, key = random.split(key).unbind(0)
    params = losses.init_drift(init_key, HIDDEN)
    opt = optim.adam(1e-2)

    def error(params: losses.LearnedDrift, key: torch.Tensor) -> torch.Tensor:
        x, advantage = random.normal(key, (2, 256)).unbind(0)
        return (losses.learned_drift(params, 0.4 * x, advantage) - losses.clip_drift(0.4 * x, advantage)).square().mean()

    def step(carry: Any, key: torch.Tensor) -> Any:
        params, state = carry
        gradient, value = torch.func.grad_and_value(error)(params, key)
        updates, state = opt.update(gradient, state, params)
        return (optim.apply_updates(params, updates), state), value

    params = params.replace(output=torch.full_like(params.output, 0.05))
    (params, _), values = funrl.compile(lambda key: funrl.scan(step, (params, opt.init(params)), random.split(key, 3000)))(key)
    print(f"fitted to the clip: mean squared error {values[0]:.4f} to {values[-100:].mean():.4f}", flush=True)
    return params


def learner(env: Any, drift: Callable[..., Any]) -> Any:
    """Return PPO with a drift function in the place of its clip."""
    return ppo.make(env, loss=ppo.with_drift(drift), **INNER)


def curves(env: Any, first: losses.LearnedDrift, found: losses.LearnedDrift, updates: int) -> torch.Tensor:
    """Return the episode returns of many runs with each of :data:`LOSSES`, as one program, [losses, seeds, updates]."""
    params = tree.stack([first, first, first, found])  # the first two make no use of them

    def run(kind: torch.Tensor, params: losses.LearnedDrift, key: torch.Tensor) -> torch.Tensor:
        def chosen(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
            learned = losses.learned_drift(params, x, a)
            return torch.where(kind == 0, losses.clip_drift(x, a), torch.where(kind == 1, losses.dpo_drift(x, a), learned))

        algo = learner(env, chosen)
        init_key, key = random.split(key).unbind(0)

        def update(state: Any, key: torch.Tensor) -> tuple[Any, torch.Tensor]:
            state, metrics = algo.step(key, state)
            return state, metrics["episode_return"]

        return funrl.scan(update, algo.init(init_key), random.split(key, updates))[1]

    many = torch.func.vmap(torch.func.vmap(run, (None, None, 0)), (0, 0, None))
    return funrl.compile(many)(torch.arange(len(LOSSES)), params, random.split(random.key(99), TEST_SEEDS))


def drift() -> None:
    """Let OpenES find a drift over PPO on CartPole, and compare it with PPO's clip elsewhere."""
    key, fit_key, search_key = random.split(random.key(0), 3).unbind(0)
    first = like_clip(fit_key)
    cartpole = funrl.envs.make("CartPole-v1")
    strategy = evolution.openes(META_CANDIDATES, optim.adam(0.02), sigma=0.05)

    def make(params: losses.LearnedDrift) -> Any:
        return learner(cartpole, lambda x, a: losses.learned_drift(params, x, a))

    fitness = evolution.training_fitness(make, num_updates=UPDATES, num_seeds=META_SEEDS, same_seeds=True)
    program = funrl.compile(
        lambda key, state: evolution.evolve(key, state, strategy=strategy, fitness=fitness, num_generations=1), donate=1
    )
    state, begin, history = strategy.init(key, first), time.perf_counter(), []
    for i in range(META_GENERATIONS):
        state, generations = program(random.fold_in(search_key, i), state)
        history.append(generations.fitness_mean.item())
        if i % 5 == 4:
            print(f"generation {i + 1}: {sum(history[-5:]) / 5:.1f}, {time.perf_counter() - begin:.0f} s", flush=True)
    found = tree.clone(strategy.best(state))
    tree.save({"hidden": found.hidden, "output": found.output}, RESULTS / "evolution_drift.safetensors")
    steps = META_GENERATIONS * META_CANDIDATES * META_SEEDS * UPDATES * INNER["num_envs"] * INNER["num_steps"]
    text = (
        f"OpenES over {META_GENERATIONS} generations of {META_CANDIDATES} drifts with {META_SEEDS} PPO runs each on CartPole-v1 "
        f"({steps:,} environment steps, {time.perf_counter() - begin:.0f} s, a generation one program), from a network of {HIDDEN} units "
        f"that was fitted to PPO's clip. Mean return over training, generations 1 to 5: {sum(history[:5]) / 5:.1f}; the last 5: "
        f"{sum(history[-5:]) / 5:.1f}. "
        f"Below: mean over {TEST_SEEDS} new seeds of the mean return over training (± standard error), and of the last "
        "fifth. `evolution_drift.safetensors` has the evolved parameters.\n\n"
    )
    rows = ["| environment | loss | over training | last fifth | difference to the clip over training, paired |", "|---|---|---|---|---|"]
    notes = []
    for env, updates in HELD_OUT.items():
        values = curves(funrl.envs.make(env), first, found, updates)
        whole, last = values.nanmean(2), values[..., -updates // 5 :].nanmean((1, 2))
        error, gain = whole.std(1) / TEST_SEEDS**0.5, whole - whole[0]
        better = "more" if gain[-1].mean() > 0 else "less"
        where = "on which it was evolved, with new seeds" if env == "CartPole-v1" else "which was held out"
        change, error_of = abs(gain[-1].mean()), gain[-1].std() / TEST_SEEDS**0.5
        notes.append(f"On {env}, {where}, the evolved drift gets {change:.1f} ± {error_of:.1f} {better} than PPO's clip.")
        for i, label in enumerate(LOSSES):
            shown = f"{gain[i].mean():+.2f} ± {gain[i].std() / TEST_SEEDS**0.5:.2f}" if i else ""
            rows.append(f"| {env} | {label} | {whole[i].mean():.2f} ± {error[i]:.2f} | {last[i]:.2f} | {shown} |")
            print(rows[-1], flush=True)
    keep("drift", text + "\n".join(rows) + "\n\n" + " ".join(notes))
