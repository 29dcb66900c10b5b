"""``python -m funrl plot`` and ``report``: pictures of runs and of sweeps, and pages about runs, from the command line."""

import argparse
from pathlib import Path

import numpy as np

from funrl import populations, random, record, runs
from funrl._arguments import UsageError, usage
from funrl._files import say
from funrl.populations import Table
from funrl.runs import Folder


def plot(args: argparse.Namespace, out: Path) -> None:
    """Draw the learning curves of runs; of one with hyperparameters, those of its configurations; and compare several sweeps.

    ``--over`` draws the returns of a sweep over its hyperparameters.
    """
    sweeps = [path for path in args.dirs if (Path(path) / "sweep.json").exists()]
    if sweeps and len(sweeps) < len(args.dirs):
        raise UsageError(f"{sweeps[0]} is a sweep, and not all of the others are; plot runs and sweeps in pictures of their own")
    with usage():
        if missing := [path for path in sweeps if not (Path(path) / "table.csv").exists()]:
            raise UsageError(f"{missing[0]}/table.csv: it is missing; wait until the sweep has ended")
        tables = {Path(path).resolve().name: populations.read_table(Path(path) / "table.csv") for path in sweeps}
        if len(args.dirs) == 1 and not sweeps and (table := _table_of(Folder(args.dirs[0]))) is not None:
            tables = {Path(args.dirs[0]).resolve().name: table}
        if args.over and len(tables) != 1:
            raise UsageError(
                f"--over: expected one sweep, or a run whose agents have hyperparameters of their own, got {len(args.dirs)} runs"
            )
        if not tables:
            _curves(args, out)
            return
        name, table = next(iter(tables.items()))
        if len(tables) > 1:
            record.comparison(random.key(0), _scores(tables), out)
        elif args.over:
            record.hyperparameters(table, out, title=name)
        else:
            record.configurations(random.key(0), table, out, title=name)
    say(f"{out}: {len(next(iter(tables.values())).keys)} agents" if len(tables) == 1 else f"{out}: {len(tables)} sweeps")


def report(args: argparse.Namespace) -> None:
    """Write one page about runs, with the films in their folders."""
    folders = _labelled(args.dirs)
    out = next(iter(folders.values())).path / "report.html" if len(folders) == 1 else Path("report.html")
    out = out if args.out is None else Path(args.out)
    with usage():
        found = {name: _record(folder) for name, folder in folders.items()}
        record.report(random.key(0), found, out)
    films = sum(len(run.films) for run in found.values())
    shown = f"{films} film{'s' if films > 1 else ''}" if films else "no films; python -m funrl video DIR makes one"
    say(f"{out}: {len(found)} run{'s' if len(found) > 1 else ''}, {shown}")


def _record(folder: Folder) -> record.RunRecord:
    config = runs.read_config(folder.path)
    if not folder.metrics.exists():
        raise UsageError(f"{folder.metrics}: it is missing; wait for the first update of the run")
    films = sorted(path for path in folder.path.iterdir() if path.suffix.lower() in (".mp4", ".gif") and not path.name.startswith("."))
    return record.RunRecord(config, record.read_metrics(folder.metrics), folder.read_evaluation(), films)


def _labelled(dirs: list[str]) -> dict[str, Folder]:
    """Return the folders by their names, or by their paths if two have one name."""
    folders = [Folder(path) for path in dirs]
    distinct = len({folder.path.resolve().name for folder in folders}) == len(folders)
    return {folder.path.resolve().name if distinct else str(folder): folder for folder in folders}


def _curves(args: argparse.Namespace, out: Path) -> None:
    folders = _labelled(args.dirs)
    titles = {runs.read_config(folder.path)["env"] for folder in folders.values()}
    with usage():
        curves = {name: record.read_metrics(folder.metrics) for name, folder in folders.items()}
        record.learning_curves(random.key(0), curves, out, title=titles.pop() if len(titles) == 1 else "")
    say(f"{out}: {len(curves)} run{'s' if len(curves) > 1 else ''}")


def _table_of(folder: Folder) -> Table | None:
    """Return the table of a run whose agents began with hyperparameters of their own; None of another run."""
    config = runs.read_config(folder.path)
    if "hparams" not in config or not folder.metrics.exists():
        return None
    columns = {name: x.reshape(-1, config["num_agents"]) for name, x in record.read_metrics(folder.metrics).items()}
    curves = columns.get("episode_return", np.full(columns["update"].shape, np.nan)).T
    hparams = {name: np.array([float(x) for x in some]) for name, some in config["hparams"].items()}
    keys, count = np.zeros(config["num_agents"], dtype=np.int64), len(columns["update"])
    return populations.join([(hparams, keys, columns["steps"][:, 0], curves, np.zeros(len(keys) if count else 0, dtype=np.int64))])


def _scores(tables: dict[str, Table]) -> dict[str, np.ndarray]:
    """Return the scores [runs, 1] of each sweep; agents that diverged count as the worst of all."""
    known = np.concatenate([table.scores[~np.isnan(table.scores)] for table in tables.values()])
    if not len(known):
        raise ValueError("no agent of these sweeps has a score, as all diverged or none finished an episode")
    return {name: record.score_matrix({name: table}, diverged=float(known.min())) for name, table in tables.items()}
