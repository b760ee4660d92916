"""This machine as a place for commands: all of them drained by the service thread."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from parallel_exec import reactor
from parallel_exec.environments import room
from parallel_exec.environments.base import Execution, Ticket
from parallel_exec.environments.local import descendants, kernel, watchdog
from parallel_exec.environments.local.process import Process
from parallel_exec.environments.local.spawn import Variables, tidy
from parallel_exec.environments.local.watchdog import MARK
from parallel_exec.errors import ConfigError, ExecutorClosedError
from parallel_exec.reactor import busy, lifecycle
from parallel_exec.reactor.lifecycle import STARTING
from parallel_exec.text import plain
from parallel_exec.values.command import Command

__all__ = ["LocalBackend"]

log = logging.getLogger("parallel_exec")

ROOM_S = 0.05  # how often a command without descriptors or processes tries again
YOUNG_S = 0.005  # how long a command's output waits to be looked at first
LOOK_S = 0.002  # how long is waited between two looks at the process table
CHECK_S = 0.01  # how often what is being ended is looked at


def no_sudo(command: Command) -> ConfigError:
    """Return the error of a command that is to run by sudo on this machine."""
    return ConfigError(
        f"sudo={command.sudo!r} is for SSH hosts: on this machine, write sudo into the command:"
        f" {plain(command)}"
    )


class Host:
    """What all commands share, of whatever backend: the null device, those that wait for room
    and those that are being ended.

    Belongs to the service thread, like all that it holds, but for `processes`.
    """

    def __init__(self) -> None:
        self.reactor = reactor.get()
        self.starting = STARTING
        self.processes: set[Process] = set()  # those that are here, or on their way
        self.watchdog: watchdog.Watchdog | Any = None  # until `prepare`, before all that asks it
        self.null = -1
        self.ready = False  # whether all that `prepare` opens is open
        self.inputs: set[int] = set()  # pipes that are written to by threads
        self.waiting: deque[Process] = deque()
        self.ending: set[Process] = set()
        self._awaited: list[tuple[set[Process], Callable[[], object]]] = []
        self._sought: set[Process] = set()  # those whose strays are looked for
        self._search: descendants.Search | None = None  # as long as some are sought
        self._young: deque[Process] = deque()
        self._variables: Variables | Any = None
        self._seen: dict[bytes, bytes] | None = None
        self._checking = False
        self._groups: set[int] | None = None  # as seen in this check

    def prepare(self) -> None:
        """Open what every command needs and is not open; then `ready`.

        Raises:
            OSError: There is no room for it now.
        """
        if self.null < 0:
            self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        kernel.group_by_pidfd()  # asked now, since no fork may come while it is
        self.watchdog = watchdog.get()
        self.ready = True

    def variables(self) -> Variables:
        """Return this process's variables as they are now."""
        # Compared where they are: a copy for each command would cost a third of its start.
        now: dict[bytes, bytes] = getattr(os.environb, "_data", os.environb)  # type: ignore[arg-type]
        if now != self._seen:
            self._seen = now.copy()
            own = MARK.encode()
            self._variables = Variables(
                [name + b"=" + value for name, value in self._seen.items() if name != own]
            )
        return self._variables

    def young(self, process: Process) -> None:
        """Have the output of `process` watched soon, if it still runs then, and what was kept
        for its start closed.
        """
        if not self._young:
            self.reactor.call_at(process.started + YOUNG_S, self._grown)
        self._young.append(process)

    def _grown(self) -> None:
        young = self._young
        now = self.reactor.now()
        try:
            while young and (not young[0].live or young[0].started + YOUNG_S <= now):
                process = young.popleft()
                if process.live:
                    process.watch_output()
        finally:
            if tidy() or young:
                self.reactor.call_at(now + YOUNG_S, self._grown)  # not for each by itself

    def wait_for_room(self, process: Process) -> None:
        """Have `process` launched again when another has ended, or after a while."""
        self.waiting.append(process)
        if len(self.waiting) == 1:
            room.get().give_way()
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
        if everybody:
            self.seek(process)

    def seek(self, process: Process) -> None:
        """Have it looked for who left the session of `process`, until it has had enough."""
        if not self._sought:
            self.reactor.post(self._seek)
        self._sought.add(process)

    def _seek(self) -> None:
        """Find who left the sessions that are being ended: one look for all of them."""
        began = self.reactor.now()
        sought = [process for process in self._sought if process.live]
        if self._search is None:
            self._search = descendants.Search(self.watchdog.token)
        found, groups = self._search.look({process.serial: process.group for process in sought})
        self._sought.intersection_update(sought)
        for process in sought:
            if process.looked(found.get(process.serial, ()), groups):
                self._sought.discard(process)
        if self._sought:
            # Looking takes at most half of the time, and much less where one is waited for.
            now = self.reactor.now()
            pause = max(LOOK_S, now - began)
            if all(process.patient for process in self._sought):
                pause *= 10
            self.reactor.call_at(now + pause, self._seek)
        else:
            self._search = None

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
        """In a forked child: give back what belongs to the parent and is not watched, as the
        reactor gives back what is. Or a command would wait for the child's end, too.
        """
        tidy()
        for fd in self.inputs:
            os.close(fd)
        for process in self.processes:
            process.forget()
        if self.null >= 0:
            os.close(self.null)

    def gone(self, process: Process) -> None:
        """Take note that `process` has ended: others have room now."""
        self.ending.discard(process)
        self.processes.discard(process)
        if self._awaited:
            for awaited, done in self._awaited:
                awaited.discard(process)
                if not awaited:
                    done()
            self._awaited = [each for each in self._awaited if each[0]]
        if self.waiting:
            self.reactor.post(self.room)

    def end_all(self, backend: LocalBackend | None, done: Callable[[], object]) -> None:
        """End what is here for `backend`, or for all of them, then call `done`."""
        processes = {
            each for each in self.processes.copy() if backend is None or each.backend is backend
        }
        if not processes:
            done()
            return
        self._awaited.append((processes, done))
        for process in list(processes):
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
        shared = host()
        process = Process(self, command, ticket, shared)
        shared.processes.add(process)
        if command.sudo is not None:
            process.refuse(no_sudo(command))
            return process
        if self._closed or _exiting:  # not before: `close` ends what it finds there
            what = "the interpreter is exiting" if _exiting else "this environment has been closed"
            process.refuse(ExecutorClosedError(what, environment=self.name))
        else:
            shared.reactor.post(process.launch)
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

    def __reduce__(self) -> tuple[type[LocalBackend], tuple[()]]:
        return (type(self), ())

    def __repr__(self) -> str:
        return "Local()"


