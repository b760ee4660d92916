"""`submit`: a future that can be ended."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError

import pytest

import parallel_exec as px
from parallel_exec.errors import TaskCancelledError
from tests.integration.processes import Nap

PATIENCE_S = 20


def started(nap: Nap, **options: object) -> px.CommandFuture:
    """Start a command with a child of its own; return when it has begun to print."""
    begun = threading.Event()
    future = px.submit(f"echo begun; {nap} & wait", on_stdout=lambda line: begun.set(), **options)  # type: ignore[arg-type]
    assert begun.wait(PATIENCE_S)
    return future


def test_cancel_of_a_running_command_ends_it(nap: Nap) -> None:
    """It says True at once; when the future is done, it is cancelled and nobody is left."""
    future = started(nap)
    assert future.running()
    assert future.cancel()
    concurrent.futures.wait([future], PATIENCE_S)
    assert future.cancelled()
    assert not nap.sleepers()
    assert future.cancel()  # as ever of a cancelled one
    with pytest.raises(CancelledError):
        future.result()


def test_stop_keeps_what_was_printed(nap: Nap) -> None:
    """The future holds the error of a stopped command, with its partial result."""
    future = started(nap)
    assert future.stop()
    error = future.exception(PATIENCE_S)
    assert isinstance(error, TaskCancelledError)
    assert error.result is not None
    assert error.result.text() == "begun\n"
    assert not future.cancelled()
    assert not future.running()
    assert not nap.sleepers()
    assert not future.stop()


def test_neither_changes_what_has_ended() -> None:
    """A done future keeps its result, and says that it was not cancelled."""
    future = px.submit("echo done")
    assert future.result(PATIENCE_S).text() == "done\n"
    assert not future.cancel()
    assert not future.stop()
    assert not future.cancelled()
    assert future.result().text() == "done\n"


def test_a_cancel_after_a_stop_wins(nap: Nap) -> None:
    """Whoever asked for it to be cancelled finds it cancelled."""
    future = started(nap)
    assert future.stop()
    assert future.cancel()
    assert concurrent.futures.wait([future], PATIENCE_S).done == {future}
    assert future.cancelled()


def test_a_retry_is_not_made_after_a_stop() -> None:
    """A wait between two tries ends as well."""
    future = px.submit("exit 1", retry=px.Retry(5, wait=1000, on=Exception))
    assert future.stop()
    assert isinstance(future.exception(PATIENCE_S), TaskCancelledError)


def test_asyncio_leaves_nothing_behind(nap: Nap) -> None:
    """A wrapped future that is over its time ends the command."""

    async def main() -> None:
        future = asyncio.wrap_future(px.submit(f"{nap} & wait"))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.3)

    asyncio.run(main())
    nap.wait_for_none()


def test_those_who_wait_for_several_are_told(nap: Nap) -> None:
    """`wait` and `as_completed` of the standard library see a cancelled command at its end."""
    first, second = started(nap), started(nap)
    first.cancel()
    done, _ = concurrent.futures.wait([first, second], PATIENCE_S, FIRST_COMPLETED)
    assert done == {first}
    second.cancel()
    assert set(concurrent.futures.as_completed([first, second], PATIENCE_S)) == {first, second}


def test_callbacks_are_called_at_the_end(nap: Nap) -> None:
    """Once the command has ended, not when it is asked to."""
    called: list[bool] = []
    seen = threading.Event()
    future = started(nap)

    def note(ended: concurrent.futures.Future[px.Result]) -> None:
        called.append(ended.cancelled() and not nap.sleepers())
        seen.set()

    future.add_done_callback(note)
    future.cancel()
    assert seen.wait(PATIENCE_S)
    assert called == [True]


@pytest.mark.parametrize("end", [px.CommandFuture.cancel, px.CommandFuture.stop])
def test_a_signal_handler_may_end_it(end: Callable[[px.CommandFuture], bool], nap: Nap) -> None:
    """Whatever the interrupted thread is doing with the future."""
    future = started(nap)
    answers: list[bool] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: answers.append(end(future)))
    try:
        with future._lock:
            signal.raise_signal(signal.SIGUSR1)
        assert concurrent.futures.wait([future], PATIENCE_S).done
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert answers == [True]


def test_many_cancels_at_the_moment_of_the_end() -> None:
    """Whenever it comes: a cancel that says True leaves a cancelled future, one that says
    False a result.
    """
    for delay in range(60):
        future = px.submit("true")
        time.sleep(delay * 0.00005)
        said = future.cancel()
        concurrent.futures.wait([future], PATIENCE_S)
        assert future.cancelled() == said
        assert said or future.result().ok


def test_all_ends_the_commands_it_was_given(nap: Nap) -> None:
    """Futures of commands that run are tasks as well: the first failure ends the others."""
    with pytest.raises(px.errors.CommandFailedError):
        px.all([started(nap), px.submit("exit 3")])
    assert not nap.sleepers()
