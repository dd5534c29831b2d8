"""The documentation: Sphinx with MyST and furo. ``nox -s docs`` builds it; a warning is an error."""
# ruff: noqa: INP001 - Sphinx reads it

from __future__ import annotations

import importlib.metadata
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

project = "pattern-core"
author = "The pattern-core developers"
project_copyright = author
release = importlib.metadata.version("pattern-core")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = f"pattern-core {release}"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["pattern.css"]

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88
# In docstrings, `name` is a name of this library, wherever it is defined.
default_role = "py:obj"
nitpick_ignore_regex = [
    # Other libraries: their inventories would have to be downloaded, and the build uses no network.
    (
        r"py:.*",
        r"(numpy|np|pyarrow|pa|attrs?|pluggy|pytest|collections|typing|types|pathlib|datetime|os|enum|_pytest)(\..*)?",
    ),
    # Attributes that the kit's classes set; private modules; type variables.
    (r"py:obj", r"spec|storage_spec"),
    (r"py:.*", r"pattern_core\.(assembly|catalog|embedding|maintenance|search|sessions|support)(\..*)?|Validator"),
    (r"py:.*", r"pattern_core\.testing\.indexed_storage(\..*)?"),
    (r"py:class", r"pattern_core\.(.*\.)?_?(E|R|T|Spec)"),
]


def by_short_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Resolve a name of this library without its module, as in annotations and docstrings."""
    if node.get("refdomain") != "py":
        return None
    domain: Any = env.get_domain("py")
    target = node["reftarget"].rpartition("~")[2]
    # An aliased name is the module in a package that defines what the package documents.
    ours = [name for name, entry in domain.objects.items() if name.startswith("pattern_core.") and not entry.aliased]
    found = [name for name in ours if name.endswith(f".{target}")]
    # If several have the name, a docstring means that of the contract.
    found = [
        name for name in found if name.startswith(("pattern_core.abc.", "pattern_core.testing.Contract."))
    ] or found
    if len(found) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, content)


def without_rules(app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object) -> bool | None:  # noqa: ARG001, FBT001 - Sphinx calls it
    """Skip the tests of the kit, since the page of rules lists them."""
    return True if name.startswith("test_") else None


def setup(app: Sphinx) -> None:
    """Connect the functions above to Sphinx."""
    app.connect("missing-reference", by_short_name)
    app.connect("autodoc-skip-member", without_rules)
