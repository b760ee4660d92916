"""An SSH host as a backend: what `px.SSH` is made of."""

from __future__ import annotations

import atexit
import functools
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import IO, Any, TypeVar

from parallel_exec.environments import redirect
from parallel_exec.environments.base import (
    BlockingBackend,
    Execution,
    Stop,
    Ticket,
    wait_for_starts,
)
from parallel_exec.environments.ssh.destination import Destination
from parallel_exec.environments.ssh.files import Progress
from parallel_exec.environments.ssh.pool import (
    CONNECT_TIMEOUT_S,
    Call,
    HostPool,
    borrow,
    give_back,
)
from parallel_exec.environments.ssh.running import How, Running
from parallel_exec.environments.ssh.settings import Settings
from parallel_exec.errors import CommandStartError, ConfigError, ExecutorClosedError
from parallel_exec.reactor import lifecycle, loop as reactor
from parallel_exec.values import checks
from parallel_exec.values.command import Command, check_sudo
from parallel_exec.values.options import only_known
from parallel_exec.values.result import Result
from parallel_exec.values.secret import Secret, encodes, hide_passwords
from parallel_exec.values.transfer import Transfer

__all__ = ["Jump", "SSHBackend"]

TO_END_S = 30.0  # for what runs to end when it is closed, beside `kill_after`

Paths = str | os.PathLike[str]
Word = str | Secret


Init = TypeVar("Init", bound=Callable[..., None])


def _hiding_passwords(init: Init) -> Init:
    @functools.wraps(init)
    def hiding(*args: Any, **options: Any) -> None:
        hide_passwords(options)  # before anything can be refused
        init(*args, **options)

    return hiding  # type: ignore[return-value]


