"""Checks a few hundred real files of this machine: hundreds of commands at once.

Python's own library is compressed, counted and hashed, file by file, by the programs every
machine has. One file is damaged on purpose: its check must fail, by name, and nothing else
may suffer. Then the same commands run one after the other, to see what it was good for.

    make demo
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import parallel_exec as px

FILES = 200
DAMAGED = "check damaged.gz"


def main() -> int:
    """Return 0 if every command ended as it should."""
    library = Path(sysconfig.get_path("stdlib"))
    files = real_files(library)
    with tempfile.TemporaryDirectory(prefix="parallel_exec-demo-") as folder:
        tasks = list(commands(files, library, Path(folder)))
        print(f"\n{len(tasks)} commands over {len(files)} files of {library}\n")

        start = time.monotonic()
        outcomes = px.all_settled(tasks, progress=progress())
        together_s = time.monotonic() - start

        print("\nThe same once more, one by one with subprocess.run ...", flush=True)
        start = time.monotonic()
        statuses = [subprocess.run(task.argv(), capture_output=True).returncode for task in tasks]
        alone_s = time.monotonic() - start

    report_failures(outcomes)
    report_slowest(outcomes)
    report_work(outcomes)
    report_time(outcomes, together_s, alone_s)
    as_expected = [outcome.label for outcome in outcomes if not outcome.ok] == [DAMAGED]
    same = [outcome.ok for outcome in outcomes] == [status == 0 for status in statuses]
    return 0 if as_expected and same else 1


def real_files(library: Path) -> list[Path]:
    """Return the largest sources of Python's library."""
    found = [path for path in library.rglob("*.py") if "site-packages" not in path.parts]
    return sorted(found, key=lambda path: (-path.stat().st_size, path))[:FILES]


def commands(files: Iterable[Path], library: Path, folder: Path) -> Iterable[px.Command]:
    """Yield three commands for each file, and one that must fail."""
    for place, path in enumerate(files):
        name = path.relative_to(library)
        if place == FILES // 3:
            yield px.Command(["gzip", "-t", damaged(path, folder)], label=DAMAGED)
        yield px.Command(["wc", "-l", str(path)], label=f"count {name}")
        yield px.Command(["gzip", "-9", "-c", str(path)], label=f"compress {name}")
        yield px.Command(["cksum", str(path)], label=f"sum {name}")


def progress() -> px.VisualProgress | px.ParallelProgress:
    """Return a bar, or lines where there is no terminal to draw one on."""
    if sys.stderr.isatty():
        return px.VisualProgress(label="checking")
    return px.ParallelProgress(min_interval=0.5)


def damaged(path: Path, folder: Path) -> str:
    """Return a compressed copy of `path` that lost its end."""
    packed = px.run(["gzip", "-c", str(path)]).stdout
    copy = folder / "damaged.gz"
    copy.write_bytes(packed[: len(packed) // 2])
    return str(copy)


def report_failures(outcomes: px.Outcomes[px.Result]) -> None:
    """Say which failed, and why."""
    for outcome in outcomes:
        if not outcome.ok:
            print(f"\nFAILED  {outcome.label}\n        {outcome.reason}")


def report_slowest(outcomes: px.Outcomes[px.Result]) -> None:
    """Print the five slowest, with the failed."""
    slowest = sorted(outcomes.fulfilled, key=lambda outcome: -outcome.duration_s)[:5]
    rows = [*(outcome for outcome in outcomes if not outcome.ok), *slowest]
    width = min(60, max(len(outcome.label) for outcome in rows))
    print(f"\n{'task':>5}  {'failed, and the five slowest':{width}}  {'outcome':9}  {'ms':>6}")
    print(f"{'-' * 5}  {'-' * width}  {'-' * 9}  {'-' * 6}")
    for outcome in rows:
        label = outcome.label if len(outcome.label) <= width else outcome.label[: width - 1] + "…"
        milliseconds = 1000 * outcome.duration_s
        print(f"{outcome.index:>5}  {label:{width}}  {outcome.status:9}  {milliseconds:>6.1f}")


def report_work(outcomes: px.Outcomes[px.Result]) -> None:
    """Print what came out: how many ended how, and what the commands found."""
    counts = {
        status: len(getattr(outcomes, status))
        for status in ("fulfilled", "rejected", "cancelled", "skipped")
    }
    print("\n" + ", ".join(f"{count} {status}" for status, count in counts.items()))
    done = [(outcome.label.split()[0], outcome.result()) for outcome in outcomes.fulfilled]
    lines = sum(int(result.text().split()[0]) for verb, result in done if verb == "count")
    packed = sum(len(result.stdout) for verb, result in done if verb == "compress")
    print(f"{lines:,} lines counted, {packed:,} bytes of compressed output received")


def report_time(outcomes: px.Outcomes[px.Result], together_s: float, alone_s: float) -> None:
    """Compare with one command after the other."""
    in_flight = sum(outcome.duration_s for outcome in outcomes) / together_s
    print(f"{together_s:6.2f} s together: {len(outcomes) / together_s:,.0f} commands a second")
    print(f"{'':9}{in_flight:.1f} in flight on average")
    print(f"{alone_s:6.2f} s one by one")
    print(f"{alone_s / together_s:6.1f} times as fast, on {os.cpu_count()} cores\n")


if __name__ == "__main__":
    if shutil.which("gzip") is None:
        sys.exit("the demo needs gzip")
    sys.exit(main())
