"""One SSH connection: paramiko's transport, with what is slow around it replaced.

- The socket is ours: TCP_NODELAY, and shut down before it is closed, so that the
  reading thread wakes at once and need not look ten times a second whether it shall end.
- AES-GCM comes first: it is twice as fast as AES-CTR with a MAC.
- Windows are large enough for a fast line with a round trip of 50 ms.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from parallel_exec.environments.ssh.border import common, paramiko
from parallel_exec.environments.ssh.certificates import CERTIFICATE
from parallel_exec.environments.ssh.channel import CommandChannel, RefusedError, Tunnel
from parallel_exec.environments.ssh.exchanges import exchanges, with_rfc_8731
from parallel_exec.environments.ssh.packets import BrokenError, Message, Packetizer
from parallel_exec.environments.ssh.sending import MOST_PATIENT, STUCK_LOOK_S, Sending
from parallel_exec.environments.ssh.words import said
from parallel_exec.errors import ConnectError, ConnectTimeoutError
from parallel_exec.reactor import threads
from parallel_exec.text import MESSAGE, plain
from parallel_exec.values.secret import Secret, mask_text

__all__ = ["BrokenError", "Transport", "choose"]

WINDOW = 16 << 20  # a channel's unread bytes: 16 MiB fill 300 MB/s at 50 ms
PACKET = 256 << 10  # with packets of 32 KiB that window is slow on loopback
HURRY_S = 8.0  # for a host to take what is written, once something is to be ended: see `ending`
A_MOMENT_S = 0.1  # from a channel's end to when it surely no longer counts there
REFUSALS = 10  # in a row are no accident

# AES-GCM first: with AES instructions it is encryption and MAC in one pass.
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
    "hmac-sha1",
)


class _Added(Sending):
    """What `Transport` adds to paramiko's; its dict would double in size for them."""

    __slots__ = (
        "_alive",
        "_alive_count",
        "_on_quiet",
        "_open",
        "_refusals",
        "_to_wake",
        "disconnected",
        "freed_at",
        "full",
        "on_end",
        "secrets",
        "verify",
    )


