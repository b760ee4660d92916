"""One local command, from its spawn to its end. Everything here happens in the service
thread, but for `end` and `kill`, which post to it.

How it ends. The exit of the first process is seen by its pidfd. Then its group is looked
at: processes that it left in the background and that hold its pipes get `kill_after` to
finish; others are ended at once. When the command is told to end, its group and whoever
left it get TERM, after `kill_after` KILL. It is over when nobody is left, which two looks at the
process table in a row must say, whether or not somebody outside still holds a pipe.

Signals to a group need an id that cannot have been given to another in the meantime. The
first process keeps it as long as it is not reaped; after that the pidfd does, where the
kernel can signal a group by it (Linux 6.9); before Linux 6.9 the group's own members keep
it, and only a group known to have some is signalled.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

from parallel_exec import reactor
from parallel_exec.environments import redirect, room
from parallel_exec.environments.base import EndReason, Ticket, report_beginning
from parallel_exec.environments.input import FileReader
from parallel_exec.environments.local import kernel
from parallel_exec.environments.local.collect import (
    ALONE,
    CHUNK,
    ENDED,
    FAILED,
    LOST,
    MORE,
    collect,
    drain,
)
from parallel_exec.environments.local.spawn import MERGED, PIPE, SCARCE, Variables, spawn
from parallel_exec.environments.output import STDERR, STDOUT, Output
from parallel_exec.errors import (
    CommandNotFoundError,
    CommandStartError,
    ConfigError,
    ExecutorClosedError,
    TaskCancelledError,
)
from parallel_exec.reactor import Timer, busy
from parallel_exec.reactor.poller import READ, WRITE
from parallel_exec.text import plain
from parallel_exec.values.command import Command
from parallel_exec.values.result import Result, Stopped
from parallel_exec.values.secret import Secret, forget_frames, reveal
from parallel_exec.values.streams import INHERIT, MERGED as WITH_STDOUT

if TYPE_CHECKING:
    from parallel_exec.environments.local.backend import Host, LocalBackend
    from parallel_exec.environments.local.descendants import Stray

__all__ = ["Process"]

log = logging.getLogger("parallel_exec")

BUSY_S = tuple(0.001 * 2**number for number in range(9))  # pauses while a program is being written
AT_ONCE = 1 << 18  # bytes of a command read at most before others have their turn
DRAIN = 1 << 22  # bytes read at most after the exit, before the end is looked at
POLL_S = 0.02  # how often an exit that cannot be waited for is looked for
LOOKS = 2  # how many looks in a row must find nobody
UNKILLABLE_S = 5.0  # how long KILL may take before the end is reported without it


class Process:
    """A command on this machine. See `parallel_exec.environments.base.Execution`."""

    __slots__ = (
        "backend",
        "command",
        "host",
        "live",
        "pid",
        "serial",
        "started",
        "ticket",
        "_alone",
        "_busy",
        "_status",
        "_diverted",
        "_duration",
        "_input",
        "_kill_at",
        "_linger",
        "_looks",
        "_empty",
        "_output",
        "_over",
        "_quiet",
        "_silence",
        "_patience",
        "_pidfd",
        "_polled",
        "_reaped",
        "_reason",
        "_reported",
        "_slot",
        "_started_at",
        "_stderr",
        "_stdout",
        "_strays",
        "_failure",
        "_watched",
    )

    def __init__(self, backend: LocalBackend, command: Command, ticket: Ticket, host: Host) -> None:
        self.host = host
        self.backend = backend
        self.command = command
        self.ticket = ticket
        self.pid = 0
        self.serial = 0
        self.live = False  # whether it has been spawned and its end not been reported
        self._over = False
        self._reported = False
        self._patience = command.kill_after  # how long callbacks are waited for in the end
        self._duration: float | None = None  # once it has been spawned and is over
        self._reason: Stopped | None = None
        self._failure: BaseException | None = None
        self._status: int | None = None
        self._reaped = False
        self._alone = False  # whether it is known that nobody is left in its group
        self._busy = 0  # how often it was tried to start while its program was being written
        self._linger = False
        self._polled = False  # whether its exit is looked for in a while
        self._quiet = 0  # how many looks in a row have found nobody new to be told
        self._empty = 0  # and how many nobody at all
        self._watched = False
        self._kill_at = 0.0
        self._strays: dict[tuple[int, bytes], Stray] = {}
        self._looks = 0  # how often it has been looked for them
        self._diverted = False  # whether a stream of it goes past us
        self._stdout = -1  # our end of each pipe, as long as it is open
        self._stderr = -1
        self._input = -1
        self._pidfd = -1
        self._slot = -1
        self._silence: Timer | None = None  # until when it may print nothing

    # Starting

    def launch(self) -> None:
        """Spawn it. It reports later, whatever happens here."""
        if self._reason is not None:
            return self.refuse(
                TaskCancelledError(f"was cancelled before it started: {plain(self.command)}")
            )
        try:
            with self.host.starting:
                self._spawn()
        except (ConfigError, ExecutorClosedError) as error:  # some are an OSError, too
            self.refuse(error)
        except OSError as error:
            self._fail_to_start(error)
        except Exception as error:
            refusal = CommandStartError(
                f"cannot be started ({plain(error)}): {plain(self.command)}"
            )
            refusal.__cause__ = forget_frames(error) if not self.command.has_secrets() else None
            self.refuse(refusal)

    def _spawn(self) -> None:
        host = self.host
        command = self.command
        if not host.ready:
            host.prepare()
        watchdog = host.watchdog
        self.serial = serial = next(watchdog.serials)
        variables = host.variables()
        if command.env is not None:
            variables = Variables(_merged(variables.items, command.env))
        self._output = output = Output(command, self._caught_up)
        data = command.input_bytes() if command.input is not None else None
        stdin = host.null if command.input is None else PIPE
        stdout = stderr = PIPE
        given: list[int] = []  # files of the command's own
        feeder: SimpleQueue[int] | None = None
        slot = -1
        try:
            if not command.capture or command.stdout is not None or command.stderr is not None:
                stdout = self._place(STDOUT, given)
                stderr = self._place(STDERR, given)
            if command.input is not None and data is None:
                feeder = self._start_feeder()
            slot = watchdog.announce(serial, command.kill_after)
            self._started_at = time.time()
            self.started = time.monotonic()
            started = spawn(
                command.argv(),
                variables,
                b"%b%d" % (watchdog.mark, serial),
                command.cwd,
                stdin,
                stdout,
                stderr,
                waiting=feeder is not None or bool(given),  # of a file, what has been read is read
            )
        except BaseException:
            output.close_files()
            watchdog.clear(slot)
            if feeder is not None:
                feeder.put(-1)
            raise
        finally:
            for fd in given:
                os.close(fd)
        self.pid, self._pidfd, self._input, self._stdout, self._stderr = started
        self.live = True
        report_beginning(self.ticket)
        busy.begin(self)
        self._slot = slot
        watchdog.confirm(slot, self.pid)
        if self._pidfd >= 0:
            host.reactor.watch(self._pidfd, READ, self._look_for_exit)
        else:  # not here: with its end the next may be started, and this start is not over
            host.reactor.post(self._look_for_exit)
        if output.live:
            self.watch_output()
        if command.idle_timeout is not None:
            output.heard = self.started
            self._listen(self.started)
        host.young(self)
        if feeder is not None:
            fd, self._input = self._input, -1
            os.set_blocking(fd, True)
            host.inputs.add(fd)
            feeder.put(fd)
        elif data is not None:
            host.reactor.watch(self._input, WRITE, self._write, memoryview(data), [0])

    def _place(self, stream: int, given: list[int]) -> int:
        """Return what a stream of it is to be, opened; what it alone is to have goes to `given`.

        A file is its own, unless what it prints is to be seen here as well: then it is
        written by the thread that makes the callbacks, since a disk may block.
        """
        command, output = self.command, self._output
        where = command.stderr if stream == STDERR else command.stdout
        if stream == STDERR and where == WITH_STDOUT:
            return MERGED
        if where == INHERIT:
            self._diverted = True
            return redirect.inherited(stream, command, self.backend.name)
        if where is None:
            return self.host.null if output.discards(stream) else PIPE
        fd = redirect.open_file(stream, command, self.backend.name)
        if output.discards(stream):
            given.append(fd)
            self._diverted = True
            return fd
        output.write_to(stream, fd, self._caught_up)
        return PIPE

    def watch_output(self) -> None:
        """Have its output read as it comes.

        Not from the start, unless somebody waits for its lines: most commands end so soon
        that reading once, at the end, is all they need, and watching two more descriptors
        costs more than that.
        """
        if not self._watched:
            self._watch()

    def _watch(self) -> None:
        """Watch its output, or watch it anew: what is in the pipes counts as coming now."""
        self._watched = True
        for fd in (self._stdout, self._stderr):
            if fd >= 0:
                self.host.reactor.watch(fd, READ, self._readable)

    def _listen(self, heard: float) -> None:
        """Have it ended when it has printed nothing for its `idle_timeout` since `heard`."""
        limit = self.command.idle_timeout
        assert limit is not None
        if self._silence is not None:  # of a start that failed
            self._silence.cancel()
        self._silence = self.host.reactor.call_at(heard + limit, self._look_for_silence, heard)

    def _look_for_silence(self, heard: float) -> None:
        """End it, if nothing has come since `heard` and it still runs by itself."""
        if self._over or self._status is not None or self._reason is not None or not self.live:
            return
        if not self._output.full:
            self._drain(AT_ONCE)  # it may have come while this thread was busy
        since = self._output.quiet_since()
        if since > heard:
            self._listen(since)
        else:
            self._end("idle")

    def _fail_to_start(self, error: OSError) -> None:
        """Have it started again when there is room, if somebody of ours may make some, or give it
        up.
        """
        if error.errno in SCARCE and (busy.may_give_back() or room.get().give_way()):
            self.ticket.strained(error)
            self.host.wait_for_room(self)
        elif error.errno == errno.ETXTBSY and self._busy < len(BUSY_S):
            # Somebody wrote to it just before, and another child has the descriptor for a moment.
            self.host.reactor.call_at(time.monotonic() + BUSY_S[self._busy], self.launch)
            self._busy += 1
        else:
            self.refuse(self._refusal(error))

    def _take_back(self, number: int) -> None:
        """What was to become it has ended before that: it has not been started."""
        self.live = False
        busy.end(self)
        self.host.ending.discard(self)
        self.host.watchdog.clear(self._slot)
        self._slot = -1
        self._give_back()
        self._output.close_files()
        for stray in self._strays.values():
            stray.close()
        self._strays.clear()
        self._status = None
        self._reaped = self._alone = self._watched = False
        self._looks = self._quiet = self._empty = 0
        if self._reason is None:
            self._fail_to_start(OSError(number, os.strerror(number)))
        else:
            self.launch()  # which says that it was ended before

    def refuse(self, error: BaseException) -> None:
        """Report that it did not run, and why."""
        self._over = True
        self.host.reactor.post(self._report, error)

    def _refusal(self, error: OSError) -> CommandStartError:
        """Return the error for a command that the system did not start."""
        command = self.command
        kind: type[CommandStartError] = CommandNotFoundError
        if command.cwd is not None and not os.path.isdir(command.cwd):
            what = f"cwd {command.cwd!r} is not a directory"
        elif command.cwd is not None and not os.access(command.cwd, os.X_OK):
            what = f"cwd {command.cwd!r} cannot be entered: {error.strerror}"
        elif isinstance(error, FileNotFoundError | NotADirectoryError):
            name = "/bin/sh" if command.shell else plain(command.words[0])
            what = f"command not found: {name}"
        elif error.errno in (errno.E2BIG, errno.ENAMETOOLONG):
            longest = max(len(os.fsencode(word)) for word in command.argv())
            kind = CommandStartError
            what = (
                f"command is too long for the system, its longest word has {longest:,} bytes"
                f" (hand it over by input= or in a file): {plain(command)}"
            )
        else:
            kind = CommandStartError
            what = f"cannot be started ({error.strerror}): {plain(command)}"
        refusal = kind(what, errno=error.errno, environment=self.backend.name)
        refusal.__cause__ = forget_frames(error) if not command.has_secrets() else None
        return refusal

    # Input and output

    def _start_feeder(self) -> SimpleQueue[int]:
        """Start the thread that reads an input file, which may block for as long as it likes.

        Before the command is: one that has its process and no thread would wait for what
        others like it keep.

        Returns:
            Where the thread gets the pipe to write to, or -1 if there is no command.

        Raises:
            OSError: The system is out of threads now.
            ExecutorClosedError: The interpreter exits.
        """
        pipe: SimpleQueue[int] = SimpleQueue()
        thread = reactor.Thread(
            target=self._feed_file, args=(pipe,), name="parallel_exec input", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            if reactor.starts_no_more_threads(error):
                what = f"no thread to read the input ({plain(error)}) of {plain(self.command)}"
                raise ExecutorClosedError(what, environment=self.backend.name) from None
            raise OSError(errno.EAGAIN, str(error)) from None
        return pipe

    def _write(self, data: memoryview, sent: list[int]) -> None:
        try:
            with _sigpipe_held():
                while sent[0] < len(data):
                    sent[0] += os.write(self._input, data[sent[0] : sent[0] + CHUNK])
        except BlockingIOError:
            return
        except OSError:
            pass  # the command has stopped reading, which it may
        self._close_input()

    def _feed_file(self, pipe: SimpleQueue[int]) -> None:
        busy.begin(threading.get_ident())
        try:
            fd = pipe.get()
            if fd >= 0:
                self._feed_from(fd)
        finally:
            busy.end(threading.get_ident())

    def _feed_from(self, fd: int) -> None:
        try:
            reader = FileReader(self.command.input, self.command.encoding)
            while (chunk := reader.read(fd)) and _write_all(fd, chunk):
                pass
        except BaseException as error:
            # Whatever it is: half an input is not the input. The pipe stays open until the
            # command has been told to end: it would take its end for that of the input.
            self.host.reactor.post(self._not_fed, error, fd)
        else:
            self._fed(fd)

    def _not_fed(self, error: BaseException, fd: int) -> None:
        if not self._over:
            self._fail(error)
        self._fed(fd)

    def _fed(self, fd: int) -> None:
        """Close the pipe to the command's input, in whatever thread; not during a fork, whose
        child closes what is in `inputs`.
        """
        with self.host.starting:
            self.host.inputs.remove(fd)
            os.close(fd)

    def _close_input(self) -> None:
        if self._input >= 0:
            with self.host.starting:
                self._close(self._input)
                self._input = -1

    def _close(self, fd: int) -> None:
        """Close one of ours, with `starting` held. During a fork it must not be done: the child
        would keep what is closed here, or close what has its number by then.
        """
        self.host.reactor.forget(fd)
        try:
            os.close(fd)
        except OSError:
            log.warning("somebody else has closed a descriptor of %s", plain(self.command))

    def _readable(self) -> None:
        if self._output.error is not None:
            self._fail(self._output.error)
        if self._output.full and self._reason != "output":
            return  # `_caught_up` has it read on
        if not self._drain(AT_ONCE):
            self._watch()  # first the others have their turn
        elif self._status is not None and not self._open():
            self.check()

    def _drain(self, most: int) -> bool:
        """Read what is in the pipes now, up to about `most` bytes; close them at their ends.

        Returns:
            Whether that was all.
        """
        state = MORE
        while state & MORE:
            if most <= 0:
                return False
            with self.host.starting:  # it may close them; see `_close`
                out, err, state = drain(self._stdout, self._stderr)
                self._note(state)
            self._keep(out, err, state)
            most -= len(out) + len(err)
        return True

    def _note(self, state: int) -> None:
        """Take note of the pipes that have been read to their ends and are closed."""
        ended_out, ended_err = ENDED
        if state & ended_out:
            if self._watched:
                self.host.reactor.forget(self._stdout)
            self._stdout = -1
        if state & ended_err:
            if self._watched:
                self.host.reactor.forget(self._stderr)
            self._stderr = -1

    def _keep(self, out: bytes, err: bytes, state: int) -> None:
        """Take what has been read."""
        try:
            if out:
                self._take(STDOUT, out)
            if err:
                self._take(STDERR, err)
            if state & LOST:
                raise MemoryError(f"there was no memory for the output of {plain(self.command)}")
        except MemoryError as error:
            self._fail(error)

    def _take(self, stream: int, data: bytes) -> None:
        # What comes after the limit is read, so that the command can end, and dropped.
        if self._reason == "output" or self._failure is not None:
            return
        if not self._output.take(stream, data):
            self._exceeded()

    def _caught_up(self) -> None:
        """Be told, in whatever thread, that the callbacks have caught up."""
        self.host.reactor.post(self._readable)

    def _open(self) -> bool:
        """Return whether anybody still holds a pipe of its output."""
        return self._stdout >= 0 or self._stderr >= 0

    def _held(self) -> bool:
        """Return whether somebody may still have something to print."""
        return self._open() or self._diverted

    def forget(self) -> None:
        """In a forked child: give back what is not watched."""
        if self.live:
            self._output.close_files()
        if not self._watched:
            for fd in (self._stdout, self._stderr):
                if fd >= 0:
                    os.close(fd)

    # Ending

    def end(self, reason: EndReason) -> None:
        """See `Execution.end`."""
        self._post(self._end, reason)

    def kill(self) -> None:
        """See `Execution.kill`."""
        self._post(self._kill)

    def _post(self, call: Callable[..., None], *args: object) -> None:
        self.host.reactor.post(call, *args)

    def _fail(self, error: BaseException) -> None:
        """End it because its input cannot be read, or its output not be kept: that error is
        what it ends with.
        """
        if self._failure is None:
            self._failure = error
            self._end("cancel")

    def _exceeded(self) -> None:
        """End it because it has printed too much, if only in the end."""
        if self._over:
            self._reason = self._reason or "output"
        else:
            self._end("output")

    def _end(self, reason: Stopped) -> None:
        if self._over:
            self._hurry()
            return
        if self._reason is not None:
            return
        self._reason = reason
        if not self.live:  # it waits for room, or has not been launched
            if self in self.host.waiting:
                self.host.waiting.remove(self)
                self.launch()
            return
        self._linger = False
        self._kill_at = time.monotonic() + self.command.kill_after
        if self._reaped:  # who left it is no daemon any more
            self.host.watchdog.confirm(self._slot, 0)
        self.host.end(self, everybody=True)
        self._signal(signal.SIGTERM)

    def _kill(self) -> None:
        self._patience = 0.0
        if self._over:
            self._leave_callbacks()
        elif self.live and self._reason is not None:
            self._kill_at = time.monotonic()
            self.check()

    @property
    def group(self) -> int:
        """The id of its group; negative if its first process's may be another's by now."""
        return -self.pid if self._reaped else self.pid

    def looked(self, found: Iterable[Stray], groups: Container[int]) -> bool:
        """Take over the processes that left the session, as one look has found them.

        Args:
            found: All of them.
            groups: The groups that have a living member.

        Returns:
            Whether it need not be looked again for now.
        """
        if self._over:
            for stray in found:
                stray.close()
            return True
        strays = self._strays
        nobody = self.pid not in groups
        for stray in found:
            nobody = False
            known = strays.setdefault((stray.pid, stray.started), stray)
            if known is not stray:
                known.parent, known.parents_group = stray.parent, stray.parents_group
                stray.close()
        living = [stray for stray in strays.values() if stray.alive]
        busy = {stray.pid for stray in living if stray.told}
        late = time.monotonic() >= self._kill_at
        quiet = True
        # Parents first: one that sees its child die before it is told may go on.
        for stray in sorted(living, key=lambda stray: (int(stray.started), stray.pid)):
            # Who was started by one that has been told, and still runs, is that one's to end: it
            # may clean up. But the first look comes right after the group has been told.
            cared_for = stray.parent in busy or stray.parents_group == self.pid
            if not stray.told and (late or not self._looks or not cared_for):
                stray.told = True
                stray.send(signal.SIGKILL if late else signal.SIGTERM)
                quiet = False
        self._looks += 1
        self._quiet = self._quiet + 1 if quiet else 0
        self._empty = self._empty + 1 if nobody and not living else 0
        if self._empty >= LOOKS:
            self.check()
            return True
        if nobody or not all(stray.told for stray in living):
            return False
        return self._quiet >= LOOKS

    @property
    def patient(self) -> bool:
        """Whether what is still to be found can wait: those that were found clean up."""
        return self._quiet > LOOKS

    def _signal(self, number: int) -> bool:
        """Signal the group; return whether anybody is in it (a dead leader counts until
        it is reaped).
        """
        if self._alone:
            return False
        try:
            if not self._reaped:
                try:
                    os.killpg(self.pid, number)
                except ProcessLookupError:  # it has just been started and has no group yet
                    os.kill(self.pid, number)
            elif self._pidfd >= 0 and kernel.group_by_pidfd():
                kernel.signal_group(self._pidfd, number)
            else:
                os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            # Members that became somebody else's (sudo, su) are not ours to signal;
            # on macOS also the answer for a group of zombies.
            return number == 0 and not self._reaped
        return True

    def _look_for_exit(self) -> None:
        """Handle the exit of the first process, if it has exited; else look again in a while,
        for where it cannot be waited for.
        """
        if self._over or self._status is not None:
            return
        watchdog = self.host.watchdog
        # Its id may soon be another's; who it leaves in its group, or is to be ended with it,
        # is found by the mark.
        watchdog.confirm(self._slot, -self.pid if self._reason is None else 0)
        with self.host.starting:  # it may close them; see `_close`
            status, out, err, state = collect(self.pid, self._pidfd, self._stdout, self._stderr)
            if status is not None:
                self._note_exit(status, state)
        if state & FAILED:
            assert status is not None
            self._take_back(status)
            return
        if status is None:
            watchdog.confirm(self._slot, self.pid)
            if not self._polled:  # once, however often it is called in vain
                self._polled = True
                self.host.reactor.call_at(time.monotonic() + POLL_S, self._poll)
            return
        if out or err or state & LOST:
            self._keep(out, err, state)
        if self._input >= 0:
            self._close_input()
        if self._open() and not self._drain(DRAIN):
            self._watch()
        if self._reason is None:
            if not self._signal(0):
                self._finish()
                return
            if self._held():
                # Background processes hold the pipes: they may finish what they print.
                self._linger = True
                self.watch_output()
            else:
                self._signal(signal.SIGTERM)
            self._kill_at = time.monotonic() + self.command.kill_after
            self.host.end(self, everybody=False)  # who left is a daemon now
        self.check()

    def _note_exit(self, status: int, state: int) -> None:
        """Take note that the first process has been reaped, and of what `collect` has closed."""
        if status >= 0 and not state & FAILED:
            code = os.waitstatus_to_exitcode(status)
            status = code if code >= 0 else SIGNALLED - code
        self._status = status
        self._reaped = True
        if state & ALONE:
            self._alone = True
            self.host.reactor.forget(self._pidfd)
            self._pidfd = -1
        self._note(state)

    def _poll(self) -> None:
        self._polled = False
        self._look_for_exit()

    def _reap_later(self) -> None:
        """Reap a process that outlives KILL, whenever it ends."""
        status, *_ = collect(self.pid, -1, -1, -1)
        if status is None:
            self.host.reactor.call_at(time.monotonic() + 1.0, self._reap_later)

    def check(self) -> None:
        """Finish, if everything is over; go on to KILL, if it is time to."""
        if self._over:
            return
        now = time.monotonic()
        if self._linger and now >= self._kill_at:
            self._linger = False
            self._signal(signal.SIGTERM)
            self._kill_at = now + self.command.kill_after
        alive = self._status is None or (self._signal(0) and self.host.group_lives(self.pid))
        strays = any(stray.alive for stray in self._strays.values())
        if self._linger:
            if alive and self._held():
                return
            self._linger = False
            if alive:
                self._signal(signal.SIGTERM)
                self._kill_at = now + self.command.kill_after
                return
        if not alive and not strays:
            if self._reason is None or self._empty >= LOOKS:
                self._finish()
                return
            self.host.seek(self)  # what they may have started before they ended
        if self._kill_at and now >= self._kill_at:
            self._signal(signal.SIGKILL)
            for stray in self._strays.values():
                stray.send(signal.SIGKILL)
            if now >= self._kill_at + UNKILLABLE_S:
                log.warning("%s does not end by SIGKILL", plain(self.command))
                self._finish()

    def _finish(self) -> None:
        self._over = True
        self.live = False
        if self._silence is not None:
            self._silence.cancel()
        busy.end(self)
        self.host.watchdog.clear(self._slot)
        if max(self._stdout, self._stderr, self._input, self._pidfd) >= 0:
            self._give_back()
        if not self._reaped:
            self._reap_later()
        for stray in self._strays.values():
            stray.close()
        self._duration = time.monotonic() - self.started
        if self._reason is not None:
            self._hurry()
        if self._output.live:
            self._output.close(self._ended)
        else:
            self._report(self._ending())

    def _give_back(self) -> None:
        """Read what there is, and close everything."""
        if self._open():
            self._drain(DRAIN)
        with self.host.starting:
            for fd in (self._stdout, self._stderr, self._input, self._pidfd):
                if fd >= 0:
                    self._close(fd)
            self._stdout = self._stderr = self._input = self._pidfd = -1

    def _ended(self) -> None:
        """Report the result, after the last callback, in whose thread this is."""
        self.host.reactor.post(self._report, self._ending())

    def _hurry(self) -> None:
        """Wait no longer than `kill_after` for callbacks, now that it is told to end."""
        if self._duration is not None and not self._reported and self._output.live:
            over = time.monotonic() + self._patience
            self.host.reactor.call_at(over, self._leave_callbacks)

    def _leave_callbacks(self) -> None:
        """Report the result although a callback has not returned: it cannot be ended."""
        if self._duration is not None and not self._reported:
            log.warning("%s is over, but a callback for its output still runs", plain(self.command))
            self._report(self._ending())

    def _report(self, ending: Result | BaseException) -> None:
        if self._reported:
            return
        self._reported = True
        self.host.gone(self)
        self.ticket.settled(ending)

    def _ending(self) -> Result | BaseException:
        """Return what it ended with."""
        if self._failure is not None or self._output.error is not None:
            return self._failure or self._output.error  # type: ignore[return-value]
        assert self._duration is not None
        exit_code: int | None = self._status
        name = None
        if exit_code is not None and not 0 <= exit_code < SIGNALLED:
            name = _signal_name(exit_code - SIGNALLED) if exit_code > 0 else None
            exit_code = None
        try:
            stdout, stderr = self._output.kept()
        except MemoryError as error:
            return error
        ticket = self.ticket
        return Result(  # without keywords, which take a third of it
            self.command,
            self.backend.name,
            stdout,
            stderr,
            exit_code,
            name,
            self._reason,
            self._started_at,
            self._duration,
            ticket.queued_s,
            ticket.attempts,
        )


SIGNALLED = 1000  # added to a status that is a signal's number


@contextmanager
def _sigpipe_held() -> Iterator[None]:
    """Have a write to a pipe that nobody reads fail, and nothing else: where the program has
    SIGPIPE at its default, as many do, it would end the program.
    """
    if signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        yield
    finally:
        # Also in the service thread, which has it blocked for good: it must not stay pending.
        if signal.SIGPIPE in signal.sigpending():
            signal.sigwait({signal.SIGPIPE})
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write_all(fd: int, data: bytes) -> bool:
    """Write to a command; return False if it has stopped reading, which it may."""
    left = memoryview(data)
    try:
        with _sigpipe_held():
            while left:
                left = left[os.write(fd, left) :]
    except BrokenPipeError:
        return False
    return True


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _merged(environ: Sequence[bytes], env: Mapping[str, str | Secret | None]) -> list[bytes]:
    """Return the variables with those of a command merged over them."""
    names = tuple(os.fsencode(name) + b"=" for name in env)
    merged = [variable for variable in environ if not variable.startswith(names)]
    for name, value in zip(names, env.values(), strict=True):
        if value is not None:
            merged.append(name + os.fsencode(reveal(value)))
    return merged
