"""One file of funrl spells private names of torch: ``compiler/_torch_private.py``."""

import ast
import pathlib

import funrl

ROOT = pathlib.Path(funrl.__file__).parent
SEAM = ROOT / "compiler" / "_torch_private.py"


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def chain(node):
    """Return the names of ``a.b.c``, or None for what is no such chain."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else None


def private_names(source):
    """Return (line, name) of each private name of torch in a source text."""
    module = ast.parse(source)
    found, of_torch = [], {"torch"}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "torch":
                    of_torch.add(alias.asname or "torch")
                    if any(map(is_private, parts)):
                        found.append((node.lineno, alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0 and node.module.split(".")[0] == "torch":
            for alias in node.names:
                of_torch.add(alias.asname or alias.name)
                if any(map(is_private, [*node.module.split("."), alias.name])):
                    found.append((node.lineno, f"{node.module}.{alias.name}"))
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            # import_module("torch._x"), getattr(torch.x, "_y"), __import__("torch._x")
            texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            target = chain(node.args[0]) if node.args else None
            found += [(node.lineno, text) for text in texts if text.startswith("torch.") and any(map(is_private, text.split(".")))]
            if target and target[0] in of_torch and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr", "hasattr"):
                found += [(node.lineno, f"{'.'.join(target)}.{text}") for text in texts if is_private(text)]
    operators = {"aten"}  # operators of torch.ops.aten bear names such as _softmax: they are data here, not functions
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and (names := chain(node)) and names[0] in of_torch - operators:
            if any(map(is_private, names[1:])) and names[1:3] != ["ops", "aten"]:
                found.append((node.lineno, ".".join(names)))
    return sorted(set(found))


def test_private_names_are_found():
    source = """
import torch, importlib
import torch._dynamo as dynamo
import torch.utils._pytree
from torch._C import _functorch
from torch.func import vmap
from torch.autograd import forward_ad
importlib.import_module("torch._inductor.config")
getattr(torch.func, "_private")
torch._C._hidden(torch.ops.aten._softmax.default)
vmap._x
forward_ad._y
self._own, torch.__version__, torch.nn.functional.relu
"""
    names = [name for _, name in private_names(source)]
    assert sorted(names) == sorted(
        [
            "torch._dynamo",
            "torch.utils._pytree",
            "torch._C._functorch",
            "torch._inductor.config",
            "torch.func._private",
            "torch._C",
            "torch._C._hidden",
            "vmap._x",
            "forward_ad._y",
        ]
    )


def test_the_seam_is_the_only_file_with_private_names():
    found = {
        str(path.relative_to(ROOT)): names
        for path in sorted(ROOT.rglob("*.py"))
        if path != SEAM and (names := private_names(path.read_text()))
    }
    assert not found, "\n".join(f"{path}:{line}: {name}" for path, names in found.items() for line, name in names)


def test_the_seam_says_which_names_it_needs():
    """Each name stands in the table of what is needed, or is probed; the file's docstring lists them."""
    text = SEAM.read_text()
    assert private_names(text)
    docstring = ast.get_docstring(ast.parse(text))
    for part in (
        "_make_wrapper_subclass",
        "_disabled_torch_function_impl",
        "TorchDispatchMode",
        "torch._C._functorch",
        "core_aten_decompositions",
        "torch._inductor",
    ):
        assert part in docstring
    from funrl.compiler import _torch_private

    _torch_private.needed()


def test_a_missing_name_is_an_error_that_names_it(monkeypatch):
    import pytest

    from funrl.compiler import _torch_private

    for table, get in (("_NAMES", _torch_private.needed), ("_INDUCTOR", _torch_private.inductor)):
        with monkeypatch.context() as patch:
            patch.setattr(_torch_private, table, {"torch._functorch.vmap": ("no_such_name",)})
            with pytest.raises(
                RuntimeError, match=r"torch .* has no torch._functorch.vmap.no_such_name, which .* needs; funrl knows torch"
            ):
                get.__wrapped__()
