r"""Every error of the library: one tree, sorted by "may the command have run?".

============================  ==========================================  ===============
class                         raised when                                 did it run?
============================  ==========================================  ===============
`ConfigError`                 an argument cannot be used                  no
`CommandStartError`           the system refused to start the command     no
`HostError`                   a host could not be reached or trusted      no
`NoWorkerError`               every worker of a balancer is down          no
`ConnectionLostError`         nobody knows how the command ended          unknown
`CommandError`                the command ended, but not well             yes
`TaskTimeoutError`            a task was over its time                    yes
`TaskCancelledError`          a task was stopped                          yes
`DeadlineExceededError`       the whole run was over its time             some of it
`RunFailedError`              tasks of a run failed                       some of it
`ExecutorClosedError`         the executor takes no more work             no
`BatcherFullError`            a batcher holds as many items as it may     no
`BatchResultError`            a batch gave a wrong number of results      yes
============================  ==========================================  ===============

All of them survive `pickle`, so they cross process boundaries unharmed.

A message says first what happened, then to what, then what was said about it. It is one
line: what others have said stands in it escaped (control characters as ``\x1b``, a line feed
as ``\n``) and cut, a command or a label at 200 characters, the last words of a command or a
host at 300, the whole at 4,000. `result` has the output itself, as it came.
"""

from __future__ import annotations

import concurrent.futures
import queue
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from parallel_exec import text

if TYPE_CHECKING:
    from parallel_exec.values.outcome import Outcome
    from parallel_exec.values.result import Result

__all__ = [
    "AuthenticationError",
    "BatchResultError",
    "BatcherFullError",
    "CommandError",
    "CommandFailedError",
    "CommandIdleError",
    "CommandNotFoundError",
    "CommandStartError",
    "CommandTimeoutError",
    "ConfigError",
    "ConnectError",
    "ConnectTimeoutError",
    "ConnectionLostError",
    "DeadlineExceededError",
    "ExecutorClosedError",
    "FileTransferError",
    "HostAnswerError",
    "HostError",
    "HostKeyError",
    "NoWorkerError",
    "OutputLimitError",
    "ParallelExecError",
    "RunFailedError",
    "SudoError",
    "TaskCancelledError",
    "TaskTimeoutError",
]


