"""Whatever is raised while a try is judged, noted, retried, observed or told of: no outcome is
lost, no call hangs, and no place under a limit stays taken.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tenacity

import parallel_exec as px
from parallel_exec.limits.base import Limiter, Request
from parallel_exec.limits.fixed import BlockingLimiter


class HookError(Exception):
    """What the hooks of these tests raise."""


class Exit(BaseException):
    """No `Exception`: as a SystemExit, which would end a thread."""


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses every attribute."""

    code: int


class NotesError(Exception):
    """Has something else where notes belong."""

    __notes__ = None  # type: ignore[assignment]


class PropertyNotesError(Exception):
    """Raises when it is asked for its notes."""

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise HookError


class MuteError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise HookError


class StubbornError(Exception):
    """Takes no attribute and tells none that is not there."""

    def __setattr__(self, name: str, value: object) -> None:
        raise HookError(name)

    def __getattr__(self, name: str) -> Any:
        raise HookError(name)


ERRORS: list[Callable[[], Exception]] = [
    lambda: FrozenError(1),
    NotesError,
    PropertyNotesError,
    MuteError,
    StubbornError,
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"retry": px.Retry(2, wait=0)},
    {"retry": px.Retry(2, wait=0, on=lambda error: True)},
    {"retry": tenacity.Retrying(stop=tenacity.stop_after_attempt(2))},
    {"timeout": 100},
    {"concurrency": px.AIMDController(2)},
]


