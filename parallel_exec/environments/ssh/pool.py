"""Connections to one host, shared by everyone with equal settings.

One connection serves a host, ten commands at a time (sshd's MaxSessions), fewer where
refusals taught so. When all places are taken, a command waits as long as a connection
takes to make; if none has come free by then, another is made. That way a burst of short
commands stays on one connection, and long commands do not wait for each other; the wait
is at most twice the best that could have been done.

Who connects is a thread of the pool's own, so that a command that is cancelled while it
waits does not take the connection from the others who wait for it.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import logging
import math
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from typing import Any

from parallel_exec import reactor
from parallel_exec.environments import room
from parallel_exec.environments.ssh import dial
from parallel_exec.environments.ssh.auth import login
from parallel_exec.environments.ssh.border import paramiko
from parallel_exec.environments.ssh.certificates import CERTIFICATE
from parallel_exec.environments.ssh.channel import RefusedError, Tunnel
from parallel_exec.environments.ssh.config import HostConfig, resolve
from parallel_exec.environments.ssh.connection import BrokenError, Transport, choose
from parallel_exec.environments.ssh.destination import Destination
from parallel_exec.environments.ssh.gate import gate_of
from parallel_exec.environments.ssh.known_hosts import KnownHosts
from parallel_exec.environments.ssh.settings import Settings
from parallel_exec.errors import (
    ConfigError,
    ConnectError,
    ConnectTimeoutError,
    ExecutorClosedError,
    HostError,
    HostKeyError,
    ParallelExecError,
)
from parallel_exec.reactor import lifecycle
from parallel_exec.text import SAID, plain
from parallel_exec.values.secret import forget_frames

__all__ = ["Call", "Connection", "HostPool", "Lease", "borrow", "give_back"]

log = logging.getLogger("parallel_exec")

CONNECT_TIMEOUT_S = 15.0
KEEPALIVE_S = 30.0
MOST_CONNECTIONS = 64  # to one host
CLEARING_S = 2.0  # that `close` gives the ending of what broken connections have left
# What OpenSSH says in place of its banner when it has too many handshakes; the second, which
# stands for the first since 10, also when it punishes an address (PerSourcePenalties).
TOO_MANY = ("Exceeded MaxStartups", "Not allowed at this time")
TRIES = 12  # of a handshake that is refused before anything ran
TURN_S, TURNS = 60.0, 20  # for a turn to log in: seconds at least, times `connect_timeout`
DEEPEST_JUMP = 8
BELIEF_S = 30.0  # after a refusal, how long the number of channels is believed
DOUBTFUL_BELIEF_S = 1.0

known_hosts = KnownHosts()


class Connection:
    """A transport with the places on it. `pool`'s lock guards `used` and `cap`."""

    def __init__(
        self,
        transport: Transport,
        cap: int,
        held: Callable[[], object],
        *,
        has_descriptor: bool = True,
    ) -> None:
        self.transport = transport
        self.has_descriptor = has_descriptor  # of its own: not if it goes through a jump host
        self.cap = cap
        self.most = cap
        self.used = 0
        self.tunnels = 0
        self.belief = BELIEF_S
        self.believed_until = 0.0
        self.made_at = self.idle_since = time.monotonic()
        self.gone = False
        self._held = held  # gives back what it stands on: a jump host, a proxy command

    @property
    def unused(self) -> bool:
        """Whether nobody is on it."""
        return not (self.used or self.tunnels)

    def release_ground(self) -> None:
        """Give back what the connection stands on. In the thread that saw its end."""
        held, self._held = self._held, lambda: None
        held()


class Lease:
    """A place on a connection, for one command or one tunnel."""

    def __init__(self, pool: HostPool, connection: Connection, *, tunnel: bool) -> None:
        self._pool = pool
        self._tunnel = tunnel
        self.connection = connection
        self._given_back = False

    @property
    def transport(self) -> Transport:
        """The connection to use."""
        return self.connection.transport

    def give_back(self) -> None:
        """Let another have the place. Idempotent."""
        if not self._given_back:
            self._given_back = True
            self._pool._release(self.connection, tunnel=self._tunnel)


class _Waiter:
    """Someone who waits for a place; `answer` is a connection or why there is none."""

    __slots__ = ("answer", "event", "since", "tunnel")

    def __init__(self, tunnel: bool) -> None:
        self.tunnel = tunnel
        self.since = time.monotonic()
        self.event = threading.Event()
        self.answer: Connection | BaseException | None = None


