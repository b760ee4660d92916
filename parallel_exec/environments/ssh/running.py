"""One command on its way: from the place on a connection to its result.

The thread that runs the command sends: orders, input, acknowledgements. The
connection's reading thread takes the output (`_take`). What they share is guarded by
the channel's condition `changed`.
"""

from __future__ import annotations

import errno
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from parallel_exec.environments import redirect, room
from parallel_exec.environments.base import Stop, Ticket, report_beginning
from parallel_exec.environments.input import FileReader
from parallel_exec.environments.output import STDERR, STDOUT, Output
from parallel_exec.environments.ssh import remote
from parallel_exec.environments.ssh.channel import CommandChannel, RefusedError
from parallel_exec.environments.ssh.connection import BrokenError, Transport
from parallel_exec.environments.ssh.ending import Ending, Sessions
from parallel_exec.environments.ssh.feeding import CHUNK, Input
from parallel_exec.environments.ssh.pool import HostPool, Lease
from parallel_exec.errors import (
    AuthenticationError,
    CommandNotFoundError,
    CommandStartError,
    ConnectError,
    ConnectTimeoutError,
    ExecutorClosedError,
    HostError,
    SudoError,
)
from parallel_exec.text import SAID, plain
from parallel_exec.values.command import Command
from parallel_exec.values.result import Result, Stopped
from parallel_exec.values.secret import Hidden, Secret, mask, reveal
from parallel_exec.values.streams import INHERIT, MERGED

__all__ = ["How", "Running"]

log = logging.getLogger("parallel_exec")

SUDO_TRIES = 1  # a second question means that the answer was wrong
EXPIRED = "password has expired"  # sshd says it in English, whatever the language there
SHELL_S = 5.0  # for a login shell to begin, where the command is to be ended already
STALE_TRIES = 4  # connections that turn out to be dead before anything ran

# What starts something in the background, in a shell; `&&`, `>&` and `&>` do not.
_BACKGROUND = re.compile(r"(?<![&<>\\])&(?![&>])")

# Terminal modes (RFC 4254, section 8) for the time of the orders: no echo, no signals,
# nothing rewritten, no line of 4096 bytes at most. `stty sane` ends that.
_OFF = (30, 31, 32, 34, 35, 36, 38, 39, 41, 50, 51, 53, 54, 55, 56, 59, 60, 61, 62, 70, 72)
PTY_MODES = b"".join(bytes([code, 0, 0, 0, 0]) for code in _OFF) + b"\0"


@dataclass(frozen=True, slots=True)
class How:
    """How commands run on a host, apart from their own options.

    Attributes:
        name: What results and errors call the host.
        sudo: None, or the user to become; "" stands for root.
        timeout: Seconds for the far side to answer a request.
    """

    name: str
    sudo: str | None = None
    sudo_password: Secret | None = None
    pty: bool = False
    timeout: float = 15.0


