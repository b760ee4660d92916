"""A user's program: builds and tests several packages, and says which failed."""

from __future__ import annotations

import sys
from pathlib import Path

import parallel_exec as px


def packages(root: Path) -> list[Path]:
    """Return the directories that have a Makefile."""
    return sorted(makefile.parent for makefile in root.glob("*/Makefile"))


def versions() -> dict[str, str]:
    """Return what the tools call themselves."""
    found = px.all({"make": ["make", "--version"], "cc": ["cc", "--version"]}, timeout=10)
    return {name: result.lines()[0] for name, result in found.items()}


def build(root: Path, target: str = "all") -> int:
    """Build every package; return how many failed."""
    tasks = [
        px.Command(["make", "-C", package, target], label=package.name, timeout=600)
        for package in packages(root)
    ]
    outcomes = px.all_settled(tasks, concurrency=4, progress=True, max_failures="50%")
    for outcome in outcomes.fulfilled:
        sys.stdout.write(f"{outcome.label}: {len(outcome.value.stdout)} bytes\n")
    for failed in outcomes.rejected:
        sys.stderr.write(f"{failed.label}: {failed.reason.args[0]}\n")
        if isinstance(failed.reason, px.errors.CommandError):
            sys.stderr.write(failed.reason.result.text())
    return len(outcomes) - len(outcomes.fulfilled)


def archive(root: Path, target: Path) -> None:
    """Pack what was built."""
    px.run(["tar", "-C", root, "-cf", target, *(each.name for each in packages(root))])
    digest = px.run(px.sh("sha256sum < {}", target)).text().split()[0]
    target.with_suffix(".sha256").write_text(digest)


if __name__ == "__main__":
    sys.exit(min(1, build(Path(sys.argv[1]))))
