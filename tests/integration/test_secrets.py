"""A secret reaches its command, and no repr, log line, event or error."""

from __future__ import annotations

import logging
import pickle
import traceback
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import ConfigError, RunFailedError
from tests.integration.frames import hides_in_frames
from tests.integration.processes import Nap

SECRET = "hunter2 'and\" $more"
s = px.Secret(SECRET)


def commands() -> list[px.Command]:
    """Return commands that use a secret in every place there is."""
    return [
        px.Command(["sh", "-c", 'printf %s "$1"', "sh", s]),
        px.sh("printf %s {}", s),
        px.Command('printf %s "$WORD"', env={"WORD": s}),
        px.Command("cat", input=s),
        px.Command(["printf", "%s", "" + s + ""]),
    ]


def hides(text: object) -> None:
    """Check that a text has no part of the secret that matters."""
    assert "hunter2" not in str(text)


def test_command_sees_the_value_and_output_is_unaltered() -> None:
    """Every place for a secret gives its value; what is printed is not masked."""
    lines: list[str] = []
    for command in commands():
        assert px.run(command, on_stdout=lines.append).stdout == SECRET.encode()
    assert lines == [SECRET] * 5


def test_no_repr_shows_it() -> None:
    """Commands, results and outcomes show a mask, in every form of text."""
    for command in commands():
        result = px.run(command)
        (outcome,) = px.all_settled([command])
        for value in (command, result.command, outcome.label, command.words, command.env):
            for text in (repr(value), str(value), f"{value}", "%s" % (value,)):  # noqa: UP031
                hides(text)
        hides(repr(result).replace(repr(result.stdout), ""))
    hides(f"{s} {s!r} {s!s}")
    hides([s])
    hides({"a": s})


@pytest.mark.parametrize("ending", ["; exit 3", "; kill -9 $$", "; exec sleep 99999"])
def test_no_error_shows_it(ending: str) -> None:
    """Failures, signals and timeouts, alone and in groups, show a mask in their whole
    traceback.
    """
    tasks = [
        px.Command(px.sh("true {}" + ending, s), timeout=0.5),
        px.Command("true" + ending, env={"WORD": s}, input=s, timeout=0.5),
        px.Command(["sh", "-c", f"true{ending}", s], timeout=0.5),
    ]
    with pytest.raises(RunFailedError) as caught:
        px.all_settled(tasks).raise_for_failures()
    hides("".join(traceback.format_exception(caught.value)))
    hides(repr(caught.value.exceptions))
    hides(repr(caught.value.outcomes))
    for task in tasks:
        with pytest.raises(px.errors.CommandError) as one:
            px.run(task)
        hides("".join(traceback.format_exception(one.value)))
        hides(repr(one.value))


def test_no_error_of_a_start_shows_it() -> None:
    """A command that cannot start masks its secrets, causes included."""
    for command in (
        px.Command(["/no/such/program", s]),
        px.Command([px.Secret("/no/hunter2/program")]),
        px.Command(["true", s], cwd="/no/such/folder"),
        px.Command(["true", px.Secret("hunter2" * 500_000)]),
    ):
        (outcome,) = px.all_settled([command])
        assert outcome.reason is not None
        hides("".join(traceback.format_exception(outcome.reason)))


def test_no_refusal_shows_it() -> None:
    """A value that cannot be used is named without being shown."""
    nul = px.Secret("hunter2\0")
    attempts: list[Any] = [
        lambda: px.Command(["echo", nul]),
        lambda: px.Command("echo", env={"A": nul}),
        lambda: px.sh("echo {}", nul),
        lambda: px.sh("echo", s),
        lambda: px.Command("echo", timeout=s),  # type: ignore[arg-type]
        lambda: px.run(["echo", s], no_such_option=s),  # type: ignore[call-arg]
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError) as caught:
            attempt()
        hides("".join(traceback.format_exception(caught.value)))


