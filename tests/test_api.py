"""``funrl/API.md`` holds every public name with the first lines of its docstring. ``python tests/test_api.py`` writes it."""

import importlib
import inspect
import json
import re
import runpy
from pathlib import Path
from types import ModuleType

import funrl

FILE = Path(funrl.__file__).parent / "API.md"
COMMAND = "python tests/test_api.py"
IMPORTS = runpy.run_path(str(Path(__file__).with_name("test_imports.py")))


def line(value, what):
    """The first paragraph of a docstring in one line."""
    doc = inspect.getdoc(value)
    assert doc, f"{what} has no docstring"
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(doc.split("\n\n")[0].split()))
    return text.replace("``", "`").replace("|", "\\|")


def documented(value):
    """Return whether a value is a function or class of funrl, which has a docstring; the others are constants and types."""
    return (inspect.isroutine(value) or inspect.isclass(value)) and value.__module__.startswith("funrl")


def kind_of(value):
    """The kind of a constant or type, in a word."""
    return re.sub(r"[\w.]+\.(\w+)", r"\1", str(value)) if callable(value) else type(value).__name__


def public_of(module, seen):
    """A module with the public names in it that no module before it has, then the modules among them."""
    seen.add(id(module))
    own, below = [], []
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, ModuleType):
            below += [] if id(value) in seen else public_of(value, seen)
        elif id(value) not in seen:
            seen.add(id(value))
            own.append(name)
    return [(module, own), *below] if own else below


def public():
    """Every module of funrl that has public names, with these names; a name stands once. The documentation site is made of them too."""
    seen: set[int] = set()
    found = public_of(funrl, seen)
    for file, name in IMPORTS["MODULES"].items():
        module = importlib.import_module(name)
        if file != "__main__.py" and not IMPORTS["is_inner"](file) and hasattr(module, "__all__"):
            found += public_of(module, seen)
    return found


def section(module, names):
    """A heading, and a row for each public name."""
    rows = []
    for name in names:
        value = getattr(module, name)
        rows.append(f"| `{name}` | {line(value, f'{module.__name__}.{name}') if documented(value) else f'`{kind_of(value)}`'} |")
    return ["", f"## {module.__name__}", "", line(module, module.__name__), "", "| | |", "|---|---|", *rows]


def operators():
    """Which of the operators of torch's OpInfo compile for XLA, as tests/compiler/operators.json says."""
    known = json.loads((Path(__file__).parent / "compiler" / "operators.json").read_text())
    right = {name: x["right"] for name, x in known.items() if x["right"] and "faults" not in x}
    kinds = sorted({tuple(x) for x in right.values()}, key=lambda x: (-len(x), x))
    rest = {name: x["faults"][0] if "faults" in x else "no dtype of these" for name, x in known.items() if name not in right}
    lines = ["", "## Operators that compile for XLA", ""]
    lines.append(
        f"Of the {len(known)} operators of torch's `op_db` {len(right)} agree with torch on its samples, forward, on the dtypes float32, "
        "float64, int64, uint8 and bool as far as torch has them (`python -m tests.compiler.operators` tries them all). Any other function "
        "of torch compiles that is written in terms of these."
    )
    lines += ["", "| dtypes | operators |", "|---|---|"]
    for kind in kinds:
        lines.append(f"| {', '.join(kind)} | {', '.join(f'`{name}`' for name, x in sorted(right.items()) if tuple(x) == kind)} |")
    lines += ["", "These do not, or not wholly:", "", "| | |", "|---|---|"]
    lines += [f"| `{name}` | {' '.join(text.split())[:160].replace('|', '/')} |" for name, text in sorted(rest.items())]
    return lines


def document():
    lines = ["# Every public name of funrl", "", f"Made by `{COMMAND}`; a test keeps it true. What a module hands on stands there only."]
    lines += [line for module, names in public() for line in section(module, names)]
    return "\n".join([*lines, *operators(), ""])


def test_it_is_true():
    assert FILE.read_text() == document(), f"funrl/API.md is not what the docstrings say: run {COMMAND}"


def test_it_holds_names_of_all_depths():
    text = document()
    assert all(f"## funrl.{name}\n" in text for name in funrl.__all__ if isinstance(getattr(funrl, name), ModuleType))
    assert "| `scan` | Run `carry, y" in text and "| `gae` | Estimate advantages" in text and "## funrl.algos.ppo\n" in text
    assert "| `to_gymnasium` |" in text and "## funrl.envs._" not in text


if __name__ == "__main__":
    FILE.write_text(document())
