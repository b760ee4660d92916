"""How one task ended, and how many did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from parallel_exec.errors import RunFailedError
from parallel_exec.text import plain
from parallel_exec.values.frozen import frozen
from parallel_exec.values.hosts import fold
from parallel_exec.values.notes import add_note

__all__ = ["Outcome", "Outcomes", "Status", "hosts_failed", "name_task", "run_failed"]

FOLDED = 1000  # characters of a list of hosts in a message

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Status = Literal["fulfilled", "rejected", "cancelled", "skipped"]


@frozen
class Outcome(Generic[T_co]):
    """How one task ended.

    Attributes:
        index: Its place among the tasks, from 0.
        label: Its name: the command's words, or the function's qualified name.
        status: "fulfilled"; "rejected" (it failed); "cancelled" (started, then
            stopped); "skipped" (never started).
        value: What it gave, if fulfilled: a `Result`, or what the function returned.
        reason: The error, if it was not fulfilled.
        attempts: How many tries were made; 0 if skipped.
        duration_s: Seconds from the first start to the end, waits between tries
            included.
        attempt_errors: The error of every try that failed, in order.
        abandoned: Whether it could not be ended and is still running: a function
            cannot be killed.
        task: What was given: the command, function, item or `Task`. So
            ``px.all_settled([outcome.task for outcome in outcomes if not outcome.ok])``
            runs the rest again. None in a copy that was made by pickle, since functions
            often cannot be pickled.
    """

    index: int
    label: str
    status: Status
    value: T_co | None
    reason: BaseException | None
    attempts: int
    duration_s: float
    attempt_errors: tuple[BaseException, ...] = ()
    abandoned: bool = False
    task: Any = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> list[Any]:
        return [None if each.name == "task" else getattr(self, each.name) for each in fields(self)]

    @property
    def ok(self) -> bool:
        """Whether the task was fulfilled."""
        return self.status == "fulfilled"

    def result(self) -> T_co:
        """Return the value.

        Raises:
            BaseException: The `reason`, if there is one.
        """
        if self.reason is not None:
            raise self.reason
        return self.value  # type: ignore[return-value]


if TYPE_CHECKING:
    # What is known of an outcome by its status. Each is an `Outcome`, and nothing else.
    class Fulfilled(Outcome[T_co]):
        value: T_co

    class Failed(Outcome[T_co]):
        reason: BaseException
else:
    Fulfilled = Failed = Outcome


class Outcomes(Sequence[Outcome[T_co]]):
    """The outcomes of a run, in task order: by place, and by label. Immutable.

    ``outcomes["build"]`` is the one whose label is "build"; a `KeyError` says that there is
    none, or that there are several.

    Attributes:
        fulfilled: Those that gave a value.
        rejected: Those that failed.
        cancelled: Those that were started and stopped.
        skipped: Those that never started.
    """

    __slots__ = ("_outcomes",)

    def __init__(self, outcomes: Iterable[Outcome[T_co]]) -> None:
        self._outcomes = tuple(outcomes)

    def _having(self, status: Status) -> tuple[Any, ...]:
        return tuple(outcome for outcome in self._outcomes if outcome.status == status)

    @property
    def fulfilled(self) -> tuple[Fulfilled[T_co], ...]:
        """The outcomes of the tasks that gave a value."""
        return self._having("fulfilled")

    @property
    def rejected(self) -> tuple[Failed[T_co], ...]:
        """The outcomes of the tasks that failed."""
        return self._having("rejected")

    @property
    def cancelled(self) -> tuple[Failed[T_co], ...]:
        """The outcomes of the tasks that were started, then stopped."""
        return self._having("cancelled")

    @property
    def skipped(self) -> tuple[Failed[T_co], ...]:
        """The outcomes of the tasks that never started."""
        return self._having("skipped")

    @property
    def ok(self) -> bool:
        """Whether every task was fulfilled."""
        return all(outcome.status == "fulfilled" for outcome in self._outcomes)

    def values(self) -> list[T_co]:
        """Return the values of the fulfilled, in task order."""
        return [outcome.value for outcome in self._outcomes if outcome.ok]  # type: ignore[misc]

    def raise_for_failures(self) -> None:
        """Do nothing if every task was fulfilled.

        Raises:
            RunFailedError: The errors of all the others, each naming its task.
        """
        if not self.ok:
            raise run_failed(self._outcomes)

    @overload
    def __getitem__(self, index: int | str) -> Outcome[T_co]: ...
    @overload
    def __getitem__(self, index: slice) -> Outcomes[T_co]: ...
    def __getitem__(self, index: int | str | slice) -> Outcome[T_co] | Outcomes[T_co]:
        if isinstance(index, slice):
            return Outcomes(self._outcomes[index])
        if isinstance(index, str):
            found = [outcome for outcome in self._outcomes if outcome.label == index]
            if len(found) != 1:
                raise KeyError(f"{len(found) or 'no'} outcomes have the label {index!r}")
            return found[0]
        return self._outcomes[index]

    def __contains__(self, item: object) -> bool:
        if isinstance(item, str):
            return any(outcome.label == item for outcome in self._outcomes)
        return item in self._outcomes

    def __len__(self) -> int:
        return len(self._outcomes)

    def __eq__(self, other: object) -> bool:
        return self._outcomes == other._outcomes if isinstance(other, Outcomes) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._outcomes)

    def __repr__(self) -> str:
        counts = [
            f"{len(having)} {status}"
            for status in ("fulfilled", "rejected", "cancelled", "skipped")
            if (having := self._having(status))
        ]
        return f"<Outcomes: {', '.join(counts) or 'none'}>"


def name_task(error: BaseException, index: int, label: str, attempts: int) -> None:
    """Add the note to `error` that names its task, once."""
    attempted = f" ({attempts} attempts)" if attempts > 1 else ""
    add_note(error, f"task {index}: {plain(label)}{attempted}")


def run_failed(outcomes: Sequence[Outcome[Any]], *, of: int | None = None) -> RunFailedError:
    """Return the error for the tasks among `outcomes` that were not fulfilled.

    Args:
        outcomes: Some or all outcomes of a run.
        of: How many tasks the run had, if not that many.
    """
    failed = [outcome for outcome in outcomes if not outcome.ok]
    rejected = [outcome for outcome in failed if outcome.status == "rejected"] or failed
    errors = []
    for outcome in failed:
        error = _as_exception(outcome)
        name_task(error, outcome.index, outcome.label, outcome.attempts)
        errors.append(error)
    shown = "; ".join(
        f"task {outcome.index} ({plain(outcome.label)}): {type(outcome.reason).__name__}"
        for outcome in rejected[:3]
    )
    more = f" and {len(rejected) - 3} more" if len(rejected) > 3 else ""
    message = f"{len(failed)} of {of or len(outcomes)} tasks failed: {shown}{more}"
    return RunFailedError(message, errors, outcomes=failed)


def hosts_failed(outcomes: Mapping[str, Outcome[Any]]) -> RunFailedError:
    """Return the error for the hosts whose outcome was not fulfilled: it says which they are.

    Args:
        outcomes: The outcomes by the names of their hosts.
    """
    failed = {name: outcome for name, outcome in outcomes.items() if not outcome.ok}
    kinds: dict[str, list[str]] = {}
    errors = []
    for name, outcome in failed.items():
        kinds.setdefault(f"{outcome.status}: {type(outcome.reason).__name__}", []).append(name)
        error = _as_exception(outcome)
        add_note(error, f"host {plain(name)}: {plain(outcome.label)}")
        errors.append(error)
    # What failed by itself says more than what was ended or not begun because of that.
    order = ("rejected", "cancelled", "skipped")
    ordered = sorted(kinds.items(), key=lambda item: order.index(item[0].partition(":")[0]))
    shown = "; ".join(f"{plain(fold(names), FOLDED)} {kind}" for kind, names in ordered)
    message = f"{len(failed)} of {len(outcomes)} hosts failed: {shown}"
    return RunFailedError(message, errors, outcomes=list(failed.values()))


def _as_exception(outcome: Outcome[Any]) -> Exception:
    """Return why a task was not fulfilled, as what a group of exceptions can hold."""
    error = outcome.reason
    if isinstance(error, Exception):
        return error
    wrapped = RuntimeError(f"{type(error).__name__}: {plain(error)}")
    wrapped.__cause__ = error
    return wrapped
