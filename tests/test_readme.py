"""The README: its programs run, and its names and links exist."""

import functools
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import funrl

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_first_program_runs(monkeypatch, capsys):
    (program,) = blocks("python")
    assert program.count("range(60)") == 1
    monkeypatch.setattr(funrl, "compile", functools.partial(funrl.compile, backend="aot_eager"))
    names = {"__name__": "readme"}
    exec(compile(program.replace("range(60)", "range(2)"), "README.md", "exec"), names)
    assert names["metrics"]["episode_return"].shape == (8,)
    printed = capsys.readouterr().out
    assert re.fullmatch(r"tensor\(\[[^\[\]]*\]\)", printed.strip()) and printed.count(",") == 7
    assert names["states"].learner.num_steps.tolist() == [2 * names["algo"].steps_per_update] * 8


@pytest.mark.slow
def test_agent_with_own_network_trains(tmp_path, capsys):
    (program,) = blocks("py")
    assert program.count("500_000") == 1
    short = program.replace("500_000", "16_384").replace('out="runs/mine"', f'out="{tmp_path}", backend="eager", progress=False')
    names = {"__name__": "__main__"}
    exec(compile(short, "README.md", "exec"), names)
    assert re.fullmatch(r"tensor\([\d.]+\)", capsys.readouterr().out.strip())
    names |= {"funrl": funrl, "observation": torch.zeros(4), "my_agent": SimpleNamespace(algo=names["algo"])}
    (reading,) = [block for block in blocks("") if "load_run" in block]
    exec(reading.replace("runs/mine", str(tmp_path)), names)
    assert names["action"] in (0, 1)


@pytest.mark.nightly
@pytest.mark.parametrize("way, processes, steps", [("data_parallel(", 2, "200_000"), ("distributed.actors(", 3, "100_000")])
def test_programs_of_several_processes_run(way, processes, steps, tmp_path):
    """Each starts as the text says, here for fewer steps."""
    (program,) = [block for block in blocks("") if way in block]
    assert program.count(steps) == 1
    file = tmp_path / "program.py"
    file.write_text(program.replace(steps, "16_384"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", str(file)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r"tensor\([\d.]+\)( tensor\([\d.]+\))?", ended.stdout.strip()), ended.stdout


@pytest.mark.nightly
def test_lines_for_ray_run(tmp_path):
    """With the environment and the learner of the program before them, here for fewer steps. Ray takes ten seconds to start."""
    pytest.importorskip("ray")
    (lines,) = [block for block in blocks("") if "collectors.ray(" in block]
    (before,) = [block for block in blocks("") if "distributed.actors(" in block]
    start = before.split("    with distributed.actors(")[0].replace("distributed.join() as group, ", "")
    assert lines.count("100_000") == 1 and start.count("create_env() as env") == 1
    file = tmp_path / "program.py"
    file.write_text(
        f"{start}{textwrap.indent(lines.replace('100_000', '16_384'), '    ')}    print(result.evaluation.episode_return.mean())\n"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    ended = subprocess.run([sys.executable, file], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r"tensor\([\d.]+\)", ended.stdout.strip().splitlines()[-1]), ended.stdout


def test_names_in_the_torchrl_table_exist():
    table = TEXT.split("## For those who know TorchRL")[1].split("\n## ")[0]
    ours = [row.split("|")[2] for row in table.splitlines() if row.startswith("| ") and not row.startswith("| TorchRL")]
    names = [name for cell in ours for name in re.findall(r"[a-z]+(?:\.\w+)+", re.sub(r'"[^"]*"', "", cell))]
    checked = 0
    for name in names:
        parts = name.removeprefix("funrl.").split(".")
        if parts[0] in funrl.__all__ and parts[0] != "env":  # that is a value in the table
            checked += 1
            functools.reduce(getattr, parts, funrl)
    assert len(ours) > 30 and checked > 60


def test_messages_in_the_table_of_errors_are_those_that_come():
    table = TEXT.split("## Errors that you may meet")[1].split("\n## ")[0]
    quoted = re.findall(r"^\| `(.*?)` \|", table, flags=re.MULTILINE)
    key, env = funrl.random.key(0), funrl.envs.make("CartPole-v1")
    algo = funrl.algos.a2c.make(env, num_envs=2, num_steps=4, num_cells=(4,))
    agent, (state, _) = algo.init(key), env.reset(key)
    compiled = functools.partial(funrl.compile, backend="aot_eager")

    def step(key, state):
        return state + 1

    step = compiled(step, donate=1)
    step(key, given := torch.zeros(3))
    power, x = compiled(lambda x, n: x + n), torch.zeros(2)
    mistakes = [
        lambda: funrl.random.normal(0),
        lambda: funrl.random.normal(funrl.random.split(key, 8)),
        lambda: env.step(key, state, torch.tensor(1.0)),
        lambda: env.observation_space.check(torch.zeros(16, 4), "observation"),
        lambda: algo.greedy(agent.learner.params, key, torch.zeros(4).numpy()),
        lambda: algo.greedy(agent, key, torch.zeros(4)),
        lambda: funrl.rollout(None, key, state, env.default_params, env=env, num_steps=2),
        lambda: funrl.scan(lambda c, x: (c + 0.5, x), torch.tensor(1), torch.ones(3)),
        lambda: funrl.scan(lambda c, x: (c + x, x), 1.0, torch.ones(3)),
        lambda: step(key, given),
        lambda: compiled(lambda x: x.sum().item())(x),
        lambda: compiled(lambda x: x + torch.randn(2))(x),
        lambda: compiled(lambda x: x.add_(1))(x),
        lambda: [power(x, n) for n in range(65)],
        lambda: funrl.distributed.join(variables={"RANK": "0", "WORLD_SIZE": "2"}).__enter__(),
        lambda: funrl.algos.ppo.make(env, gama=0.9),
    ]
    for mistake in mistakes:
        with pytest.raises(Exception) as caught:
            mistake()
        known = [row for row in quoted if re.search(".*".join(map(re.escape, re.split(r" ?\.\.\. ?", row))), str(caught.value))]
        assert known, f"the table has no row for: {caught.value}"


def test_linked_files_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert len(links) > 8 and [link for link in links if not (ROOT / link).exists()] == []


def test_first_program_is_short_and_there_are_two_commands():
    assert [len(program.splitlines()) <= 15 for program in blocks("python")] == [True]
    assert blocks("bash") == [
        'pip install -e ".[plot,video,xla]" && python -m funrl train ppo --env CartPole-v1\n',
        'pip install -e ".[test]" && pytest\n',
    ]
