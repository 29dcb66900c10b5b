"""``python -m funrl sweep``: agents with different hyperparameters from the command line."""

import argparse
from pathlib import Path
from typing import Any

from funrl import algos, populations, random, training
from funrl._arguments import UsageError, run_folder, usage, values_of
from funrl._files import say
from funrl.runs import RunError

# The arguments that say what a sweep is; a resumed one has them in its notes.
_KEPT = ("algorithm", "env", "num_agents", "seeds", "set", "method", "total_steps", "seed")


def sweep(args: argparse.Namespace) -> None:
    """Train the agents of a sweep, or go on with one, and print the best configuration."""
    given = {name: getattr(args, name) for name in _KEPT if getattr(args, name) is not None}
    out = None if args.out is None else Path(args.out)
    if args.resume:
        if out is None and not ("algorithm" in given and "env" in given):
            raise UsageError("--out: expected the folder of the sweep to resume, or its algorithm and --env")
        out = _folder(given, last=True) if out is None else out
        old = training.read_sweep(out)["notes"]
        for name, value in given.items():
            if old.get(name) != value:
                flag = name if name == "algorithm" else f"--{name.replace('_', '-')}"
                raise RunError(f"{out}: cannot resume: the sweep there has {flag} {old.get(name)!r}, not {value!r}; leave it out")
        given = {name: old[name] for name in _KEPT if name in old}
    missing = [flag for flag, name in (("algorithm", "algorithm"), ("--env", "env"), ("--set", "set")) if name not in given]
    if missing:
        raise UsageError(f"the following arguments are required: {', '.join(missing)}; see python -m funrl sweep --help")
    several, steps, key = _populations(given)
    out = _folder(given, last=False) if out is None else out
    options: dict[str, Any] = {} if args.backend is None else {"backend": args.backend}
    table = training.train_populations(several, key, steps, out=out, resume=args.resume, chunk=args.chunk, notes=given, **options)
    lost = int((table.diverged > 0).sum())
    try:
        best = ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in table.best().items())
    except ValueError as error:
        best = str(error).removeprefix("best: ")
    say(f"{len(table.keys)} agents, {lost} diverged; best: {best}; see {out / 'table.csv'}")


def _populations(given: dict[str, Any]) -> tuple[list[populations.Population], int, Any]:
    """Return the populations, the steps of an agent and the key that the arguments ask for."""
    name, env = given["algorithm"], given["env"]
    with usage():
        defaults = algos.defaults(name)
        hparams = populations.hparam_names(algos.make(name, env))
        preset = training.preset(name, env)
        steps = given.get("total_steps", preset.total_steps)
        parsed = [values_of(text, defaults, hparams) for text in given["set"]]
        chosen: dict[str, dict[str, Any]] = {kind: {} for kind in ("space", "static", "fixed")}
        for option, kind, value in parsed:
            if any(option in some for some in chosen.values()):
                raise UsageError(f"--set {option}: expected once, got it twice; leave one out")
            chosen[kind][option] = value
        algo = algos.make(name, env, **{**preset.options_over(steps), **chosen["fixed"]})
        made = populations.by_value(algo, chosen["static"]) if chosen["static"] else [algo]
        several = [_population(one, chosen["space"], given) for one in made]
        return several, steps, random.key(given.get("seed", 0))


def _population(algo: algos.Algorithm, space: dict[str, Any], given: dict[str, Any]) -> populations.Population:
    seeds, method, count = given.get("seeds", 1), given.get("method", "random"), given.get("num_agents")
    if not space:
        if method == "pbt":
            raise UsageError("--method pbt: expected a range or choices of a hyperparameter in --set, got none")
        return populations.seeds(algo, seeds if count is None else count)
    if count is None:
        raise UsageError("--num-agents: expected the number of agents in all; 64 with --seeds 4 are 16 configurations")
    if method == "pbt":
        return populations.pbt(algo, space, count)
    return populations.sweep(algo, space, count, method=method, num_seeds=seeds)


def _folder(given: dict[str, Any], *, last: bool) -> Path:
    return run_folder("sweep", given["algorithm"], given["env"], seed=given.get("seed"), last=last)