class Call:
    """Someone who waits for the first connection without a thread.

    Args:
        ready: Called in the service thread: with None once there is a connection, else with
            the reason why there is none.
            It must not block.
        strained: Told, in the service thread, that connecting has to wait for room.
        wanted: Whether to wait at all, asked once.
    """

    __slots__ = ("ready", "strained", "wanted")

    def __init__(
        self,
        ready: Callable[[BaseException | None], object],
        strained: Callable[[BaseException], object],
        wanted: Callable[[], bool],
    ) -> None:
        self.ready = ready
        self.strained = strained
        self.wanted = wanted


class HostPool:
    """The connections to one host.

    One lock: it guards every attribute, and each connection's counters. Connecting,
    closing and waiting happen outside of it.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.users = 0  # guarded by the registry's lock
        self._lock = threading.Lock()
        self._connections: list[Connection] = []
        self._dropped: set[Connection] = set()  # no longer given out, not ended yet
        self._waiting: list[_Waiter] = []
        self._calls: dict[Call, None] = {}  # in the order in which they came
        self._left_files: set[bytes] = set()
        self._jobs: list[Callable[[Transport], object]] = []
        self._clearing: threading.Thread | None = None
        self._connecting = 0
        self._connect_cost = 0.0
        self._made_at = 0.0
        self._not_before = 0.0
        self._closed = False
        self._routes: set[_Route] = set()
        self._under_way: set[Any] = set()
        self._shortage: BaseException | None = None  # what connecting waits for, if it does
        self._threads: set[threading.Thread] = set()
        self.made = 0  # connections so far; tests count them
        self.config: HostConfig | None = None

    # Places

    def lease(
        self,
        *,
        tunnel: bool = False,
        wanted: Callable[[], bool] = lambda: True,
        register: Callable[[Callable[[], object]], object] = lambda wake: None,
        strained: Callable[[BaseException], object] = lambda error: None,
    ) -> Lease | None:
        """Return a place, connecting if need be; None once it is no longer `wanted`.

        Args:
            tunnel: A tunnel needs a connection, but no session on it.
            wanted: Asked whenever the function given to `register` was called.
            register: Is given a function to wake this wait from another thread.
            strained: Told that all places are taken.

        Raises:
            HostError: No connection could be made; nothing ran.
            ExecutorClosedError: The pool was closed.
        """
        with self._lock:
            if self._closed:
                raise self._closed_error()
            connection = self._free(tunnel)
            if connection is not None:
                return self._occupy(connection, tunnel)
            waiter = _Waiter(tunnel)
            self._waiting.append(waiter)
            if not self._connections:
                self._connect_for(first=True)
        register(waiter.event.set)
        told = False
        while True:
            waiter.event.clear()  # before the looks below, so that no call is missed
            with self._lock:
                if isinstance(waiter.answer, Connection):
                    return Lease(self, waiter.answer, tunnel=tunnel)
                if waiter.answer is not None:
                    break
                if not wanted():
                    self._waiting.remove(waiter)
                    return None
                pause: float | None = None
                if self._connections:
                    since = max(waiter.since, self._made_at)
                    pause = since + self._connect_cost - time.monotonic()
                    if pause <= 0:
                        pause = self._ask_for_another()
            if (self._connections or self._shortage is not None) and not told:
                told = True
                strained(self._shortage or HostError(f"all channels to {self.name} are in use"))
            waiter.event.wait(pause)
        assert isinstance(waiter.answer, BaseException)
        raise waiter.answer

    def when_connected(self, call: Call) -> None:
        """Have `call.ready` called once a connection can be had, connecting if need be.

        That is at once, in this thread, if there is one already, if the call is not wanted
        any more or if the pool is closed: `lease` says so then.
        """
        with self._lock:
            waits = not self._closed and not self._connections and call.wanted()
            if waits:
                self._calls[call] = None
                self._connect_for(first=True)
                if self._shortage is not None:
                    reactor.get().post(call.strained, self._shortage)
        if not waits:
            call.ready(None)

    def hurry(self, call: Call) -> None:
        """Have `call.ready` called now, in this thread, if it still waits."""
        with self._lock:
            waits = call in self._calls
            self._calls.pop(call, None)
        if waits:
            call.ready(None)

    def _answer_calls(self, error: BaseException | None) -> None:
        """Tell those who wait without a thread. Under the lock."""
        calls, self._calls = self._calls, {}
        for call in calls:
            reactor.get().post(call.ready, None if error is None else _copy(error))

    @property
    def _is_waited_for(self) -> bool:
        """Whether anybody waits for a connection. Under the lock."""
        return bool(self._waiting or self._calls)

    @property
    def name(self) -> str:
        """The host as the user called it."""
        return str(self.settings.destination)

    def _free(self, tunnel: bool) -> Connection | None:
        """Return the connection with the most room, or None. Under the lock."""
        best: Connection | None = None
        now = 0.0
        for connection in self._connections:
            if connection.gone or not connection.transport.active:
                continue
            if tunnel:
                return connection
            if connection.cap < connection.most:
                now = now or time.monotonic()
                if now > connection.believed_until:
                    connection.cap += 1
                    connection.believed_until = now + connection.belief
            room = connection.cap - connection.used
            if room > 0 and (best is None or room > best.cap - best.used):
                best = connection
        return best

    def _occupy(self, connection: Connection, tunnel: bool) -> Lease:
        if tunnel:
            connection.tunnels += 1
        else:
            connection.used += 1
        return Lease(self, connection, tunnel=tunnel)

    def _serve(self) -> None:
        """Hand free places to those who wait, first come first. Under the lock."""
        while self._waiting:
            waiter = self._waiting[0]
            connection = self._free(waiter.tunnel)
            if connection is None:
                return
            self._waiting.pop(0)
            if waiter.tunnel:
                connection.tunnels += 1
            else:
                connection.used += 1
            waiter.answer = connection
            waiter.event.set()

    def _release(self, connection: Connection, *, tunnel: bool) -> None:
        with self._lock:
            if tunnel:
                connection.tunnels -= 1
            else:
                connection.used -= 1
            connection.idle_since = time.monotonic()
            unwanted = connection.gone and not connection.used and not connection.tunnels
            if self._waiting:
                self._serve()
        if unwanted:
            connection.transport.active_end()

    def refused(self, connection: Connection) -> bool:
        """Learn that the far side opened no channel; return whether there were too many.

        Else one that has just been closed still counted there: with fewer at once that
        happens less.
        """
        with self._lock:
            # The one that was refused is counted among `used`.
            connection.cap = max(1, min(connection.cap, connection.used - 1))
            full = connection.transport.full
            connection.belief = BELIEF_S if full else DOUBTFUL_BELIEF_S
            connection.believed_until = time.monotonic() + connection.belief
            return full

    def drop(self, connection: Connection) -> None:
        """Give no place on a connection any more; who is on it stays, the last one ends it."""
        with self._lock:
            connection.gone = True
            if connection in self._connections:
                self._connections.remove(connection)
                self._dropped.add(connection)
            if self._is_waited_for and not self._connections:
                self._connect_for(first=True)

    def leave_files(self, paths: Iterable[bytes]) -> None:
        """Remember files that are to be removed from the host when it can be told."""
        with self._lock:
            self._left_files.update(paths)

    def take_left_files(self) -> set[bytes]:
        """Return the files to remove, for the caller to do it."""
        with self._lock:
            left, self._left_files = self._left_files, set()
            return left

    def afterwards(self, job: Callable[[Transport], object]) -> None:
        """Have `job` done over a connection, now or when there is one again.

        For what a broken connection has left on the host. One attempt to connect is made
        for it; after that it waits until somebody needs a connection.
        """
        with self._lock:
            if not self._closed:
                self._jobs.append(job)
                self._start_clearing()

    def _start_clearing(self) -> None:
        """Start a thread that does the jobs, unless there is one. Under the lock."""
        if self._clearing is None and self._jobs:
            self._clearing = reactor.Thread(
                target=self._clear, name=f"parallel_exec clear {self.name}", daemon=True
            )
            try:
                self._clearing.start()
            except RuntimeError:  # out of threads: with the next connection
                self._clearing = None

    def _clear(self) -> None:
        lease: Lease | None = None
        try:
            lease = self.lease()
            while lease is not None and (job := self._next_job()) is not None:
                self._do_job(job, lease.transport)
        except Exception as error:  # the jobs wait until somebody needs a connection
            log.debug("%s cannot be cleared of what was left there: %s", self.name, error)
        finally:
            if lease is not None:
                lease.give_back()
            with self._lock:
                if self._clearing is threading.current_thread():
                    self._clearing = None

    def _next_job(self) -> Callable[[Transport], object] | None:
        """Take a job for the clearing thread; None if there is none, and the thread ends."""
        with self._lock:
            if self._jobs:
                return self._jobs.pop(0)
            self._clearing = None  # who comes now starts another
            return None

    def _do_job(self, job: Callable[[Transport], object], transport: Transport) -> None:
        """Do a job.

        Raises:
            Exception: The connection broke under it: it is left for the next one.
        """
        try:
            job(transport)
        except Exception as error:
            if not transport.active:
                with self._lock:
                    self._jobs.append(job)
                raise
            # The host could be told, and will say nothing else another time.
            log.warning("%s may still run what a broken connection left: %s", self.name, error)

    def extra(self, within: float) -> Connection:
        """Return a connection outside of the pool, for the caller to end.

        For what must not wait for a place: ending a command when there is no other
        channel to do it by.

        Args:
            within: Seconds that it may take, if `connect_timeout` is not less.
        """
        connection = self._establish(within)
        connection.used = 1  # until it is ended: silence does not mean that it is idle
        return connection

    def _quiet(self, connection: Connection) -> bool:
        """Return whether a connection shall end since nobody uses it."""
        with self._lock:
            idle = time.monotonic() - connection.idle_since
            if connection.used or connection.tunnels or idle < self.settings.keep_idle:
                return False
            connection.gone = True
            if connection in self._connections:
                self._connections.remove(connection)
            return True

    def idle(self) -> list[Connection]:
        """Return connections with a descriptor that nobody uses."""
        if not self._connections:
            return []
        with self._lock:
            return [each for each in self._connections if each.has_descriptor and each.unused]

    def let_go(self, connection: Connection) -> None:
        """Close a connection, if nobody uses it still: others need its descriptor."""
        with self._lock:
            if connection not in self._connections or not connection.unused:
                return
            connection.gone = True
            self._connections.remove(connection)
            self._dropped.add(connection)
        connection.transport.why = "others needed its descriptor"
        connection.transport.active_end()

    # Connecting

    def _ask_for_another(self) -> float | None:
        """Make another connection, if that helps; return how long to wait. Under the lock."""
        now = time.monotonic()
        if now < self._not_before:
            return self._not_before - now
        if self._connecting < len(self._connections):  # at most twice as many each time
            self._connect_for(first=False)
        return None

    def _connect_for(self, *, first: bool) -> None:
        """Start a thread that connects, unless enough are at it. Under the lock."""
        if first and self._connecting:
            return
        if len(self._connections) + self._connecting >= MOST_CONNECTIONS:
            return
        self._connecting += 1
        thread = reactor.Thread(
            target=self._connect, name=f"parallel_exec connect {self.name}", daemon=True
        )
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # out of threads
            self._threads.discard(thread)
            self._connecting -= 1
            if first and room.get().may_get_some and not reactor.starts_no_more_threads(error):
                # Other connections may end, and with them their threads.
                self._shortage = error
                clock = reactor.get()
                clock.call_at(clock.now() + room.LOOK_S, self._connect_if_waited_for)
            elif first:
                self._fail(HostError(f"cannot start a thread to connect to {self.name}: {error}"))

    def _connect_if_waited_for(self) -> None:
        with self._lock:
            if self._is_waited_for and not self._connections and not self._closed:
                self._connect_for(first=True)

    def _connect(self) -> None:
        started = time.monotonic()
        try:
            made = self._establish()
            if not made.transport.active:
                raise ConnectError(f"{self.name}: {made.transport.reason()}")
        except BaseException as error:
            self._connect_failed(error)
            return
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
        with self._lock:
            self._connecting -= 1
            self.made += 1
            self._shortage = None
            self._made_at = time.monotonic()
            self._connect_cost = max(0.01, self._made_at - started)
            closed = self._closed
            if not closed and not made.gone:
                self._connections.append(made)
                self._serve()
                self._answer_calls(None)
                self._start_clearing()
                for waiter in self._waiting:  # those left over reckon with the cost now
                    waiter.event.set()
            elif not closed and self._is_waited_for and not self._connections:
                self._connect_for(first=True)  # it broke in this very moment
        if closed:
            made.transport.end("it was closed")

    def _connect_failed(self, error: BaseException) -> None:
        known = error if isinstance(error, ParallelExecError) else None
        if known is None:
            error.args = tuple(
                plain(arg, SAID) if isinstance(arg, str) else arg for arg in error.args
            )
            log.debug("connecting to %s failed: %s: %s", self.name, type(error).__name__, error)
            known = ConnectError(
                f"cannot connect to {self.name}: {str(error) or type(error).__name__}"
            )
            known.__cause__ = forget_frames(error)
        with self._lock:
            self._connecting -= 1
            self._shortage = None
            if isinstance(error, _UnwantedError):
                if self._is_waited_for and not self._connections:
                    self._connect_for(first=True)  # who came in this very moment
            elif self._connections:
                # There is another one to wait for; do not press the host for more.
                self._not_before = time.monotonic() + 5.0
                log.debug("no further connection to %s: %s", self.name, known)
                for waiter in self._waiting:
                    waiter.event.set()
            elif not self._connecting:
                self._fail(known)

    def _fail(self, error: ParallelExecError) -> None:
        """Tell everyone who waits; each gets an error of its own. Under the lock."""
        while self._waiting:
            waiter = self._waiting.pop(0)
            waiter.answer = _copy(error)
            waiter.event.set()
        self._answer_calls(error)

    def _establish(self, within: float = math.inf) -> Connection:
        """Connect, and try again where the host refuses handshakes.

        Args:
            within: Seconds that it may take, the wait for a turn included.
        """
        began = time.monotonic()
        while True:
            left = within - (time.monotonic() - began)
            try:
                return self._connect_again_and_again(left)
            except Exception as error:
                # The system has refused a descriptor or a thread: wait while others may give
                # theirs back.
                if left <= 0 or not room.is_shortage(error) or not self._wait_for_others(error):
                    raise

    def _wait_for_others(self, error: BaseException) -> bool:
        self._is_short(error)
        return not self._closed and room.get().pause(time.sleep)

    def _is_short(self, error: BaseException) -> None:
        """Let those who wait know that descriptors are short."""
        with self._lock:
            self._shortage = error
            for waiter in self._waiting:
                waiter.event.set()
            for call in self._calls:
                reactor.get().post(call.strained, error)

    def _connect_again_and_again(self, within: float) -> Connection:
        settings = self.settings
        if self.config is None:
            longest = min(within, settings.connect_timeout or CONNECT_TIMEOUT_S)
            self.config = resolve(settings.destination, settings.config, longest)
        config = self.config
        began = time.monotonic()
        timeout = settings.connect_timeout or config.connect_timeout or CONNECT_TIMEOUT_S
        timeout = min(timeout, within)
        deadline = began + timeout
        pause = 0.05
        for attempt in range(1, TRIES + 1):
            if self._closed:
                break
            try:
                left = within - (time.monotonic() - began)
                return self._handshake(config, max(0.001, min(timeout, left)), left)
            except _AgainError as again:
                waited = pause * random.uniform(0.5, 1.5)
                if attempt == TRIES or time.monotonic() + waited > deadline + again.queued:
                    raise ConnectError(
                        f"{self.name} refused {attempt} handshakes: {again}"
                        if not again.proxied
                        else f"{self.name}: {again} ({attempt} times)",
                        environment=self.name,
                    ) from again.__cause__
                log.debug("%s refused a handshake (%s), trying again", self.name, again)
                deadline += again.queued
                time.sleep(waited)
                pause = min(1.0, pause * 2)
        raise self._closed_error()

    def _handshake(self, config: HostConfig, timeout: float, within: float) -> Connection:
        """Connect, verify and log in, once.

        Args:
            config: What is configured for the host.
            timeout: Seconds for the handshake, once it has its turn.
            within: Seconds for both.

        Raises:
            _AgainError: The server closed before its key was seen: MaxStartups, most likely.
        """
        route = _Route(self, config, timeout)
        with self._lock:
            self._routes.add(route)
        try:
            gate = gate_of(route.endpoint())
            asked = time.monotonic()
            entry = gate.enter(timeout=min(within, max(TURN_S, TURNS * timeout)))
            if entry is None:
                raise ConnectTimeoutError(f"{self.name}: too many handshakes wait for this server")
            try:
                self._find_room(route, within)
            except BaseException:
                gate.leave(entry)
                raise
            queued = time.monotonic() - asked
            timeout = max(0.001, min(timeout, within - queued))
            refused = False
            try:
                return self._log_in(route, config, timeout)
            except _AgainError as again:
                refused = True
                again.queued = queued
                raise
            finally:
                gate.leave(entry, refused=refused)
        except BaseException:
            route.close()
            raise
        finally:
            with self._lock:
                self._routes.discard(route)

    def _find_room(self, route: _Route, within: float) -> None:
        """Wait until there is a descriptor for the connection, if it needs one.

        Raises:
            _UnwantedError: Nobody waits for the connection any more.
        """
        if route.through_jump:
            return
        if within < math.inf:  # to end a command: there is a bound, and something to lose
            route.place = room.get().enter_soon(within)
            if route.place is None:
                raise ConnectTimeoutError(f"{self.name}: there was no descriptor to connect by")
            return
        route.place = room.get().enter(
            self._is_wanted,
            route.set_wake,
            lambda: self._is_short(OSError(errno.EMFILE, os.strerror(errno.EMFILE))),
        )
        if route.place is None:
            raise self._closed_error() if self._closed else _UnwantedError

    def _is_wanted(self) -> bool:
        with self._lock:
            return not self._closed and self._is_waited_for

    def _log_in(self, route: _Route, config: HostConfig, timeout: float) -> Connection:
        deadline = time.monotonic() + timeout
        sock = route.open()
        if route.place is not None:
            route.place.taken()
        interval = self.settings.keepalive
        if interval is None:
            interval = config.alive_interval if config.alive_interval is not None else KEEPALIVE_S
        made: list[Connection] = []
        transport = Transport(
            sock,
            timeout=timeout,
            keepalive=interval,
            alive_count=config.alive_count,
            on_quiet=lambda: bool(made) and self._quiet(made[0]),
        )
        transport.secrets = (self.settings.password, self.settings.passphrase)
        with self._lock:
            self._under_way.add(transport)
        try:
            if self._closed:  # before it could be ended by that
                raise self._closed_error()
            self._configure(transport, config)
            try:
                transport.negotiate(max(0.001, deadline - time.monotonic()))
            except ConnectTimeoutError as error:
                told = route.blame(error)
                raise ConnectTimeoutError(
                    f"{self.name}: {told}" if told else f"{self.name} does not answer: {error}",
                    environment=self.name,
                ) from None
            except ConnectError as error:
                told = route.blame(error)
                if _may_be_full(transport) and route.repeatable():
                    again = _AgainError(told or str(error))
                    again.proxied = bool(told)
                    raise again from transport.saved_exception
                raise ConnectError(
                    f"{self.name}: {told or error}", environment=self.name
                ) from error
            self._verify(transport, config)
            transport.verify = lambda: self._verify(transport, config)
            try:
                login(transport, self.settings, config, max(0.001, deadline - time.monotonic()))
            except (ConnectError, HostError) as error:
                kind = type(error)
                raise kind(f"{self.name}: {error}", environment=self.name) from error
            most = _sessions(transport.remote_version, self.settings.max_sessions)
            connection = Connection(
                transport, most, route.close, has_descriptor=route.place is not None
            )
            made.append(connection)
            transport.on_end = lambda: self._ended(connection)
            if not transport.active:
                raise ConnectError(f"{self.name}: {transport.reason()}", environment=self.name)
            return connection
        except BaseException:
            transport.end()
            raise
        finally:
            with self._lock:
                self._under_way.discard(transport)

    def _configure(self, transport: Transport, config: HostConfig) -> None:
        possible = list(transport._cipher_info)
        transport._preferred_ciphers = choose(
            transport._preferred_ciphers, config.ciphers, possible
        )
        macs = list(transport._mac_info)
        transport._preferred_macs = choose(transport._preferred_macs, config.macs, macs)
        transport._preferred_kex = choose(
            transport._preferred_kex, config.kex, list(transport._kex_info)
        )
        for name, chosen in (
            ("Ciphers", transport._preferred_ciphers),
            ("KexAlgorithms", transport._preferred_kex),
            ("MACs", transport._preferred_macs),
        ):
            if not chosen:
                raise ConfigError(f"{self.name}: paramiko has none of the configured {name}")
        keys = list(transport._preferred_keys)
        keys = [*(f"{name}{CERTIFICATE}" for name in keys), *keys]
        transport._preferred_keys = known_hosts.algorithms(
            config.host_name,
            config.port,
            config.host_key_alias,
            self._known_files(config),
            choose(keys, config.host_key_algorithms, list(transport._key_info)),
        )

    def _known_files(self, config: HostConfig) -> list[str]:
        if self.settings.known_hosts is not None:
            return list(self.settings.known_hosts)
        return [*config.user_known_hosts, *config.global_known_hosts]

    def _verify(self, transport: Transport, config: HostConfig) -> None:
        key = transport.host_key
        accept_new = self.settings.accept_new
        if accept_new is None:
            accept_new = config.strict in ("accept-new", "no")
        own = self.settings.known_hosts
        try:
            known_hosts.verify(
                config.host_name,
                config.port,
                key.get_name(),
                key.asbytes(),
                alias=config.host_key_alias,
                user_files=config.user_known_hosts if own is None else own,
                global_files=config.global_known_hosts if own is None else (),
                accept_new=accept_new,
                hash_names=config.hash_known_hosts,
                revoked_keys=config.revoked_host_keys,
                certificate=transport.certificate(),
            )
        except HostKeyError as error:
            raise HostKeyError(f"{self.name}: {error}", environment=self.name) from None

    def _ended(self, connection: Connection) -> None:
        """The connection's reading thread is about to end. In that thread."""
        self.drop(connection)
        with self._lock:
            self._dropped.discard(connection)
        connection.release_ground()

    # The end

    def _closed_error(self) -> ExecutorClosedError:
        return ExecutorClosedError(f"the connection to {self.name} has been closed")

    def close(self) -> None:
        """Close every connection and wait for its thread. Idempotent."""
        clearing = self._clearing
        if clearing is not None and clearing is not threading.current_thread():
            clearing.join(CLEARING_S)
        with self._lock:
            self._closed = True
            connections = [*self._connections, *self._dropped]
            self._connections.clear()
            self._dropped.clear()
            routes = list(self._routes)
            under_way = list(self._under_way)
            threads = list(self._threads)
            for waiter in self._waiting:
                waiter.answer = self._closed_error()
                waiter.event.set()
            self._waiting.clear()
            self._answer_calls(self._closed_error())
        for route in routes:
            route.wake()
        for transport in under_way:
            transport.why = "it was closed"
            transport.active_end()
        for connection in connections:
            connection.transport.why = "it was closed"
            connection.transport.active_end()
        for connection in connections:
            connection.transport.end()
            connection.release_ground()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(5.0)

    def abandon(self) -> None:
        """Forget everything in a forked child, without a word to the far side."""
        for connection in self._connections:
            connection.transport.abandon()
        for transport in self._under_way:
            transport.abandon()
        self.__init__(self.settings)  # type: ignore[misc]


