"""This machine as a place for commands: all of them drained by the service thread."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from parallel_exec import reactor
from parallel_exec.environments.base import Execution, Ticket
from parallel_exec.environments.local import descendants
from parallel_exec.environments.local.process import Process
from parallel_exec.environments.local.spawn import path_of
from parallel_exec.environments.local.watchdog import MARK, Watchdog
from parallel_exec.errors import ExecutorClosedError
from parallel_exec.values.command import Command

__all__ = ["LocalBackend"]

log = logging.getLogger("parallel_exec")

ROOM_S = 0.05  # how often a command without descriptors or processes tries again
YOUNG_S = 0.005  # how long a command's output waits to be looked at first
CHECK_S = 0.01  # how often what is being ended is looked at


class Host:
    """What all local backends of this process share: the watchdog, the null device, the
    commands that wait for room and those that are being ended.

    Belongs to the service thread, like all that it holds.
    """

    def __init__(self, loop: reactor.Reactor) -> None:
        self.reactor = loop
        self.watchdog: Watchdog | Any = None  # until `prepare`, before all that asks it
        self.mark = b""  # the variable that marks the processes of a command, but its serial
        self.null = -1
        self.ready = False  # whether all that `prepare` opens is open
        self.serials = itertools.count(1)
        self.inputs: set[int] = set()  # pipes that are written to by threads
        self.waiting: deque[Process] = deque()
        self.ending: set[Process] = set()
        self.running: dict[LocalBackend, set[Process]] = {}
        self.idle: dict[LocalBackend, list[Callable[[], None]]] = {}
        self._sought: list[Process] = []
        self._young: deque[Process] = deque()
        self._environ: list[bytes] = []
        self._path = b""
        self._environ_at = -1
        self._checking = False
        self._groups: set[int] | None = None  # as seen in this check

    def prepare(self) -> None:
        """Open what every command needs and is not open; then `ready`.

        Raises:
            OSError: There is no room for it now.
        """
        if self.null < 0:
            self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if self.watchdog is None:
            self.watchdog = Watchdog()
            self.mark = f"{MARK}={self.watchdog.token}.".encode()
        self.watchdog.start()
        self.ready = True

    def environ(self) -> tuple[list[bytes], bytes]:
        """Return this process's variables, as ``NAME=value``, and its PATH.

        Read again after every message from outside, so that a command sees them at
        least as they were when it was asked for; a copy for each command would cost
        as much as starting it.
        """
        if self._environ_at != self.reactor.messages:
            own = MARK.encode()
            variables = ((name, os.environb.get(name)) for name in list(os.environb))
            self._environ = [
                name + b"=" + value
                for name, value in variables
                if value is not None and name != own  # None: another thread has removed it
            ]
            self._path = path_of(self._environ)
            self._environ_at = self.reactor.messages
        return self._environ, self._path

    def young(self, process: Process) -> None:
        """Have the output of `process` watched soon, if it still runs then."""
        if not self._young:
            self.reactor.call_at(process.started + YOUNG_S, self._grown)
        self._young.append(process)

    def _grown(self) -> None:
        young = self._young
        now = self.reactor.now()
        while young:
            process = young[0]
            if process.live:
                if process.started + YOUNG_S > now:
                    self.reactor.call_at(now + YOUNG_S, self._grown)  # not for each by itself
                    return
                process.watch_output()
            young.popleft()

    def wait_for_room(self, process: Process) -> None:
        """Have `process` launched again when another has ended, or after a while."""
        self.waiting.append(process)
        if len(self.waiting) == 1:
            self.reactor.call_at(self.reactor.now() + ROOM_S, self.room)

    def room(self) -> None:
        """Launch what waits for room, as far as there is some."""
        waiting, self.waiting = self.waiting, deque()
        while waiting:
            process = waiting.popleft()
            process.launch()
            if self.waiting:  # it was refused again, and so would the others be
                self.waiting.extend(waiting)
                return

    def end(self, process: Process, *, everybody: bool) -> None:
        """Have the end of `process` seen through.

        Args:
            process: It has been told to end, or has left others of its group behind.
            everybody: Whether who left its session is to be ended, too.
        """
        if not self.ending:
            self.reactor.call_at(self.reactor.now() + CHECK_S, self._check)
        self.ending.add(process)
        if not everybody:
            return
        if not self._sought:
            self.reactor.post(self._seek)
        self._sought.append(process)

    def _seek(self) -> None:
        """Find who left the sessions that are being ended: one look for all of them."""
        sought, self._sought = self._sought, []
        commands = {process.serial: process.group for process in sought if process.live}
        if commands:
            found = descendants.find(self.watchdog.token, commands)
            for process in sought:
                process.add_strays(found.get(process.serial, ()))

    def _check(self) -> None:
        began = self.reactor.now()
        self._checking = True
        for process in list(self.ending):
            process.check()
        self._checking = False
        self._groups = None
        if self.ending:
            # Looking takes at most a tenth of the time, however large the process table.
            took = self.reactor.now() - began
            self.reactor.call_at(began + max(CHECK_S, 10 * took), self._check)

    def group_lives(self, group: int) -> bool:
        """Return whether a process group that still exists has more than zombies.

        Between two checks the answer is yes: the next check looks.
        """
        if not self._checking:
            return True
        if self._groups is None:
            self._groups = descendants.living_groups()
        return self._groups is None or group in self._groups

    def forget(self) -> None:
        """In a forked child: give back what belongs to the parent."""
        if self.watchdog is not None:
            self.watchdog.forget()
        for fd in self.inputs:  # or a command waits for the child's end, too
            os.close(fd)
        if self.null >= 0:
            os.close(self.null)

    def gone(self, process: Process) -> None:
        """Take note that `process` has ended."""
        self.ending.discard(process)
        running = self.running.get(process.backend)
        if running is not None:
            running.discard(process)
            if not running:
                del self.running[process.backend]
                for idle in self.idle.pop(process.backend, ()):
                    idle()

    def end_all(self, backend: LocalBackend | None, idle: threading.Event) -> None:
        """End what runs for `backend`, or for all of them, then set `idle`."""
        backends = [each for each in self.running if backend is None or each is backend]
        left = set(backends)

        def gone(one: LocalBackend) -> None:
            left.discard(one)
            if not left:
                idle.set()

        if not left:
            idle.set()
        for each in backends:
            self.idle.setdefault(each, []).append(partial(gone, each))
            for process in list(self.running[each]):
                process.end("cancel")


class LocalBackend:
    """Runs commands on this machine. See `parallel_exec.environments.base.Backend`."""

    name: str = "local"  # what results and errors call it

    def __init__(self) -> None:
        self._closed = False

    def start(self, command: Command, ticket: Ticket) -> Execution:
        """See `Backend.start`."""
        global _used
        _used = True
        loop = reactor.get()
        process = Process(self, command, ticket)
        if loop.inside():
            self._launch(process)
        else:
            loop.post(self._launch, process)
        return process

    def close(self) -> None:
        """End what still runs and wait for its end. Idempotent."""
        if _used:
            # Posted, so that what was started before is ended rather than refused.
            reactor.get().post(self._refuse_more)
            _end_all(self)
        else:
            self._closed = True

    def _refuse_more(self) -> None:
        self._closed = True

    def _launch(self, process: Process) -> None:
        shared = _host or host()
        process.host = shared
        if self._closed or _exiting:
            what = "the interpreter is exiting" if _exiting else "this environment has been closed"
            process.refuse(ExecutorClosedError(what, environment=self.name))
            return
        shared.running.setdefault(self, set()).add(process)
        process.launch()

    def __reduce__(self) -> tuple[type[LocalBackend], tuple[()]]:
        return (type(self), ())

    def __repr__(self) -> str:
        return "Local()"


_host: Host | None = None
_used = False  # whether there has ever been a command
_exiting = False  # whether the interpreter exits: nothing more is started


def host() -> Host:
    """Return what local backends share. In the service thread only."""
    global _host
    if _host is None:
        _host = Host(reactor.get())
    return _host


def _end_all(backend: LocalBackend | None) -> None:
    """End what runs for `backend`, or for all of them, and wait for that."""
    if not _used:
        return
    loop = reactor.get()
    idle = threading.Event()
    # Whatever was asked for before has been started, or refused, when this is reached.
    loop.post(lambda: host().end_all(backend, idle))
    if not loop.inside():
        idle.wait()


def _at_exit() -> None:
    """End every command, then the service thread and the watchdog.

    Threads of the user's that are no daemons have ended by now, and executors have
    drained: what still runs was left running.
    """
    if not _used:
        return
    loop = reactor.get()
    loop.post(_refuse_from_now_on)
    _end_all(None)
    loop.stop()
    if _host is not None and _host.watchdog is not None:
        _host.watchdog.stop()


def _refuse_from_now_on() -> None:
    global _exiting
    _exiting = True


def _after_fork_in_child() -> None:
    """The parent's commands are not this process's to end or to wait for."""
    global _host, _used, _exiting
    _used = _exiting = False
    if _host is not None:
        _host.forget()
        _host = None


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)