class SSHBackend(BlockingBackend):
    """A host that is reached by SSH. Nothing connects before it is used.

    Backends with equal arguments share their connections, and so do all hosts behind
    the same jump host.

    Args:
        destination: ``user@host:port``; what is left out comes from the keywords, else from
            the configuration.
        user: Who to log in as, where the destination names nobody.
        port: The port, where the destination names none.
        identity_file: One private key or several; only these are tried then.
        password: For keyboard-interactive and password logins.
        passphrase: For encrypted private keys.
        prompt: Answers what a host asks in a keyboard-interactive login, other than for
            the `password`: a function of the text, in which what does not print is
            escaped, and of whether the answer may be shown, that returns a string or a
            `Secret`. It is called in a thread of the connection's, for one question at a
            time in this process; what it takes does not count against `connect_timeout`.
            Every connection asks anew. Jump hosts that are given by name do not ask it.
        agent: Whether the user's agent is asked for keys.
        known_hosts: The file or files to know hosts by; None for the configured ones.
        accept_new: Whether the key of a host that has none yet is added to the first of
            these files and accepted. A changed key is never accepted. None leaves it to
            the configuration's StrictHostKeyChecking.
        config: A configuration file in OpenSSH's format; None for the user's and the
            system's, False for none.
        jump: How to get there: a destination, a backend, or a list of hops, the first
            one first. None leaves it to the configuration, an empty list means directly.
        connect_timeout: Seconds for the connection, the key exchange and the login
            together; None leaves it to the configuration, else 15.
        sudo: True to run commands as root, or the user to run them as.
        sudo_password: What sudo asks for, if it asks.
        pty: Whether commands get a terminal. It merges stderr into stdout and rewrites
            line feeds.
        max_sessions: Commands at once over one connection; sshd's MaxSessions.
        keepalive: Seconds of silence after which the host is asked whether it is there;
            0 for never, None for the configuration's ServerAliveInterval, else 30.
        keep_idle: Seconds after which an unused connection is closed.

    Raises:
        ConfigError: An argument cannot be used.
    """

    tells_beginning = True

    @_hiding_passwords
    @only_known
    def __init__(
        self,
        destination: str,
        *,
        user: str | None = None,
        port: int | None = None,
        identity_file: Paths | Sequence[Paths] | None = None,
        password: Word | None = None,
        passphrase: Word | None = None,
        prompt: Callable[[str, bool], Word] | None = None,
        agent: bool = True,
        known_hosts: Paths | Sequence[Paths] | None = None,
        accept_new: bool | None = None,
        config: Paths | bool | None = None,
        jump: Jump | Sequence[Jump] | None = None,
        connect_timeout: float | timedelta | None = None,
        sudo: bool | str = False,
        sudo_password: Word | None = None,
        pty: bool = False,
        max_sessions: int = 10,
        keepalive: float | timedelta | None = None,
        keep_idle: float | timedelta = 300.0,
    ) -> None:
        # First of all: a refusal of anything else keeps this frame in its traceback.
        password = _secret("password", password)
        passphrase = _secret("passphrase", passphrase)
        sudo_password = _secret("sudo_password", sudo_password)
        self._arguments = {
            "user": user,
            "port": port,
            "identity_file": identity_file,
            "password": password,
            "passphrase": passphrase,
            "prompt": prompt,
            "agent": agent,
            "known_hosts": known_hosts,
            "accept_new": accept_new,
            "config": config,
            "jump": jump,
            "connect_timeout": connect_timeout,
            "sudo": sudo,
            "sudo_password": sudo_password,
            "pty": pty,
            "max_sessions": max_sessions,
            "keepalive": keepalive,
            "keep_idle": keep_idle,
        }
        self._name = destination
        for name, value in (("agent", agent), ("pty", pty)):
            if not isinstance(value, bool):
                raise checks.refuse(name, value, "True or False")
        if prompt is not None and not callable(prompt):
            raise checks.refuse("prompt", prompt, "a function of a text and a bool")
        if accept_new is not None and not isinstance(accept_new, bool):
            raise checks.refuse("accept_new", accept_new, "True, False or None")
        check_sudo(sudo)
        if config is True:
            raise checks.refuse("config", config, "a path, None or False")
        timeout = None
        if connect_timeout is not None:
            timeout = checks.seconds("connect_timeout", connect_timeout)
        alive = None
        if keepalive is not None:
            alive = checks.seconds("keepalive", keepalive, allow_zero=True)
        base = Settings(
            Destination.parse(destination).completed(user, port),
            identity_files=_paths("identity_file", identity_file) or (),
            password=password,
            passphrase=passphrase,
            prompt=prompt,
            agent=agent,
            known_hosts=_paths("known_hosts", known_hosts),
            accept_new=accept_new,
            config="" if config is False else None if config is None else os.fspath(config),
            connect_timeout=timeout,
            max_sessions=checks.count("max_sessions", max_sessions),
            keepalive=alive,
            keep_idle=checks.seconds("keep_idle", keep_idle, allow_zero=True),
        )
        self._settings = _with_jump(base, jump)
        self._how = How(
            destination,
            sudo=_sudo_user(sudo),
            sudo_password=sudo_password,
            pty=pty,
            timeout=timeout or CONNECT_TIMEOUT_S,
        )
        # One lock: it guards the attributes below.
        self._lock = threading.Lock()
        self._pool: HostPool | None = None
        self._release: weakref.finalize[Any, Any] | None = None
        self._running: dict[Stop, float] = {}  # what runs: seconds that it may take to end
        self._none_left: threading.Event | None = None  # set when nothing runs, if closing
        self._closed = False
        _all.add(self)

    @property
    def name(self) -> str:
        """The destination as it was given."""
        return self._name

    @property
    def settings(self) -> Settings:
        """How its connections are made."""
        return self._settings

    def __repr__(self) -> str:
        shown = "".join(
            f", {name}={value!r}"
            for name, value in self._arguments.items()
            if value != _DEFAULTS.get(name)
        )
        return f"{type(self).__name__}({self._name!r}{shown})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by arguments: the copy makes connections of its own."""
        return (_rebuild, (type(self), self._name, dict(self._arguments)))

    def starting(self, stop: Stop) -> None:
        """See `BlockingBackend.starting`: from now on `close` ends it and waits for it."""
        with self._lock:
            if not self._closed:
                self._running[stop] = TO_END_S

    def start(self, command: Command, ticket: Ticket) -> Execution:
        """See `Backend.start`.

        A command gets its thread when there is a connection for it: one that waits for the
        handshake of its host has none.
        """
        stop = Stop()
        self.starting(stop)
        try:
            pool = self._enter(stop)
            redirect.check_folders(command, self._name)  # before anything is connected
        except (ExecutorClosedError, CommandStartError) as error:
            self._leave(stop)
            reactor.get().post(ticket.settled, error)
            return stop

        def ready(error: BaseException | None) -> None:
            if error is None:
                self._launch(command, ticket, stop)
            else:
                self._leave(stop)
                ticket.settled(error)

        call = Call(ready, ticket.strained, lambda: stop.reason is None)
        stop.on_change(partial(pool.hurry, call))  # before its thread has it call another
        pool.when_connected(call)
        return stop

    def refused(self, stop: Stop) -> None:
        """See `BlockingBackend.refused`: `close` does not wait for it."""
        self._leave(stop)

    def execute(self, command: Command, ticket: Ticket, stop: Stop) -> Result:
        """See `BlockingBackend.execute`."""
        # Its ending takes `kill_after` at most, then its last callback as long again.
        pool = self._enter(stop, TO_END_S + 2 * command.kill_after)
        try:
            return Running(command, ticket, stop, pool, self._how_for(command)).run()
        finally:
            self._leave(stop)

    def _how_for(self, command: Command) -> How:
        """Return how a command runs: its own `sudo` goes over that of the host."""
        if command.sudo is None:
            return self._how
        return replace(self._how, sudo=_sudo_user(command.sudo))

    def transfer(
        self,
        transfer: Callable[..., Transfer],
        source: Paths | IO[bytes],
        target: Paths | IO[bytes],
        *,
        preserve: bool = False,
        progress: Progress | None = None,
        timeout: float | timedelta | None = None,
        stop: Stop | None = None,
    ) -> Transfer:
        """Copy files by `files.put` or `files.get`, in the calling thread.

        Args:
            transfer: One of these two.
            source: What it copies.
            target: Where to.
            preserve: Whether modes and times are kept.
            progress: Called with the bytes done and their total, or None.
            timeout: Seconds for all of it.
            stop: What ends it from another thread.
        """
        if self._how.sudo is not None:
            raise ConfigError(
                f"{self._name} has sudo={self._arguments['sudo']!r}, and files are not copied"
                " through sudo: copy them with an SSH without it, then move them with run"
            )
        stop = stop if stop is not None else Stop()
        seconds = None if timeout is None else checks.seconds("timeout", timeout)
        limit: reactor.Timer | None = None
        pool = self._enter(stop)
        try:
            if seconds is not None:
                clock = reactor.get()
                limit = clock.call_at(clock.now() + seconds, stop.end, "timeout")
            return transfer(
                pool,
                self._name,
                source,
                target,
                preserve=preserve,
                progress=progress,
                timeout=self._how.timeout,
                stop=stop,
            )
        finally:
            if limit is not None:
                limit.cancel()
            self._leave(stop)

    def close(self) -> None:
        """End what still runs here and close the connections nobody else uses. Idempotent.

        **Blocking**: until its commands have ended on the far side, `kill_after` of each
        at most and a little more.
        """
        wait_for_starts()
        with self._lock:
            self._closed = True
            running = dict(self._running)
            if running and self._none_left is None:
                self._none_left = threading.Event()
            none_left = self._none_left
        for stop in running:
            stop.end("cancel")
        if none_left is not None:
            none_left.wait(max(running.values(), default=TO_END_S))
        with self._lock:
            release = self._release
        if release is not None:
            release()

    def close_unused(self) -> bool:
        """See `BlockingBackend.close_unused`."""
        if type(self).close is not SSHBackend.close:
            return False  # a subclass has more to close
        with self._lock:
            if self._running or self._pool is not None or self._none_left is not None:
                return False
            self._closed = True
            return True

    def _enter(self, stop: Stop, to_end: float = TO_END_S) -> HostPool:
        """Return the pool of connections; `stop` is noted as running.

        Args:
            stop: What ends it.
            to_end: Seconds that its end may take.
        """
        with self._lock:
            if self._closed and stop not in self._running:
                raise ExecutorClosedError(f"{self._name} has been closed")
            self._running[stop] = to_end
            if self._pool is None:
                self._pool = borrow(self._settings)
                # Also when it is dropped without `close`: whoever still shares them stays.
                self._release = weakref.finalize(self, give_back, self._pool)
                self._release.atexit = False
            return self._pool

    def _leave(self, stop: Stop) -> None:
        with self._lock:
            self._running.pop(stop, None)
            if self._none_left is not None and not self._running:
                self._none_left.set()


