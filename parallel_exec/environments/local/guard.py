"""The watchdog's process: started, watched, started again.

It is started through a shell that leaves it at once, so it is no child of this process: a program
that waits for all of its children does not wait for it. (Who is process 1, or a subreaper, becomes
its parent all the same.) So nothing keeps its id from being given to another, and there are two
pipes. One tells its id and that it is at work, and that pipe's end is its own. A byte in the other
stops it.
"""

from __future__ import annotations

import logging
import os
import pkgutil
import select
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from parallel_exec import reactor
from parallel_exec.environments.local import interpreter, kernel
from parallel_exec.environments.local.spawn import SCARCE
from parallel_exec.reactor.lifecycle import STARTING
from parallel_exec.reactor.mailbox import Mailbox
from parallel_exec.reactor.poller import READ

__all__ = ["Guard"]

log = logging.getLogger("parallel_exec")

MAIN = "watchdog_main.py"
STEADY_S = 10.0  # one that has worked for so long is started again at once, else after a while
LONGEST_PAUSE_S = 60.0
LATE_S = 60.0  # after which one that is not at work yet counts as none
STOP_S = 2.0  # how long its end is waited for at the exit
RETRY_S = 1.0  # after which it is tried again when there was no room


class Guard:
    """Has the process that ends what this one leaves behind. For the service thread, but `stop`.

    Args:
        table: The descriptor of the table of commands.
        token: Marks the commands.

    Attributes:
        pid: The id of the process, once it is at work; 0 before, and where there is none.
    """

    def __init__(self, table: int, token: str) -> None:
        self.pid = 0
        self._table = table
        self._token = token
        self._life = -1  # our end of the pipe in which it says that it is at work
        self._leash = -1  # our end of the pipe that stops it
        self._interpreters: Iterator[str] = iter(())
        self._id = 0
        self._pause = 0.0
        self._began = 0.0
        self._stopped = False
        self._mailbox = Mailbox("parallel_exec warnings")
        self._warned = False

    def start(self) -> None:
        """Start the process, where there can be one. Does not wait until it is at work.

        Raises:
            OSError: The system is out of something now.
        """
        self._interpreters = interpreter.candidates()
        self._next("no Python was found to run it with")

    def _next(self, reason: str) -> None:
        """Start it with the next Python that there is, or say why there is none."""
        script = _script()
        python = next(self._interpreters, None) if script else None
        if python is None:
            self._miss(reason if script else "its script is not among the program's files")
            return
        try:
            with STARTING:
                self._launch(python, script)
        except OSError as error:
            if error.errno in SCARCE:
                raise
            self._miss(str(error))

    def _launch(self, python: str, script: list[str]) -> None:
        mine: list[int] = []
        its: list[int] = []
        try:
            life, said = os.pipe()
            mine.append(life)
            its.append(said)
            ordered, leash = os.pipe()
            mine.append(leash)
            its.append(ordered)
            parent = kernel.open_pidfd(os.getpid())
            if parent >= 0:
                its.append(parent)
            numbers = self._table, said, ordered, os.getpid(), parent
            words = [python, *interpreter.flags(), *script, *map(str, numbers), self._token]
            shell = subprocess.Popen(
                ["/bin/sh", "-c", '"$@" > /dev/null & echo $!', "sh", *words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=interpreter.variables(),
                start_new_session=True,
                pass_fds=[self._table, *its],
            )
            shell.wait()
        except BaseException:
            for fd in mine:
                os.close(fd)
            raise
        finally:
            for fd in its:
                os.close(fd)
        self._life, self._leash = mine
        os.set_blocking(life, False)
        self._began = time.monotonic()
        loop = reactor.get()
        loop.watch(life, READ, self._heard)
        loop.call_at(self._began + LATE_S, self._late, life)

    def _heard(self) -> None:
        """Take note that it is at work, or that it has ended."""
        try:
            while said := os.read(self._life, 64):
                for word in said.split():
                    if word == b"up":
                        self.pid = self._id
                    elif word.isdigit():
                        self._id = int(word)
        except BlockingIOError:
            return
        loop = reactor.get()
        worked = self.pid > 0
        self._close()
        if self._stopped:
            return
        if not worked:
            self._retry(self._next, "the Python that was to run it could not")
            return
        now = time.monotonic()
        steady = now - self._began > STEADY_S
        pause = 0.0 if steady else self._pause
        self._pause = min(max(1.0, 2 * pause), LONGEST_PAUSE_S)
        log.warning("the watchdog has been ended by somebody; another is started")
        loop.call_at(now + pause, self._retry, self.start)

    def _retry(self, start: Callable[..., None], *args: object) -> None:
        if self._stopped or self._life >= 0:
            return
        try:
            start(*args)
        except OSError:  # no room now
            loop = reactor.get()
            loop.call_at(loop.now() + RETRY_S, self._retry, self.start)

    def _late(self, life: int) -> None:
        if life == self._life and not self.pid:
            self._miss(f"it is not at work after {LATE_S:.0f} s")

    def _miss(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            text = f"no watchdog: commands outlive this process if it is killed ({why})"
            self._mailbox.put(_warn, text)  # who has replaced `warnings.showwarning` may block

    def stop(self) -> None:
        """End it, and wait for that, at the exit. From any thread, after the service thread."""
        self._stopped = True
        if self._leash < 0:
            return
        self._heard()
        if self._leash < 0:
            return  # it has ended before
        try:
            os.write(self._leash, b"x")
            if self._id:  # which is still its own, or its pipe had ended
                os.kill(self._id, signal.SIGKILL)
            poll = select.poll()
            poll.register(self._life, select.POLLIN)
            over = time.monotonic() + STOP_S
            while (left := over - time.monotonic()) > 0 and poll.poll(left * 1000):
                if not os.read(self._life, 64):
                    break
        except OSError:
            pass  # it has ended before
        self._close()

    def _close(self) -> None:
        loop = reactor.get()
        with STARTING:
            for fd in (self._life, self._leash):
                if fd >= 0:
                    loop.forget(fd)
                    os.close(fd)
            self._life = self._leash = -1
        self.pid = 0

    def forget(self) -> None:
        """In a forked child: it is the parent's. The reactor has closed what it watched."""
        if self._leash >= 0:
            os.close(self._leash)
        self._life = self._leash = -1
        self.pid = 0
        self._stopped = True


def _warn(text: str) -> None:
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # made an error, which nobody here could handle
        log.warning("%s", text)


def _script() -> list[str]:
    """Return how a Python is given the script: by its path, or, where it is no file (a zip), by
    its text; empty if it is not there at all.
    """
    path = Path(__file__).with_name(MAIN)
    if path.is_file():
        return [str(path)]
    try:
        text = pkgutil.get_data(__package__, MAIN)
    except OSError:
        text = None
    return ["-c", text.decode()] if text else []
