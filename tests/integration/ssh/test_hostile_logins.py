"""Logins at hosts that mean no good: each ends, in time, as a failure to log in."""

from __future__ import annotations

import time
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.ssh.border import common
from parallel_exec.errors import AuthenticationError, ConnectError, HostError
from tests.integration.ssh.hostile import Honest, Serve, message
from tests.integration.ssh.server import run, wait_until

PASSWORD = px.Secret("the S3CRET password")
ANSWER = px.Secret("the S3CRET answer")


class Answering(Honest):
    """Answers a login with messages of any kind."""

    methods = "publickey"

    def __init__(self, *answers: Any, then: bool | None = False, stays: bool = False) -> None:
        self.answers = answers
        self.then = then
        self.stays = stays
        self.logins = 0

    def prepare(self, transport: Any) -> None:
        self.transport = transport

    def login(self, method: str, user: str, given: Any) -> bool | None:
        self.logins += 1
        for answer in self.answers:
            self.transport._send_message(answer)
        if self.stays:
            while self.transport.active and not self.transport.packetizer.over.wait(0.02):
                pass
        return self.then


def question(count: int, *fields: Any) -> Any:
    """Return a message that asks as many questions, and has what is given of them."""
    return message(common.cMSG_USERAUTH_INFO_REQUEST, "", "", "", count, *fields)


@pytest.mark.parametrize(
    "answer",
    [
        question(0),
        question(1, "Password: ", False),
        question(0xFFFFFFFF),
        message(common.cMSG_USERAUTH_INFO_REQUEST),
        message(common.cMSG_USERAUTH_FAILURE),
        message(common.cMSG_USERAUTH_BANNER),
        message(common.cMSG_USERAUTH_FAILURE, b"\xff,\x00\x1b[2J," + b"x," * 5000, False),
        message(common.cMSG_DISCONNECT),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["publickey", "password"])
def test_answers_that_fit_no_question(hostile: Serve, answer: Any, method: str) -> None:
    """They are an error, at once, and nothing is sent on them."""
    behaviour = Answering(answer)
    behaviour.methods = method
    options: dict[str, Any] = {"password": PASSWORD}
    if method == "password":
        options["identity_file"] = "/no/such/key"
    began = time.monotonic()
    with pytest.raises(HostError) as refused:
        run(hostile(behaviour).host(connect_timeout=20, **options), "true")
    assert time.monotonic() - began < 10
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 2000
    assert behaviour.logins == 1


class Kbd(Honest):
    """Asks anything, and answers what comes with anything."""

    methods = "keyboard-interactive"

    def __init__(self, first: Any, second: Any = False) -> None:
        self.first, self.second = first, second
        self.got: list[list[str]] = []

    def ask(self, user: str) -> Any:
        return self.first

    def answered(self, user: str, answers: list[str]) -> Any:
        self.got.append(answers)
        return self.second


def test_too_many_questions(hostile: Serve) -> None:
    """Nobody is asked."""
    asked = []

    def prompt(text: str, shown: bool) -> str:
        asked.append(text)
        return "x"

    behaviour = Kbd(("", [("a", False)] * 101))
    with pytest.raises(ConnectError, match="101 questions at once"):
        run(hostile(behaviour).host(prompt=prompt), "true")
    assert asked == []


def test_what_was_sent_is_masked_where_the_host_repeats_it(hostile: Serve) -> None:
    """In questions, banners and disconnections; the password and the answers."""
    echo = f"you said {PASSWORD.reveal()} and {ANSWER.reveal()}"

    class Echo(Kbd):
        def prepare(self, transport: Any) -> None:
            self.transport = transport

        def answered(self, user: str, answers: list[str]) -> Any:
            self.got.append(answers)
            if len(self.got) < 2:
                return "", [("Code: ", False)]
            self.transport._send_message(message(common.cMSG_USERAUTH_BANNER, echo, ""))
            self.transport._send_message(message(common.cMSG_DISCONNECT, 2, echo, ""))
            return False

    behaviour = Echo(("", [("Password: ", False)]))
    host = hostile(behaviour).host(password=PASSWORD, prompt=lambda text, shown: ANSWER)
    with pytest.raises(AuthenticationError) as refused:
        run(host, "true")
    assert behaviour.got == [[PASSWORD.reveal()], [ANSWER.reveal()]]
    assert str(refused.value).count("you said *** and ***") == 2
    asking = Kbd(("", [("Password: ", False)]), ("", [(f"{echo}, code?", False)]))
    with pytest.raises(AuthenticationError, match=r"asks 'you said \*\*\* and"):
        run(hostile(asking).host(password=PASSWORD), "true")


def test_secrets_are_in_no_frame_of_the_error(hostile: Serve) -> None:
    """Whatever a debugger shows of its locals."""
    behaviour = Kbd(("", [("Password: ", False)]), ("", [("Code: ", False)]))
    server = hostile(behaviour)
    for options in (
        {"password": PASSWORD},
        {"password": PASSWORD, "prompt": lambda text, shown: ANSWER, "connect_timeout": 1},
    ):
        with pytest.raises(HostError) as refused:
            run(server.host(**options), "true")
        error: BaseException | None = refused.value
        while error is not None:
            trace = error.__traceback__
            while trace is not None:
                if trace.tb_frame.f_code.co_filename != __file__:
                    assert "S3CRET" not in repr(trace.tb_frame.f_locals)
                trace = trace.tb_next
            error = error.__cause__ or error.__context__


def test_keys_that_are_exchanged_anew_and_never_are(hostile: Serve) -> None:
    """`connect_timeout` holds for an answer that must wait for them."""

    class Rekeying(Kbd):
        def prepare(self, transport: Any) -> None:
            self.transport = transport

        def ask(self, user: str) -> Any:
            self.transport._send_message(question(1, "Code: ", False))
            self.transport._send_kex_init()
            while self.transport.active and not self.transport.packetizer.over.wait(0.02):
                pass
            raise EOFError

    def prompt(text: str, shown: bool) -> px.Secret:
        assert host._pool is not None
        (transport,) = host._pool._under_way
        wait_until(lambda: not transport.clear_to_send.is_set(), "the exchange has begun")
        return ANSWER

    host = hostile(Rekeying(None)).host(prompt=prompt, connect_timeout=2)
    began = time.monotonic()
    with pytest.raises(ConnectError, match="the exchange of new keys hung"):
        run(host, "true")
    assert time.monotonic() - began < 20  # it was 60 s


def test_partial_successes_without_an_end(hostile: Serve) -> None:
    """Each way is taken once: the host has a limit, and so has what is offered."""
    behaviour = Answering(then=None)
    with pytest.raises(AuthenticationError, match="the host wants publickey"):
        run(hostile(behaviour).host(password=PASSWORD), "true")
    assert behaviour.logins == 1