Jump = str | SSHBackend

_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(SSHBackend.__init__).parameters.items()
}


def _rebuild(kind: type[SSHBackend], name: str, arguments: dict[str, Any]) -> SSHBackend:
    return kind(name, **arguments)


def _at_exit() -> None:
    """End what still runs on any host."""
    busy = [backend for backend in list(_all) if backend._running]
    for backend in busy:
        for stop in list(backend._running):
            stop.end("cancel")
    for backend in busy:
        backend.close()


def _after_fork_in_child() -> None:
    """The parent's commands are not this process's to end."""
    for backend in list(_all):
        backend._lock = threading.Lock()
        backend._running = {}
        backend._none_left = None


_all: weakref.WeakSet[SSHBackend] = weakref.WeakSet()
atexit.register(_at_exit)
lifecycle.at_fork("ssh environments", _after_fork_in_child)


def _sudo_user(sudo: bool | str) -> str | None:
    return None if sudo is False else "" if sudo is True else sudo


def _secret(name: str, value: object) -> Secret | None:
    if value is None or isinstance(value, Secret):
        return None if value is None else _sendable(name, value)
    if not isinstance(value, str):
        # Without the value, which may be a secret of another type.
        raise ConfigError(f"{name} must be a string or a Secret, and is a {type(value).__name__}")
    return _sendable(name, Secret(value))


