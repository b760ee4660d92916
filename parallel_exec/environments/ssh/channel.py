"""Channels of a connection: one that runs a command, one that is a tunnel.

A command's output is taken in the connection's reading thread, straight from the packet
to whoever keeps it: no buffer between them and no thread switch. That thread never
writes, or two full pipes could wait for each other; whatever has to be sent is sent by
the thread that waits for the command, which the condition `changed` wakes.
"""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from parallel_exec.environments.ssh.border import buffered_pipe, common, paramiko
from parallel_exec.environments.ssh.packets import Message
from parallel_exec.text import SAID, plain
from parallel_exec.values.secret import Hidden

__all__ = ["CommandChannel", "RefusedError", "Tunnel"]


SEND_AT_ONCE = 256 * 1024  # bytes that are encrypted and written together
LOOK_S = 1.0  # how long a tunnel waits for room before its user may give up
FEW = 4096  # bytes: more than what is sent without waiting


_SIGNAL = re.compile(r"[A-Za-z0-9+-]{1,24}(@[A-Za-z0-9.-]{1,64})?\Z")

# What paramiko makes for each channel and nothing here uses: one for all of them. An idle
# connection keeps its last channel, in paramiko's loop, so a channel's size counts.
_SET = threading.Event()
_SET.set()
_CLOSED = buffered_pipe.BufferedPipe()
_CLOSED.close()


def _nothing(stream: int, data: bytes) -> None:
    """Nobody wants what comes."""


def _signal_name(text: str) -> str:
    """Return the name of a signal as the far side says it, without "SIG".

    Raises:
        SSHException: It is none (RFC 4254, 6.10).
    """
    if not _SIGNAL.match(text):
        raise paramiko.SSHException(f"a signal with a name of {len(text)} characters")
    return text


class RefusedError(Exception):
    """The far side did not open the channel: too many, or not allowed.

    Attributes:
        code: RFC 4254's reason.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(plain(text, SAID))
        self.code = code


class _Added:
    """What the classes here add to paramiko's; its dict would be five times the size."""

    __slots__ = (
        "came",
        "changed",
        "ended",
        "ended_by_peer",
        "granted",
        "has_terminal",
        "opened",
        "poked",
        "refused",
        "request_refused",
        "signal",
        "status",
        "take",
        "unacknowledged",
        "unwanted",
    )


class _Channel(_Added, paramiko.Channel):  # type: ignore[misc]
    """What both have: a condition for every change, and an end in the right thread.

    What arrives together wakes the thread that waits for it once, when all of it has been
    taken (`Transport.wake_soon`): each wake-up costs both threads a turn at the interpreter.

    One condition, `changed`, over paramiko's own lock of the channel: it guards the
    states here and the windows. It is held for a few lines, never while sending.
    """

    def __init__(self, chanid: int) -> None:
        super().__init__(chanid)
        self.changed: threading.Condition = self.out_buffer_cv
        self.event = self.status_event = _SET
        self.opened = False
        self.has_terminal = False
        self.refused: RefusedError | None = None
        self.ended_by_peer = False
        self.unwanted = False
        self.poked = False
        # Bytes that the far side was allowed to send, and that it has sent: each is written
        # by one thread only.
        self.granted = self.came = 0

    def __del__(self) -> None:
        """Send nothing: paramiko's would, from any thread, a forked child included."""

    def _log(self, level: int, msg: str, *args: Any) -> None:
        pass

    def poke(self) -> None:
        """Wake the thread that waits for it. From any thread."""
        with self.changed:
            self.poked = True
            self.changed.notify_all()

    # Called in the reading thread

    def _count(self, size: int) -> None:
        """Count bytes that have come.

        Raises:
            SSHException: They are more than were allowed: they would have to be kept.
        """
        self.came += size
        if self.came > self.granted:
            raise paramiko.SSHException("more output than the host was allowed to send")

    def answered(self, refused: RefusedError | None) -> None:
        """Note the answer to the request to open; it has one."""
        with self.changed:
            if self.opened or self.refused is not None:
                return
            self.refused = refused
            self.opened = refused is None
        self.transport.wake_soon(self)

    def _handle_close(self, m: Any) -> None:
        with self.changed:
            self.ended_by_peer = True
            ours = self.closed
            self._peer_closed()
        self.transport.wake_soon(self)
        self.transport.forget(self.chanid)
        if not ours:
            self._answer_close()

    def close_message(self) -> Any:
        """Return the message that closes it."""
        message = Message()
        message.add_byte(common.cMSG_CHANNEL_CLOSE)
        message.add_int(self.remote_chanid)
        return message

    def _peer_closed(self) -> None:
        pass

    def _answer_close(self) -> None:
        pass


