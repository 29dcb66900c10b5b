"""The pages of the site: their programs run, their commands exist, and each is reached from the front page."""

import re
import shlex
import sys
from pathlib import Path

import pytest

import funrl
from funrl.__main__ import _COMMANDS
from funrl._arguments import parser

PAGES = Path(funrl.__file__).parent / "docs"
NAMES = sorted(path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md") if "notebooks" not in path.parts)
TEXTS = {name: (PAGES / name).read_text(encoding="utf-8") for name in NAMES}
# Pages whose programs take a second or two run each day; the others, which train, each night.
EACH_DAY = {"thinking_in_functions.md", "in_a_notebook.md", "errors.md", "recipes/weights.md", "for_jax.md", "recipes/transform.md"}


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXTS[name], flags=re.MULTILINE | re.DOTALL)


def test_there_are_programs_and_no_other_kinds_of_blocks():
    kinds = {kind for text in TEXTS.values() for kind in re.findall(r"^```(\S+)", text, flags=re.MULTILINE)}
    assert {kind for kind in kinds if not kind.startswith("{")} == {"python", "bash", "text"}
    assert len(NAMES) > 25 and EACH_DAY <= set(NAMES) and sum(bool(blocks(name, "python")) for name in NAMES) > 18


def page(name):
    return pytest.param(name, marks=[] if name in EACH_DAY else [pytest.mark.nightly])


@pytest.mark.slow
@pytest.mark.parametrize("name", [page(name) for name in NAMES if blocks(name, "python")])
def test_its_programs_run(name, tmp_path, monkeypatch, capsys):
    """All blocks of a page, in order, as one program in an empty folder; blocks of output show what was printed."""
    for package in ("onnx", "wandb", "optuna", "mujoco", "dm_control"):
        if re.search(rf"extra `{package}`", TEXTS[name]):
            pytest.importorskip("onnxruntime" if package == "onnx" else package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["page"])
    names = {"__name__": "page"}
    for number, block in enumerate(blocks(name, "python")):
        exec(compile(block, f"{name}, block {number}", "exec"), names)
    printed = capsys.readouterr().out
    for shown in re.findall(r"^```python\n[^`]*?^```\n\n```text\n(.*?)^```$", TEXTS[name], flags=re.MULTILINE | re.DOTALL):
        assert shown in printed, f"{name}: the page shows\n{shown}\nbut its programs print\n{printed}"


@pytest.mark.parametrize("name", NAMES)
def test_its_commands_are_commands(name):
    lines = [line for block in blocks(name, "bash") for line in block.splitlines() if "python -m funrl " in line]
    for line in lines:
        words = shlex.split(line.split("python -m funrl ")[1].split(" && ")[0], comments=True)
        assert callable(parser(_COMMANDS).parse_args(words).command)


def test_every_page_is_reached_from_the_front():
    tables = re.findall(r"```\{toctree\}\n(.*?)```", "\n".join(TEXTS.values()), flags=re.DOTALL)
    listed = {line.strip().rpartition("/")[2] for table in tables for line in table.splitlines() if line and not line.startswith(":")}
    assert {Path(name).stem for name in NAMES} - {"index"} <= listed
