"""Training from the command line: ``python -m funrl train``, ``sweep``, ``evaluate``, ``video``, ``plot``,
``report``, ``record`` and ``envs``."""

import argparse
import contextlib
import functools
import sys
from pathlib import Path
from typing import Any

import torch

from funrl import _check, algos, collectors, distributed, envs, offline, random, record, runs, training, tree
from funrl._arguments import COLLECTORS, UsageError, check_use, option, parser, run_folder, usage
from funrl._files import say
from funrl._plot import plot, report
from funrl._sweep import sweep
from funrl.acting import Evaluation
from funrl.algos import Algorithm, State
from funrl.checkpoint import CheckpointError
from funrl.env import HostError, on_host
from funrl.record import _films as films, _plots as plots
from funrl.runs import RunError
from funrl.spaces import Box

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run a command, and return the exit code.

    0: success. 1: the run diverged, its environment failed, or its folder became unwritable. 2: the arguments are invalid.
    130: interrupted. Errors are one line on stderr; the result is the last line on stdout.

    Args:
        argv: the arguments; those of the process by default.

    Example:
        >>> main(["envs"])
        CartPole-v1               observation Box [4], action Discrete(n=2, start=0), at most 500 steps
        ...
        0
    """
    args = argparse.Namespace(command=None)
    try:
        args = parser(_COMMANDS).parse_args(argv)
        with distributed.join() if distributed.in_job() else contextlib.nullcontext(distributed.alone()) as args.group:
            if args.group.size > 1 and args.command is not _train:
                raise UsageError(f"{args.group.size} processes: only train runs in several; start this command without torchrun or srun")
            args.command(args)
        return 0
    except (UsageError, RunError, CheckpointError) as error:
        return _fail(error, 2)
    except (training.Diverged, HostError, OSError, distributed.DistributedError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        kept = "; continue from the last checkpoint with --resume" if args.command in (_train, sweep) else ""
        return _fail(f"interrupted{kept}", 130)


def _fail(error: Any, code: int) -> int:
    if isinstance(error, Exception) and distributed.raised_on_rank_0(error):
        return code  # rank 0 prints it
    say("funrl: " + " ".join(str(error).split()), sys.stderr)
    return code


def _train(args: argparse.Namespace) -> None:
    again = args.group.first(lambda: _begun_before(args))
    args.resume = args.resume or again
    if args.algo is not None:
        _train_own(args)
        return
    trust = args.trust or bool(args.env)  # a name on the command line is trusted, a name in a folder is not
    if args.resume and args.out is not None and None in (args.algorithm, args.env):
        old = runs.read_config(Path(args.out))
        args.algorithm, args.env = args.algorithm or old["algorithm"], args.env or old["env"]
    missing = [name for name, value in (("algorithm", args.algorithm), ("--env", args.env)) if value is None]
    if missing:
        remedy = "; train --resume --out DIR continues the run in DIR" if args.resume else ""
        usual = [env for name, env in training.PRESETS if name == args.algorithm]
        remedy += f"; {args.algorithm} has presets for {', '.join(usual)}" if usual else ""
        raise UsageError(f"the following arguments are required: {', '.join(missing)}{remedy}; see python -m funrl train --help")
    if args.algorithm not in (known := (*algos.names(), *offline.names())):
        raise UsageError(f"no algorithm is called {args.algorithm!r}; {_check.nearest(args.algorithm, known)}")
    from_data = args.algorithm in offline.names()
    defaults = (offline if from_data else algos).defaults(args.algorithm)
    given = dict(option(text, defaults) for text in args.set)
    out = _folder(args, args.algorithm, args.env)
    if args.resume:
        # Options that are not given are those of the run; train compares the given ones with the run.
        old = runs.read_config(out)
        options = _options_before(args, out, old, trust)
        kind = next((name for name, kind in COLLECTORS.items() if kind == old.get("collector")), None)
        _complete(args, num_agents=old["num_agents"], total_steps=old["total_steps"], num_workers=old.get("num_workers"), collector=kind)
    else:
        old, preset = None, training.preset(args.algorithm, args.env)
        _complete(args, num_agents=1, total_steps=100_000 if from_data else preset.total_steps)
        options = preset.options_over(args.total_steps)
    check_use(args, from_data)
    key, notes = _key(args.seed, old)
    options |= given
    if args.collector is not None:
        _complete(args, num_workers=2)
        notes["num_workers"] = args.num_workers
        options["num_envs"] = _num_envs(args.collector, args.num_workers, args.envs_per_worker, given, {**defaults, **options})
    with usage():
        algo = _from_data(args, options, notes, old or {}) if from_data else algos.make(args.algorithm, args.env, **options)

    with contextlib.ExitStack() as stack:
        stack.enter_context(algo.env)
        source = None if args.collector is None else stack.enter_context(_collect(args, algo, key))
        _run(args, algo, key, collector=source, out=out, notes=notes)


def _complete(args: argparse.Namespace, **usual: Any) -> None:
    """Set the arguments that were not given."""
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _begun_before(args: argparse.Namespace) -> bool:
    """Return whether torchrun has restarted the job, and its run has begun."""
    if not distributed.restarts():
        return False
    names = (args.algorithm, args.env) if args.algo is None else ()
    if args.out is None and not names:
        algo = runs.named(args.algo)
        assert algo is not None
        names = (algo.name, algo.env.name)
    return runs.Folder(run_folder(*names, seed=args.seed, last=True) if args.out is None else Path(args.out)).config.exists()


def _train_own(args: argparse.Namespace) -> None:
    """Train an algorithm from --algo, which already has its environment and its options."""
    given = {
        "algorithm": args.algorithm,
        "--env": args.env,
        "--set": args.set or None,
        "--data": args.data,
        "--collector": args.collector,
        "--num-workers": args.num_workers,
        "--envs-per-worker": args.envs_per_worker,
    }
    for name, value in given.items():
        if value is not None:
            where = "use funrl.train(collector=)" if name in list(given)[3:] else "give it there"
            raise UsageError(f"{name}: an algorithm of --algo has its own environment and options; leave {name} out, and {where}")
    algo = runs.named(args.algo)
    assert algo is not None
    out = _folder(args, algo.name, algo.env.name)
    old = runs.read_config(out) if args.resume else {}
    if old.get("collector") is not None:
        raise RunError(f"{out}: cannot resume here: the run has a collector; continue with funrl.train(algo, ..., collector=, resume=True)")
    _complete(args, num_agents=old.get("num_agents", 1), total_steps=old.get("total_steps"))
    if args.total_steps is None:
        raise UsageError("--total-steps: expected a number of steps, as an algorithm of --algo has no default")
    key, notes = _key(args.seed, old if args.resume else None)
    with algo.env:
        _run(args, algo, key, out=out, notes=notes)


def _from_data(args: argparse.Namespace, options: dict[str, Any], notes: dict[str, Any], old: dict[str, Any]) -> Algorithm:
    """Make a learner from data, and note which; a resumed run has the data that it began with."""
    data = old.get("data") if args.data is None else args.data
    if data is None:
        raise UsageError(f"--data: {args.algorithm} learns from data; give minari:ID, a file, or a folder")
    notes["data"] = data
    return offline.make(args.algorithm, args.env, offline.datasets.open_dataset(data), **options)


def _scores(algo: Algorithm, key: torch.Tensor, total_steps: int) -> list[Any]:
    """Return the hooks of a learner from data: ten times in a run it plays, and its score is printed."""
    if algo.data is None:
        return []

    def show(step: int, state: Any, metrics: dict[str, torch.Tensor]) -> None:
        say(f"after {step:,} steps: mean return {metrics['evaluation_return'].double().mean():.1f} over 10 episodes", sys.stderr)

    interval = max(total_steps // 10, 1)
    return [training.every(interval, training.hooks.evaluation(algo, random.fold_in(key, -4), 10), show)]


def _record(args: argparse.Namespace) -> None:
    if args.steps < 1:
        raise UsageError(f"--steps: expected at least 1, got {args.steps}")
    run = training.load_run(args.dir, algo=runs.named(args.algo), file=args.checkpoint, trust=args.trust)
    state, env = _agent(run, args.agent), run.algo.env
    with env, usage():
        if args.policy == "replay":
            data = offline.datasets.from_replay(run.algo, state)
            keep = max(data.size - args.steps, 0)
            data = offline.datasets.from_transitions(data.rows(torch.arange(keep, data.size)), end=data.end[keep:], spaces=env)
        else:
            act = {"greedy": run.algo.greedy, "explore": run.algo.act, "random": None}[args.policy]
            learner = state.learner
            env_params = learner.env_params if tree.leaves(getattr(learner, "env_params", ())) else env.default_params
            data = offline.datasets.record(learner.params, random.key(args.seed), env_params, env=env, act=act, num_steps=args.steps)
        offline.datasets.write(data, args.out, env=env, algorithm=run.algo.name)
    mean = data.episode_return.double().mean()
    say(f"{args.out}: {data.size:,} steps in {len(data.episode_return):,} episodes or pieces of mean return {mean:.1f}")


def _agent(run: runs.Run, number: int) -> State:
    """Return the state of one agent of a run."""
    num_agents = run.config["num_agents"]
    if not 0 <= number < num_agents:
        raise UsageError(f"--agent: expected one of the run's {num_agents}, from 0 to {num_agents - 1}, got {number}")
    return tree.index(run.state, number) if num_agents > 1 else run.state


def _check_episodes(number: int) -> None:
    if number < 1:
        raise UsageError(f"--episodes: expected at least 1, got {number}")


def _key(seed: int | None, old: dict[str, Any] | None) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the key of a run, and the notes for its ``config.json``: from the seed, or from the resumed run, which may have no notes."""
    if old is not None and "seed" not in old and seed is None:
        return torch.tensor(old["key"]), {}
    chosen: int = (old or {}).get("seed", 0) if seed is None else seed
    with usage():
        return random.key(chosen), {"seed": chosen}