_hosts: dict[str, Host] = {}  # one at most
_used = False  # whether there has ever been a command
_exiting = False  # whether the interpreter exits: nothing more is started


def host() -> Host:
    """Return what all local backends share."""
    shared = _hosts.get("")
    if shared is None:
        # Two threads may come here at once: setdefault is atomic, one of them wins.
        shared = _hosts.setdefault("", Host())
    return shared


def _end_all(backend: LocalBackend | None) -> None:
    """End what runs for `backend`, or for all of them, and wait for that."""
    if not _used:
        return
    loop = reactor.get()
    idle = threading.Event()
    # Whatever was asked for before has been started, or refused, when this is reached.
    loop.post(host().end_all, backend, idle.set)
    if not loop.inside():
        idle.wait()


def _at_exit() -> None:
    """End every command, then the service thread and the watchdog.

    Threads of the user's that are no daemons have ended by now, and executors have
    drained: what still runs was left running.
    """
    if not _used:
        return
    reactor.get().post(_refuse_from_now_on)
    _end_all(None)
    reactor.get().stop()
    watchdog.stop()


def _refuse_from_now_on() -> None:
    global _exiting
    _exiting = True


def _after_fork_in_child() -> None:
    """The parent's commands are not this process's to end or to wait for."""
    global _used, _exiting
    _used = _exiting = False
    busy.forget()
    for host in _hosts.values():
        host.forget()
    _hosts.clear()


atexit.register(_at_exit)
lifecycle.at_fork("local", _after_fork_in_child)