def test_no_log_line_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that is logged at any level has it."""
    with caplog.at_level(logging.DEBUG, "parallel_exec"):
        tasks = [*commands(), px.sh(": {}; exit 3", s), px.Command(["/no/such", s])]
        px.all_settled(tasks, retry=px.Retry(2, wait=0, on=Exception))
        px.all_settled(tasks, timeout=30, concurrency=1, max_failures=0)
    assert "***" in caplog.text
    hides(caplog.text)


def test_no_event_shows_it() -> None:
    """Events and outcomes that callbacks get have it masked."""
    seen: list[object] = []
    px.all_settled(
        [*commands(), px.sh(": {}; exit 3", s)],
        on_event=seen.append,
        retry=px.Retry(2, wait=0, on=Exception),
    )
    assert len(seen) > 10
    for event in seen:
        text = repr(event)
        for command in commands():  # what a command printed is not masked
            text = text.replace(repr(px.run(command).stdout), "")
        hides(text)


def test_no_note_or_cancel_shows_it(nap: Nap) -> None:
    """The notes that name a task, and the error of a cancel, have it masked."""
    command = px.sh(f"true {{}}; exec {nap}", s)
    with pytest.raises(px.errors.DeadlineExceededError):
        px.all([command], deadline=0.5)
    (outcome,) = px.all_settled([command], deadline=0.5)
    hides(repr(outcome))
    with pytest.raises(px.errors.CommandFailedError) as caught:
        px.all([px.sh(": {}; exit 3", s)])
    assert caught.value.__notes__ == ["task 0: : ***; exit 3"]


def test_secrets_join_and_pickle() -> None:
    """Joined with text a secret stays one; pickled it comes back."""
    joined = "user:" + s + "@"
    assert isinstance(joined, px.Secret)
    assert joined.reveal() == f"user:{SECRET}@"
    assert pickle.loads(pickle.dumps(s)) == s
    assert s != SECRET
    assert hash(s) == hash(px.Secret(SECRET))
    with pytest.raises(TypeError):
        px.Secret(b"bytes")  # type: ignore[arg-type]


def test_no_error_quotes_a_secret_that_the_command_printed() -> None:
    """The message masks it, whole or quoted; the result has what was printed."""
    for command in (px.sh("{}", s), px.sh("echo {} >&2; exit 3", s), px.sh("echo {}; exit 3", s)):
        with pytest.raises(px.errors.CommandFailedError) as caught:
            px.run(command)
        hides(caught.value)
        assert b"hunter2" in caught.value.result.stdout + caught.value.result.stderr


@pytest.mark.parametrize("lone", ["\ud800", "hunter2\udfff"])
def test_what_cannot_be_encoded_is_refused_at_the_door(lone: str) -> None:
    """By its name and without an error that has the text, or that of another secret."""
    bad = px.Secret(lone)
    accented = px.Secret("hunter2 é")
    attempts: list[Any] = [
        lambda: px.Command(["echo", s, bad]),
        lambda: px.Command("echo", env={"A": s, "B": bad}),
        lambda: px.Command("echo", env={"A": s, "B" + lone: "1"}),
        lambda: px.Command(["echo", s], input=bad),
        lambda: px.Command(["echo", s], input=accented, encoding="ascii"),
        lambda: px.sh("echo {} {}", s, bad),
        lambda: px.Command(["echo", s, lone]),
        lambda: px.Command(["echo", s], cwd="/" + lone),
        lambda: px.run(["echo", s, bad]),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert caught.value.__context__ is None
        if lone == "\ud800":
            hides("".join(traceback.format_exception(caught.value)))
        hides_in_frames(caught.value, "hunter2 and", "hunter2 é")


def test_no_frame_of_an_error_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of commands that fail, that do not start, and of a start that no code expects to fail."""
    for command in (*commands(), px.Command(["/no/such", s]), px.Command(["true", s], cwd="/no")):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
            px.run(command, max_output_bytes=1)
        hides_in_frames(caught.value, "hunter2")

    def fail(*args: Any, **named: Any) -> Any:
        raise RuntimeError("no start")

    monkeypatch.setattr("parallel_exec.environments.local.process.spawn", fail)
    for command in commands():
        with pytest.raises(px.errors.CommandStartError) as refused:
            px.run(command)
        hides_in_frames(refused.value, "hunter2")
