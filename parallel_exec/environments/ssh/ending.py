"""The end of one command on the far side, in a time of its own.

A script on another channel ends the command's processes. What runs that script is a
command as well, and a sick host may never end it either. So an ending has a bound
(`kill_after`, then `LIMIT_S`), it is never ended by another ending, and where it does not
say that all is done, nobody knows whether the command still runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from parallel_exec import reactor
from parallel_exec.environments.base import Stop
from parallel_exec.environments.ssh import remote
from parallel_exec.environments.ssh.channel import RefusedError
from parallel_exec.environments.ssh.connection import BrokenError, Transport
from parallel_exec.environments.ssh.pool import HostPool

__all__ = ["LIMIT_S", "Ending", "RunScript", "Sessions"]

log = logging.getLogger("parallel_exec")

# Seconds after `kill_after`. The documentation says 10: the rest is for what comes after
# the ending, and for a machine that is busy.
LIMIT_S = 8.0
OPENING_S = 4.0  # of these for a channel on the command's own connection; then another is made
LAST_S = 0.3  # for the threads of an ending whose time is over


class RunScript(Protocol):
    """Runs a script on a host as a command that is not ended, only left."""

    def __call__(self, script: str, transport: Transport, stop: Stop, opening: float) -> None:
        """Return when the script has ended well.

        Args:
            script: What to run.
            transport: The connection to use.
            stop: What makes it return early, by an error.
            opening: Seconds for the channel to open.

        Raises:
            RefusedError, BrokenError, TimeoutError: There was no channel for it.
            Exception: It did not end well.
        """


@dataclass(frozen=True, slots=True)
class Sessions:
    """The sessions of a command, as much as has to be known to end them later.

    Attributes:
        leaders: The processes that lead them.
        nonce: What the command's processes are recognised by.
        kill_after: Seconds between TERM and KILL.
        run: What runs the script.
    """

    leaders: Sequence[int]
    nonce: str
    kill_after: float
    run: RunScript

    def end_what_is_left(self, transport: Transport) -> None:
        """End the command after its connection has broken, over another one."""
        stop = Stop()
        clock = reactor.get()
        timer = clock.call_at(clock.now() + self.kill_after + LIMIT_S, stop.end, "timeout")
        script = remote.end_script(self.leaders, kill_after=self.kill_after, nonce=self.nonce)
        try:
            self.run(script, transport, stop, OPENING_S)
        finally:
            timer.cancel()


class Ending:
    """Ends one command. It belongs to the command's thread, which begins it and waits.

    Args:
        name: The host's, for threads and logs.
        sessions: What is to be ended.
        transport: The command's own connection.
        pool: Where another connection is made if that one has no channel to spare.
        wake: Called when there is something new, from any thread.

    Attributes:
        until: When its time is over, in monotonic seconds.
        done: Whether the host said that nothing of the command is left there.
        unreached: Whether the host could not be told at all.

    One lock: it guards `_at_work` and `done`, which threads of the ending change.
    """

    def __init__(
        self,
        name: str,
        sessions: Sessions,
        transport: Transport,
        pool: HostPool,
        wake: Callable[[], object],
    ) -> None:
        self._name = name
        self._sessions = sessions
        self._transport = transport
        self._pool = pool
        self._wake = wake
        self._lock = threading.Lock()
        self._at_work = 0
        self._threads: list[threading.Thread] = []
        self._stops: list[Stop] = []
        self._hurried = False
        self.until = 0.0
        self.done = False
        self.unreached = False
        self.error: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.done or not self._at_work or time.monotonic() >= self.until

    def begin(self, kill_after: float | None, since: float) -> None:
        """Begin to end the command, in a thread.

        Args:
            kill_after: Seconds between TERM and KILL; None for KILL at once.
            since: When the command was told to end, in monotonic seconds.
        """
        self._hurried = kill_after is None
        until = since + (kill_after or 0.0) + LIMIT_S
        self.until = min(self.until or until, until)
        stop = Stop()
        self._stops.append(stop)
        with self._lock:
            self._at_work += 1
        thread = reactor.Thread(
            target=self._work,
            args=(kill_after, stop),
            name=f"parallel_exec end {self._name}",
            daemon=True,
        )
        try:
            thread.start()
            self._threads.append(thread)
        except RuntimeError:  # out of threads: this must not be left undone
            thread.run()

    def hurry(self) -> None:
        """Wait for `kill_after` no longer: KILL now. Idempotent."""
        if not self._hurried:
            self.begin(None, time.monotonic())

    def leave(self) -> None:
        """Let go of what is still at work. Once it is `over`."""
        for stop in self._stops:
            stop.end("cancel")
        last = max(time.monotonic(), self.until if self.done else 0.0) + LAST_S
        for thread in self._threads:
            # One that hangs in a name server, say, ends by itself, later.
            thread.join(max(0.0, last - time.monotonic()))

    def _work(self, kill_after: float | None, stop: Stop) -> None:
        clock = reactor.get()
        timer = clock.call_at(self.until, stop.end, "timeout")
        try:
            script = remote.end_script(self._sessions.leaders, kill_after=kill_after)
            self._attempt(script, stop)
            with self._lock:
                self.done = True
        except Exception as error:
            self.error = error
        finally:
            timer.cancel()
            with self._lock:
                self._at_work -= 1
            self._wake()

    def _attempt(self, script: str, stop: Stop) -> None:
        run = self._sessions.run
        try:
            return run(script, self._transport, stop, OPENING_S)
        except (RefusedError, BrokenError, TimeoutError) as error:
            if stop.reason is not None:
                raise
            log.debug("%s: no channel to end a command by: %s", self._name, error)
        # No channel to spare there: over a connection made for it.
        self.unreached = True
        extra = self._pool.extra(self.until - time.monotonic())
        try:
            run(script, extra.transport, stop, OPENING_S)
            self.unreached = False
        finally:
            extra.transport.end()
            extra.release_ground()