class Transport(_Added, paramiko.Transport):  # type: ignore[misc]
    """A connection over a socket or a tunnel, until `login` not yet logged in.

    Args:
        sock: The connected socket.
        timeout: Seconds that the far side has for one step of its part, `connect_timeout`.
        keepalive: Seconds of silence after which the far side is asked whether it is
            there; 0 never asks.
        alive_count: Unanswered questions after which the connection is dead.
        on_quiet: Called in the reading thread after such a silence; returns whether
            the connection shall end, since nobody uses it.

    Attributes:
        disconnected: The code with which the far side ended the connection, if it did.
        freed_at: When a channel was last closed here, in monotonic seconds.
        verify: Judges `host_key`, or raises; called for each key that another exchange
            shows. None before the first is judged.
        full: Whether the last channel that was refused was one too many; else one that
            had been closed a moment before may still have counted on the far side.
    """

    _channel_counter: int
    _preferred_compression = ("none",)
    # The name that RFC 8731 gave to what has another one in paramiko.
    _kex_info: ClassVar[dict[str, Any]] = exchanges(paramiko.Transport._kex_info)
    _preferred_kex = tuple(with_rfc_8731(dict.fromkeys(paramiko.Transport._preferred_kex)))
    # paramiko's own table calls `Channel`'s functions, whatever the channel's class.
    _channel_handler_table: ClassVar[dict[int, Callable[[Any, Any], object]]] = {
        common.MSG_CHANNEL_SUCCESS: lambda channel, m: channel._request_success(m),
        common.MSG_CHANNEL_FAILURE: lambda channel, m: channel._request_failed(m),
        common.MSG_CHANNEL_DATA: lambda channel, m: channel._feed(m),
        common.MSG_CHANNEL_EXTENDED_DATA: lambda channel, m: channel._feed_extended(m),
        common.MSG_CHANNEL_WINDOW_ADJUST: lambda channel, m: channel._window_adjust(m),
        common.MSG_CHANNEL_REQUEST: lambda channel, m: channel._handle_request(m),
        common.MSG_CHANNEL_EOF: lambda channel, m: channel._handle_eof(m),
        common.MSG_CHANNEL_CLOSE: lambda channel, m: channel._handle_close(m),
    }

    def __init__(
        self,
        sock: Any,
        *,
        timeout: float,
        keepalive: float,
        alive_count: int,
        on_quiet: Callable[[], bool],
    ) -> None:
        self._begin_sending(timeout)
        self._active_check_timeout = keepalive or 30.0
        super().__init__(
            sock,
            default_window_size=WINDOW,
            default_max_packet_size=PACKET,
            packetizer_class=Packetizer,
        )
        if isinstance(sock, socket.socket):
            _wait_at_most(sock, self._active_check_timeout)
        known = self._cipher_info
        self._preferred_ciphers = tuple(name for name in CIPHERS if name in known)
        self._preferred_macs = tuple(name for name in MACS if name in self._mac_info)
        self.packetizer.quiet = self._quiet
        self.packetizer.before_waiting = self._before_waiting
        self.packetizer.gives_up = self._gives_up
        self.verify: Callable[[], object] | None = None
        self.disconnected: int | None = None
        self.secrets: tuple[Secret | None, ...] = ()  # that the host has been sent
        self._refusals = 0
        self.full = False
        self.freed_at = 0.0
        self.active: bool
        self.auth_handler: Any
        self.completion_event: threading.Event | None
        self.saved_exception: BaseException | None
        self.on_end: Callable[[], object] = lambda: None
        self._alive = keepalive > 0
        self._alive_count = alive_count
        self._on_quiet = on_quiet
        # paramiko knows channels weakly; here they stay until the far side has closed
        # them, and with them their number.
        self._open: dict[int, Any] = {}
        self._channels = _Channels()
        self._to_wake: dict[Any, None] = {}  # the reading thread's own

    @property
    def preferred_keys(self) -> Sequence[str]:
        """The algorithms for the host's key, as they were chosen, certificates among them."""
        keys: Sequence[str] = self._filter_algorithm("keys")
        return keys

    def certificate(self) -> bytes | None:
        """Return the certificate that the host has shown for its key, if it was asked for one."""
        if not self.host_key_type.endswith(CERTIFICATE):
            return None
        blob: bytes = self.host_key.public_blob.key_blob if self.host_key.public_blob else b""
        return blob

    def _log(self, level: int, msg: Any, *args: Any) -> None:
        """Keep paramiko's errors out of the user's terminal: they are raised here."""
        if self.logger.isEnabledFor(logging.DEBUG):
            for line in [msg] if isinstance(msg, str) else msg:
                # The host's words are among it.
                self.logger.log(logging.DEBUG, "%s", plain(line % args if args else line, MESSAGE))

    def run(self) -> None:
        """Read, in a thread of its own, until the connection ends."""
        threads.block_signals()  # they are the program's: its main thread may wait for one
        try:
            super().run()
        finally:
            threads.end_blocking()
            with self.lock:
                channels = list(self._open.values())
                self._open.clear()
            for channel in channels:
                if not channel.opened and channel.refused is None:
                    channel.answered(RefusedError(0, "the connection broke"))
                channel._unlink()
            self._wake()
            self.verify = None  # no circle of references
            with contextlib.suppress(OSError, EOFError):
                self.sock.close()
            if self.completion_event is not None:
                self.completion_event.set()
            self.on_end()

    def negotiate(self, timeout: float) -> None:
        """Exchange keys, within `timeout` seconds.

        Raises:
            ConnectTimeoutError: It took longer.
            ConnectError: The far side closed, or does not speak SSH.
        """
        self.banner_timeout = timeout
        done = threading.Event()
        self.start_client(event=done)
        if not done.wait(timeout):
            heard = "no banner came" if not self.remote_version else "the key exchange hung"
            words = self.packetizer.said() if not self.remote_version else ""
            if words:
                heard = f"it says '{words}', which is not SSH, and nothing more came"
            raise ConnectTimeoutError(f"{heard} within {timeout:.3g} s")
        if not self.active or not self.initial_kex_done:
            raise ConnectError(self.reason())
        self.completion_event = None  # a kilobyte

    def reason(self) -> str:
        """Return why the connection is gone."""
        if self.why is not None:
            return self.why
        error = self.saved_exception
        if not self.remote_version and self.packetizer.said():
            return f"the host does not speak SSH, it says '{self.packetizer.said()}'"
        if error is None or isinstance(error, EOFError):
            stage = "" if self.remote_version else " before its banner"
            return f"the host closed the connection{stage}"
        text = str(error)
        if "SSH protocol banner" in text and not self.remote_version:
            return "the host closed the connection before its banner"
        return mask_text(text, self.secrets) or type(error).__name__

    def _auth_trigger(self) -> None:
        super()._auth_trigger()
        self._be_patient()

    def _verify_key(self, host_key: bytes, signature: bytes) -> None:
        """Check the key of an exchange, before anything is sent under it."""
        super()._verify_key(host_key, signature)
        if self.verify is not None:
            try:
                self.verify()
            except Exception as error:
                raise paramiko.SSHException(
                    f"with new keys came another host key: {error}"
                ) from error

    # Channels

    def open_command(
        self,
        timeout: float,
        wanted: Callable[[], bool] = lambda: True,
        register: Callable[[Callable[[], object]], object] = lambda wake: None,
    ) -> CommandChannel | None:
        """Open a channel for a command; None if it is no longer `wanted`.

        See `_open_channel` for what it raises.
        """
        channel = CommandChannel(0)

        def wake() -> None:
            self.hurry(min(timeout, HURRY_S))
            channel.poke()

        register(wake)
        return channel if self._open_channel("session", channel, (), timeout, wanted) else None

    def open_tunnel(
        self,
        host: str,
        port: int,
        timeout: float,
        wanted: Callable[[], bool] = lambda: True,
        register: Callable[[Callable[[], object]], object] = lambda wake: None,
    ) -> Tunnel | None:
        """Open a channel to another host, as seen from the far side; else as `open_command`."""
        channel = Tunnel(0)
        register(channel.poke)
        to = (host, port, "127.0.0.1", 0)
        opened = self._open_channel("direct-tcpip", channel, to, timeout, wanted)
        return channel if opened else None

    def _open_channel(
        self,
        kind: str,
        channel: Any,
        extra: tuple[str | int, ...],
        timeout: float,
        wanted: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Open `channel`; return False if it is no longer wanted.

        Raises:
            RefusedError: The far side does not allow it.
            BrokenError: The connection is gone: nothing was started.
            TimeoutError: No answer, and nothing else was heard for `timeout` seconds; or
                no answer for `MOST_PATIENT` times that.
        """
        message = Message()
        message.add_byte(common.cMSG_CHANNEL_OPEN)
        message.add_string(kind)
        with self.lock:
            if not self.active:
                raise BrokenError(self.reason())
            number = self._next_channel()
            channel.chanid = number
            channel._set_transport(self)
            channel._set_window(WINDOW, PACKET)
            channel.granted = WINDOW
            self._channels.put(number, channel)
            self._open[number] = channel
            self.channels_seen[number] = True
        for value in (number, WINDOW, PACKET, *extra):
            if isinstance(value, int):
                message.add_int(value)
            else:
                message.add_string(value)
        asked_at = time.monotonic()
        try:
            self.send_together([message])
            with channel.changed:
                while not channel.opened and channel.refused is None:
                    if not self.active:
                        raise BrokenError(self.reason())
                    now = time.monotonic()
                    left = min(
                        timeout - (now - max(asked_at, self.heard_at)),
                        MOST_PATIENT * timeout - (now - asked_at),
                    )
                    if left <= 0:
                        raise TimeoutError
                    if not wanted():
                        break
                    channel.changed.wait(left)
        except BaseException:
            self.forget(number)
            raise
        if channel.refused is not None:
            self._refusals += 1
            self.full = asked_at - self.freed_at > A_MOMENT_S or self._refusals >= REFUSALS
            self.forget(number)
            if not self.active:
                raise BrokenError(self.reason())
            raise channel.refused
        if not channel.opened:
            channel.unwanted = True  # the answer, when it comes, is to close it
            return False
        return True

    @property
    def heard_at(self) -> float:
        """When the far side was last heard of, in monotonic seconds."""
        at: float = self.packetizer.heard_at
        return at

    def _next_channel(self) -> int:
        """Return a number that no channel has. Under the lock."""
        number: int = self._channel_counter
        while number in self._open:
            number = (number + 1) & 0xFFFFFF
        self._channel_counter = (number + 1) & 0xFFFFFF
        return number

    def forget(self, number: int) -> None:
        """Forget a channel that both sides have closed."""
        with self.lock:
            self._open.pop(number, None)
            self._channels.delete(number)
            self.channels_seen.pop(number, None)

    def _unlink_channel(self, chanid: int) -> None:
        """Keep it: it is forgotten when the far side has closed it too."""

    def _parse_channel_open_success(self, m: Any) -> None:
        channel = self._open.get(m.get_int())
        if channel is not None and not channel.opened:
            channel._set_remote_channel(m.get_int(), m.get_int(), m.get_int())
            channel.answered(None)
            self._refusals = 0
            if channel.unwanted:
                self.post(channel.close_message())

    def _parse_channel_open_failure(self, m: Any) -> None:
        channel = self._open.get(m.get_int())
        if channel is not None:
            code = m.get_int()
            channel.answered(RefusedError(code, m.get_text() or "refused"))

    def wake_soon(self, channel: Any) -> None:
        """Wake who waits for a channel, once all that has arrived is taken.

        In the reading thread.
        """
        self._to_wake[channel] = None

    def _wake(self) -> None:
        if self._to_wake:
            for channel in self._to_wake:
                with channel.changed:
                    channel.changed.notify_all()
            self._to_wake.clear()

    def _parse_disconnect(self, m: Any) -> None:
        """Keep what the far side says as it hangs up."""
        self.disconnected = m.get_int()
        words = said(mask_text(m.get_binary().decode("utf-8", "replace"), self.secrets))
        if self.why is None:
            self.why = f"the host hung up: {words}" if words else "the host hung up"

    def _before_waiting(self) -> None:
        self._wake()
        if self._posted:
            self.send_posted()

    def _parse_debug(self, m: Any) -> None:
        """Let it pass: paramiko spells it out byte by byte, for a log that is off."""

    # Silence

    def _quiet(self) -> None:
        """Nothing was heard for a while: ask, or give up. In the reading thread."""
        if not self.active or not self.initial_kex_done or not self.is_authenticated():
            return
        if self._on_quiet():
            self.why = "it was idle"
            raise EOFError
        if not self._alive:
            return
        silent = time.monotonic() - self.heard_at
        if silent < self._active_check_timeout * 0.9:
            return
        if int(silent / (self._active_check_timeout * 0.95)) > self._alive_count:
            self.why = f"the host has been silent for {silent:.3g} s"
            raise EOFError
        message = Message()
        message.add_byte(common.cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)
        if not self._posted:
            self.post(message)

    # The end

    def end(self, why: str | None = None) -> None:
        """Close the connection and wait for its thread. Idempotent."""
        if why is not None and self.why is None:
            self.why = why
        if self.ident is None:  # it never started
            with contextlib.suppress(OSError, EOFError):
                self.sock.close()
            return
        self.active_end()
        if threading.current_thread() is not self:
            self.join(10.0)

    def abandon(self) -> None:
        """Drop it in a forked child: the parent goes on using the line."""
        self.active = False
        self.packetizer.forget()


class _Channels(paramiko.transport.ChannelMap):  # type: ignore[misc]
    """The channels as the reading thread looks them up."""

    def get(self, chanid: int) -> Any:
        """Return a channel.

        Raises:
            SSHException: There is none: the host speaks of one that it has closed, or that
                never was.
        """
        channel = super().get(chanid)
        if channel is None:
            raise paramiko.SSHException(f"something for channel {chanid}, which is not open")
        return channel


def _wait_at_most(sock: socket.socket, seconds: float) -> None:
    """Have the system time `recv` and `send` out: Python would ask it by `poll` each time."""
    try:
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        look = struct.pack("ll", int(STUCK_LOOK_S), int(STUCK_LOOK_S % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, look)
    except (OSError, struct.error):
        return  # it stays as paramiko has set it
    sock.settimeout(None)


def choose(ours: Sequence[str], wanted: str | None, possible: Sequence[str]) -> tuple[str, ...]:
    """Return algorithms by a setting of OpenSSH: a list, or "+", "-" or "^" with one."""
    if wanted is None:
        return tuple(ours)
    names = [name for name in wanted.lstrip("+-^").split(",") if name]
    if wanted.startswith("+"):
        chosen = [*ours, *names]
    elif wanted.startswith("-"):
        chosen = [n for n in ours if not any(fnmatch.fnmatchcase(n, p) for p in names)]
    elif wanted.startswith("^"):
        chosen = [*names, *ours]
    else:
        chosen = names
    return tuple(dict.fromkeys(name for name in chosen if name in possible))
