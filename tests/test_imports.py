"""The architecture: what may import what, read from the source."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import funrl

ROOT = Path(funrl.__file__).parent
FILES = sorted(x for x in (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")) if not x.startswith("docs/"))

# A file stands on the floor of its first name; a folder's files share their floor.
FLOORS = {
    "_check": 0,
    "typing": 0,
    "_files": 0,
    "_across": 1,
    "_locks": 0,
    "random": 0,
    "tree": 0,
    "compiler": 1,
    "debug": 1,
    "spaces": 2,
    "distributions": 2,
    "nn": 2,
    "optim": 2,
    "schedules": 2,
    "stats": 2,
    "returns": 2,
    "buffers": 2,
    "env": 3,
    "losses": 3,
    "policies": 3,
    "envs": 4,
    "transforms": 4,
    "acting": 5,
    "collectors": 5,
    "algos": 6,
    "evolution": 6,
    "offline": 6,
    "populations": 6,
    "meta": 6,
    "checkpoint": 7,
    "distributed": 7,
    "record": 7,
    "runs": 7,
    "training": 7,
    "_arguments": 7,
    "_plot": 7,
    "_sweep": 7,
    "__main__": 7,
    "__init__": 8,
}
# The last floor stands in this order.
LAST = ["__main__", "_plot", "_sweep", "training", "runs", "record", "checkpoint", "distributed"]
# Who may import whom on one floor.
SIBLINGS = {
    ("_locks", "_files"),
    ("random", "_check"),
    ("tree", "_check"),
    ("tree", "_files"),
    ("debug", "compiler"),
    ("_plot", "_arguments"),
    ("_sweep", "_arguments"),
    ("collectors", "acting"),
    ("offline", "algos"),
    ("optim", "schedules"),
    ("algos", "evolution"),
    ("populations", "algos"),
    ("meta", "algos"),
    ("__main__", "_arguments"),
    *((a, b) for i, a in enumerate(LAST) for b in LAST[i + 1 :]),
}
# Public files of a folder that its other files may import; all else that they share is in files with an underscore.
SHARED = {
    "algos": {"episodes", "images", "off_policy", "on_policy"},
    "envs": {"gymnasium", "tasks"},
    "offline": {"bc", "datasets", "sac_n"},
    "training": {"hooks"},
}
PRIVATE_TORCH = {"compiler/_torch_private.py": None, "tree/_nodes.py": {"torch.utils._pytree"}}


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
    """Return whether ``file`` may import the module ``target`` of funrl."""
    module = MODULES[file]
    mine, theirs = module.split(".")[1:], target.split(".")[1:]
    if not mine:
        return True
    if not theirs:
        return mine[0] == "__main__"
    if mine[0] != theirs[0]:
        if len(theirs) > 1 and theirs[1].startswith("_") and mine[0] != "__main__":
            return False  # one door a room
        return floor(target) < floor(module) or (floor(target) == floor(module) and (mine[0], theirs[0]) in SIBLINGS)
    if len(theirs) == 1:
        return False
    if mine[0] == "compiler":
        return True
    if len(mine) > 1 and len(theirs) > 2 and mine[1] != theirs[1]:
        return False  # a folder in a folder
    return file.endswith("__init__.py") or theirs[1].startswith("_") or theirs[1] in SHARED.get(mine[0], ())


def is_inner(file):
    """Return whether a file serves its own folder only, as its name or that of a folder says."""
    return any(part.startswith("_") and not part.startswith("__") for part in file.split("/"))


def test_imports_go_down():
    homeless = [file for file in FILES if MODULES[file] != "funrl" and MODULES[file].split(".")[1] not in FLOORS]
    assert not homeless, f"{homeless} stand on no floor: give them one in design.md and here"
    wrong = {file: sorted(x for x in imports(file) if x.split(".")[0] == "funrl" and not allowed(file, x)) for file in FILES}
    assert not {file: targets for file, targets in wrong.items() if targets}


def private_names(file):
    """Private names of torch that a file spells, imported or reached through ``torch``."""
    private = {name for name in imports(file) if name.split(".")[0] == "torch" and any(part.startswith("_") for part in name.split("."))}
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            text = ast.unparse(node)
            if text.startswith("torch.") and not text.startswith("torch.ops."):  # an operator's name may begin so
                private.add(text)
    return private


def test_one_file_spells_private_names_of_torch():
    found = {file: private_names(file) - PRIVATE_TORCH.get(file, set()) for file in FILES if PRIVATE_TORCH.get(file, ()) is not None}
    assert not {file: names for file, names in found.items() if names}


def test_the_checks_see_what_is_wrong():
    assert not allowed("random/_keys.py", "funrl.tree") and not allowed("stats.py", "funrl.env") and not allowed("stats.py", "funrl.optim")
    assert not allowed("tree/_nodes.py", "funrl.compiler") and not allowed("compiler/_scan.py", "funrl.debug")
    assert not allowed("algos/_algorithm.py", "funrl.algos.ppo") and not allowed("algos/ppo.py", "funrl.algos.sac")
    assert not allowed("algos/ppo.py", "funrl") and not allowed("envs/_draw.py", "funrl.envs")
    assert not allowed("algos/ppo.py", "funrl.losses._ppo") and not allowed("envs/_maze.py", "funrl.envs._minatar._screen")
    assert allowed("compiler/_scan.py", "funrl.tree") and allowed("envs/_cartpole.py", "funrl.envs._draw")
    assert allowed("algos/ppo.py", "funrl.losses") and allowed("__init__.py", "funrl.algos")
    assert imports("algos/ppo.py") >= {"funrl.losses", "funrl.algos._algorithm", "funrl.algos.on_policy", "torch"}
    assert [
        lines_of_code(ast.parse(f"def f():\n    {text}\n    return 1").body[0]) for text in ('"""A."""', '"""A\n\n    b."""', "pass")
    ] == [2, 2, 3]
    assert "torch._functorch.vmap" in imports("compiler/_torch_private.py") and is_inner("compiler/_scan.py")


def test_no_junk_drawer_and_no_module_named_as_a_function():
    assert not [file for file in FILES if Path(file).stem in ("utils", "helpers", "common", "misc")]
    public = [MODULES[file] for file in FILES if file != "__main__.py" and not is_inner(file)]
    named = [name for name in public if inspect.isfunction(getattr(importlib.import_module(name), name.rsplit(".", 1)[-1], None))]
    assert len(public) > 35 and not named, f"{named} bear the name of a function in them"


def test_every_public_function_shows_an_example():
    bare = []
    for file in FILES:
        if file in ("__init__.py", "__main__.py") or is_inner(file):
            continue
        module = importlib.import_module(MODULES[file])
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name, None)
            here = inspect.isfunction(value) and (value.__module__ == MODULES[file] or is_inner(f"{value.__module__.split('.', 1)[1]}.py"))
            if here and ">>> " not in (inspect.getdoc(value) or ""):
                bare.append(f"{MODULES[file]}.{name}")
    assert not bare, f"{bare} have no example that runs"


def lines_of_code(function):
    """Return how many lines a function has without its docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)


