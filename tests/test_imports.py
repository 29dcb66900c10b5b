"""The architecture: what may import what, read from the source."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import funrl

ROOT = Path(funrl.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

# A file stands on the floor of its first name; a folder's files share their floor.
FLOORS = {
    "names": 0,
    "random": 0,
    "tree": 0,
    "codegen": 0,
    "program": 0,
    "replay": 0,
    "spaces": 1,
    "distributions": 1,
    "nn": 1,
    "optim": 1,
    "stats": 1,
    "returns": 1,
    "buffers": 1,
    "env": 2,
    "losses": 2,
    "policies": 2,
    "envs": 3,
    "transforms": 3,
    "interaction": 4,
    "collectors": 4,
    "algos": 5,
    "record": 6,
    "checkpoint": 6,
    "training": 6,
    "__main__": 6,
    "__init__": 7,
}
# The last floor stands in this order.
LAST = ["__main__", "training", "record", "checkpoint"]
# Who may import whom on one floor; in a folder, which of its files the others stand on.
SIBLINGS = {
    ("program", "tree"),
    ("program", "codegen"),
    ("program", "replay"),
    ("replay", "tree"),
    ("collectors", "interaction"),
    *((a, b) for i, a in enumerate(LAST) for b in LAST[i + 1 :]),
}
SHARED = {
    "algos": {"actor_critic", "algorithm", "ddpg", "episodes", "images", "networks", "off_policy", "on_policy", "sac"},
    "buffers": {"buffer", "episodes", "journal", "order", "priorities", "ring", "sums"},
    "collectors": {"collector", "fleet", "ledger", "memory", "traced", "worker"},
    "distributions": {"checks", "discrete", "squash"},
    "envs": {"checks", "draw", "grid", "gymnasium", "hill"},
    "losses": {"actor_critic", "checks", "dqn", "sac"},
    "nn": {"initializers", "mlp", "net", "norm"},
    "policies": {"policy"},
    "record": {"aggregate", "locks", "metrics"},
    "returns": {"checks", "recurrence", "td"},
    "training": {"agents", "experience", "hooks", "interrupt", "log", "runs"},
    "transforms": {"core", "parts"},
    "tree": {"checks", "files", "names", "nodes"},
}
# Files that serve their own folder only, so that no user sees their functions.
INNER = {
    *(f"buffers/{name}.py" for name in ("buffer", "episodes", "journal", "order", "priorities", "ring", "sums")),
    *(f"collectors/{name}.py" for name in ("fleet", "memory", "traced", "worker")),
    "distributions/checks.py",
    "distributions/squash.py",
    "envs/checks.py",
    "envs/draw.py",
    *(f"envs/gymnasium/{name}.py" for name in ("bridge", "drivers", "spaces", "wrappers")),
    "envs/grid.py",
    "envs/hill.py",
    "envs/minatar/screen.py",
    "losses/checks.py",
    "nn/net.py",
    "policies/policy.py",
    "returns/checks.py",
    "record/locks.py",
    *(f"training/{name}.py" for name in ("agents", "experience", "interrupt", "log")),
    "transforms/parts.py",
    "tree/checks.py",
    "tree/files.py",
}
PRIVATE_TORCH = {"program.py": None, "codegen.py": None, "replay.py": {"torch._foreach_copy_"}, "tree/nodes.py": {"torch.utils._pytree"}}


def modules():
    names = []
    for file in FILES:
        parts = file.removesuffix(".py").split("/")
        names.append(".".join(["funrl", *(parts[:-1] if parts[-1] == "__init__" else parts)]))
    return names


MODULES = dict(zip(FILES, modules(), strict=True))


def imports(file):
    """Names of the modules that a file imports; ``from funrl.a import b`` counts as funrl.a.b where that is a module."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write the whole name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES.values() or node.module == "torch" or node.module.startswith("torch.") else node.module)
    return found


def floor(module):
    return FLOORS[module.split(".")[1]] if "." in module else FLOORS["__init__"]