def _rebuild(
    cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    """Make the error again as it was, without running its `__init__`."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ParallelExecError(Exception):
    """The base of every error that this library raises by itself.

    Attributes:
        environment: The name of the place it happened in, or None.
        attempts: How many tries had been made, or None where that has no meaning.
    """

    environment: str | None = None
    attempts: int | None = None

    def __init__(
        self, message: str, *, environment: str | None = None, attempts: int | None = None
    ) -> None:
        super().__init__(text.plain(message, text.MESSAGE))
        if environment is not None:
            self.environment = environment
        if attempts is not None:
            self.attempts = attempts

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__


class ConfigError(ParallelExecError, ValueError):
    """An argument cannot be used; nothing was started because of it."""


class CommandStartError(ConfigError, OSError):
    """The system refused to start a command: it did not run.

    `errno` and `__cause__` say why.
    """

    def __init__(self, message: str, *, errno: int | None = None, environment: str | None = None):
        super().__init__(message, environment=environment)
        self.errno = errno

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_start, (type(self), self.args, dict(self.__dict__), self.errno))


def _rebuild_start(
    cls: type[CommandStartError], args: tuple[Any, ...], state: dict[str, Any], errno: int | None
) -> BaseException:
    error = OSError.__new__(cls, *args)  # which decides how it is laid out in memory
    error.args = args
    error.__dict__.update(state)
    error.errno = errno
    return error


class CommandNotFoundError(CommandStartError, FileNotFoundError):
    """The program, or the directory to run it in, does not exist: it did not run."""


class HostError(ParallelExecError):
    """A host could not be used: nothing ran there, so trying again is safe."""


class ConnectError(HostError, ConnectionError):
    """The host could not be reached, or it closed the door."""


class ConnectTimeoutError(ConnectError, TimeoutError):
    """The host did not answer within `connect_timeout`."""


class AuthenticationError(HostError):
    """The host refused every way to log in that was offered, or hung up as its answer.

    Also raised where it asks what nobody answers, and where an expired password must be
    changed before anything runs.
    """


class SudoError(AuthenticationError):
    """sudo refused: a wrong or missing password, or no permission. The command did not run."""


class HostKeyError(HostError):
    """The host's key is unknown, changed or revoked."""


class NoWorkerError(HostError):
    """Every worker of a balancer is down. The task did not run.

    Attributes:
        errors: The last error of each worker, by its name.
    """

    errors: Mapping[str, BaseException] = {}

    def __init__(
        self,
        message: str,
        *,
        errors: Mapping[str, BaseException] | None = None,
        environment: str | None = None,
        attempts: int | None = None,
    ) -> None:
        super().__init__(message, environment=environment, attempts=attempts)
        if errors is not None:
            self.errors = errors


class ConnectionLostError(ParallelExecError, ConnectionError):
    """It is unknown how a command ended, and whether it has: it may still run there.

    The connection broke under it, or the host closed its channel without an exit status:
    if it still runs, it is ended when the host is next connected to. Or it was over its
    `timeout`, cancelled or over `max_output_bytes`, and the host did not say within
    `kill_after` and 10 seconds that it has ended.

    Attributes:
        result: What was received until then, or None.
    """

    result: Result | None = None

    def __init__(
        self,
        message: str,
        *,
        result: Result | None = None,
        environment: str | None = None,
        attempts: int | None = None,
    ) -> None:
        super().__init__(message, environment=environment, attempts=attempts)
        self.result = result


class FileTransferError(ParallelExecError, OSError):
    """A file could not be copied, for a reason of its own: the target is as it was before."""


class HostAnswerError(FileTransferError, HostError):
    """A host said, while files were copied, what no honest host says.

    Names that no file can have, answers that nobody asked for, or that cannot be read. What
    had been copied by then stays.
    """


class CommandError(ParallelExecError):
    """A command ran and did not end well.

    Attributes:
        result: What it produced, as far as it was captured. The command, the
            environment and the number of attempts stand there.
    """

    result: Result

    def __init__(self, message: str, *, result: Result) -> None:
        super().__init__(message, environment=result.environment, attempts=result.attempts)
        self.result = result


class CommandFailedError(CommandError):
    """A command exited with a status other than 0, or a signal ended it."""


class TaskTimeoutError(ParallelExecError, TimeoutError):
    """A task was over its `timeout`.

    Attributes:
        abandoned: True if the task could not be ended and is still running: a
            function cannot be killed. Its place under the limit stays taken
            until it returns.
    """

    abandoned: bool = False


class CommandTimeoutError(CommandError, TaskTimeoutError):
    """A command was over its `timeout` and has been ended."""


class CommandIdleError(CommandTimeoutError):
    """A command printed nothing for its `idle_timeout` and has been ended."""


class OutputLimitError(CommandError):
    """A command printed more than `max_output_bytes` and has been ended."""


class TaskCancelledError(ParallelExecError, concurrent.futures.CancelledError):
    """A task was stopped before it had ended, or before it began.

    Attributes:
        result: What a command had produced by then, or None.
        abandoned: True if it could not be ended and is still running.
    """

    result: Result | None = None
    abandoned: bool = False

    def __init__(
        self,
        message: str,
        *,
        result: Result | None = None,
        environment: str | None = None,
        attempts: int | None = None,
    ) -> None:
        super().__init__(message, environment=environment, attempts=attempts)
        self.result = result


class DeadlineExceededError(ParallelExecError, TimeoutError):
    """A whole run was over its `deadline`; what still ran has been ended."""


class ExecutorClosedError(ParallelExecError, RuntimeError):
    """The executor, the environment or the batcher has been closed."""


class BatcherFullError(ParallelExecError, queue.Full):
    """A batcher holds `max_queue` items: the item was refused, or dropped. It was not
    processed.
    """


class BatchResultError(ParallelExecError, ValueError):
    """A processor did not give one result for each item. What it did with them is unknown."""


class RunFailedError(ParallelExecError, ExceptionGroup[Exception]):
    """Tasks of a run failed. Each error in the group has a note that names its task.

    Attributes:
        outcomes: The outcomes of the tasks that failed, in task order.
    """

    outcomes: tuple[Outcome[Any], ...] = ()

    def __new__(cls, message: str, errors: Sequence[Exception], **_: Any) -> Self:
        return super().__new__(cls, text.plain(message, text.MESSAGE), errors)

    def __init__(
        self,
        message: str,
        errors: Sequence[Exception],
        *,
        outcomes: Sequence[Outcome[Any]] = (),
    ) -> None:
        ExceptionGroup.__init__(self, text.plain(message, text.MESSAGE), errors)
        self.outcomes = tuple(outcomes)

    def derive(self, errors: Sequence[Exception]) -> RunFailedError:  # type: ignore[override]
        """Return a group like this one with other errors (for `split` and ``except*``)."""
        chosen = {id(error) for error in errors}
        outcomes = [outcome for outcome in self.outcomes if id(outcome.reason) in chosen]
        return RunFailedError(self.message, errors, outcomes=outcomes)
