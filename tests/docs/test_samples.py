"""Every Python sample of README.md and docs/ runs.

The ```python blocks of a page, in their order, are one script: run by a Python of its own in
an empty folder, as a reader would, with warnings as errors. A block that cannot run is
exempted by the line before it, which says why: ``<!-- not run: needs a cluster -->``.

Samples that name hosts find them: a real sshd, and a home whose configuration knows it as
``web01``, ``db1``, ``bastion`` and the like. What sudo asks for there is in the environment
as ``SUDO_PASSWORD``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.conftest import Home
from tests.integration.ssh import server

TREE = Path(__file__).resolve().parents[2]
PAGES = [TREE / "README.md", *sorted((TREE / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+|~~~+|:::+) *(?P<info>[^`]*)$")
EXEMPTION = re.compile(r"^ *<!-- not run: \S.*-->$")
HOSTS = re.compile(r"\bpx\.(SSH|hosts)\(")
TIMEOUT_S = 60


def script(text: str) -> str:
    """Return the Python blocks of a page as one script, each line at its own number."""
    lines = text.splitlines()
    out = [""] * len(lines)
    at = 0
    while at < len(lines):
        opening = FENCE.match(lines[at])
        if opening is None:
            at += 1
            continue
        indent, ticks = opening["indent"], opening["ticks"]
        before = next((line for line in reversed(lines[:at]) if line.strip()), "")
        kept = opening["info"].strip() == "python" and not EXEMPTION.match(before)
        if opening["info"].strip() != "python" and "py" in opening["info"]:
            raise ValueError(f"line {at + 1}: write ```python, not {lines[at].strip()}")
        if ticks.startswith(":"):  # a directive: what is in it is text with blocks of its own
            at += 1
            continue
        at += 1
        while at < len(lines) and not re.fullmatch(rf" *{ticks}{ticks[0]}* *", lines[at]):
            if kept:
                out[at] = lines[at].removeprefix(indent)
            at += 1
        at += 1
    return "\n".join(out).rstrip() + "\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TREE)))
def test_samples_run(page: Path, tmp_path: Path, home: Home | None) -> None:
    """The samples of the page run one after the other without an error or a warning."""
    source = script(page.read_text(encoding="utf-8"))
    if not source.strip():
        return
    environment = dict(os.environ)
    if HOSTS.search(source):
        if home is None:
            pytest.skip(server.HOW_TO_GET_IT)
        environment.pop("SSH_AUTH_SOCK", None)
        environment["HOME"] = str(home.path)
        if "SUDO_PASSWORD" in source:
            if home.password is None or shutil.which("sudo") is None:
                pytest.skip("needs sudo, and root, to make an account that may use it")
            environment["SUDO_PASSWORD"] = home.password
    path = tmp_path / f"{page.stem}.py"
    path.write_text(source, encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", path],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.output or b"").decode(errors="replace")
        pytest.fail(f"{page.name} runs for more than {TIMEOUT_S} s:\n{output}")
    if done.returncode != 0:
        output = done.stdout.decode(errors="replace")
        shown = output.replace(str(path), str(page.relative_to(TREE)))
        pytest.fail(f"exit status {done.returncode}; lines are the page's own:\n{shown}")


def test_blocks_become_one_script_at_their_own_lines() -> None:
    """Lines keep their numbers, so that a traceback points into the page."""
    page = "# Title\n```python\nx = 1\n```\n1. Then\n   ```python\n   if x:\n       y = 2\n   ```\n"
    assert script(page) == "\n\nx = 1\n\n\n\nif x:\n    y = 2\n"


def test_only_what_says_why_is_exempt() -> None:
    """A comment with a reason right before a block keeps it, and it alone, from running."""
    block = "```python\n{}\n```\n"
    page = "<!-- not run: needs a cluster -->\n\n" + block.format("a = 1") + block.format("b = 2")
    assert script(page).split() == ["b", "=", "2"]
    assert script("<!-- not run: -->\n" + block.format("a = 1")).split() == ["a", "=", "1"]


def test_other_blocks_are_not_python() -> None:
    """Output and shell sessions are not run, nor is a Python block inside another block."""
    assert script("```console\n$ ls\n```\n").strip() == ""
    assert script("````text\n```python\nx = 1\n```\n````\n").strip() == ""


def test_no_block_escapes_by_another_name() -> None:
    """Python under another name is refused rather than left out."""
    for name in ("py", "python3", "pycon", "{code-block} python"):
        with pytest.raises(ValueError, match="line 1: write ```python"):
            script(f"```{name}\nx = 1\n```\n")
