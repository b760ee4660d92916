"""Logging in: keys, agent, keyboard-interactive and password, in OpenSSH's order.

`identities` says in which order keys are offered. After them come keyboard-interactive
and the password. A server may want several of them, one after the other; whatever was
not accepted yet is then tried anew.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from parallel_exec.environments.ssh import prompts
from parallel_exec.environments.ssh.agent import AgentError
from parallel_exec.environments.ssh.config import HostConfig
from parallel_exec.environments.ssh.connection import Transport
from parallel_exec.environments.ssh.identities import Identities
from parallel_exec.environments.ssh.settings import Settings
from parallel_exec.environments.ssh.userauth import Dialog, Identity, Outcome, UserAuth
from parallel_exec.environments.ssh.words import said
from parallel_exec.errors import AuthenticationError, ConnectError, ConnectTimeoutError
from parallel_exec.values.secret import Secret, mask_text

__all__ = ["login"]

log = logging.getLogger("parallel_exec")

PUBLICKEY, INTERACTIVE, PASSWORD = "publickey", "keyboard-interactive", "password"
LAST_WORDS_S = 1.0  # for the reading thread to end once the connection is gone
SIGNING_SHARE = 2 / 3  # of the time that is left, for an agent that may ask its user

# Reasons of a disconnection (RFC 4253, 11.1) that refuse a login. sshd ends one after too
# many attempts as a protocol error.
REFUSING = {2, 13, 14, 15}


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to log in: what to call it, its method, how to try it.

    What `attempt` returns is None if nothing was asked of the host, or if it was asked
    and its questions have no answer here.
    """

    name: str
    method: str
    attempt: Callable[[], Outcome | None]
    credential: bytes = b""


def login(transport: Transport, settings: Settings, config: HostConfig, timeout: float) -> None:
    """Log in, or raise.

    Raises:
        AuthenticationError: Every way that was offered was refused; it names them.
        ConnectError: The connection broke meanwhile, or no answer came.
    """
    attempt = _Login(transport, settings, config, timeout)
    try:
        attempt.run()
    finally:
        attempt.identities.close()


