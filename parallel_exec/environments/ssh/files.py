"""Files and directories, to a host and from it.

What is written gets a temporary name beside its own and is renamed when it is whole, so
that a broken transfer leaves what was there before. Files go over one connection, several
at a time, and so do the directories of a tree.

Here are the calls, their session and what their failures mean; `upload` and `download` do
the work.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import IO

from parallel_exec.environments.base import Stop
from parallel_exec.environments.ssh.channel import CommandChannel, RefusedError
from parallel_exec.environments.ssh.connection import BrokenError
from parallel_exec.environments.ssh.copying import Progress, shown
from parallel_exec.environments.ssh.download import Download
from parallel_exec.environments.ssh.pool import HostPool, Lease
from parallel_exec.environments.ssh.sftp import NoSftpError, Sftp, StoppedError
from parallel_exec.environments.ssh.sftp_packets import FAILURE, NonsenseError, StatusError
from parallel_exec.environments.ssh.upload import Upload
from parallel_exec.errors import (
    ConfigError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    FileTransferError,
    HostAnswerError,
    TaskCancelledError,
    TaskTimeoutError,
)
from parallel_exec.values import checks
from parallel_exec.values.paths import file_path, for_host
from parallel_exec.values.transfer import Transfer

__all__ = ["Progress", "get", "put"]

SILENCES = 20  # times `connect_timeout`: how long a session may say nothing
LEAST_SILENCE_S = 60.0
ASKING_S = 5.0  # to ask for the reason of a failure

Path = str | os.PathLike[str]


def put(
    pool: HostPool,
    name: str,
    source: Path | IO[bytes],
    target: Path,
    *,
    preserve: bool,
    progress: Progress | None,
    timeout: float,
    stop: Stop,
) -> Transfer:
    """Copy a local file, directory or file object to the host. See `SSH.put`."""
    local = _local("source", source, "read")
    there = file_path("target", target, empty=True)
    if local is None and there.endswith("/"):
        raise checks.refuse("target", target, "a file's path: a file object has no name to keep")
    home, path = _remote(for_host("target", there, pool.settings.destination.host))
    with _session(pool, name, timeout, stop) as sftp:
        job = Upload(sftp, name, preserve, progress)
        with job.cleared(pool), _full_disk(sftp, name, path), _here(name):
            if local is None:
                assert not isinstance(source, str | os.PathLike)
                written = job.from_object(source, path)
                return job.finished(repr(source), home + os.fsdecode(written))
            written = job.from_path(os.fsencode(local), path)
            return job.finished(local, home + os.fsdecode(written))


def get(
    pool: HostPool,
    name: str,
    source: Path,
    target: Path | IO[bytes],
    *,
    preserve: bool,
    progress: Progress | None,
    timeout: float,
    stop: Stop,
) -> Transfer:
    """Copy a file or directory from the host. See `SSH.get`."""
    there = file_path("source", source, empty=True)
    _, path = _remote(there)
    local = _local("target", target, "write")
    if local is not None:
        local = for_host("target", local, pool.settings.destination.host)
    with _session(pool, name, timeout, stop) as sftp, _here(name):
        job = Download(sftp, name, preserve, progress)
        known = job.attributes(path)
        if local is None:
            assert not isinstance(target, str | os.PathLike)
            job.to_object(path, target, known)
            return job.finished(there, repr(target))
        written = job.to_path(path, os.fsencode(local), known)
        return job.finished(there, os.fsdecode(written))


def _local(name: str, value: object, way: str) -> str | None:
    """Return a path of this machine; None for a file object, which can `way` ("read")."""
    if isinstance(value, str | os.PathLike):
        return file_path(name, value)
    if not callable(getattr(value, way, None)):
        raise checks.refuse(name, value, f"a path or a file object with {way}()")
    return None


def _remote(path: str) -> tuple[str, bytes]:
    """Return a path on the host, and what to put before it where people read it.

    One that is not absolute starts at the home directory.
    """
    for home in ("~/", "~"):
        if path == home or (path.startswith(home) and home != "~"):
            rest = path[len(home) :]
            return (home, os.fsencode(rest)) if rest else ("", b".")
    return "", os.fsencode(path) or b"."


@contextlib.contextmanager
def _session(pool: HostPool, name: str, timeout: float, stop: Stop) -> Iterator[Sftp]:
    """Open an SFTP session, and say of every failure what it means."""
    began = time.monotonic()
    try:
        lease, channel = _channel(pool, name, timeout, stop)
        try:
            sftp = Sftp(
                channel, max(SILENCES * timeout, LEAST_SILENCE_S), lambda: stop.reason is not None
            )
            try:
                sftp.begin(max(timeout, LEAST_SILENCE_S))
                yield sftp
            finally:
                sftp.close()
        except (NonsenseError, HostAnswerError):
            pool.drop(lease.connection)  # nothing it says can be relied upon
            raise
        finally:
            lease.give_back()
    except NoSftpError as error:
        raise FileTransferError(f"{name}: {error}", environment=name) from error
    except NonsenseError as error:
        raise HostAnswerError(
            f"{name}: its SFTP server gave an answer that cannot be read: {error}", environment=name
        ) from error
    except BrokenError as error:
        raise ConnectionLostError(
            f"the transfer with {name} broke: {error}", environment=name
        ) from error
    except StoppedError:
        if stop.reason == "timeout":
            took = time.monotonic() - began
            raise TaskTimeoutError(
                f"the transfer with {name} timed out after {took:.3g} s", environment=name
            ) from None
        raise TaskCancelledError(
            f"the transfer with {name} was cancelled", environment=name
        ) from None


def _channel(pool: HostPool, name: str, timeout: float, stop: Stop) -> tuple[Lease, CommandChannel]:
    """Return an open channel and its place on a connection, to be given back."""
    began = time.monotonic()

    def wanted() -> bool:
        return stop.reason is None

    why = "no session could be opened"
    refusals = broken = 0
    while refusals < 8 and broken < 4:
        lease = pool.lease(wanted=wanted, register=stop.on_change)
        if lease is None:
            raise StoppedError
        channel: CommandChannel | None = None
        try:
            channel = lease.transport.open_command(timeout, wanted, stop.on_change)
            if channel is None:
                raise StoppedError
            return lease, channel
        except RefusedError as error:
            pool.refused(lease.connection)
            why = f"{name} opens no session: {error}"
            stop.wait(0.02 * 2**refusals if lease.connection.used == 1 else 0)
            refusals += 1
        except BrokenError as error:
            pool.drop(lease.connection)
            why = f"{name}: {error}"
            broken += 1
        except TimeoutError as error:
            pool.drop(lease.connection)
            if lease.connection.made_at >= began:  # else see `Running._get_channel`
                raise ConnectTimeoutError(
                    f"{name} opened no channel within {timeout:g} s", environment=name
                ) from error
        finally:
            if channel is None:
                lease.give_back()
    raise ConnectError(why, environment=name)


@contextlib.contextmanager
def _full_disk(sftp: Sftp, name: str, path: bytes) -> Iterator[None]:
    """Say so where a failure that the server has no words for is a full disk."""
    try:
        yield
    except FileTransferError as error:
        refusal = error.__cause__
        if isinstance(refusal, StatusError) and refusal.code == FAILURE:
            with contextlib.suppress(BrokenError, StoppedError, NonsenseError):
                sftp.hurry(ASKING_S)
                if any(sftp.run(sftp.is_full(p)) for p in (path, os.path.dirname(path) or b".")):
                    raise FileTransferError(
                        f"{error}: the disk there is full", environment=name
                    ) from refusal
        raise


@contextlib.contextmanager
def _here(name: str) -> Iterator[None]:
    """Say what a failure on this machine's side means."""
    try:
        yield
    except (FileTransferError, ConnectionLostError, ConnectError, ConfigError, TimeoutError):
        raise
    except OSError as error:
        path = error.filename
        where = f"{shown(path)}: " if isinstance(path, str | bytes) else ""
        raise FileTransferError(
            f"the transfer with {name} failed here: {where}{error.strerror or error}",
            environment=name,
        ) from error
