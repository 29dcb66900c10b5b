"""Settings of the documentation site: ``sphinx-build -W funrl/docs site``."""

import re
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

project = "funrl"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "funrl"
exclude_patterns = ["conf.py"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_math_renderer = "mathml"

# The notebooks are committed as they ran.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# Names of funrl have to be there; those of other packages, and types that no user meets, are not linked.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!funrl\.).*"), (r"py:.*", r"funrl\.(.*\.)?_.*")]
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_numpy_docstring = False


PLACES = {}  # where each public thing is documented, by its identity


def read(app):
    """Write a page for each module, with all its public names, and copy the notebooks, without links to what is not on the site."""
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        write(HERE / "notebooks" / notebook.name, re.sub(r'\[([^\]\["]+)\]\(\.\./[^)"]*\)', r"\1", notebook.read_text()))
    api = runpy.run_path(str(ROOT / "tests" / "test_api.py"))
    pages = []
    for module, names in api["public"]():
        whole = module.__name__
        lines = [whole, "=" * len(whole), "", f".. py:module:: {whole}", "", f".. currentmodule:: {whole}", ""]
        # Names with explanations in columns, such as those of metrics, become a list.
        text = re.sub(r"(?m)^    (\w+)  +(?=\S)", r"    :\1: ", module.__doc__ or "").split("\n")
        tidy(app, "module", whole, module, None, text)
        lines += [*text, ""]
        for name in names:
            value = getattr(module, name)
            PLACES[id(value)] = f"{whole}.{name}"
            if not api["documented"](value):
                lines += [f".. py:data:: {name}", f"   :type: {api['kind_of'](value)}", ""]
            elif isinstance(value, type):
                lines += [f".. autoclass:: {name}", "   :members:", ""]
            else:
                lines += [f".. autofunction:: {name}", ""]
        write(HERE / "api" / f"{whole}.rst", "\n".join(lines))
        pages.append(whole)
    index = ["Every public name", "=================", "", ".. toctree::", "   :maxdepth: 1", ""]
    write(HERE / "api" / "index.rst", "\n".join([*index, *(f"   {name}" for name in pages), ""]))


def write(path, text):
    """Write a file if it would change, so that only changed pages are made again."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def reference(app, what, name, obj, options, lines):
    """Set the source of a docstring, "Reference: ..." with indented lines, as a paragraph; keep colons in "Returns:" from being types."""
    text = "\n".join(lines)
    # The backslash keeps initials, such as those of "J. Schulman", from beginning a list.
    text = re.sub(r"(?m)^Reference: (.*(?:\n +.*)*)", lambda x: ".. rubric:: Reference\n\n\\ " + " ".join(x[1].split()), text)
    lines[:] = re.sub(r"(?m)^(Returns|Yields):\n( +)", r"\1:\n\2: ", text).split("\n")


def tidy(app, what, name, obj, options, lines):
    """Escape in prose what means something else in reStructuredText: ``[*shape]``, ``|y - Q|`` and ``lambda_``."""
    inside = ""  # a program, or a formula
    for i, line in enumerate(lines):
        if not line.strip() and inside != "formula":
            inside = ""
        elif line.lstrip().startswith(">>>"):
            inside = "program"
        elif line.lstrip().startswith(".. math::"):
            inside, depth = "formula", len(line) - len(line.lstrip())
        elif inside == "formula" and line.strip() and len(line) - len(line.lstrip()) <= depth:
            inside = ""
        if not inside:
            parts = re.split(r"(``.*?``|`.*?`)", line)
            lines[i] = "".join(part if part.startswith("`") else escaped(part) for part in parts)


def escaped(text):
    """Return prose with a backslash before such characters."""
    text = re.sub(r"(?<!\\)\|(?=\S)", r"\\|", text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", re.sub(r"(?<=[\[ (])\*(?=[\w\]])", r"\\*", text))


def find(app, env, node, contnode):
    """Link a name that funrl hands on to the place where it is documented."""
    from docutils.nodes import reference as link

    target = node.get("reftarget", "")
    for whole in (f"{node.get('py:module')}.{target}", f"funrl.{target}", target):
        for depth in (whole.count("."), whole.count(".") - 1):  # a field of a class is documented with it
            place = PLACES.get(id(resolved(whole.split(".")[: depth + 1])))
            if place:
                module = place.rpartition(".")[0]
                uri = app.builder.get_relative_uri(env.docname, f"api/{module}") + f"#{place}"
                return link("", "", contnode, internal=True, refuri=uri)
    return None


def resolved(names):
    """Return what a dotted name of funrl stands for, itself unique where it stands for nothing."""
    value = sys.modules.get("funrl") if names[:1] == ["funrl"] else None
    for name in names[1:]:
        value = getattr(value, name, None)
    return object() if value is None else value


def formula(display):
    """Return a visitor that writes a formula as MathML, which browsers show without a script."""

    def visit(self, node):
        from docutils.nodes import SkipNode
        from latex2mathml.converter import convert

        self.body.append(convert(node.astext(), display=display))
        raise SkipNode

    return visit, None


def setup(app):
    """Register what a build does first."""
    app.add_html_math_renderer("mathml", formula("inline"), formula("block"))
    app.connect("builder-inited", read)
    app.connect("autodoc-process-docstring", reference, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", tidy, priority=600)
    app.connect("missing-reference", find)
