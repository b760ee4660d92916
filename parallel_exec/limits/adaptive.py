"""A limit that finds itself: the enforcement, the signals and the retries around a rule.

The rule decides (see `parallel_exec.limits.rule`); here is what it needs: samples in the
order in which tasks end, what counts as overload, the line of those who wait, and a
budget that keeps retries from making a storm.
"""

from __future__ import annotations

import errno
import functools
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parallel_exec.errors import (
    ConfigError,
    HostError,
    ParallelExecError,
    TaskCancelledError,
    TaskTimeoutError,
)
from parallel_exec.limits import base
from parallel_exec.limits.aimd import AIMD
from parallel_exec.limits.base import Request
from parallel_exec.limits.fixed import BlockingLimiter, outcome_of
from parallel_exec.limits.rule import Rule, Sample, Verdict
from parallel_exec.reactor import report
from parallel_exec.values import checks
from parallel_exec.values.functions import is_function
from parallel_exec.values.outcome import Outcome

__all__ = ["AIMDController", "AdaptiveStatistics", "Classify", "LimitChange"]

Classify = Callable[[Outcome[Any]], Verdict | None]

SCARCE = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ETIMEDOUT}
RETRY_FIRST_S = 0.01
RETRY_LONGEST_S = 1.0


@dataclass(frozen=True, slots=True)
class LimitChange:
    """A moment at which an adaptive limit changed.

    Attributes:
        time_s: Seconds since the controller was made.
        limit: The limit from then on.
        in_flight: How much room was taken.
        reason: Why: "initial", "slow start", "growth", "cut", ...
    """

    time_s: float
    limit: int
    in_flight: float
    reason: str


@dataclass(frozen=True, slots=True)
class AdaptiveStatistics:
    """What an adaptive limit has come to, at one moment.

    Attributes:
        limit: How much may be in flight.
        min_limit: The least that the limit may become.
        max_limit: The most.
        in_flight: How much is.
        waiting: How many wait.
        successes: How many tries ended well.
        overloads: How many met an overload.
        neither: How many said nothing about the load.
        strained: How often a task had to wait for processes, threads or descriptors.
        retried: How many tries the controller had made again.
        denied: How many it had not, because its budget was spent.
        budget: How many it could have made again now.
    """

    limit: int
    min_limit: int
    max_limit: int | None
    in_flight: float
    waiting: int
    successes: int
    overloads: int
    neither: int
    strained: int
    retried: int
    denied: int
    budget: float