def _sendable(name: str, value: Secret) -> Secret:
    if not encodes(value):
        raise checks.refuse(name, value, "free of lone surrogates, which cannot be encoded")
    return value


def _paths(name: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    items = [value] if isinstance(value, str | os.PathLike) else value
    if not isinstance(items, Sequence) or isinstance(items, bytes):
        raise checks.refuse(name, value, "a path or a list of paths")
    paths = []
    for item in items:
        if not isinstance(item, str | os.PathLike):
            raise checks.refuse(name, value, "a path or a list of paths")
        paths.append(os.path.expanduser(os.fspath(item)))
    return tuple(paths)


def _with_jump(base: Settings, jump: object) -> Settings:
    if jump is None:
        return base
    hops = [jump] if isinstance(jump, str | SSHBackend) else jump
    if not isinstance(hops, Sequence) or isinstance(hops, bytes):
        raise checks.refuse("jump", jump, "a destination, an SSH, or a list of them")
    chain: list[Settings] = []
    for hop in hops:
        if isinstance(hop, SSHBackend):
            chain.append(hop.settings)
        elif isinstance(hop, str):
            chain += [base.for_hop(Destination.parse(part.strip())) for part in hop.split(",")]
        else:
            raise ConfigError(f"jump must be made of destinations and SSH, not {hop!r}")
    return replace(base, jump=tuple(chain))