def allowed(file, target):
    """Whether ``file`` may import the module ``target`` of funrl."""
    module = MODULES[file]
    mine, theirs = module.split(".")[1:], target.split(".")[1:]
    if not mine:
        return True
    if not theirs:
        return mine[0] == "__main__"
    if mine[0] != theirs[0]:
        return floor(target) < floor(module) or (floor(target) == floor(module) and (mine[0], theirs[0]) in SIBLINGS)
    if len(theirs) == 1:
        return False
    if len(mine) > 1 and len(theirs) > 2 and mine[1] == theirs[1]:
        return True  # a folder in a folder
    return file.endswith("__init__.py") or theirs[1] in SHARED.get(mine[0], ())


@pytest.mark.parametrize("file", FILES)
def test_imports_go_down(file):
    assert MODULES[file] == "funrl" or MODULES[file].split(".")[1] in FLOORS, (
        f"{file} stands on no floor: give it one in design.md and here"
    )
    wrong = sorted(target for target in imports(file) if target.split(".")[0] == "funrl" and not allowed(file, target))
    assert not wrong, f"{file} may not import {wrong}"


@pytest.mark.parametrize("file", FILES)
def test_only_program_and_tree_touch_private_torch(file):
    if PRIVATE_TORCH.get(file, ()) is None:
        return
    private = {name for name in imports(file) if name.split(".")[0] == "torch" and any(part.startswith("_") for part in name.split("."))}
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            text = ast.unparse(node)
            if text.startswith("torch."):
                private.add(text)
    assert private <= PRIVATE_TORCH.get(file, set()), f"{file} uses {sorted(private)}; those of torch are for program.py and codegen.py"


def test_the_checks_see_what_is_wrong():
    assert not allowed("random.py", "funrl.tree") and not allowed("stats.py", "funrl.env") and not allowed("stats.py", "funrl.optim")
    assert not allowed("envs/cartpole.py", "funrl.envs.pendulum") and not allowed("algos/algorithm.py", "funrl.algos.ppo")
    assert not allowed("algos/ppo.py", "funrl") and not allowed("envs/draw.py", "funrl.envs")
    assert allowed("program.py", "funrl.tree") and allowed("envs/cartpole.py", "funrl.envs.draw") and allowed("__init__.py", "funrl.algos")
    assert imports("algos/ppo.py") >= {"funrl.random", "funrl.algos.algorithm", "funrl.losses.ppo", "torch"}
    assert "torch._functorch.vmap.restore_vmap" in imports("program.py")


def test_no_junk_drawer_and_no_module_named_as_a_function():
    assert not [file for file in FILES if Path(file).stem in ("utils", "helpers", "common", "misc")]
    functions = {name for name in funrl.__all__ if inspect.isfunction(getattr(funrl, name))}
    assert functions >= {"scan", "compile", "rollout", "evaluate", "rand_step", "step_mdp"}
    assert not functions & {module.split(".")[1] for module in MODULES.values() if "." in module}


def public_functions():
    for file in FILES:
        if file in ("__init__.py", "__main__.py") or file in INNER:
            continue
        module = importlib.import_module(MODULES[file])
        for name in module.__all__ if hasattr(module, "__all__") else ():
            value = getattr(module, name, None)
            if inspect.isfunction(value) and value.__module__ == MODULES[file]:
                yield pytest.param(value, id=f"{MODULES[file]}.{name}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_every_public_function_shows_an_example(function):
    doc = inspect.getdoc(function)
    assert doc, "it has no docstring"
    assert ">>> " in doc, "its docstring has no example that runs"


@pytest.mark.parametrize("file", FILES)
def test_modules_say_what_they_are_and_what_is_public(file):
    tree = ast.parse((ROOT / file).read_text())
    assert ast.get_docstring(tree), "it has no docstring"
    if file == "__main__.py" or file in INNER:
        return
    module = importlib.import_module(MODULES[file])
    assert hasattr(module, "__all__"), "it has no __all__"
    assert all(hasattr(module, name) for name in module.__all__)