class CommandChannel(_Channel):
    """A session channel, read by callback.

    Attributes:
        status: The exit status; None as long as, or if, there is none.
        signal: The signal's name ("TERM") that ended it, else None.
        ended: Whether no more output comes: end of file, the end, or a broken line.
    """

    def __init__(self, chanid: int) -> None:
        super().__init__(chanid)
        self.in_buffer = self.in_stderr_buffer = _CLOSED
        self.take: Callable[[int, bytes], object] = _nothing
        self.status: int | None = None
        self.signal: str | None = None
        self.request_refused = False
        self.ended = False
        self.unacknowledged = 0

    # Called in the reading thread

    def _feed(self, m: Any) -> None:
        self._received(0, m if isinstance(m, bytes) else m.get_binary())

    def _feed_extended(self, m: Any) -> None:
        kind = m.get_int()
        data = m.get_binary()
        if kind == 1:
            self._received(1, data)
        else:
            self._received(-1, data)

    def _received(self, stream: int, data: bytes) -> None:
        self._count(len(data))
        if stream >= 0 and not self.ended:
            self.take(stream, data)
        self.unacknowledged += len(data)
        if self.unacknowledged > self.in_window_threshold:
            self.poke()

    def _handle_request(self, m: Any) -> None:
        kind = m.get_text()
        wants_reply = m.get_boolean()
        with self.changed:
            over = self.status is not None or self.signal is not None
            if kind == "exit-status" and not over:
                self.status = m.get_int()
            elif kind == "exit-signal" and not over:
                self.signal = _signal_name(m.get_text())
        self.transport.wake_soon(self)
        if wants_reply and kind not in ("exit-status", "exit-signal"):
            reply = Message()
            reply.add_byte(common.cMSG_CHANNEL_FAILURE)
            reply.add_int(self.remote_chanid)
            self.transport.post(reply)

    def _handle_eof(self, m: Any) -> None:
        with self.changed:
            self.eof_received = True
            self.ended = True
        self.transport.wake_soon(self)

    def _request_success(self, m: Any) -> None:
        pass

    def _request_failed(self, m: Any) -> None:
        with self.changed:
            self.request_refused = True
        self.transport.wake_soon(self)

    def _window_adjust(self, m: Any) -> None:
        with self.changed:
            self.out_window_size += m.get_int()
            waited_for = not self.eof_sent
        if waited_for:
            self.transport.wake_soon(self)

    def _peer_closed(self) -> None:
        self.ended = True

    def _set_closed(self) -> None:
        super()._set_closed()
        self.ended = True

    # Called by the thread that waits for the command

    def start(self, line: str, data: Hidden, *, final: bool, pty: bytes | None) -> int:
        """Ask for a command and send what it reads first, all in one write.

        Args:
            line: What the login shell gets.
            data: The first bytes of its standard input.
            final: Whether there are no more.
            pty: Terminal modes, encoded, if it shall have a terminal.

        Returns:
            How many bytes of `data` went out: the rest waits for the window.
        """
        messages = []
        self.has_terminal = pty is not None
        if pty is not None:
            # Unanswered: if there is none, the orders find out, before the command runs.
            message = self._request("pty-req", answered=False)
            message.add_string("xterm")
            for number in (80, 24, 0, 0):
                message.add_int(number)
            message.add_string(pty)
            messages.append(message)
        message = self._request("exec")
        message.add_string(line.encode("utf-8", "surrogateescape"))
        messages.append(message)
        packets, sent = self._packets(data)
        messages += packets
        if final and sent == len(data):
            messages += self._end_of_input()
        self.transport.send_together(messages)
        return sent

    def start_subsystem(self, name: str, data: bytes) -> int:
        """Ask for a subsystem and send it its first bytes; return how many went out."""
        message = self._request("subsystem")
        message.add_string(name)
        packets, sent = self._packets(data)
        self.transport.send_together([message, *packets])
        return sent

    def send_some(self, data: bytes | memoryview | Hidden, *, final: bool) -> int:
        """Send as much as the window allows; return how much, possibly nothing."""
        packets, sent = self._packets(data)
        if final and sent == len(data):
            packets += self._end_of_input()
        if packets:
            self.transport.send_together(packets)
        return sent

    def acknowledge(self) -> None:
        """Tell the far side that what has come is taken, so that more may come."""
        # The reading thread adds to the number; what it adds meanwhile waits.
        with self.changed:
            size, self.unacknowledged = self.unacknowledged, 0
            if size == 0 or self.closed or self.eof_received:
                return
            self.granted += size
        message = Message()
        message.add_byte(common.cMSG_CHANNEL_WINDOW_ADJUST)
        message.add_int(self.remote_chanid)
        message.add_int(size)
        self.transport.send_together([message])

    def finish(self) -> None:
        """Close it, without waiting. What still runs on the far side is not ended by that."""
        with self.changed:
            messages = self._close_internal()
        self.take = _nothing
        self.transport.freed_at = time.monotonic()
        self.transport.post(*(m for m in messages if m is not None))

    def _request(self, kind: str, *, answered: bool = True) -> Any:
        message = Message()
        message.add_byte(common.cMSG_CHANNEL_REQUEST)
        message.add_int(self.remote_chanid)
        message.add_string(kind)
        message.add_boolean(answered)
        return message

    def _end_of_input(self) -> list[Any]:
        """Return the message that says so. A terminal has been sent its own sign, control-D, and
        gets none: Dropbear from 2026 on hangs up on who has a terminal.
        """
        with self.changed:
            self.eof_sent = True
        if self.has_terminal:
            return []
        message = Message()
        message.add_byte(common.cMSG_CHANNEL_EOF)
        message.add_int(self.remote_chanid)
        return [message]

    def _packets(self, data: bytes | memoryview | Hidden) -> tuple[list[Any], int]:
        hidden = data if isinstance(data, Hidden) else Hidden(data)
        with self.changed:
            size = min(len(data), self.out_window_size, SEND_AT_ONCE)
            if self.closed or self.eof_sent:
                size = 0
            self.out_window_size -= size
        packets = []
        longest = max(1024, self.out_max_packet_size - 64)
        for start in range(0, size, longest):
            message = Message()
            message.add_byte(common.cMSG_CHANNEL_DATA)
            message.add_int(self.remote_chanid)
            message.add_string(bytes(hidden.reveal()[start : min(size, start + longest)]))
            packets.append(message)
        return packets, size