def _run(args: argparse.Namespace, algo: Algorithm, key: torch.Tensor, **options: Any) -> None:
    """Train, and print the result."""
    num_agents, total_steps = args.num_agents, args.total_steps
    if args.backend is not None:
        options["backend"] = args.backend
    hooks = _scores(algo, key, total_steps)
    options |= {"group": args.group, "chunk": args.chunk}
    result = training.train(algo, key, total_steps, num_agents=num_agents, resume=args.resume, hooks=hooks, **options)
    if args.group.rank:
        return  # rank 0 prints the result
    assert result.evaluation is not None  # train evaluates by default
    steps = f"{result.steps:,} steps" if num_agents == 1 else f"{num_agents} agents x {result.steps:,} steps"
    time = f"{result.seconds:.1f} s, of which compiling {result.compile_seconds:.1f} s"
    say(f"{steps} in {time}; {_summary(result.evaluation, num_agents)}")


def _num_envs(collector: str, num_workers: int, per_worker: int | None, given: dict[str, Any], options: dict[str, Any]) -> int:
    """Return the number of environments in a batch: those of all workers, or of one if each worker makes complete batches."""
    for name, value in (("--num-workers", num_workers), ("--envs-per-worker", per_worker)):
        if value is not None and value < 1:
            raise UsageError(f"{name}: expected at least 1, got {value}")
    together = num_workers if collector == "sync" else 1
    if "num_envs" not in options:
        raise UsageError("--collector: the algorithm has no num_envs, and so does not learn from batches of several environments")
    num_envs = options["num_envs"]
    if per_worker is not None:
        if given.get("num_envs", per_worker * together) != per_worker * together:
            raise UsageError(
                f"--envs-per-worker: {per_worker} make {per_worker * together} in a batch, but num_envs={num_envs} was asked for; "
                "give one of both"
            )
        return per_worker * together
    if num_envs % together and "num_envs" in given:
        raise UsageError(f"--num-workers: {num_workers} do not divide num_envs = {num_envs}; choose a divisor, or another num_envs")
    return max(num_envs // together, 1) * together


def _collect(args: argparse.Namespace, algo: Algorithm, key: torch.Tensor) -> collectors.Collector:
    """Return the collector that gathers experience for ``algo``."""
    if not on_host(algo.env):
        raise UsageError(
            f"--collector: {args.env} is pure torch: its steps are in the program that learns, which is faster than workers; leave it out"
        )
    together = args.collector == "sync"
    make: Any = collectors.synchronous if together else functools.partial(collectors.asynchronous, queue_size=1)
    return make(
        functools.partial(envs.make, args.env, num_envs=algo.config.num_envs // (args.num_workers if together else 1)),
        algo.act,
        algo.init(key).learner.params,  # train publishes the run's own parameters before the first batch
        num_workers=args.num_workers,
        frames_per_batch=algo.steps_per_update,
        total_frames=-1,
        key=random.fold_in(key, -3),
    )


def _evaluate(args: argparse.Namespace) -> None:
    run = training.load_run(args.dir, algo=runs.named(args.algo), trust=args.trust)
    _check_episodes(args.episodes)
    num_agents = run.config["num_agents"]
    with run.algo.env:
        result = training.evaluate_agents(run.algo, run.state, random.key(args.seed), args.episodes, num_agents=num_agents)
    steps = run.updates * run.algo.steps_per_update
    say(f"{run.algo.name} on {run.algo.env.name} after {steps:,} steps: {_summary(result, num_agents)}")


def _video(args: argparse.Namespace) -> None:
    run = training.load_run(args.dir, algo=runs.named(args.algo), trust=args.trust)
    with contextlib.ExitStack() as stack:
        env = run.algo.env
        stack.enter_context(env)
        _check_episodes(args.episodes)
        learner = _agent(run, args.agent).learner
        out = _file(args.out, runs.Folder(args.dir).path / "video.mp4", films.SUFFIXES)
        env_params = getattr(learner, "env_params", None)
        env_params = env.default_params if env_params is None else env_params
        name = run.config["env"]
        with usage():
            if args.algo is None and on_host(env):  # one copy for each episode, with rendering
                pictures = {"render_mode": "rgb_array"} if name.startswith("gymnasium:") else {}
                env = stack.enter_context(envs.make(name, num_envs=args.episodes, **pictures))
            if env.render is None:
                raise UsageError(f"{name} has no pictures")
            key, greedy = random.key(args.seed), run.algo.greedy
            result = record.film(out, learner.params, key, env_params, env=env, act=greedy, num_episodes=args.episodes, progress=True)
    say(f"{out}: {_summary(result, 1)}")


def _plot(args: argparse.Namespace) -> None:
    plot(args, _file(args.out, Path("learning_curves.png"), plots.SUFFIXES))


def _file(given: str | None, default: Path, suffixes: tuple[str, ...]) -> Path:
    path = default if given is None else Path(given)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"--out: expected a name that ends in {' or '.join(suffixes)}, got {str(path)!r}")
    return path


def _envs(args: argparse.Namespace) -> None:
    width = max(len(name) for name in envs.names()) + 2
    for name in envs.names():
        env = envs.make(name)
        observation, action = _space(env.observation_space), _space(env.action_space)
        say(f"{name:{width}}observation {observation}, action {action}, at most {env.max_episode_steps} steps")
    for name, whose in (("gymnasium:ID", "registered in gymnasium"), ("dm_control:DOMAIN-TASK", "of dm_control's suite (its extra)")):
        say(f"{name:{width}}any environment {whose}, on the host")


def _space(space: Any) -> str:
    return f"Box {list(space.shape)}" if isinstance(space, Box) else str(space)


def _summary(evaluation: Evaluation, num_agents: int) -> str:
    returns = evaluation.episode_return.double()
    episodes = returns.shape[-1]
    if num_agents == 1:
        return f"mean return {returns.mean():.1f} over {episodes} episodes"
    means = returns.mean(-1)
    return f"mean return {means.mean():.1f} over {episodes} episodes each (agents from {means.min():.1f} to {means.max():.1f})"


def _folder(args: argparse.Namespace, *names: str) -> Path:
    """Return the folder of the run; without --out the first process chooses it."""
    if args.out is not None:
        return Path(args.out)
    return args.group.first(lambda: run_folder(*names, seed=args.seed, last=args.resume))


def _options_before(args: argparse.Namespace, out: Path, config: dict[str, Any], trust: bool) -> dict[str, Any]:
    """Return the options of the run in ``out``; none if it is of another algorithm or environment, for which train raises."""
    if (config["algorithm"], config["env"]) != (args.algorithm, args.env):
        return {}
    try:
        runs.rebuild(config, trust=trust)
        return runs.options_of(config)
    except (ValueError, TypeError, ImportError) as error:
        raise RunError(f"{runs.Folder(out).config}: cannot make the algorithm again: {error}") from None


_COMMANDS = {
    "train": _train, "sweep": sweep, "evaluate": _evaluate, "video": _video, "plot": _plot, "report": report, "record": _record,
    "envs": _envs,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
