"""One command: run it, or start it."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Unpack

from parallel_exec.api.environments import place_of
from parallel_exec.api.run_options import RUN_DEFAULTS, RunOptions
from parallel_exec.engine.cancel import CancelToken
from parallel_exec.engine.future import CommandFuture
from parallel_exec.engine.retry import RetryLike, policy
from parallel_exec.engine.run import Run
from parallel_exec.engine.scheduler import NO_LIMIT
from parallel_exec.engine.task import Task
from parallel_exec.engine.work import Shell
from parallel_exec.observers import log
from parallel_exec.values import checks
from parallel_exec.values.command import Command, CommandLike
from parallel_exec.values.options import check, takes
from parallel_exec.values.result import Result

__all__ = ["CommandFuture", "RunOptions", "run", "submit"]


KNOWN = RunOptions.__annotations__.keys()


@takes(RunOptions, **RUN_DEFAULTS)
def run(command: CommandLike, **options: Unpack[RunOptions]) -> Result:
    """Run one command and wait for its end.

    Args:
        command: A list of words, run without a shell; a string, run by ``/bin/sh``; or
            a `Command`.
        **options: Those of `Command` (``env cwd input timeout kill_after check
            max_output_bytes capture label on_stdout on_stderr encoding sudo
            idle_timeout stdout stderr``), and `environment`, `retry`, `cancel`.

    Returns:
        What it produced.

    Raises:
        ConfigError: An argument cannot be used; nothing ran.
        CommandStartError: It could not be started; nothing ran.
        CommandFailedError: It failed, unless ``check=False``.
        CommandTimeoutError: It was over its `timeout`.
        CommandIdleError: It printed nothing for its `idle_timeout`.
        OutputLimitError: It printed more than `max_output_bytes`.
        TaskCancelledError: It was cancelled.
        HostError: Its host could not be used; nothing ran.
        ConnectionLostError: The connection broke under it.

    **Blocking:** until the command, and all it started in its session, has ended.
    **Cancellation:** a KeyboardInterrupt ends the command before it goes on; a second
    one does not wait for `kill_after`.
    **Thread safety:** yes.
    """
    work, retry, cancel = _prepare("run", command, options)  # type: ignore[arg-type]
    listeners = [log.listen] if log.wanted() else []
    job = Run(
        NO_LIMIT,
        retry=policy(retry),
        listeners=listeners,
        label="run",
        subject=work.label() if listeners else "",
        total=1,
    )
    tokens = [] if cancel is None else [cancel]
    tasks = iter([Task(0, work)])
    # Room for one more than there is: so it is seen at once that there is no other.
    with closing(job.drive(tasks, window=lambda: 2, at_hand=True, cancel=tokens)) as settled:
        task = next(settled)
    if task.error is not None:
        try:
            raise task.error
        finally:
            del task  # the error's traceback holds this frame, and that must not hold it
    result: Result = task.value
    return result


@takes(RunOptions, **RUN_DEFAULTS)
def submit(command: CommandLike, **options: Unpack[RunOptions]) -> CommandFuture:
    """Start one command and go on; its future gives the result.

    The future is like any of `concurrent.futures`: wait for it, add callbacks, give it
    to `all`. Its `stop` and `cancel` end a running command, as does a token given as
    ``cancel=``; see `CommandFuture`. No limit applies. Commands still running when the
    interpreter exits are ended.

    Args:
        command: As for `run`.
        **options: As for `run`.

    Returns:
        The future of its `Result`; it raises what `run` would.

    Raises:
        ConfigError: An argument cannot be used; nothing runs.

    **Thread safety:** yes.
    """
    work, retry, cancel = _prepare("submit", command, options)  # type: ignore[arg-type]
    listeners = [log.listen] if log.wanted() else []
    job = Run(
        NO_LIMIT,
        retry=policy(retry),
        listeners=listeners,
        background=True,
        label="submit",
        subject=work.label() if listeners else "",
        total=1,
    )
    task = Task(0, work)
    future = task.future = CommandFuture()
    future.ended_by(job.cancel)
    job.begin([task], cancel=[] if cancel is None else [cancel])
    return future


def _prepare(
    name: str, command: CommandLike, options: dict[str, Any]
) -> tuple[Shell, RetryLike | None, CancelToken | None]:
    check(name, options, KNOWN)
    retry = options.pop("retry", None)
    cancel = options.pop("cancel", None)
    if cancel is not None and not isinstance(cancel, CancelToken):
        raise checks.refuse("cancel", cancel, "a CancelToken")
    command = Command.of(command, **options)
    return Shell(command, place_of(command)), retry, cancel
