"""Whether, and when, a task is tried again: the decision alone.

Nothing here sleeps, starts a thread or reads a clock. The engine compiles what the user
gave once per run (`policy`), makes one state per task (`RetryPlan.begin`), and asks it
after every try (`RetryState.after`). It keeps the waits itself: a task between two tries
holds no thread.

A tenacity object is driven by its own step, `iter`; calling it would sleep in the
thread. The steps of one task may be made in different threads, so what tenacity keeps
per thread is carried along.

tenacity is imported when it is first needed: it takes longer than the rest of the start.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Union

from parallel_exec.errors import (
    AuthenticationError,
    CommandStartError,
    ConfigError,
    HostError,
    HostKeyError,
    TaskCancelledError,
    TaskTimeoutError,
)
from parallel_exec.values import checks
from parallel_exec.values.functions import is_function
from parallel_exec.values.options import only_known

if TYPE_CHECKING:
    import tenacity
    from tenacity.wait import WaitBaseT, wait_base

__all__ = ["GiveUp", "Retry", "RetryAgain", "RetryLike", "RetryPlan", "RetryState", "policy"]

Wait = Union[float, timedelta, Callable[[int], float | timedelta], "wait_base", None]
On = Union[
    type[BaseException],
    Iterable[type[BaseException]],
    Callable[[BaseException], object],
    "tenacity.retry_base",
    None,
]

REFUSED = (AuthenticationError, HostKeyError)  # sudo's refusal is one, too
BACKOFF_FIRST_S = 1.0
BACKOFF_LONGEST_S = 30.0


@dataclass(frozen=True, slots=True)
class Retry:
    """When a task that failed is tried again. Immutable; pickles if its functions do.

    The default wait is exponential backoff with full jitter: after the n-th try a random
    time between 0 and min(30, 2 ** (n - 1)) seconds, so that tasks which failed together
    do not come back together (Marc Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015).

    By default only what is safe is tried again: a command after a `HostError`, since it
    surely did not run; a function after any `Exception`, except a `ConfigError` and the
    timeout of one that could not be ended and still runs. Neither is after an
    `AuthenticationError` or a `HostKeyError`: another try would have the same answer, and
    a password that is refused again and again locks its account.

    Args:
        attempts: How many tries in all, the first included. None: no limit.
        wait: Seconds before the next try: a number, a `timedelta`, a function of the
            number of the try that failed (from 1), or a wait object of tenacity.
            None: the backoff above.
        on: Which errors are worth another try: an exception type, several of them, a
            predicate of the error, or a retry object of tenacity. None: what is safe.
            Types decide about a `CommandStartError` only if one of them is that class
            or derives from it; nothing makes a `TaskCancelledError` be tried again.
        max_time: Seconds from the start of the first try after which no other starts.
            It does not end a try that runs: `timeout` does. None: no limit.

    Raises:
        ConfigError: A value cannot be used; the message names it.
    """

    attempts: int | None = 3
    _: KW_ONLY
    wait: Wait = None
    on: On = None
    max_time: float | timedelta | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.attempts is not None:
            checks.count("attempts", self.attempts)
        if self.max_time is not None:
            put(self, "max_time", checks.seconds("max_time", self.max_time))
        if self.wait is not None and not is_function(self.wait):
            put(self, "wait", checks.seconds("wait", self.wait, allow_zero=True))
        if self.on is not None:
            put(self, "on", _checked_on(self.on))


RetryLike = Union[Retry, "tenacity.BaseRetrying"]


Retry.__init__ = only_known(Retry.__init__)  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class RetryAgain:
    """Try the task once more.

    Attributes:
        delay_s: Seconds until then.
    """

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Try no more: this is how the task ended.

    Attributes:
        error: What it failed with; None if it gave a value.
        value: That value. It is the one of the last try, unless tenacity's
            `retry_error_callback` put another in its place.
    """

    error: BaseException | None
    value: Any = None


