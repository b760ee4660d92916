"""Hosts that are reached by SSH, as users name them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import IO

from parallel_exec.api.environments import Runnable
from parallel_exec.engine.cancel import CancelToken
from parallel_exec.environments.base import Stop
from parallel_exec.environments.ssh import SSHBackend, files
from parallel_exec.values import checks
from parallel_exec.values.transfer import Transfer

__all__ = ["SSH"]


class SSH(SSHBackend, Runnable):
    __doc__ = SSHBackend.__doc__

    def put(
        self,
        source: str | os.PathLike[str] | IO[bytes],
        target: str | os.PathLike[str],
        *,
        preserve: bool = False,
        progress: Callable[[int, int | None], object] | None = None,
        timeout: float | timedelta | None = None,
        cancel: CancelToken | None = None,
    ) -> Transfer:
        """Copy a file, a directory with all in it, or what a file object gives to the host.

        Each file gets a temporary name beside its own, ``.NAME.xxxxxxxx.part``, and is
        renamed when it is whole: a transfer that breaks leaves what was there before. If
        the host cannot be told then to remove the temporary file, the next `put` to it
        does, as long as this object is open. A file that goes to an existing directory
        keeps its name. Symbolic links within a directory are copied as links. The files
        of a directory go several at a time, over one connection.

        Args:
            source: A local path, or a readable binary file.
            target: The path on the host; one that is not absolute starts at home.
            preserve: Whether modes and times are kept. Without, a new file gets the
                host's default mode, and one that replaces another that one's.
            progress: Called with the bytes done and their total (None if unknown), in
                the calling thread. One that raises is logged.
            timeout: Seconds for all of it. None: no limit.
            cancel: A token that stops it, as does that of the task it is called in.

        Returns:
            What was copied.

        Raises:
            ConfigError: An argument cannot be used, or the host has ``sudo=``, which
                files do not go through.
            FileTransferError: A file could not be read or written.
            HostError: There was no connection.
            ConnectionLostError: The connection broke meanwhile.
            TaskTimeoutError: It took longer than `timeout`.
            TaskCancelledError: It was cancelled.

        **Blocking:** until all is copied, or the host has been told to remove what was
        begun, which it has ten seconds for. **Thread safety:** yes.
        """
        with _stopped_by(cancel) as stop:
            return self.transfer(
                files.put,
                source,
                target,
                preserve=preserve,
                progress=progress,
                timeout=timeout,
                stop=stop,
            )

    def get(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str] | IO[bytes],
        *,
        preserve: bool = False,
        progress: Callable[[int, int | None], object] | None = None,
        timeout: float | timedelta | None = None,
        cancel: CancelToken | None = None,
    ) -> Transfer:
        """Copy a file or a directory with all in it from the host; see `put`.

        Args:
            source: The path on the host.
            target: A local path, or a writable binary file. ``{host}`` in a path stands
                for the host's name. Missing directories are made.
            preserve: Whether modes and times are kept.
            progress: Called with the bytes done and their total (None for a directory).
            timeout: Seconds for all of it. None: no limit.
            cancel: A token that stops it, as does that of the task it is called in.

        Returns:
            What was copied.

        Raises:
            ConfigError, FileTransferError, HostError: As `put`.
            ConnectionLostError, TaskTimeoutError, TaskCancelledError: As `put`.
        """
        with _stopped_by(cancel) as stop:
            return self.transfer(
                files.get,
                source,
                target,
                preserve=preserve,
                progress=progress,
                timeout=timeout,
                stop=stop,
            )


@contextmanager
def _stopped_by(cancel: CancelToken | None) -> Iterator[Stop]:
    """Give a `Stop` that a token sets, and the one of the task that calls."""
    if cancel is not None and not isinstance(cancel, CancelToken):
        raise checks.refuse("cancel", cancel, "a CancelToken")
    stop = Stop()
    tokens = [CancelToken.current(), *([cancel] if cancel is not None else [])]
    callbacks = [token.on_cancel(lambda: stop.end("cancel")) for token in tokens]
    try:
        yield stop
    finally:
        for callback in callbacks:
            callback.close()