def _copy(error: BaseException) -> BaseException:
    """Return an error like this one: each who waits gets one of their own."""
    mine = copy.copy(error)
    mine.__cause__ = error.__cause__
    return mine


class _UnwantedError(ParallelExecError):
    """Nobody waits for the connection any more."""


class _AgainError(Exception):
    """The server refused the handshake before anything was said."""

    queued = 0.0
    proxied = False


def _sessions(version: str, most: int) -> int:
    """Return how many commands at once a server can be trusted with on one connection.

    Dropbear 2022.82 to 2024.85 may take the end of one command for that of another that
    has not begun, and then drops the connection with all that is on it (its issue 321).
    """
    found = re.search(r"dropbear_(\d+)\.(\d+)", version)
    if found is not None and (2022, 82) <= (int(found[1]), int(found[2])) <= (2024, 85):
        return 1
    return most


def _may_be_full(transport: Transport) -> bool:
    """Return whether the far side closed as a server with too many handshakes does."""
    if transport.host_key is not None or transport.why is not None:
        return False
    words = transport.packetizer.said() if not transport.remote_version else ""
    if words:
        return any(refusal in words for refusal in TOO_MANY)
    error = transport.saved_exception
    if error is None or isinstance(error, EOFError | ConnectionError):
        return True
    return isinstance(error, paramiko.SSHException) and "banner" in str(error).lower()


