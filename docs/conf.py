"""How Sphinx builds the documentation: `make docs`."""

from __future__ import annotations

import builtins
import importlib
import sys
from importlib import metadata
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

project = "parallel_exec"
author = "the parallel_exec contributors"
copyright = "the parallel_exec contributors"
release = version = metadata.version("parallel_exec")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = True
# `name` in a docstring: a link where it names something of ours, else just code.
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
# Defaults are shown by their values: signatures have options that their source does not.
autodoc_preserve_defaults = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"parallel_exec {release}"

PUBLIC = ["parallel_exec", "parallel_exec.errors", "parallel_exec.testing"]
# The built-in types that Python describes in a chapter of their own.
DESCRIBED_AS_TYPES = (bytearray, bytes, dict, frozenset, list, memoryview, range, set, str, tuple)
STANDARD_LIBRARY = "https://docs.python.org/3/library/"


def standard_library(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Node
) -> nodes.reference | None:
    """Link a name of the standard library to its documentation.

    What intersphinx does, without the inventory that it would fetch at each build. The
    name must exist, so that a misspelt one is still found.
    """
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py" or not target:
        return None
    if hasattr(builtins, target.split(".")[0]):
        value = getattr(builtins, target.split(".")[0])
        page, anchor = "functions", target
        if value is None or isinstance(value, bool):
            page = "constants"
        elif isinstance(value, type) and issubclass(value, BaseException):
            page = "exceptions"
        elif value in DESCRIBED_AS_TYPES:
            page = "stdtypes"
    else:
        found = _module_of(target)
        if found is None:
            return None
        page, anchor = found, "" if found == target else target
    uri = f"{STANDARD_LIBRARY}{page}.html" + (f"#{anchor}" if anchor else "")
    reference = nodes.reference("", "", text, internal=False, refuri=uri)
    reference["reftitle"] = f"{target} in Python's documentation"
    return reference


def _module_of(target: str) -> str | None:
    """Return the module of the standard library that has `target`, if it exists."""
    if target.split(".")[0] not in sys.stdlib_module_names:
        return None
    words = target.split(".")
    for length in range(len(words), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(words[:length]))
            for word in words[length:]:
                value = getattr(value, word)
        except (ImportError, AttributeError):
            continue
        return ".".join(words[:length])
    return None


def own_names(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element
) -> nodes.Element | None:
    """Find what an annotation calls by the name it has inside the package.

    What is public has its page under its public name. What is not (a type variable, a name
    for a union, a class of the layers below) has none, and stays text.
    """
    target = str(node.get("reftarget", ""))
    module, _, name = target.rpartition(".")
    if node.get("refdomain") != "py" or module.split(".")[0] not in ("", project):
        return None
    for place in [module] if module else _own_modules():
        value = getattr(sys.modules.get(place), name, None)
        if value is None:
            continue
        for public in PUBLIC:
            face = importlib.import_module(public)
            if name in face.__all__ and getattr(face, name) is value:
                domain = env.domains.python_domain
                address = f"{public}.{name}"
                return domain.resolve_xref(
                    env, node["refdoc"], app.builder, "obj", address, node, text
                )
        words = [
            word
            for word in str(getattr(value, "__module__", "")).split(".")
            if not word.startswith("_")
        ]
        if words[0] in sys.stdlib_module_names and isinstance(value, type):
            node["reftarget"] = ".".join([*words, name])
            return standard_library(app, env, node, text)
        return text
    return None


def _own_modules() -> list[str]:
    return sorted(name for name in sys.modules if name.split(".")[0] == project)


def just_code(app: Sphinx, domain: object, node: pending_xref) -> bool | None:
    """Let a `name` without a role be no name of ours: a parameter, a word of the shell.

    The same for several words: napoleon takes what stands before a colon for a type.
    """
    prose = " " in str(node.get("reftarget", ""))
    return True if prose or node.get("reftype") == "obj" else None


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.connect("missing-reference", own_names)
    app.connect("missing-reference", standard_library)
    app.connect("warn-missing-reference", just_code)
