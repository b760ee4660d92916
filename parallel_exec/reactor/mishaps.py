"""What foreign code raised where no exception can tell anybody.

A callback of the user's that raises disturbs nothing and nobody, so it must be said aloud:
on the log of the library where the program has set logging up, else on standard error, where
the reader of a plain script or of a notebook sees it.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback

from parallel_exec.text import MESSAGE, plain

__all__ = ["has_handler", "is_interrupt", "report"]

logger = logging.getLogger("parallel_exec")


def report(
    message: str,
    *args: object,
    error: BaseException | None = None,
    level: int = logging.ERROR,
) -> None:
    """Say that something raised, with its traceback. Raises nothing itself: a handler of the
    log, a stream that is closed and a `__repr__` are foreign code as well.

    Args:
        message: Where it was raised, as for `logging`.
        *args: What is put into the message.
        error: What was raised. None: what is being handled.
        level: The level of the record.
    """
    if error is None:
        error = sys.exception()
    try:
        if has_handler() or not logger.isEnabledFor(level):
            logger.log(level, message, *args, exc_info=error)
        elif sys.stderr is not None:
            said = plain(_formatted(message, args), MESSAGE)
            sys.stderr.write(f"parallel_exec: {said}\n{_traceback(error)}")
            sys.stderr.flush()
    except BaseException as raised:
        if is_interrupt(raised):
            raise


def is_interrupt(error: BaseException) -> bool:
    """Return whether `error` may be Ctrl-C, or what another signal handler of the user's raised:
    these come in the main thread alone, and are to come through.
    """
    main = threading.current_thread() is threading.main_thread()
    return main and not isinstance(error, Exception)


def has_handler() -> bool:
    """Return whether a record would reach a handler that does something with it: whether the
    program has set logging up.
    """
    at: logging.Logger | None = logger
    while at is not None:
        if not all(isinstance(handler, logging.NullHandler) for handler in at.handlers):
            return True
        at = at.parent if at.propagate else None
    return False


def _formatted(message: str, args: tuple[object, ...]) -> str:
    try:
        return message % args if args else message
    except Exception:  # somebody's `__repr__`
        return message


def _traceback(error: BaseException | None) -> str:
    return "" if error is None else "".join(traceback.format_exception(error))