class _Route:
    """How a socket to the host is had: directly, by a proxy command, by jump hosts.

    Attributes:
        wake: Wakes who waits on the way, to see that the pool has been closed.
    """

    def __init__(self, pool: HostPool, config: HostConfig, timeout: float) -> None:
        self._pool = pool
        self._config = config
        self._timeout = timeout
        self._addresses: list[dial.Address] = []
        self._lease: Lease | None = None
        self._jump: HostPool | None = None
        self._tunnel: Tunnel | None = None
        self._proxy: dial.Proxy | None = None
        self._hops = _hops(pool.settings, config)
        self.place: room.Place | None = None
        self.wake: Callable[[], object] = lambda: None

    @property
    def through_jump(self) -> bool:
        """Whether it is a channel of another connection, without a descriptor."""
        return bool(self._hops)

    def endpoint(self) -> Hashable:
        """Return which server it leads to; look up its name on the way."""
        config = self._config
        if self._hops:
            return (self._hops[-1], config.host_name, config.port)
        if self._pool.settings.jump is None and config.proxy_command is not None:
            return (config.proxy_command,)
        with self._named():
            self._addresses = dial.lookup(
                config.host_name, config.port, config.address_family, self._timeout, self._wanted
            )
        return dial.endpoint(self._addresses[0])

    def open(self) -> Any:
        """Return the connected socket, or what takes its place."""
        with self._named():
            if self._hops:
                return self._through_jump()
            if not self._addresses:
                assert self._config.proxy_command is not None
                self._proxy = dial.Proxy(self._config.proxy_command)
                return self._proxy.sock
            return dial.connect(self._addresses, self._timeout, self._wanted)

    def blame(self, error: ConnectError) -> str:
        """Return what a ProxyCommand has to do with an error; "" if there is none."""
        return self._proxy.fate(error) if self._proxy is not None else ""

    def repeatable(self) -> bool:
        """Return whether a closed connection may mean that there is no room for now."""
        return self._proxy is None or self._proxy.repeatable()

    def _through_jump(self) -> Tunnel:
        self._jump = jump = borrow(self._hops[-1])
        config = self._config
        for _ in range(3):
            lease = self._lease_within(jump)
            try:
                self._tunnel = lease.transport.open_tunnel(
                    config.host_name, config.port, self._timeout, self._wanted, self.set_wake
                )
            except BrokenError:
                lease.give_back()
                jump.drop(lease.connection)
                continue
            except RefusedError as error:
                lease.give_back()
                raise ConnectError(
                    f"{jump.name} does not reach {config.host_name}:{config.port}: {error}"
                ) from error
            except TimeoutError as error:
                lease.give_back()
                raise ConnectTimeoutError(
                    f"{jump.name} does not answer within {self._timeout:g} s"
                ) from error
            self._lease = lease
            if self._tunnel is None:
                raise self._pool._closed_error()
            return self._tunnel
        raise ConnectError(f"the connection to {jump.name} broke again and again")

    def _lease_within(self, jump: HostPool) -> Lease:
        """Return a place on the way there, within this host's own time to connect."""
        deadline = time.monotonic() + self._timeout
        clock = reactor.get()
        timers: list[reactor.Timer] = []

        def register(wake: Callable[[], object]) -> None:
            self.set_wake(wake)
            timers.append(clock.call_at(deadline, wake))

        try:
            lease = jump.lease(
                tunnel=True,
                wanted=lambda: self._wanted() and time.monotonic() < deadline,
                register=register,
            )
        finally:
            for timer in timers:
                timer.cancel()
        if lease is None:
            if not self._wanted():
                raise self._pool._closed_error()
            raise ConnectTimeoutError(f"no connection to {jump.name} within {self._timeout:g} s")
        return lease

    def _wanted(self) -> bool:
        return not self._pool._closed

    def set_wake(self, wake: Callable[[], object]) -> None:
        """Note who waits on the way."""
        self.wake = wake

    def close(self) -> None:
        """Give back what it took. Idempotent."""
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            with contextlib.suppress(Exception):
                tunnel.close()
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.give_back()
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            proxy.close()
        jump, self._jump = self._jump, None
        if jump is not None:
            give_back(jump)
        if self.place is not None:
            self.place.leave()

    @contextlib.contextmanager
    def _named(self) -> Any:
        """Say in errors which host could not be reached."""
        name = self._pool.name
        try:
            yield
        except HostError as error:
            if error.environment == name:
                raise
            raise type(error)(f"{name}: {error}", environment=name) from error