def test_files_and_functions_are_short():
    """At most 400 lines for a file, and 60 for a function without its docstring; functions inside it count."""
    long = []
    for file in FILES:
        text = (ROOT / file).read_text()
        long += [f"{file}: {len(text.splitlines())} lines"] if len(text.splitlines()) > 400 else []
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        long += [f"{file}: {node.name}: {lines_of_code(node)} lines" for node in functions if lines_of_code(node) > 60]
    assert not long, f"{long}: split them by meaning"


def test_modules_say_what_they_are_and_what_is_public():
    silent = [file for file in FILES if not ast.get_docstring(ast.parse((ROOT / file).read_text()))]
    assert not silent, f"{silent} have no docstring"
    for file in FILES:
        if file == "__main__.py" or is_inner(file):
            continue
        module = importlib.import_module(MODULES[file])
        assert hasattr(module, "__all__"), f"{file} has no __all__"
        assert all(hasattr(module, name) for name in module.__all__), file


def test_doctests_of_a_room_that_comes_later_execute_no_module_twice():
    """The classes of such a module would be two, as ``rebuild`` of a run shows if the file of its algorithm is collected first."""
    files = [str(ROOT / name) for name in ("algos/ppo.py", "runs/_folder.py")]
    options = ["-n", "0", "-q", "-p", "no:cacheprovider", "-k", "rebuild"]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *files], cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
