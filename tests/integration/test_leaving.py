"""Ctrl-C while an iterator that is left ends its work: it reaches the code that has left it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import parallel_exec as px
from tests.integration.processes import PATIENCE_S

begun = threading.Event()


def interrupts(*_: object) -> None:
    """Be told to end; have the main thread interrupted then, as Ctrl-C does; end."""
    begun.set()
    assert px.CancelToken.current().wait(PATIENCE_S)
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def first(*_: object) -> bool:
    """Return when the other runs."""
    return begun.wait(PATIENCE_S)


ITERATORS: dict[str, Callable[[], Iterator[Any]]] = {
    "as_completed": lambda: px.as_completed([first, interrupts]),
    "imap": lambda: px.parallel_imap(lambda call: call(), [first, interrupts]),
    "imap, unordered": lambda: px.parallel_imap(
        lambda call: call(), [first, interrupts], ordered=False
    ),
}


def by_break(make: Callable[[], Iterator[Any]]) -> None:
    for _ in make():
        break


def by_return(make: Callable[[], Iterator[Any]]) -> Any:
    for value in make():
        return value
    return None


def by_forgetting(make: Callable[[], Iterator[Any]]) -> None:
    values = make()
    next(values)
    del values


def by_close(make: Callable[[], Iterator[Any]]) -> None:
    values: Any = make()
    next(values)
    values.close()


@pytest.mark.parametrize("leave", [by_break, by_return, by_forgetting, by_close])
@pytest.mark.parametrize("name", ITERATORS)
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_while_an_iterator_is_left_comes_through(
    name: str, leave: Callable[[Callable[[], Iterator[Any]]], object]
) -> None:
    """However it is left; and what ran has ended before."""
    begun.clear()

    def go_on() -> None:
        leave(ITERATORS[name])
        threading.Event().is_set()

    with pytest.raises(KeyboardInterrupt):
        go_on()
    assert not [thread for thread in threading.enumerate() if thread.name == "parallel_exec worker"]


def test_an_iterator_that_is_left_in_peace_interrupts_nobody() -> None:
    """Only an interrupt that came is raised again."""
    for _ in range(3):
        by_break(lambda: px.as_completed([lambda: 1, "sleep 60"]))
    threading.Event().is_set()