class AIMDController(BlockingLimiter):
    """A limit that grows while all goes well and is cut when there is overload.

    Use it as ``concurrency=`` of any function that runs many, or directly:
    ``controller.run(fn)``, ``with controller:``, ``@controller``.

    Overload is, unless `classify` says otherwise: a connection or handshake that is
    refused, reset or times out (also in a function: a `ConnectionError` or `TimeoutError`);
    a refused channel; a process or thread that the system has no room for. A command that
    exits with a status other than 0 says nothing about load. A task that met an overload
    and surely did not run is tried again by the controller: a command after a `HostError`,
    or any `Task` with ``safe_to_repeat=True``.

    Args:
        initial: The limit at first.
        min_limit: The least that it becomes.
        max_limit: The most. None: no bound.
        rule: How it moves: a class, or another function, that makes a rule of `initial`,
            `min_limit`, `max_limit` and `constants`. By default `AIMD`, additive
            increase and multiplicative decrease; there are `Cubic` and `Step`. If yours
            raises, that is logged, and the limit stays where it was.
        classify: A function of an `Outcome`, that of one try, which answers "success",
            "overload" or "neither"; None leaves it to the rules above. It may be slow;
            if it raises, that is logged, and counts as "neither".
        count_timeouts: Whether a task over its timeout counts as overload.
        retry_budget: The share of the successes that may be tried again besides.
        retry_reserve: How many may be before there were successes, and the most that can
            be saved up. None: twice the highest limit that there has been.
        history: How many changes of the limit are remembered.
        **constants: What the rule takes besides, by name: ``decrease=0.8``, or
            ``latency=Latency(1.5)``, which makes slowness count as overload.

    Raises:
        ConfigError: An argument cannot be used.

    **Ordering:** as for `ConcurrencyLimiter`.
    **Thread safety:** yes.
    **Cost:** a few microseconds a task beyond a fixed limit's; memory constant.
    """

    judges = True
    quick = True

    def __init__(
        self,
        initial: int = 5,
        min_limit: int = 1,
        max_limit: int | None = 10,
        *,
        rule: Callable[..., Rule] = AIMD,
        classify: Classify | None = None,
        count_timeouts: bool = False,
        retry_budget: float = 0.2,
        retry_reserve: int | None = None,
        history: int = 10_000,
        **constants: Any,
    ) -> None:
        super().__init__()
        least = checks.count("min_limit", min_limit)
        if max_limit is not None:
            checks.count("max_limit", max_limit, minimum=least)
        if not callable(rule):
            raise checks.refuse("rule", rule, "a class such as AIMD or Cubic")
        if classify is not None and not is_function(classify):
            raise checks.refuse("classify", classify, "a function of an outcome")
        if not isinstance(count_timeouts, bool):
            raise checks.refuse("count_timeouts", count_timeouts, "True or False")
        try:
            self._rule = rule(initial, min_limit, max_limit, **constants)
            limit, reason = int(self._rule.limit), self._rule.reason
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"rule cannot be made: {error}") from error
        self.foreign = classify is not None
        self._classify = classify
        self._count_timeouts = count_timeouts
        self._share = checks.number("retry_budget", retry_budget, allow_minimum=True)
        if retry_reserve is not None:
            checks.count("retry_reserve", retry_reserve, minimum=0)
        self._reserve = retry_reserve
        self._min_limit = min_limit
        self._max_limit = max_limit
        self._limit = self._highest = limit
        self._saved = 2 * limit if retry_reserve is None else retry_reserve  # at most
        self._budget: float = self._saved
        self._reason = reason
        self._wanted = False  # whether somebody had to wait since the last sample
        self._counts: dict[Verdict, int] = {"success": 0, "overload": 0, "neither": 0}
        self._strained = self._retried = self._denied = 0
        self._made_at = time.monotonic()
        self._history = deque(
            [LimitChange(0.0, self._limit, 0, self._reason)], checks.count("history", history)
        )

    # What users see

    @property
    def limit(self) -> int:
        """How much may be in flight now."""
        return self._limit

    @property
    def min_limit(self) -> int:
        """The least that the limit becomes. Set it to change that at any time."""
        return self._min_limit

    @min_limit.setter
    def min_limit(self, min_limit: int) -> None:
        self.set_bounds(min_limit, self._max_limit)

    @property
    def max_limit(self) -> int | None:
        """The most that the limit becomes, or None. Set it to change that at any time."""
        return self._max_limit

    @max_limit.setter
    def max_limit(self, max_limit: int | None) -> None:
        self.set_bounds(self._min_limit, max_limit)

    def set_bounds(self, min_limit: int, max_limit: int | None) -> None:
        """Change both bounds; the limit is brought between them at once.

        Raises:
            ConfigError: They are no whole numbers of at least 1, or in the wrong order.
        """
        least = checks.count("min_limit", min_limit)
        if max_limit is not None:
            checks.count("max_limit", max_limit, minimum=least)
        base.refuse_reentry()
        with base.LOCK:
            self._rule.set_bounds(min_limit, max_limit)
            self._min_limit, self._max_limit = min_limit, max_limit
            self._adopt(time.monotonic())
        base.regrant(self)

    @property
    def history(self) -> tuple[LimitChange, ...]:
        """The changes of the limit, the first one first: what a plot needs."""
        with base.LOCK:
            return tuple(self._history)

    def statistics(self) -> AdaptiveStatistics:
        """Return what the limit has come to; the object does not change any more."""
        waiting = self.waiting
        with base.LOCK:
            return AdaptiveStatistics(
                limit=self._limit,
                min_limit=self._min_limit,
                max_limit=self._max_limit,
                in_flight=self._in_flight,
                waiting=waiting,
                successes=self._counts["success"],
                overloads=self._counts["overload"],
                neither=self._counts["neither"],
                strained=self._strained,
                retried=self._retried,
                denied=self._denied,
                budget=self._budget,
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} limit={self._limit} ({self._reason})>"

    # The limiter; see `base.Limiter`

    def judge(self, request: Request, outcome: Outcome[Any]) -> Verdict:
        """Say what the end of a try means."""
        try:
            return self._verdict(outcome)
        except BaseException:  # this thread is not the user's, and must not end by it
            report("classify= raised: %r", self._classify)
            return "neither"

    def again(self, request: Request, outcome: Outcome[Any]) -> float | None:
        """Say when a try that met an overload is followed by another, if it is."""
        if not request.harmless(outcome.reason):
            return None
        with base.LOCK:
            if self._budget < 1:
                self._denied += 1
                return None
            self._budget -= 1
            self._retried += 1
        # Those that were refused together must not come back together.
        longest = min(RETRY_LONGEST_S, RETRY_FIRST_S * 2 ** min(outcome.attempts, 10))
        return random.uniform(0, longest)

    def strained(self, request: Request) -> None:
        """Take note that a task waits for resources of the system: an overload of this
        machine, although the task will run.
        """
        with base.LOCK:
            self._strained += 1
            if request.held:
                self._sample(request, "overload", self._in_flight, time.monotonic())
        base.regrant(self)

    def _room(self, weight: float) -> bool:
        return self._in_flight + weight <= self._limit or self._in_flight == 0

    def _check_weight(self, weight: float) -> None:
        most = self._max_limit
        if checks.number("weight", weight) > (float("inf") if most is None else most):
            raise checks.refuse("weight", weight, f"at most max_limit, {most}")

    def _queue(self, request: Request) -> None:
        self._wanted = True
        super()._queue(request)

    def _leave(
        self,
        place: Request,
        value: object,
        error: BaseException | None,
        fn: object,
        verdict: Verdict = "neither",
    ) -> None:
        try:
            if error is None and self._classify is None:
                verdict = "success"
            else:
                verdict = self._verdict(outcome_of(place, value, error, fn))
        except Exception:
            report("classify= raised: %r", self._classify)
        finally:  # an interrupt may have come meanwhile: the place goes back all the same
            super()._leave(place, value, error, fn, verdict)
            base.set_alarms()

    def _returned(self, request: Request, verdict: Verdict, now: float) -> None:
        self._counts[verdict] += 1
        if verdict == "success":
            budget = self._budget + self._share
            self._budget = budget if budget < self._saved else self._saved
        self._sample(request, verdict, self._in_flight + request.weight, now)

    # Within

    def _sample(self, request: Request, verdict: Verdict, in_flight: float, now: float) -> None:
        line = self._line
        waiting = self._wanted or (bool(line) and any(w._line is self for _, _, w in line))
        self._wanted = False
        try:
            self._rule.update(Sample(verdict, request.since, now, int(in_flight), waiting))
            self._adopt(now)
        except Exception as error:  # the lock is held, so it is told of later
            told = functools.partial(report, "rule= raised: %r", self._rule, error=error)
            base.alarms.append(told)

    def _adopt(self, now: float) -> None:
        """Make the rule's limit the one that holds."""
        limit, reason = int(self._rule.limit), self._rule.reason
        if limit != self._limit or reason != self._reason:
            if limit > self._highest:  # what can be saved up has grown, and is there
                if self._reserve is None:
                    self._budget += 2 * (limit - self._highest)
                    self._saved = 2 * limit
                self._highest = limit
            self._limit, self._reason = limit, reason
            self._history.append(LimitChange(now - self._made_at, limit, self._in_flight, reason))

    def _verdict(self, outcome: Outcome[Any]) -> Verdict:
        """Return what a try that ended so means. Raises what `classify=` raises."""
        verdict: object = None if self._classify is None else self._classify(outcome)
        if verdict is None:
            error = outcome.reason
            if error is None:
                return "success"
            return "overload" if _tells_of_overload(error, self._count_timeouts) else "neither"
        if isinstance(verdict, str) and verdict in self._counts:
            return verdict
        wanted = '"success", "overload", "neither" or None'
        refusal = checks.refuse("what classify= answers", verdict, wanted)
        report("classify= gave no verdict: %r", self._classify, error=refusal)
        return "neither"


def _tells_of_overload(error: BaseException, count_timeouts: bool) -> bool:
    if isinstance(error, TaskTimeoutError):
        return count_timeouts
    if isinstance(error, TaskCancelledError | ConfigError) and not isinstance(error, OSError):
        return False
    if isinstance(error, TimeoutError) and not isinstance(error, ParallelExecError):
        return True  # as sockets raise it
    if isinstance(error, ConnectionError):  # refused, reset, broken; ConnectError is one
        return not isinstance(error.__cause__, socket.gaierror)  # no such host: not load
    if isinstance(error, HostError):  # a key or a password that is wrong
        return False
    if isinstance(error, RuntimeError):
        return "can't start new thread" in str(error)
    return isinstance(error, OSError) and error.errno in SCARCE
