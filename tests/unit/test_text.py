"""Text from elsewhere, escaped and cut wherever it is shown."""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

import parallel_exec as px
from parallel_exec import text
from parallel_exec.observers import log
from parallel_exec.testing import FakeEnvironment, FakeReply

# A terminal's title, a forged line, a change of direction, half a surrogate pair, a C1 code.
HOSTILE = "\x1b]0;owned\x07\r\nERROR forged\u202egpj\ud800\x9b31m\x00end"


def shown(message: object) -> str:
    """Return a message after having checked that nothing in it acts on a terminal."""
    said = str(message)
    assert said.isprintable(), ascii(said)
    assert len(said) <= text.MESSAGE
    return said


@given(st.text(), st.integers(0, 50), st.booleans())
def test_what_is_plain_is_printable_short_and_the_same_again(
    given_text: str, limit: int, end: bool
) -> None:
    """Whatever goes in; and printable text that is short enough goes through untouched."""
    plain = text.plain(given_text, limit, end=end)
    assert plain.isprintable()
    assert len(plain) <= max(limit, 3)
    assert text.plain(plain, max(limit, 3), end=end) == plain
    if given_text.isprintable() and len(given_text) <= limit:
        assert plain == given_text


def test_the_first_or_the_last_characters_are_kept() -> None:
    """Three dots stand for the others."""
    assert text.plain("abcdefghij", 7) == "abcd..."
    assert text.plain("abcdefghij", 7, end=True) == "...ghij"
    assert text.plain(ValueError("a\nb")) == "a\\nb"


def test_a_str_that_raises_costs_nothing() -> None:
    """Its type is shown in its place."""

    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert text.plain(BrokenError()) == "<BrokenError>"


def test_lines_keep_their_ends_and_tabs() -> None:
    """All else is escaped as on one line."""
    assert text.plain_lines("a\tb\r\n\x1b[31m\n\nc\rd\n") == ["a\tb", "\\x1b[31m", "", "c\\rd"]


def fail(**reply: Any) -> Callable[[str], px.errors.ParallelExecError]:
    def error(command: str) -> px.errors.ParallelExecError:
        (outcome,) = px.Group([FakeEnvironment({command: FakeReply(**reply)}, name="web1")]).run(
            px.Command([command]), max_output_bytes=1000
        )
        assert isinstance(outcome.reason, px.errors.ParallelExecError)
        return outcome.reason

    return error


def test_a_failed_command_says_its_status_first_then_itself_then_its_last_words() -> None:
    """Escaped, and each cut at its length; the result has all of it."""
    words = "last words " + HOSTILE + "y" * 1000
    error = fail(stderr="first\n" + words, exit_code=7)("x" * 200_000)
    said = shown(error)
    assert said.startswith("exited with 7 on web1: xxx")
    assert said.endswith("...: ..." + "y" * (text.SAID - 3))
    assert isinstance(error, px.errors.CommandFailedError)
    assert error.result.stderr.endswith(b"y" * 1000)
    assert shown(pickle.loads(pickle.dumps(error))) == said


def test_a_tool_that_says_why_on_stdout_is_heard_where_stderr_is_empty() -> None:
    """Blank lines are no words; stderr comes first where it says something."""
    tools = FakeEnvironment({
        "lint": FakeReply("one\nE501 line too long\n\n", stderr=" \n", exit_code=1),
        "both": FakeReply("out\n", stderr="err\n", exit_code=1),
    })  # fmt: skip
    lint, both = (px.Group([tools]).run(name)[0].reason for name in ("lint", "both"))
    assert str(lint).endswith("lint: E501 line too long")
    assert str(both).endswith("both: err")


def test_every_error_of_the_library_escapes_its_message() -> None:
    """The message of each class, that of a group included, from whomever it comes."""
    for name in px.errors.__all__:
        kind = getattr(px.errors, name)
        if issubclass(kind, px.errors.CommandError):
            continue  # made from results only
        extra: tuple[Any, ...] = ([ValueError()],) if kind is px.errors.RunFailedError else ()
        error = kind("no\x1b[2J way" + "z" * 10_000, *extra)
        assert shown(error).startswith("no\\x1b[2J way")
        assert shown(pickle.loads(pickle.dumps(error))) == str(error)


def test_labels_go_escaped_into_errors_and_notes_and_stay_as_they_are_themselves() -> None:
    """An outcome's label is what was given, to find it by."""
    label = HOSTILE + "z" * 500

    def boom() -> None:
        raise ValueError("boom")

    outcomes = px.all_settled([px.Task(boom, label=label)])
    assert outcomes[0].label == label
    with pytest.raises(px.errors.RunFailedError) as caught:
        outcomes.raise_for_failures()
    shown(caught.value)
    (note,) = caught.value.exceptions[0].__notes__
    assert shown(note).startswith("task 0: \\x1b]0;owned")
    token = px.CancelToken()
    token.cancel()
    (skipped,) = px.all_settled([px.Task(boom, label=label)], cancel=token)
    shown(skipped.reason)


def test_every_record_of_the_log_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Labels, errors, names and paths: nobody's words forge another line."""

    def boom() -> None:
        raise ValueError(HOSTILE * 1000)

    with caplog.at_level(logging.DEBUG, "parallel_exec"):
        px.all_settled([px.Task(boom, label=HOSTILE)], retry=px.Retry(2, wait=0, on=ValueError))
        log.logger.warning("%s is no file", "/tmp/" + HOSTILE)
    assert len(caplog.messages) >= 5
    for message in caplog.messages:
        shown(message)


def test_a_record_that_cannot_be_formatted_raises_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody's repr must not break what is logged about."""

    class HostileError(Exception):
        def __repr__(self) -> str:
            raise RuntimeError

    monkeypatch.setattr(logging, "raiseExceptions", False)
    caplog.handler.handleError = lambda record: None  # type: ignore[method-assign]
    log.logger.warning("%r", HostileError())


def test_the_words_before_a_bar_are_one_line() -> None:
    """A label cannot move the cursor."""
    drawn = io.StringIO()
    px.VisualProgress(1, label=HOSTILE, file=drawn, enabled=True).execute([lambda: None])
    assert "owned" in drawn.getvalue()
    assert "\x1b]0" not in drawn.getvalue()
    assert "\n" not in drawn.getvalue().rstrip("\n")