class _Login:
    """The state of one login."""

    def __init__(
        self, transport: Transport, settings: Settings, config: HostConfig, timeout: float
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._config = config
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._userauth = UserAuth(transport, config.user)
        self._notes: list[str] = []
        self._tried: list[str] = []
        self._methods: tuple[str, ...] = (PUBLICKEY, INTERACTIVE, PASSWORD)
        self._known = False  # whether the host has said which methods there are
        self.identities = Identities(settings, config, self._note)
        transport.auth_handler = self._userauth

    def run(self) -> None:
        """Try one way after the other."""
        accepted: set[tuple[str, bytes]] = set()
        refused: set[tuple[str, bytes]] = set()
        while True:
            for way in self._ways():
                which = (way.method, way.credential)
                if which in accepted or not self._possible(way):
                    continue
                outcome = self._attempt(way)
                if outcome is None:
                    continue
                if outcome.accepted:
                    return
                if way.name and which not in refused:
                    self._tried.append(way.name)
                    refused.add(which)
                self._methods, self._known = outcome.methods, True
                if outcome.partial:  # the host wants another one as well
                    accepted.add(which)
                    break
            else:
                raise self._refused()

    def _possible(self, way: _Way) -> bool:
        return way.method in self._methods or (not way.method and not self._known)

    def _ways(self) -> Iterator[_Way]:
        settings, config = self._settings, self._config
        keys = self._keys() if config.publickey else iter(())
        first = next(keys, None)
        if first is None or settings.password is not None or settings.prompt is not None:
            # A method that the host has not counts as a failed attempt there, so it is asked
            # first, as OpenSSH does. With nothing but keys that round trip is saved.
            yield _Way("", "", lambda: self._userauth.try_nothing(self._deadline))
        if first is not None:
            yield first
            yield from keys
        if config.keyboard_interactive:
            yield _Way(INTERACTIVE, INTERACTIVE, self._dialog)
        password = settings.password
        if config.password and password is not None:
            yield _Way(
                PASSWORD,
                PASSWORD,
                lambda: self._userauth.try_password(password.reveal, self._deadline),
            )

    def _keys(self) -> Iterator[_Way]:
        for identity in self.identities.offered(self._left):
            yield _Way(
                identity.name,
                PUBLICKEY,
                functools.partial(self._key, identity),
                identity.blob,
            )

    def _key(self, identity: Identity) -> Outcome | None:
        try:
            outcome = self._userauth.try_key(identity, self._deadline, self._left() * SIGNING_SHARE)
        except AgentError as error:
            self._note(f"{error} with {identity.name}" if "sign" in str(error) else str(error))
            return None
        if outcome is None:
            self._note(f"the host takes no signature that {identity.name} can make")
        return outcome

    def _dialog(self) -> Outcome | None:
        """Answer what the host asks; None if there is a question without an answer."""
        passwords = [self._settings.password] if self._settings.password is not None else []
        answer = self._userauth.try_dialog(self._deadline)
        while isinstance(answer, Dialog):
            if answer.title or answer.instructions:
                words = self._said(f"{answer.title} {answer.instructions}")
                log.info("%s says: %s", self._name, words)
            replies = self._answers(answer, passwords)
            if replies is None:
                return None
            answer = self._userauth.reply([reply.reveal for reply in replies], self._deadline)
        return answer

    def _answers(self, dialog: Dialog, passwords: list[Secret]) -> list[Secret] | None:
        questions = dialog.questions
        if passwords and prompts.asks_for_password(questions, self._config.user):
            return [passwords.pop()]
        prompt = self._settings.prompt
        if questions and prompt is None:
            asked = " and ".join(f"'{self._said(question.text)}'" for question in questions)
            if dialog.instructions.strip():
                asked += f" ('{self._said(dialog.instructions)}')"
            fitting = prompts.asks_for_password(questions, self._config.user)
            way = "password= or prompt=" if fitting else "prompt="
            self._note(f"the host asks {asked}, which {way} can answer")
            return None
        began = time.monotonic()
        answers: list[Secret] = []
        try:
            for question in questions:
                assert prompt is not None
                told = f"'{self._said(question.text)}'"
                answer = prompts.ask(prompt, question, told, lambda: bool(self._transport.active))
                self._transport.secrets = (*self._transport.secrets, answer)
                answers.append(answer)
            return answers
        finally:
            # What the user takes is not the host's time.
            self._deadline += time.monotonic() - began

    def _attempt(self, way: _Way) -> Outcome | None:
        try:
            if self._left() <= 0:
                raise ConnectTimeoutError("no answer to the login")
            outcome = way.attempt()
        except ConnectTimeoutError as error:
            raise ConnectTimeoutError(f"{error} within {self._timeout:g} s{self._told()}") from None
        except ConnectError as error:
            if not way.name or not self._userauth.served or not self._hung_up():
                raise ConnectError(f"{error}{self._told()}") from error
            self._tried.append(way.name)
            raise self._refused(str(error)) from error
        if outcome is not None and outcome.expired is not None:
            words = self._said(outcome.expired)
            self._note(f"the password has expired and must be changed first: '{words}'")
            return Outcome(methods=tuple(m for m in self._methods if m != PASSWORD))
        return outcome

    def _hung_up(self) -> bool:
        """Return whether the host itself ended the connection as its answer to a login."""
        transport = self._transport
        transport.join(LAST_WORDS_S)  # a write may have failed before the last word was read
        if transport.is_alive():
            return False
        if transport.disconnected is not None:
            return transport.disconnected in REFUSING
        error = transport.saved_exception
        gone = error is None or isinstance(error, EOFError)
        # A reset may be the network's. After a refusal it is the host's, that has had enough.
        reset = isinstance(error, OSError) and bool(self._tried)
        return transport.why is None and (gone or reset)

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    @property
    def _name(self) -> str:
        return str(self._settings.destination)

    def _note(self, sentence: str) -> None:
        if sentence not in self._notes:
            self._notes.append(sentence)

    def _told(self) -> str:
        return "".join(f"; {note}" for note in self._notes)

    def _refused(self, end: str = "") -> AuthenticationError:
        what = ", ".join(self._tried) or "nothing to offer"
        text = f"login as {self._config.user} refused (tried: {what}){self._told()}"
        if end:
            text += f"; then {end}"
        elif self._known and self._methods:
            text += f"; the host wants {self._said(' or '.join(self._methods))}"
        words = self._said(self._userauth.words)
        if words:
            text += f"; it says '{words}'"
        return AuthenticationError(text)

    def _said(self, text: str) -> str:
        """Return what the host said, without what it was sent before."""
        return said(mask_text(text, self._transport.secrets))
