"""Notes on errors, and errors that are raised again and again."""

from __future__ import annotations

import pickle
import time

import pytest

import parallel_exec as px
from parallel_exec.values.notes import MOST_RAISES, add_note, begin_anew


def test_an_error_that_is_raised_again_names_the_task_of_this_time() -> None:
    """A user may keep one error and raise it in every call: notes of earlier calls are gone."""
    error = ConnectionError("kept")

    def fail(item: int) -> None:
        raise error

    for item in range(100):
        with pytest.raises(ConnectionError):
            px.parallel_map(fail, [item])
    assert [note.partition(":")[0] for note in error.__notes__] == ["task 0"]
    assert "fail(99)" in error.__notes__[0]


def test_the_frames_of_an_error_that_is_raised_again_do_not_pile_up() -> None:
    """They are bounded, for functions that raise their values and those that give outcomes."""
    error = ConnectionError("kept")

    def fail(*_: object) -> None:
        raise error

    for _ in range(200):
        px.all_settled([fail])
        with pytest.raises(ConnectionError):
            px.all([fail])
    frames = 0
    at = error.__traceback__
    while at is not None:
        frames += 1
        at = at.tb_next
    assert frames <= 10 * MOST_RAISES


def test_notes_of_the_user_and_of_calls_around_are_kept() -> None:
    """Only what an earlier call has added is taken back."""
    error = ConnectionError("kept")
    error.add_note("mine")

    def inner() -> None:
        raise error

    for _ in range(3):
        with pytest.raises(ConnectionError):
            px.all([lambda: px.all([inner])])
    assert error.__notes__[0] == "mine"
    assert len(error.__notes__) == 3  # and one for each of the two tasks
    assert error.__notes__[1].endswith("inner")


def test_a_deep_recursion_is_one_raise() -> None:
    """The traceback of a RecursionError is whole."""

    def deeper(left: int) -> None:
        if not left:
            raise LookupError("deep")
        deeper(left - 1)

    with pytest.raises(LookupError) as raised:
        deeper(200)
    before = len(raised.traceback)
    begin_anew(raised.value, time.monotonic())
    assert len(raised.traceback) == before


def test_a_note_is_added_once_and_pickles_as_text() -> None:
    """Who gets the error in another process need not know the library."""
    error = ValueError("no")
    add_note(error, "task 0: x")
    add_note(error, "task 0: x")
    copy = pickle.loads(pickle.dumps(error))
    assert copy.__notes__ == ["task 0: x"]
    assert type(copy.__notes__[0]) is str
