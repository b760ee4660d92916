"""What the tests themselves are held to and no linter checks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_every_test_says_what_it_requires() -> None:
    """Every test has a docstring whose first line is a sentence."""
    silent = [
        f"{path.relative_to(TESTS)}:{node.lineno}: {node.name}"
        for path, node in _tests(TESTS)
        if not (ast.get_docstring(node) or "").split("\n\n")[0].rstrip().endswith((".", "?", "!"))
    ]
    assert silent == []


def test_no_unit_test_sleeps() -> None:
    """No unit test waits for time to pass."""
    sleeping = [
        f"{path.relative_to(TESTS)}:{node.lineno}: {node.name}"
        for path, node in _tests(TESTS / "unit")
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("sleep", "time.sleep")
    ]
    assert sleeping == []


def _tests(folder: Path) -> Iterator[tuple[Path, ast.FunctionDef]]:
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield path, node
