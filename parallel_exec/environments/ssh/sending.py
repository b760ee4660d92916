"""How a connection sends: who waits for the host to take something, and for how long.

- A thread that works for a command sends with `send_together`, and waits for the host.
- Whatever needs no answer before the next step (the end of a channel, the answer to a
  question of the host's) is posted: it goes at once where nobody would have to wait, else
  along with the next that is sent.
- The reading thread posts, but for its part of logging in and of exchanging keys. For
  those it waits no longer than `timeout`: while it does, nothing is read.

Every wait has a bound in seconds, see docs/reference/bounds.md.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from parallel_exec.environments.ssh.border import common, paramiko
from parallel_exec.environments.ssh.channel import Tunnel
from parallel_exec.environments.ssh.packets import BrokenError, Packetizer
from parallel_exec.values.secret import forget_frames

__all__ = ["MOST_PATIENT", "STUCK_LOOK_S", "Sending"]

MOST_PATIENT = 4  # times the timeout: for who is heard of, but does not do what it should
MOST_POSTED = 10_000  # messages; one that reads gets far fewer to answer at a time
POSTED_AT_ONCE = 8  # half a kilobyte: the system takes it if it takes anything
STUCK_LOOK_S = 1.0  # how often somebody who waits to send looks whether to give up

# What the reading thread has to answer, and for what nobody waits here.
_ANSWERS = frozenset(
    message[0]
    for message in (
        common.cMSG_UNIMPLEMENTED,
        common.cMSG_REQUEST_SUCCESS,
        common.cMSG_REQUEST_FAILURE,
        common.cMSG_CHANNEL_OPEN_FAILURE,
        common.cMSG_CHANNEL_SUCCESS,
        common.cMSG_CHANNEL_FAILURE,
        common.cMSG_CHANNEL_CLOSE,
    )
)


class Sending:
    """The half of `Transport` that sends.

    Attributes:
        timeout: Seconds, `connect_timeout`: for the host to take what the reading thread
            writes, and to say anything in an exchange of keys.
        patience: Seconds for the host to take what anybody writes, once somebody wants to
            end something here; None before that. See `hurry`.
        why: Why the connection has ended, where it is known better than by an exception.
    """

    __slots__ = ("_exchange_began", "_hurried_at", "_posted", "patience", "timeout", "why")

    # paramiko's, and the other half's.
    active: bool
    clear_to_send: threading.Event
    clear_to_send_lock: threading.Lock
    ident: int | None
    packetizer: Packetizer
    sock: Any
    why: str | None

    def reason(self) -> str:
        """Return why the connection is gone."""
        raise NotImplementedError

    def active_end(self) -> None:
        """Begin to close the connection; do not wait."""
        self.packetizer.close()

    def _begin_sending(self, timeout: float) -> None:
        """Prepare. Until somebody is logged in, no write takes longer than `timeout`."""
        self.timeout = timeout
        self.why = None
        self.patience: float | None = timeout
        self._hurried_at = 0.0
        self._exchange_began: float | None = None
        self._posted: deque[Any] = deque()

    # Waiting for the host

    def send_together(self, messages: Sequence[Any]) -> None:
        """Send messages with one write; wait while keys are exchanged anew.

        Raises:
            BrokenError: The connection is gone.
        """
        while True:
            self.clear_to_send.wait(STUCK_LOOK_S)
            if not self.active:
                raise BrokenError(self.reason())
            with self.clear_to_send_lock:
                if self.clear_to_send.is_set():
                    before = [self._posted.popleft() for _ in range(len(self._posted))]
                    self._send_now([*before, *messages])
                    break
            if self._exchange_hangs():
                raise BrokenError(self.reason())
        self.send_posted()

    def _send_user_message(self, message: Any) -> None:
        """Send as paramiko's channels do: to nobody, if the connection is gone."""
        if threading.get_ident() == self.ident:
            self.post(message)
            return
        with contextlib.suppress(BrokenError):
            self.send_together([message])

    def hurry(self, seconds: float) -> None:
        """Have no thread wait longer than that to write: there is something to end."""
        if not self._hurried_at:
            self._hurried_at = time.monotonic()
        self.patience = seconds
        if isinstance(self.sock, Tunnel):
            self.sock.hurry(seconds)

    def _be_patient(self) -> None:
        """Somebody has logged in: from now on what is written may take its time."""
        if not self._hurried_at:
            self.patience = None

    # Waiting for nobody

    def post(self, *messages: Any) -> None:
        """Have messages sent, without waiting for the host. From any thread."""
        self._posted.extend(messages)
        if len(self._posted) > MOST_POSTED and self.active:
            self._break("the host asks without end and takes no answer")
            return
        self.send_posted()

    def send_posted(self) -> None:
        """Send what has been posted, if nobody has to wait for that. From any thread."""
        while self._posted and self.active and self.clear_to_send.is_set() and self._takes():
            if not self.clear_to_send_lock.acquire(blocking=False):
                return  # who has it comes by here afterwards
            try:
                if self.clear_to_send.is_set():
                    with contextlib.suppress(BrokenError):
                        self._send_now(self._take_posted())
            finally:
                self.clear_to_send_lock.release()

    def _send_message(self, message: Any) -> None:
        """Send a message that paramiko has made, in whatever thread."""
        if threading.get_ident() == self.ident and message.asbytes()[0] in _ANSWERS:
            self.post(message)
        else:
            self.packetizer.send_message(message)

    def _take_posted(self) -> list[Any]:
        """Return the next of them: so few that they go where anything goes. Under the lock."""
        number = min(len(self._posted), POSTED_AT_ONCE)
        return [self._posted.popleft() for _ in range(number)]

    def _send_now(self, messages: Sequence[Any]) -> None:
        """Send, with the lock held that an exchange of keys waits for."""
        try:
            if len(messages) == 1:
                self.packetizer.send_message(messages[0])
            elif messages:
                with self.packetizer.together():
                    for message in messages:
                        self.packetizer.send_message(message)
        except EOFError as error:
            raise BrokenError(self.reason()) from forget_frames(error)
        except Exception as error:
            # paramiko's frames have the plain messages.
            forget_frames(error)
            raise

    def _takes(self) -> bool:
        """Return whether a few bytes can be written without waiting."""
        if isinstance(self.sock, Tunnel):
            return self.sock.takes()
        poll = select.poll()
        try:
            poll.register(self.sock, select.POLLOUT)
            return bool(poll.poll(0))
        except (OSError, ValueError):  # it is being closed
            return False

    # Giving up

    def _gives_up(self, began: float) -> bool:
        """Return whether a write that began then, and is stuck, shall be given up."""
        now = time.monotonic()
        if self._exchange_hangs():
            return True
        if isinstance(threading.current_thread(), Sending):
            limit, since = self.timeout, began
        elif self.patience is not None:
            limit, since = self.patience, max(began, self._hurried_at)
        else:
            return False
        if now - since < limit:
            return False
        self._break(f"the host does not take what it is sent: nothing more for {now - since:.3g} s")
        return True

    def _exchange_hangs(self) -> bool:
        """End the connection if an exchange of keys takes too long; return whether it does."""
        began = self._exchange_began
        if began is None:
            return False
        now = time.monotonic()
        overdue = (
            now - max(began, self.packetizer.heard_at) > self.timeout
            or now - began > MOST_PATIENT * self.timeout
            or (self.patience is not None and now - max(began, self._hurried_at) > self.patience)
        )
        if overdue:
            self._break("the exchange of new keys hung")
        return overdue

    def _break(self, why: str) -> None:
        if self.why is None:
            self.why = why
        self.active_end()

    # An exchange of keys, in the reading thread

    def _negotiate_keys(self, m: Any) -> None:
        self._note_exchange()
        paramiko.Transport._negotiate_keys(self, m)

    def _send_kex_init(self) -> None:
        self._note_exchange()
        paramiko.Transport._send_kex_init(self)

    def _note_exchange(self) -> None:
        if self._exchange_began is None:
            self._exchange_began = time.monotonic()

    def _parse_newkeys(self, m: Any) -> None:
        paramiko.Transport._parse_newkeys(self, m)
        self._exchange_began = None
