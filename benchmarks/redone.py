"""The programs of funrl/docs/redone beside those that they redo: the returns of training, after equal numbers of environment steps.

    python -m benchmarks.redone PAGE [--seeds 0 1 2] [--total STEPS]
    python -m benchmarks.redone PAGE --peers PYTHON [--cleanrl FOLDER]

Without ``--peers`` a page's own program runs, up to its training, with more steps; with it, the program that it redoes, in another
interpreter. TorchRL's tutorials are written again with its parts in ``redone_peers.py``. CleanRL's files are those of its wheel 1.2.0,
unpacked in a folder, with gymnasium 0.29.1, for which they were written. A result is the mean return of the episodes that ended in the
last fifth of the training, with its exploration. Each is kept as it comes in ``results/redone.jsonl``; ``redone.md`` is made of it.
"""

import argparse
import json
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.history import RESULTS

PAGES = Path(__file__).parents[1] / "funrl" / "docs" / "redone"
KEPT, TABLE = RESULTS / "redone.jsonl", RESULTS / "redone.md"
# The steps of a comparison, the constant of a page that says how many, and the peer: a file of CleanRL with its options, or a tutorial.
CASES: dict[str, tuple[int, str, str, list[str]]] = {
    "cleanrl_dqn": (200_000, "TOTAL", "dqn.py", []),
    "cleanrl_ppo": (250_000, "TOTAL", "ppo_continuous_action.py", ["--env-id", "HalfCheetah-v4"]),
    "torchrl_ppo": (50_000, "FRAMES", "", []),
    "torchrl_ddpg": (25_000, "FRAMES", "", []),
}
LATE = 0.8  # of the training


def program(page: str, total: int) -> str:
    """Return the program of a page, up to its last training, with another number of steps."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (PAGES / f"{page}.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    text = "\n".join(blocks)
    constant = CASES[page][1]
    text, count = re.subn(rf"^{constant} = [\d_]+", f"{constant} = {total}", text, flags=re.MULTILINE)
    assert count == 1, f"{page}: expected one line {constant} = ..., got {count}"
    *head, _ = re.split(r"^(?:with .*:\n    )?result = ", text, flags=re.MULTILINE)
    return "result = ".join(head)


def ours(page: str, total: int, seed: int) -> float:
    """Train with the algorithm of a page."""
    import numpy as np

    import funrl

    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(program(page, total), f"{page}.md", "exec"), names)
    with tempfile.TemporaryDirectory() as folder, names["algo"].env:
        funrl.train(names["algo"], funrl.random.key(seed), total, out=f"{folder}/run", evaluate_episodes=0, progress=False)
        rows = funrl.record.read_metrics(f"{folder}/run/metrics.csv")
    late = rows["episode_return"][rows["steps"] > LATE * total]
    return float(np.nanmean(late))


def theirs(page: str, total: int, seed: int, peers: str, cleanrl: str) -> float:
    """Run the program that a page redoes, and read what it prints: the step and the return of each episode."""
    _, _, file, options = CASES[page]
    command = [peers, "-W", "ignore"]
    if file:
        command += [str(Path(cleanrl).resolve() / file), *options, "--total-timesteps", str(total), "--seed", str(seed)]
    else:
        command += [str(Path(__file__).with_name("redone_peers.py")), page, str(total), str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2_000:])
    found = [(int(step), float(x)) for step, x in re.findall(r"global_step=(\d+), episodic_return=\[?([-\d.e]+)", done.stdout)]
    return statistics.fmean(x for step, x in found if step > LATE * total)


def write() -> None:
    """Make the table from all results."""
    runs = [json.loads(line) for line in KEPT.read_text().splitlines()]
    lines = [
        *(
            "# Programs that were redone",
            "",
            "By `python -m benchmarks.redone`, as it came: mean returns of the episodes that ended in the last",
        ),
        *("fifth of the training, of each seed.", "", "| page | steps | whose | returns | mean | measured |", "|---|---|---|---|---|---|"),
    ]
    for page, total, whose in dict.fromkeys((run["page"], run["total"], run["whose"]) for run in runs):
        some = {run["seed"]: run for run in runs if (run["page"], run["total"], run["whose"]) == (page, total, whose)}
        scores = [run["score"] for run in some.values()]
        day = max(run["date"] for run in some.values())
        shown = ", ".join(f"{x:.0f}" for x in scores)
        lines.append(f"| {page} | {total:,} | {whose} | {shown} | {statistics.fmean(scores):.0f} | {day} |")
    TABLE.write_text("\n".join([*lines, ""]))


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redone", description=__doc__.splitlines()[0])
    parser.add_argument("page", choices=CASES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--total", type=int, help="environment steps (default: those of the table)")
    parser.add_argument("--peers", metavar="PYTHON", help="run the program that the page redoes, with this interpreter")
    parser.add_argument("--cleanrl", metavar="FOLDER", default="cleanrl", help="the files of CleanRL")
    given = parser.parse_args()
    total = given.total or CASES[given.page][0]
    whose = "funrl" if given.peers is None else "CleanRL" if CASES[given.page][2] else "TorchRL"
    for seed in given.seeds:
        start = time.perf_counter()
        score = ours(given.page, total, seed) if whose == "funrl" else theirs(given.page, total, seed, given.peers, given.cleanrl)
        seconds = round(time.perf_counter() - start)
        line = {"page": given.page, "total": total, "whose": whose, "seed": seed, "score": score, "date": time.strftime("%Y-%m-%d")}
        print(line, f"{seconds} s", flush=True)
        with open(KEPT, "a") as file:
            file.write(json.dumps(line) + "\n")
        write()


if __name__ == "__main__":
    main()