@pytest.mark.parametrize("make", ERRORS, ids=["frozen", "notes", "property", "mute", "stubborn"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options), "plain"))
def test_an_error_that_is_not_like_others_is_what_its_task_ended_with(
    make: Callable[[], Exception], options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The error itself comes out of every function that runs many, with and without a log."""
    error = make()

    def fail(*_: object) -> None:
        raise error

    caplog.set_level(logging.DEBUG, "parallel_exec")
    outcomes = px.all_settled([fail, lambda: 1], **options)
    assert outcomes.values() == [1]
    reason = outcomes[0].reason
    assert reason is error or isinstance(reason, tenacity.RetryError)
    for call in (
        lambda: px.all([fail], **options),
        lambda: px.race([fail], **options),
        lambda: list(px.parallel_imap(fail, [1], **options)),
    ):
        with pytest.raises(type(reason)) as raised:
            call()
        assert isinstance(reason, tenacity.RetryError) or raised.value is error
    with pytest.raises(px.errors.RunFailedError) as failed:
        outcomes.raise_for_failures()
    assert failed.value.exceptions == (reason,)
    with pytest.raises(px.errors.RunFailedError):
        px.any([fail], **options)


def raise_hook(*_: Any, **__: Any) -> Any:
    raise HookError


def raise_exit(*_: Any, **__: Any) -> Any:
    raise Exit


def limiter_with(hook: str, raises: Callable[..., Any]) -> Limiter:
    """Return a limit of the user's, one of whose methods raises."""

    class Mine(BlockingLimiter):
        judges = True
        limit = 2

        def _room(self, weight: float) -> bool:
            return self._in_flight + weight <= 2

        def judge(self, request: Request, outcome: px.Outcome[Any]) -> Any:
            return "success" if outcome.ok else "overload"

    setattr(Mine, hook, raises)
    Mine.__init_subclass__()
    return Mine()


HOOKS = ["judge", "again", "_room", "_fits", "_taken", "_returned"]


@pytest.mark.parametrize("raises", [raise_hook, raise_exit])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_limit_that_raises_costs_no_outcome(hook: str, raises: Callable[..., Any]) -> None:
    """Each task has its own outcome, all places come back, and the next call works."""
    limiter = limiter_with(hook, raises)
    for _ in range(2):
        outcomes = px.all_settled(
            [lambda: 1, lambda: 1 // 0, "true", "false", lambda: 2],
            concurrency=limiter,
            retry=px.Retry(2, wait=0),
        )
        assert [outcome.status for outcome in outcomes] == [
            "fulfilled", "rejected", "fulfilled", "rejected", "fulfilled",
        ]  # fmt: skip
        assert isinstance(outcomes[1].reason, ZeroDivisionError)
        assert outcomes[1].attempts == 2
        assert limiter.in_flight == 0
        assert limiter.waiting == 0


def test_a_limit_that_gives_no_parts_fails_each_task_alone() -> None:
    """Its error is that of the tasks, since they cannot begin without a place."""

    class Broken:
        def parts(self, request: Request) -> tuple[Limiter, ...]:
            raise HookError

    outcomes = px.all_settled([lambda: 1, "true"], concurrency=Broken())
    assert [type(outcome.reason) for outcome in outcomes] == [HookError, HookError]


@contextmanager
def handler(raises: Callable[..., Any]) -> Iterator[None]:
    """Have a handler of the log that raises."""

    class Mine(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raises()

    logger, mine = logging.getLogger("parallel_exec"), Mine()
    before = logger.level
    logger.addHandler(mine)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(mine)
        logger.setLevel(before)


@pytest.mark.parametrize(
    "options",
    [
        {"on_outcome": raise_hook},
        {"on_event": raise_hook},
        {"progress": raise_hook},
        {"concurrency": px.AIMDController(2, classify=raise_hook)},
        {"concurrency": px.AIMDController(2, classify=raise_exit)},
        {},
    ],
    ids=["on_outcome", "on_event", "progress", "classify", "classify exits", "plain"],
)
@pytest.mark.parametrize("log_raises", [False, True])
def test_who_listens_and_raises_costs_no_outcome(options: dict[str, Any], log_raises: bool) -> None:
    """Also where the log that it is told to raises as well."""
    tasks: list[Any] = [lambda: 1, lambda: 1 // 0, "echo 2", "false"]
    expected = ["fulfilled", "rejected", "fulfilled", "rejected"]
    if log_raises:
        with handler(raise_hook):
            outcomes = px.all_settled(tasks, retry=px.Retry(2, wait=0), **options)
            assert px.run("echo 1; echo 2", on_stdout=raise_exit).text() == "1\n2\n"
    else:
        outcomes = px.all_settled(tasks, retry=px.Retry(2, wait=0), **options)
    assert [outcome.status for outcome in outcomes] == expected


def test_a_name_that_cannot_be_told_costs_no_outcome() -> None:
    """A function with a hostile name runs like any other, whatever wants its label."""

    class Nameless:
        def __getattr__(self, name: str) -> Any:
            if name == "__qualname__":
                raise HookError
            raise AttributeError(name)

        def __call__(self, *_: object) -> int:
            return 7

        def __repr__(self) -> str:
            raise HookError

    def heard(event: object) -> None:
        """Have every event made, each with its label."""

    assert px.all_settled([Nameless()], on_event=heard).values() == [7]
    assert px.parallel_map(lambda item: 7, [Nameless()], on_event=heard) == [7]


@pytest.mark.parametrize("raises", [raise_hook, raise_exit])
def test_a_callback_of_a_future_that_raises_costs_no_call(raises: Callable[..., Any]) -> None:
    """The worker that settled the future goes on to the next call."""
    with px.ParallelExecutor(1) as pool:
        futures = [pool.submit(int, text) for text in ("1", "x", "3")]
        for future in futures:
            future.add_done_callback(raises)
        assert pool.submit(int, "4").result() == 4
        assert futures[0].result() == 1
        assert isinstance(futures[1].exception(), ValueError)


def test_a_future_that_somebody_else_settles_does_not_stop_the_pool() -> None:
    """What the worker finds wrong with it is not to end the worker."""
    with px.ParallelExecutor(1) as pool:
        gate = pool.submit(lambda: late.set_result(5))
        late = pool.submit(int, "1")
        assert gate.exception() is None or isinstance(gate.exception(), Exception)
        assert pool.submit(int, "2").result() == 2


def test_a_callback_of_a_token_that_raises_does_not_stop_the_cancel() -> None:
    """The run is stopped all the same."""
    token = px.CancelToken()
    token.on_cancel(raise_hook)

    def cancel() -> None:
        token.cancel("enough")

    outcomes = px.all_settled([cancel, "sleep 60"], cancel=token)
    assert outcomes[1].status == "cancelled"