class RetryPlan:
    """A policy made ready for a run.

    Attributes:
        foreign: Whether `begin` and `after` call code that is not the library's and may
            block: a predicate, a function, anything of tenacity's that the user gave.
    """

    __slots__ = ("_for_commands", "_for_functions", "_thorough", "foreign")

    def __init__(
        self,
        for_commands: tenacity.BaseRetrying,
        for_functions: tenacity.BaseRetrying,
        *,
        foreign: bool,
        thorough: bool,
    ) -> None:
        self._for_commands = for_commands
        self._for_functions = for_functions
        self._thorough = thorough
        self.foreign = foreign

    def begin(self, is_command: bool, now: float) -> RetryState:
        """Return the state of one task, whose first try starts now. Never raises.

        Args:
            is_command: Whether it runs a command; else it is a function.
            now: Monotonic seconds.
        """
        retrying = self._for_commands if is_command else self._for_functions
        return RetryState(retrying, now, thorough=self._thorough)


class RetryState:
    """What is remembered of one task between its tries.

    Thread safety: its calls may come from different threads, one at a time.

    Args:
        retrying: The rules; they are copied.
        now: Monotonic seconds at the start of the first try.
        thorough: Whether the rules want to hear of every step. If not, nothing is made
            until the first try has failed, and values are accepted unseen.
    """

    __slots__ = ("_began", "_call", "_early_error", "_retrying", "_statistics", "_thorough")

    def __init__(self, retrying: tenacity.BaseRetrying, now: float, *, thorough: bool) -> None:
        self._retrying = retrying
        self._began = now
        self._thorough = thorough
        self._call: tenacity.RetryCallState | None = None
        self._statistics: dict[str, Any] = {}
        self._early_error: BaseException | None = None
        if thorough:
            try:
                self._step(self._start())
            except BaseException as error:  # of a `before` hook: the task fails with it
                self._early_error = error

    def after(self, value: Any, error: BaseException | None, now: float) -> RetryAgain | GiveUp:
        """Decide what follows a try. Never raises: a task ends with what the rules raise.

        Args:
            value: What the try gave, if it gave something.
            error: What it failed with, or None.
            now: Monotonic seconds at its end.
        """
        if isinstance(error, TaskCancelledError) or (error is None and not self._thorough):
            return GiveUp(error, value)
        if self._early_error is not None:
            return GiveUp(self._early_error)
        import tenacity

        traceback = None if error is None else error.__traceback__
        try:
            call = self._call or self._start()
            call.outcome = tenacity.Future.construct(
                call.attempt_number, value if error is None else error, error is not None
            )
            call.outcome_timestamp = now
            decision = self._step(call)
            if not isinstance(decision, tenacity.DoSleep):
                return GiveUp(None, decision)
            delay_s = checks.seconds("wait", float(decision), allow_zero=True)
            call.prepare_for_next_attempt()
            self._step(call)  # the `before` hook of the next try
            return RetryAgain(delay_s)
        except BaseException as raised:
            # Not by assignments, which ask the `__setattr__` of an error that is the user's.
            if raised is error:
                # Raised once more on its way through tenacity: those frames say nothing.
                BaseException.with_traceback(error, traceback)
            elif raised.__cause__ is None and raised.__context__ is None:
                object.__setattr__(raised, "__context__", error)
            return GiveUp(raised)

    def _start(self) -> tenacity.RetryCallState:
        import tenacity

        self._retrying = self._retrying.copy()
        self._retrying.begin()
        self._statistics = dict(self._retrying.statistics, start_time=self._began)
        self._call = tenacity.RetryCallState(self._retrying, fn=None, args=(), kwargs={})
        self._call.start_time = self._began
        return self._call

    def _step(self, call: tenacity.RetryCallState) -> object:
        statistics = self._retrying.statistics  # this thread's
        statistics.clear()
        statistics.update(self._statistics)
        try:
            return self._retrying.iter(call)
        finally:
            self._statistics = dict(statistics)


def policy(retry: RetryLike | None) -> RetryPlan | None:
    """Return the plan for what was given as `retry=`; None if nothing is tried again.

    Args:
        retry: A `Retry`, an object of tenacity (`tenacity.Retrying(...)`), or None.

    Raises:
        ConfigError: It is neither, or one of tenacity's asynchronous ones.
    """
    if retry is None:
        return None
    if isinstance(retry, Retry):
        if retry.attempts == 1 and not _is_tenacity("retry_base", retry.on):
            return None
        return _compiled(retry)
    if not _is_tenacity("BaseRetrying", retry):
        raise checks.refuse("retry", retry, "a Retry, a tenacity.Retrying or None")
    if inspect.iscoroutinefunction(retry.iter):
        raise checks.refuse("retry", retry, "a synchronous object of tenacity")
    if not getattr(retry, "enabled", True):
        return None
    try:
        rules = retry.copy()
    except Exception as error:
        raise checks.refuse("retry", retry, f"an object that can be copied ({error})") from error
    return RetryPlan(rules, rules, foreign=True, thorough=True)


