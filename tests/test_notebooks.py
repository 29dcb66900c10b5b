"""The notebooks: they run from top to bottom, use public names only, and are committed as they ran."""

import ast
import base64
import importlib
import json
import types
from pathlib import Path

import pytest

import funrl

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
OTHERS = {"dataclasses", "gymnasium", "gymnasium.utils.env_checker", "math", "matplotlib.pyplot", "numpy", "time", "torch", "torch.func"}
LARGEST = 400_000  # bytes of a notebook


def cells(name):
    return [cell for cell in json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def public(module, name):
    """Return whether ``name`` is in the module's ``__all__``, or a file of it that users see."""
    if name in module.__all__:
        return True
    return not name.startswith("_") and isinstance(getattr(module, name, None), types.ModuleType)


def private_names(program):
    """The names of funrl in a program that are not public, and the modules that it imports but should not."""
    tree, modules, wrong = ast.parse(program), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "funrl":
                    modules[alias.asname or "funrl"] = importlib.import_module(alias.name) if alias.asname else funrl
                elif alias.name not in OTHERS:
                    wrong.append(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "funrl":
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not public(module, alias.name):
                    wrong.append(f"{node.module}.{alias.name}")
                elif isinstance(getattr(module, alias.name), types.ModuleType):
                    modules[alias.asname or alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module not in OTHERS:
            wrong.append(node.module)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        if node.attr.startswith("_") and node.attr != "_replace" and not node.attr.startswith("__"):
            wrong.append(node.attr)
        path = dotted(node)
        module = modules.get(path[0])
        for name in path[1:]:
            if module is None:
                break
            if not public(module, name):
                wrong.append(f"{module.__name__}.{name}")
                break
            value = getattr(module, name)
            module = value if isinstance(value, types.ModuleType) and value.__name__.startswith("funrl") else None
    return wrong


def dotted(node):
    """The names in ``a.b.c``, or a list of an empty one where what is before the first dot is no name."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else [""]


def kinds(cell):
    """Return the kinds of the outputs of a cell in order, without warnings."""
    shown = []
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            shown += ["text"] if output["name"] == "stdout" and shown[-1:] != ["text"] else []
        else:
            shown.append("picture" if "image/png" in output["data"] else "value")
    return shown


def test_there_are_eight():
    assert NOTEBOOKS == [
        f"{name}.ipynb" for name in "compile_everything ensembles from_gymnasium meta off_policy offline tour your_own".split()
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_imports_public_names_only(name):
    assert private_names("\n".join(source(cell) for cell in cells(name))) == []


def test_the_check_sees_private_names():
    program = """
import torch, os
import funrl
from funrl import envs, random
from funrl.buffers import _ring
from torch._inductor import config
envs._checks.check_action, envs.gymnasium.make, envs.gymnasium._bridge, funrl.nowhere, random.key, funrl.algos.episodes.start
envs.make("CartPole-v1")._replace(name="x"), random._splitmix.mix
"""
    names = ["os", "torch._inductor", "funrl.buffers._ring", "funrl.envs._checks", "funrl.envs.gymnasium._bridge", "funrl.nowhere"]
    assert set(private_names(program)) == {*names, "funrl.random._splitmix", "_splitmix", "_bridge", "_checks"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_committed_as_it_ran(name):
    """In order, without an error, with its outputs, and with nothing that changes from run to run for no reason."""
    notebook = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    ran = cells(name)
    assert [cell["execution_count"] for cell in ran] == list(range(1, len(ran) + 1))
    for cell in ran:
        assert all(output["output_type"] in ("stream", "display_data", "execute_result") for output in cell["outputs"])
        shows = any(word in source(cell) for word in ("print(", "plt.show()"))
        assert not shows or kinds(cell) or "def " in source(cell), source(cell)
    assert any(kinds(cell) for cell in ran)
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"} and notebook["metadata"]["language_info"] == {"name": "python"}
    assert (FOLDER / name).stat().st_size <= LARGEST


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_its_pictures_are_pictures(name):
    for cell in cells(name):
        for output in cell["outputs"]:
            picture = output.get("data", {}).get("image/png")
            assert picture is None or base64.b64decode(picture).startswith(b"\x89PNG")


EACH_DAY = {"tour.ipynb"}  # the parts of learners in your_own.ipynb are in tests/algos/test_arguments.py too


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.nightly] * (name not in EACH_DAY)) for name in NOTEBOOKS])
def test_it_runs(name, tmp_path):
    """From top to bottom, in a process of its own; each cell shows what the committed one does: text where there is text, pictures where
    there are pictures."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [kinds(cell) for cell in ran] == [kinds(cell) for cell in cells(name)]