class Tunnel(_Channel):
    """A channel that takes a socket's place under another connection."""

    def _feed(self, m: Any) -> None:
        data: bytes = m.get_binary()
        self._count(len(data))
        self.in_buffer.feed(data)

    def _feed_extended(self, m: Any) -> None:
        m.get_int()
        self._count(len(m.get_binary()))  # a connection has no second stream

    def _check_add_window(self, n: int) -> int:
        size: int = super()._check_add_window(n)
        self.granted += size
        return size

    def _peer_closed(self) -> None:
        self.in_buffer.close()
        self.closed = True

    def _answer_close(self) -> None:
        self.transport.post(self.close_message())

    def send(self, data: Any) -> int:
        """Send some of `data`, as a socket does.

        Raises:
            TimeoutError: Nothing more can be sent for the moment.
            OSError: It is closed.
        """
        with self.changed:
            self.changed.wait_for(lambda: self.out_window_size > 0 or self.closed, LOOK_S)
            if self.closed:
                raise BrokenPipeError(errno.EPIPE, "the way there is closed")
            size = min(len(data), self.out_window_size, 64 * 1024, self.out_max_packet_size - 64)
            if size <= 0:
                raise TimeoutError
            self.out_window_size -= size
        message = Message()
        message.add_byte(common.cMSG_CHANNEL_DATA)
        message.add_int(self.remote_chanid)
        message.add_string(bytes(memoryview(data)[:size]))
        self.transport.send_together([message])
        return int(size)

    def takes(self) -> bool:
        """Return whether a few bytes can be sent without waiting for a window."""
        return bool(self.out_window_size >= FEW and self.transport.clear_to_send.is_set())

    def hurry(self, seconds: float) -> None:
        """See `Transport.hurry`."""
        self.transport.hurry(seconds)

    def recv_into(self, buffer: memoryview) -> int:
        """Receive as a socket does."""
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def shutdown(self, how: int) -> None:
        """End it at once, in both directions, and wake who reads."""
        self.close()

    def close(self) -> None:
        """End it, without waiting."""
        with self.changed:
            messages = self._close_internal()
        self.in_buffer.close()
        self.transport.post(*(m for m in messages if m is not None))
