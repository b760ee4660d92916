"""`CancelToken.stop_starting`: what runs goes on, and nothing more begins."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

import parallel_exec as px
from parallel_exec.errors import TaskCancelledError
from tests.integration.processes import Nap


def stopping(token: px.CancelToken, number: int) -> str:
    """Stop at the third, as a task that runs."""
    if number == 2:
        token.stop_starting("enough")
    return f"ran {number}"


def test_what_runs_goes_on_and_the_rest_is_skipped() -> None:
    """Every task has its outcome, and the reason stands in those that were skipped."""
    token = px.CancelToken()
    go = threading.Event()
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 1:
            token.stop_starting("enough")
            go.set()
        assert go.wait(20)
        return number

    tasks = [lambda n=n: work(n) for n in range(10)]
    outcomes = px.all_settled(tasks, concurrency=2, cancel=token)
    assert [outcome.status for outcome in outcomes] == ["fulfilled"] * 2 + ["skipped"] * 8
    assert sorted(begun) == [0, 1]
    assert "enough" in str(outcomes[9].reason)
    assert token.starting_stopped
    assert not token.cancelled


def test_a_command_that_runs_is_not_ended() -> None:
    """It ends by itself, with its output."""
    token = px.CancelToken()
    begun = threading.Event()
    ended = threading.Event()
    first = px.Command("echo begun; read line; echo ended", input=Waiting(ended), on_stdout=
                       lambda line: begun.set())  # fmt: skip

    def stop() -> None:
        assert begun.wait(20)
        token.stop_starting()
        ended.set()

    helper = threading.Thread(target=stop)
    helper.start()
    outcomes = px.all_settled([first, "echo never"], concurrency=1, cancel=token)
    helper.join()
    assert outcomes[0].result().text() == "begun\nended\n"
    assert outcomes[1].status == "skipped"


class Waiting:
    """Input of one line, which comes when an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event
        self._left = b"go\n"

    def read(self, size: int, /) -> bytes:
        """Return the line, then nothing."""
        self._event.wait(20)
        line, self._left = self._left, b""
        return line


def test_a_cancel_after_it_ends_what_runs(nap: Nap) -> None:
    """The two can follow each other."""
    token = px.CancelToken()

    def stop() -> None:
        nap.wait_for()
        token.stop_starting()
        token.cancel("now")

    helper = threading.Thread(target=stop)
    helper.start()
    outcomes = px.all_settled([str(nap), "true"], concurrency=1, cancel=token)
    helper.join()
    assert [outcome.status for outcome in outcomes] == ["cancelled", "skipped"]
    assert nap.sleepers() == []


def test_no_other_try_is_made() -> None:
    """A task that fails after it is not begun again."""
    token = px.CancelToken()
    tries: list[int] = []

    def fails() -> None:
        tries.append(1)
        token.stop_starting()
        raise ValueError("no")

    retry = px.Retry(5, wait=0.001, on=ValueError)
    (outcome,) = px.all_settled([fails], retry=retry, cancel=token)
    assert (outcome.status, len(tries)) == ("rejected", 1)


def test_a_failure_after_it_still_stops_the_rest(nap: Nap) -> None:
    """`all` ends what runs when one fails, as ever."""
    token = px.CancelToken()

    def fails() -> None:
        nap.wait_for()
        token.stop_starting()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        px.all([str(nap), fails, "true"], concurrency=2, cancel=token)
    assert nap.sleepers() == []


def test_functions_that_raise_say_that_something_was_skipped() -> None:
    """Values are given only if all of them are there."""
    token = px.CancelToken()
    with pytest.raises(TaskCancelledError, match="enough"):
        px.parallel_map(lambda n: stopping(token, n), range(50), concurrency=1, cancel=token)
    token = px.CancelToken()
    last = px.parallel_map(lambda n: stopping(token, n), range(3), concurrency=3, cancel=token)
    assert last == ["ran 0", "ran 1", "ran 2"]


def test_input_is_read_no_further() -> None:
    """An endless input ends with it."""
    token = px.CancelToken()

    def endless() -> Iterator[px.Task]:
        number = 0
        while True:
            yield px.Task(lambda n=number: stopping(token, n))
            number += 1

    values = [
        outcome.value
        for outcome in px.as_completed(endless(), concurrency=1, cancel=token)
        if outcome.ok
    ]
    assert values == ["ran 0", "ran 1", "ran 2"]


def test_a_token_that_was_stopped_before_begins_nothing() -> None:
    """As with a cancel."""
    token = px.CancelToken()
    token.stop_starting()
    outcomes = px.all_settled(["echo never"] * 3, cancel=token)
    assert len(outcomes.skipped) == 3


def test_a_signal_handler_may_call_it() -> None:
    """It takes no lock."""
    token = px.CancelToken()
    seen = threading.Event()

    def handler(*_: object) -> None:
        token.stop_starting("a signal")
        seen.set()

    before = signal.signal(signal.SIGUSR1, handler)
    main = threading.get_ident()
    try:

        def work(number: int) -> int:
            if number == 0:
                signal.pthread_kill(main, signal.SIGUSR1)
                assert seen.wait(20)
            return number

        tasks = [lambda n=n: work(n) for n in range(300)]
        outcomes = px.all_settled(tasks, concurrency=1, cancel=token)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert outcomes[0].ok
    assert len(outcomes.skipped) == 299
