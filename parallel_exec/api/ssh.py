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

        What is asked for decides where things go. A target that is a directory, or ends in
        ``/``, gets the source under its own name; any other target becomes the copy itself.
        A source that ends in ``/`` means what is in the directory, without its name. Missing
        directories are made, and what else is in a directory stays.

        Each file gets a temporary name beside its own, ``.NAME.xxxxxxxx.part``, and is
        renamed when it is whole: a transfer that breaks leaves what was there before. If
        the host cannot be told then to remove the temporary file, the next `put` to it
        does, as long as this object is open. A link on the host is written through: the file
        that it leads to is replaced. Symbolic links within the source are copied as links.
        The files of a directory go several at a time, over one connection.

        Args:
            source: A local path, or a readable binary file.
            target: The path on the host; one that is not absolute starts at home.
                ``{host}`` in it stands for the host's name.
            preserve: Whether times are kept, and modes as they are. Without, a new file or
                directory gets its source's mode less the host's umask (a file object's the
                host's default), and a file that replaces another one keeps that one's. Set-id
                and sticky bits are never taken over.
            progress: Called with the bytes done and their total (None if unknown), in
                the calling thread. One that raises is logged.
            timeout: Seconds for all of it. None: no limit, but for a host that says nothing
                for 20 times its ``connect_timeout``.
            cancel: A token that stops it, as does that of the task it is called in.

        Returns:
            What was copied, and where it is now.

        Raises:
            ConfigError: An argument cannot be used, or the host has ``sudo=``, which
                files do not go through.
            FileTransferError: A file could not be read or written, or is neither a file nor a
                directory.
            HostAnswerError: The host said what no honest one says.
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
        """Copy a file or a directory with all in it from the host.

        Where things go is decided as for `put`, by what was asked for: whatever the host says
        that the source is, nothing is written outside of the target. Below the target no
        link is followed: one that is in the way is replaced.

        Args:
            source: The path on the host; one that is not absolute starts at home.
            target: A local path, or a writable binary file. ``{host}`` in a path stands
                for the host's name. Missing directories are made.
            preserve: Whether times are kept, and modes as they are. Without, a new file or
                directory gets its source's mode less the umask, and a file that replaces
                another one keeps that one's. Set-id and sticky bits are never taken over. A
                directory that was there and is named as the target keeps what it has.
            progress: Called with the bytes done and their total (None for a directory).
            timeout: Seconds for all of it; see `put`. A host may send as much as it likes
                until then.
            cancel: A token that stops it, as does that of the task it is called in.

        Returns:
            What was copied, and where it is now.

        Raises:
            ConfigError, FileTransferError, HostError: As `put`.
            HostAnswerError: The host said what no honest one says: a name that no file can
                have, an answer to nothing that was asked, more than a million names.
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