def _hops(settings: Settings, config: HostConfig, depth: int = 0) -> tuple[Settings, ...]:
    """Return the hops to a host, the first one first, each with those before it."""
    if depth > DEEPEST_JUMP:
        raise ConfigError(f"{settings.destination}: jump hosts go round in a circle")
    if settings.jump is not None:
        chain = list(settings.jump)
    else:
        chain = [settings.for_hop(Destination.parse(hop)) for hop in config.proxy_jump]
    linked: list[Settings] = []
    for hop in chain:
        if linked:
            hop = replace(hop, jump=(*(hop.jump or ()), *linked))
        elif hop.jump is None:
            longest = settings.connect_timeout or CONNECT_TIMEOUT_S
            own = _hops(hop, resolve(hop.destination, hop.config, longest), depth + 1)
            hop = replace(hop, jump=own)
        linked.append(hop)
    return tuple(linked)


# The registry: pools by settings, so that equal ones share.

_pools: dict[Settings, HostPool] = {}
_registry_lock = threading.Lock()  # guards _pools and every pool's `users`
_all: weakref.WeakSet[HostPool] = weakref.WeakSet()


def borrow(settings: Settings) -> HostPool:
    """Return the pool for `settings`, to be given back once."""
    with _registry_lock:
        pool = _pools.get(settings)
        if pool is None:
            pool = _pools[settings] = HostPool(settings)
            _all.add(pool)
        pool.users += 1
        return pool


def give_back(pool: HostPool) -> None:
    """Give a pool back; the last one closes it."""
    with _registry_lock:
        pool.users -= 1
        if pool.users:
            return
        if _pools.get(pool.settings) is pool:
            del _pools[pool.settings]
    pool.close()


def _give_way() -> bool:
    """Close some of the connections that nobody uses, of any host; see `room.Room.gives_way`.

    Of many, an eighth at once: looking for them takes as long as there are hosts.
    """
    with _registry_lock:
        pools = list(_all)
    idle = [(each.idle_since, pool, each) for pool in pools for each in pool.idle()]
    idle.sort(key=lambda item: item[0])
    for _, pool, connection in idle[: len(idle) // 8 + 1]:
        pool.let_go(connection)
    return bool(idle)


room.get().gives_way(_give_way)


def _after_fork_in_child() -> None:
    global _registry_lock, known_hosts
    _registry_lock = threading.Lock()
    known_hosts = KnownHosts()
    for pool in list(_all):
        users = pool.users
        pool.abandon()
        pool.users = users


lifecycle.at_fork("ssh pools", _after_fork_in_child)