class Running:
    """Runs one command once. `run` blocks until it has ended, or has been ended.

    Args:
        ends: Whether it is ended on the far side when it is stopped. The script of an
            ending is not: it is left, and so endings end.
    """

    def __init__(
        self,
        command: Command,
        ticket: Ticket,
        stop: Stop,
        pool: HostPool,
        how: How,
        *,
        ends: bool = True,
    ) -> None:
        self._command = command
        self._ticket = ticket
        self._stop = stop
        self._pool = pool
        self._how = how
        self._ends = ends
        self._nonce = remote.new_nonce()
        self._sudo = how.sudo is not None
        self._output = Output(command, self._poke)
        self._delivers = False  # whether its last output is on its way to callbacks and files
        self._channel: CommandChannel | None = None
        self._transport: Transport | None = None
        self._leaders: list[int] = []
        # Which lines of the orders are still to come on stdout and on stderr.
        leads = 2 if self._sudo else 1
        heads = [remote.Head(self._nonce) for _ in range(leads)]
        ready = remote.Head(self._nonce)
        self._heads: tuple[list[remote.Head], list[remote.Head]] = (
            ([*heads, ready], []) if how.pty else (heads, [ready])
        )
        self._ready = ready
        self._asked = 0
        self._over = False
        self._started_at = 0.0
        self._began = 0.0
        self._input: Input | None = None
        self._gates: list[Callable[[], bool]] = []
        self._why: Stopped | None = None
        self._stopped_at = 0.0
        self._ending: Ending | None = None

    # The life of a command

    def run(self, transport: Transport | None = None) -> Result:
        """Run the command and return its result.

        Args:
            transport: The connection to use, whatever the pool says; None to ask it.

        Raises:
            HostError: It did not run: there was no connection or no channel.
            CommandNotFoundError: It did not run: no such directory or program.
            SudoError: It did not run: sudo refused.
            CommandStartError: It did not run: its output cannot go where it is to go.
            Exception: Its input file could not be read, or a file not be written; the command
                has been ended.
        """
        self._started_at = time.time()
        self._began = time.monotonic()
        if transport is not None:
            self._channel = transport.open_command(
                self._how.timeout, self._wanted, self._stop.on_change
            )
            return self._on(transport)
        if not self._wanted():
            return self._never_ran()
        with _Places(self._pool) as places:
            channel = self._get_channel(places)
            if channel is None:
                return self._never_ran()
            assert places.lease is not None
            result = self._on(places.lease.transport)
        if result.stopped == "lost" and self._leaders and not self._told_to_end():
            self._pool.afterwards(self._sessions().end_what_is_left)
        return result

    def _on(self, transport: Transport) -> Result:
        self._transport = transport
        if self._channel is None:
            return self._never_ran()
        self._started_at = time.time()
        self._began = self._output.heard = time.monotonic()
        try:
            try:
                if not (self._divert() and self._start()):
                    return self._never_ran()
                self._drive()
            except BrokenError:  # the channel says so too
                self._why = self._why or self._stop.reason
            return self._conclude()
        finally:
            self._channel.finish()
            if self._input is not None:
                self._input.close()
            if not self._delivers:
                self._output.close(_nobody)
            # No circle of references: what was captured goes when its result goes.
            self._stop.on_change(_nobody)

    def _wanted(self) -> bool:
        return self._stop.reason is None

    def _poke(self) -> None:
        channel = self._channel
        if channel is not None:
            channel.poke()

    def _get_channel(self, places: _Places) -> CommandChannel | None:
        """Return an open channel; None if the command shall not run any more."""
        pool, stop = self._pool, self._stop
        began = time.monotonic()
        refusals = 0
        stale = 0
        while True:
            lease = places.lease = pool.lease(
                wanted=self._wanted, register=stop.on_change, strained=self._ticket.strained
            )
            if lease is None:
                return None
            try:
                self._channel = lease.transport.open_command(
                    self._how.timeout, self._wanted, stop.on_change
                )
                return self._channel
            except BrokenError as error:
                pool.drop(lease.connection)
                stale += 1
                if stale == STALE_TRIES:
                    raise ConnectError(
                        f"{self._how.name}: {error}", environment=self._how.name
                    ) from error
            except RefusedError as error:
                alone = lease.connection.used == 1
                if pool.refused(lease.connection):
                    self._ticket.strained(ConnectionRefusedError(str(error)))
                refusals += alone
                if refusals == 8:
                    raise ConnectError(
                        f"{self._how.name} opens no session: {error}", environment=self._how.name
                    ) from error
                if alone:
                    # Sessions that were closed a moment ago may still count there.
                    stop.wait(0.02 * 2**refusals)
            except TimeoutError as error:
                pool.drop(lease.connection)
                if lease.connection.made_at < began:
                    # It may be that only the way there has changed; the answer of a new
                    # connection is final.
                    lease.give_back()
                    continue
                raise ConnectTimeoutError(
                    f"{self._how.name} opened no channel within {self._how.timeout:g} s",
                    environment=self._how.name,
                ) from error
            lease.give_back()

    def _divert(self) -> bool:
        """Open what its output goes to; return False if it shall not run any more."""
        command, name = self._command, self._how.name
        for stream, where in ((STDOUT, command.stdout), (STDERR, command.stderr)):
            if where == INHERIT:
                inherited = redirect.inherited(stream, command, name)
                self._output.write_to(stream, inherited, self._poke)
            elif where is not None and (stream, where) != (STDERR, MERGED):
                fd = self._open_file(stream)
                if fd is None:
                    return False
                self._output.write_to(stream, fd, self._poke)
        return True

    def _open_file(self, stream: int) -> int | None:
        """Open a file for its output; while descriptors are short, wait as long as it is wanted."""
        while self._wanted():
            try:
                return redirect.open_file(stream, self._command, self._how.name)
            except CommandStartError:
                raise
            except OSError as error:
                self._ticket.strained(error)
                if not room.get().pause(self._stop.wait, own=1):
                    raise CommandStartError(
                        f"did not start ({error.strerror}): {plain(self._command)}",
                        errno=error.errno,
                        environment=self._how.name,
                    ) from error
        return None

    def _start(self) -> bool:
        """Send everything that need not wait for an answer, with one write.

        Returns:
            Whether it was sent; else it was stopped before, and nothing runs.
        """
        command, how, channel = self._command, self._how, self._channel
        assert channel is not None
        assert self._transport is not None
        channel.take = self._take
        source = command.input
        # Plain secrets stand in the frames of this thread only as `Hidden`.
        data: Hidden | FileReader = Hidden(command.input_bytes() or b"")
        if hasattr(source, "read"):
            data = FileReader(source, command.encoding, CHUNK)
        given = remote.orders(
            command,
            self._nonce,
            stdin=source is not None,
            pty=how.pty,
            leads=not self._sudo,
        )
        first = b""
        if "OpenSSH" not in self._transport.remote_version and not how.pty:
            first = remote.OWN_SESSION
        line = f"{remote.LINE} {self._nonce}"
        if not (first or self._sudo or command.env or command.has_secrets()):
            with_orders = remote.line_with(given)
            if with_orders is not None:
                line, given = with_orders, Hidden(b"")
        # What must not be sent before the far side is that far.
        gates: list[Hidden] = []
        if self._sudo:
            asks = how.sudo_password is not None
            first += remote.sudo_line(self._nonce, how.sudo or None, password=asks)
            if asks:
                # What follows must not be taken for the password.
                self._gates.append(self._sudo_done)
                gates.append(given)
                given = Hidden(b"")
        if how.pty:
            # The end of input is a character, that means nothing before `stty sane`.
            self._gates.append(self._is_ready)
            gates.append(Hidden(b""))
        tail = b"\x04" if how.pty else b""
        now = Hidden(first + bytes(given.reveal()))
        self._input = Input(now, gates, data, tail, self._poke)
        try:
            if not self._input.begin(self._stop, self._ticket.strained):
                return False
        except RuntimeError as error:
            raise ExecutorClosedError(
                f"did not start ({error}): {plain(command)}", environment=how.name
            ) from error
        except OSError as error:
            raise CommandStartError(
                f"did not start ({error.strerror}): {plain(command)}",
                errno=error.errno,
                environment=how.name,
            ) from error
        begin = self._input.peek()
        sent = channel.start(line, begin, final=self._input.last, pty=self._pty())
        report_beginning(self._ticket)
        self._input.sent(sent)
        return True

    def _sudo_done(self) -> bool:
        return len(self._leaders) == 2

    def _is_ready(self) -> bool:
        return self._ready.word is not None

    def _pty(self) -> bytes | None:
        return PTY_MODES if self._how.pty else None

    # In the reading thread

    def _take(self, stream: int, data: bytes) -> None:
        self._output.heard = time.monotonic()
        heads = self._heads[stream]
        while heads and data:
            head = heads[0]
            rest = head.feed(data)
            if rest is None:
                if self._sudo and head.asks():
                    self._asked += 1
                    self._poke()
                return
            heads.pop(0)
            if head.junk.strip():
                said = plain(self._masked(head.junk), SAID, end=True)
                log.debug("%s said before the command: %s", self._how.name, said)
            if head is not self._ready and head.word is not None and head.word.isdigit():
                self._leaders.append(int(head.word))
            if self._gates or self._why is not None:
                self._poke()
            data = rest
        if data and not self._output.take(stream, data):
            self._over = True
            self._poke()

    # In the command's own thread

    def _drive(self) -> None:
        """Send and wait until the command has ended, or has been ended."""
        channel, source = self._channel, self._input
        assert channel is not None
        assert source is not None
        answered = 0
        linger: float | None = None  # until when children may hold the pipes
        give_up: float | None = None  # until when a stopped command may still talk
        while True:
            with channel.changed:
                while True:
                    if channel.status is not None or channel.signal is not None:
                        linger = linger or time.monotonic() + self._command.kill_after
                    if channel.poked or self._sendable(channel, source) or self._finished(channel):
                        break
                    until = min(linger or self._quiet_until(), give_up or self._ends_by())
                    pause = until - time.monotonic() if until < 1e18 else None
                    if pause is not None and pause <= 0:
                        break
                    channel.changed.wait(pause)
                channel.poked = False
                over = self._finished(channel)
                acknowledge = (
                    channel.unacknowledged > channel.in_window_threshold and not self._output.full
                )
                sendable = self._sendable(channel, source)
            if acknowledge:
                channel.acknowledge()
            if over:
                break
            if self._asked > answered:
                answered = self._asked
                if not self._answer_sudo(answered):
                    return
            while self._gates and self._gates[0]():
                self._gates.pop(0)
                source.open_gate()
                sendable = self._sendable(channel, source)
            if sendable:
                source.sent(channel.send_some(source.peek(), final=source.last))
            now = time.monotonic()
            if self._why is None:
                self._why = self._why_stop(source)
                self._stopped_at = self._stop.ended_at or now
            if self._why is not None:
                if not self._ends:
                    return
                if self._ending is None and self._leaders:
                    self._begin_end(
                        None if self._stop.killed else self._command.kill_after, self._stopped_at
                    )
                if self._ending is not None and self._stop.killed:
                    self._ending.hurry()
                if now >= self._ends_by() or (self._ending is not None and self._ending.over):
                    # Nothing is left there, or nothing more can be done; what holds the
                    # pipes now has left the session. Take what is under way.
                    give_up = give_up or now + 0.25
            if linger is not None and now >= linger and self._why is None:
                self._begin_end(None, now)
                break
            if give_up is not None and now >= give_up:
                break
        if self._ending is None and self._leaves_children(channel):
            self._begin_end(self._command.kill_after, time.monotonic())
        self._wait_for_ending(channel)

    def _why_stop(self, source: Input) -> Stopped | None:
        """Return why the command is to be ended, if it is."""
        if self._stop.reason is not None:
            return self._stop.reason
        if self._over:
            return "output"
        if source.error is not None or self._output.error is not None:
            return "cancel"  # `run` raises what happened instead
        if time.monotonic() >= self._quiet_until():
            return "idle"
        return None

    def _quiet_until(self) -> float:
        """Return until when it may print nothing, in monotonic seconds."""
        limit, channel = self._command.idle_timeout, self._channel
        assert channel is not None
        ended = channel.status is not None or channel.signal is not None
        if limit is None or ended or self._why is not None:
            return 1e18
        return self._output.quiet_since() + limit

    def _ends_by(self) -> float:
        """Return until when a stopped command is waited for, in monotonic seconds.

        One whose login shell has said nothing yet cannot be ended: the shell gets some
        time to begin.
        """
        if self._why is None:
            return 1e18
        if self._ending is not None:
            return self._ending.until
        patience = max(SHELL_S, 0.0 if self._stop.killed else self._command.kill_after)
        return max(self._began + patience, self._stopped_at)

    def _leaves_children(self, channel: CommandChannel) -> bool:
        """Return whether a command that has ended by itself may have left some behind.

        They hold no output, or it would not have ended. Only another look at the host
        could tell, which costs as much as a short command: so it is taken where the text
        puts something in the background.
        """
        ended = channel.status is not None or channel.signal is not None
        words = map(reveal, self._command.words)
        return ended and any(_BACKGROUND.search(word) for word in words)

    def _wait_for_ending(self, channel: CommandChannel) -> None:
        ending = self._ending
        if ending is None:
            return
        while not ending.over:
            if self._stop.killed:
                ending.hurry()
            with channel.changed:
                if not channel.poked:
                    channel.changed.wait(max(0.0, ending.until - time.monotonic()))
                channel.poked = False
        ending.leave()
        if not ending.done:
            log.warning(
                "%s: %s may still be running: %s",
                self._how.name,
                self._command,
                ending.error or "the host did not say that it has ended",
            )

    def _finished(self, channel: CommandChannel) -> bool:
        """Return whether nothing more is to be expected of the channel."""
        if channel.ended_by_peer or channel.closed or channel.request_refused:
            return True
        known = channel.status is not None or channel.signal is not None
        return known and (channel.ended or not self._ends)

    def _sendable(self, channel: CommandChannel, source: Input) -> bool:
        return channel.out_window_size > 0 and not channel.eof_sent and source.ready()

    def _answer_sudo(self, question: int) -> bool:
        """Answer sudo's question; return False if the last answer was wrong."""
        password = self._how.sudo_password
        source = self._input
        assert password is not None
        assert source is not None
        if question > SUDO_TRIES:
            return False
        source.add(Hidden(password.reveal().encode() + b"\n"))
        return True

    # Ending it on the far side

    def _begin_end(self, kill_after: float | None, since: float) -> None:
        """Begin to end the command's processes."""
        if not (self._ends and self._leaders):
            return
        assert self._transport is not None
        self._ending = Ending(
            self._how.name, self._sessions(), self._transport, self._pool, self._poke
        )
        self._ending.begin(kill_after, since)

    def _sessions(self) -> Sessions:
        """Return what has to be known to end it, without what it has printed."""
        return Sessions(
            tuple(self._leaders),
            self._nonce,
            self._command.kill_after,
            partial(_run_script, self._how, self._pool),
        )

    def _told_to_end(self) -> bool:
        """Return whether an ending has reached the host, whatever came of it."""
        return self._ending is not None and not self._ending.unreached

    def _may_run_still(self, channel: CommandChannel) -> bool:
        """Return whether nobody knows that a stopped command has ended."""
        if self._ending is not None:
            return not self._ending.done
        # It has not been ended: it had ended before, or it never came to say who leads it.
        known = channel.status is not None or channel.signal is not None
        return not known and not channel.request_refused

    # The result

    def _never_ran(self) -> Result:
        assert self._stop.reason is not None
        return self._result(self._stop.reason, None, None)

    def _conclude(self) -> Result:
        channel = self._channel
        assert channel is not None
        status, signal = channel.status, channel.signal
        started = self._ready.word == "ok" and not any(self._heads)
        if self._why is None and not started:
            self._say_why_not(channel)
        delivered = threading.Event()
        self._delivers = True
        self._output.close(delivered.set)
        # A callback that blocks for ever must not hold back the end of a stopped command.
        delivered.wait(None if self._why is None else self._command.kill_after)
        if self._input is not None and self._input.error is not None:
            raise self._input.error
        if self._output.error is not None:
            raise self._output.error
        why, cause = self._why, None
        if why is not None and self._ends and self._may_run_still(channel):
            why, cause = "lost", self._why_not_known(why)
        elif why is None and self._over:
            why = "output"  # it had ended by itself before it could be ended for that
        elif why is None and status is None and signal is None:
            why, cause = "lost", self._why_lost()
        name = f"SIG{signal}" if signal is not None else None
        return self._result(why, status, name, cause)

    def _why_lost(self) -> str:
        """Return why no exit status came."""
        if broken := self._broken():
            return f"the connection was lost ({broken})"
        return "the host closed its channel without an exit status"

    def _broken(self) -> str | None:
        """Return why the connection has ended, or is about to; None if it lives."""
        assert self._transport is not None
        gone = self._transport.why is not None or not self._transport.active
        return self._reason() if gone else None

    def _why_not_known(self, why: Stopped) -> str:
        """Return why it is not known whether a stopped command has ended."""
        limit = self._command.timeout
        told = {
            "timeout": "was over its timeout" + (f" of {limit:g} s" if limit is not None else ""),
            "idle": "printed nothing for its idle_timeout",
            "output": f"printed more than {self._command.max_output_bytes} bytes",
        }.get(why, "was cancelled")
        if broken := self._broken():
            lost = f"then the connection was lost ({broken})"
        elif not self._leaders:
            lost = "the host never said that it had begun"
        else:
            lost = "the host did not say that it has ended"
        return f"it {told}, and {lost}"

    def _result(
        self,
        why: Stopped | None,
        status: int | None,
        signal: str | None,
        cause: str | None = None,
    ) -> Result:
        stdout, stderr = self._output.kept()
        return Result(
            command=self._command,
            environment=self._how.name,
            stdout=stdout,
            stderr=stderr,
            exit_code=status if signal is None else None,
            signal=signal,
            stopped=why,
            started_at=self._started_at,
            duration_s=time.monotonic() - self._began,
            queued_s=self._ticket.queued_s,
            attempts=self._ticket.attempts,
            cause=cause,
        )

    def _say_why_not(self, channel: CommandChannel) -> None:
        """Raise if it is known that the command did not run."""
        name, command = plain(self._how.name), self._command
        what = plain(command)
        word = self._ready.word
        if word == "cwd":
            raise CommandNotFoundError(
                f"did not start on {name}, since {plain(repr(command.cwd))} is no directory to"
                f" run in: {what}",
                errno=errno.ENOENT,
                environment=name,
            )
        if word == "program":
            raise CommandNotFoundError(
                f"did not start on {name}, since there is no such program: {what}",
                errno=errno.ENOENT,
                environment=name,
            )
        if word == "tty":
            raise HostError(
                f"did not start on {name}, since the host gives no terminal: {what}",
                environment=name,
            )
        talk = self._talk()
        if self._sudo and len(self._leaders) == 1:
            if self._asked > SUDO_TRIES:
                raise SudoError(f"sudo on {name} refused the password", environment=name)
            if channel.status is not None or channel.signal is not None:
                raise SudoError(f"sudo on {name} refused: it said {talk}", environment=name)
        if channel.request_refused:
            raise HostError(f"{name} refused to start: {what}", environment=name)
        if EXPIRED in talk:
            raise AuthenticationError(
                f"the password of the account on {name} has expired: change it in a terminal;"
                f" the host said {talk}",
                environment=name,
            )
        if channel.status is not None:
            shell = "shell" if self._leaders else "login shell"
            raise HostError(
                f"the {shell} on {name} exited with {channel.status} and did not start {what}:"
                f" it said {talk}",
                environment=name,
            )

    def _talk(self) -> str:
        """Return the last of what the far side said instead of starting the command."""
        said = b"".join(head.pending for heads in self._heads for head in heads)
        return plain(self._masked(said), SAID, end=True) or "nothing"

    def _reason(self) -> str:
        """Return why the connection is gone; a host may say so in words that it was sent."""
        assert self._transport is not None
        return self._masked(self._transport.reason().encode("utf-8", "replace"))

    def _masked(self, said: bytes) -> str:
        """Return the end of what the far side said: it may have echoed what it was sent."""
        secrets = (*self._command.secrets(), self._how.sudo_password)
        masked = mask(said, secrets, self._command.encoding)
        return " ".join(masked[-4 * SAID :].decode("utf-8", "replace").split())


def _nobody() -> None:
    """Nobody is left to wake."""


class _NoTicket:
    """Nobody waits in the engine for the script of an ending."""

    queued_s = 0.0
    attempts = 1

    def began(self) -> None:
        pass

    def settled(self, ending: Result | BaseException) -> None:
        pass

    def strained(self, error: BaseException) -> None:
        pass


def _run_script(
    how: How, pool: HostPool, script: str, transport: Transport, stop: Stop, opening: float
) -> None:
    """Run the script of an ending; see `ending.RunScript`."""
    how = replace(how, pty=False, timeout=min(opening, how.timeout))
    command = Command(script, check=False, label="end")
    result = Running(command, _NoTicket(), stop, pool, how, ends=False).run(transport)
    if result.stopped == "lost":
        raise BrokenError(result.cause or "the connection broke")
    result.check()


class _Places:
    """Gives the place on the connection back, whatever happens."""

    def __init__(self, pool: HostPool) -> None:
        self.lease: Lease | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.lease is not None:
            self.lease.give_back()
