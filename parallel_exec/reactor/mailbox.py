"""Foreign code, called in order, off the service thread.

A callback of the user's may block, or call back into the library; neither may happen in
the service thread. A mailbox gives each owner its own line of calls and a thread that
exists only while there is something to call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from parallel_exec.reactor import busy
from parallel_exec.reactor.loop import get, starts_no_more_threads
from parallel_exec.reactor.mishaps import report
from parallel_exec.reactor.threads import Thread

__all__ = ["Mailbox"]

LINGER_S = 0.05  # how long the thread waits for more before it ends


class Mailbox:
    """Calls functions one after the other in a thread that comes and goes.

    One lock: it guards `_calls` and `_running`; calls are made outside of it.

    Attributes:
        starved: Whether there is something to call and no thread to be had for it.
    """

    __slots__ = ("_calls", "_condition", "_name", "_running", "starved")

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._condition = threading.Condition(threading.Lock())
        self._running = False
        self.starved = False

    def put(self, call: Callable[..., object], *args: Any) -> None:
        """Have `call` made after those put before. Whatever it raises is logged."""
        with self._condition:
            self._calls.append((call, args))
            if self._running:
                self._condition.notify()
                return
            self._running = True
        self._start()

    def _start(self) -> None:
        thread = Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
            self.starved = False
        except RuntimeError as error:
            reactor = get()
            if starts_no_more_threads(error):  # better in the service thread than never
                reactor.post(self._run, 0)
            else:  # out of threads: try again when there may be some
                self.starved = True
                reactor.call_at(reactor.now() + 0.05, self._start)

    def _run(self, linger: float = LINGER_S) -> None:
        busy.begin(threading.get_ident())
        try:
            self._call_all(linger)
        finally:
            busy.end(threading.get_ident())

    def _call_all(self, linger: float) -> None:
        while True:
            with self._condition:
                if not self._calls and linger:
                    self._condition.wait(linger)
                if not self._calls:
                    self._running = False
                    return
                call, args = self._calls.popleft()
            try:
                call(*args)
            except BaseException:  # a SystemExit, too: others wait for what follows
                report("a callback raised: %r", call)
            del call, args
