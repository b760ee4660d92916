"""What holds for every test: none leaks a thread, a process or a descriptor."""

from __future__ import annotations

import faulthandler
import gc
import os
import threading
import time
import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

import parallel_exec as px

PROC = Path("/proc")
GRACE_S = 5.0  # for what is just ending: a thread returning, a process being reaped
hypothesis.settings.register_profile("tests", deadline=None)  # no timing is asserted
hypothesis.settings.load_profile("tests")
LONGEST = "test_interrupts.py"
EXIT_S = 30  # for the interpreter to end after the last test
# Every process that a test starts inherits this, so that one whose parent has died, and that
# is nobody's child any more, is still known as ours.
MARK = f"PARALLEL_EXEC_TESTS={uuid.uuid4().hex}"


@dataclass(frozen=True)
class Held:
    """What this process holds at a moment.

    Attributes:
        threads: Its threads.
        processes: Its children, dead ones not yet reaped included, and all that
            descend from it, by id: what they are.
        descriptors: Its open descriptors: the number, and what it stands for.
    """

    threads: frozenset[threading.Thread]
    processes: dict[int, str]
    descriptors: frozenset[tuple[int, str]]

    @classmethod
    def now(cls) -> Held:
        """Look."""
        return cls(
            threads=frozenset(threading.enumerate()),
            processes=_processes(),
            descriptors=_descriptors(),
        )

    def beyond(self, before: Held) -> list[str]:
        """Return what is held now and was not before, a line each."""
        processes = self.processes.keys() - before.processes.keys()
        descriptors = self.descriptors - before.descriptors
        return [
            *sorted(f"thread {thread.name!r}" for thread in self.threads - before.threads),
            *sorted(f"process {pid}: {self.processes[pid]}" for pid in processes),
            *sorted(f"descriptor {fd}: {target}" for fd, target in descriptors),
        ]


def _processes() -> dict[int, str]:
    found = {}
    own, mark = os.getpid(), MARK.encode()
    for name in os.listdir(PROC) if PROC.is_dir() else ():
        if not name.isdigit() or int(name) == own:
            continue
        try:
            status = (PROC / name / "stat").read_bytes()
            parent = int(status.rpartition(b")")[2].split()[1])
            if parent == own or mark in (PROC / name / "environ").read_bytes().split(b"\0"):
                words = (PROC / name / "cmdline").read_bytes().replace(b"\0", b" ").strip()
                found[int(name)] = (words or status[:60]).decode(errors="replace")
        except (OSError, IndexError):  # it has ended, or is another user's
            continue
    return found


def _descriptors() -> frozenset[tuple[int, str]]:
    folder = "/proc/self/fd" if PROC.is_dir() else "/dev/fd"
    found = set()
    for name in os.listdir(folder):
        try:
            found.add((int(name), os.readlink(f"{folder}/{name}")))
        except FileNotFoundError:  # the one that listed the folder
            continue
        except OSError:  # macOS: no links there
            found.add((int(name), "open"))
    return frozenset(found)


def _leaked(before: Held) -> list[str]:
    """Return what is still there after some time to end."""
    over = time.monotonic() + GRACE_S
    leaked = Held.now().beyond(before)
    if leaked:
        # An error that a test has looked at holds its frames until then. Something that is
        # closed by its finalizer alone warns when it is, and warnings are errors.
        gc.collect()
    while leaked and time.monotonic() < over:
        time.sleep(0.01)
        leaked = Held.now().beyond(before)
    return leaked


@pytest.fixture(scope="session", autouse=True)
def _service() -> None:
    """Start what the library keeps for the life of the process, before anything is counted.

    The threads "parallel_exec" and the watchdog, with their descriptors.
    """
    name, _, value = MARK.partition("=")
    os.environ[name] = value
    if hasattr(px, "run"):
        px.all(["true", "true"])  # one in each service thread


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest, _service: None) -> Iterator[None]:
    """Fail a test that leaves something behind."""
    before = Held.now()
    yield
    if request.node.get_closest_marker("leaks") is not None:
        return
    leaked = _leaked(before)
    if leaked:
        pytest.fail("the test leaves behind:\n  " + "\n  ".join(leaked), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say once why tests that need hosts are skipped; fail them where that must not be."""
    report = yield
    needs_hosts = not {"ssh", "docs"}.isdisjoint(item.path.parts)
    if needs_hosts and isinstance(report.longrepr, tuple):  # it is skipped
        if os.environ.get("NEED_HOSTS"):
            report.outcome = "failed"
            report.longrepr = f"must not be skipped, as NEED_HOSTS is set: {report.longrepr[2]}"
        else:  # one line in the summary for each reason, wherever it was found
            report.longrepr = (__file__, 0, report.longrepr[2])
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a `leaks` mark without its reason; begin with what takes longest, so that it does
    not run alone at the end where files run side by side.
    """
    items.sort(key=lambda item: item.path.name != LONGEST)
    for item in items:
        for mark in item.iter_markers("leaks"):
            if len(mark.args) != 1 or not isinstance(mark.args[0], str) or mark.kwargs:
                raise pytest.UsageError(f'{item.nodeid}: write @pytest.mark.leaks("what, why")')


def pytest_unconfigure() -> None:
    """Let an interpreter that cannot exit say where it hangs, and fail. One that runs some of
    the test files beside others waits for these first.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        faulthandler.dump_traceback_later(EXIT_S, exit=True)