def _compiled(retry: Retry) -> RetryPlan:
    """Return the plan of a `Retry`: tenacity's parts, put together."""
    import tenacity

    stops: list[tenacity.stop.stop_base] = []
    if retry.attempts is not None:
        stops.append(tenacity.stop_after_attempt(retry.attempts))
    if retry.max_time is not None:
        stops.append(tenacity.stop_before_delay(retry.max_time))
    stop = tenacity.stop_any(*stops)
    wait = _wait(retry.wait)

    def retrying(predicate: Callable[[BaseException], object]) -> tenacity.Retrying:
        return tenacity.Retrying(
            stop=stop,
            wait=wait,
            retry=tenacity.retry_if_exception(lambda error: bool(predicate(error))),
            reraise=True,
        )

    on = retry.on
    foreign = callable(retry.wait) or callable(on)
    if on is None:
        return RetryPlan(
            retrying(_surely_did_not_run),
            retrying(_worth_another_try),
            foreign=foreign,
            thorough=False,
        )
    if isinstance(on, tenacity.retry_base):
        rules = tenacity.Retrying(stop=stop, wait=wait, retry=on, reraise=True)
        return RetryPlan(rules, rules, foreign=True, thorough=True)
    rules = retrying(on if callable(on) else _listed(on))
    return RetryPlan(rules, rules, foreign=foreign, thorough=False)


def _wait(wait: Wait) -> WaitBaseT:
    """Return `wait` as tenacity's strategy."""
    import tenacity

    if wait is None:
        return tenacity.wait_random_exponential(BACKOFF_FIRST_S, BACKOFF_LONGEST_S)
    if not callable(wait):
        return tenacity.wait_fixed(wait)
    if isinstance(wait, tenacity.wait.wait_base):
        return wait
    return lambda call: checks.seconds("wait", wait(call.attempt_number), allow_zero=True)


def _checked_on(on: object) -> tuple[type[BaseException], ...] | Callable[..., object]:
    """Return `on` as a tuple of types, or as the function or object it is."""
    if callable(on) and not isinstance(on, type):
        if not is_function(on):
            raise checks.refuse("on", on, "exception types or a predicate of the error")
        return on
    kinds = tuple(on) if isinstance(on, Iterable) and not isinstance(on, type) else (on,)
    if not kinds or not all(isinstance(kind, type) for kind in kinds):
        raise checks.refuse("on", on, "exception types or a predicate of the error")
    for kind in kinds:
        if not issubclass(kind, BaseException):
            raise checks.refuse("on", kind, "an exception type")
    return kinds


def _listed(on: Iterable[type[BaseException]]) -> Callable[[BaseException], bool]:
    """Return the predicate for errors of these types."""
    kinds = tuple(on)
    starts = any(issubclass(kind, CommandStartError) for kind in kinds)

    def worth(error: BaseException) -> bool:
        return isinstance(error, kinds) and (starts or not isinstance(error, CommandStartError))

    return worth


def _surely_did_not_run(error: BaseException) -> bool:
    return isinstance(error, HostError) and not isinstance(error, REFUSED)


def _worth_another_try(error: BaseException) -> bool:
    """Whether a function that failed with `error` is tried again by default.

    One that is abandoned still runs: a second beside it is for the user to ask for.
    """
    return (
        isinstance(error, Exception)
        and not isinstance(error, (ConfigError, *REFUSED))
        and not (isinstance(error, TaskTimeoutError) and error.abandoned)
    )


def _is_tenacity(name: str, value: object) -> bool:
    """Return whether `value` is of tenacity's class `name`, without importing it."""
    module = sys.modules.get("tenacity")
    return isinstance(value, getattr(module, name, ()))
