"""The messages of a login (RFC 4252, RFC 4256), with a deadline for each answer.

The thread that logs in writes the requests, signs and answers questions. The reading
thread only hands over what the host said: it waits for no agent and no user.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from parallel_exec.environments.ssh.border import auth_handler, common, paramiko
from parallel_exec.environments.ssh.connection import BrokenError
from parallel_exec.environments.ssh.keys import CERTIFICATE
from parallel_exec.errors import ConnectError, ConnectTimeoutError
from parallel_exec.values.secret import MASK

__all__ = ["Dialog", "Identity", "Outcome", "Question", "UserAuth"]

Message = paramiko.Message
T = TypeVar("T")


class _Sealed(Message):  # type: ignore[misc, valid-type]
    """A message that does not show what it holds: it may be a password."""

    def __repr__(self) -> str:
        return MASK


MOST_PROMPTS = 100  # in one round
LONGEST_BANNER = 4096
RSA = ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")
# These take certificates of RSA keys with the old name of the signature only.
OLD_OPENSSH = re.compile(r"-OpenSSH_(?:[1-6]\.|7\.[0-7])")


@dataclass(frozen=True, slots=True)
class Identity:
    """A key or a certificate to log in with.

    Attributes:
        name: What it is called in errors.
        kind: The type of `blob`.
        blob: The public key or the certificate, as the protocol has it.
        sign: Signs data with an algorithm, within a number of seconds.
        by_agent: Whether an agent signs, which may ask its user for each signature.
    """

    name: str
    kind: str
    blob: bytes
    sign: Callable[[bytes, str, float], bytes]
    by_agent: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What a host asks in a keyboard-interactive login.

    Attributes:
        text: The prompt, as the host sent it.
        shown: Whether the answer may be shown while it is typed.
    """

    text: str
    shown: bool


@dataclass(frozen=True, slots=True)
class Dialog:
    """A round of questions; there may be none, where the host only says something."""

    title: str
    instructions: str
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended.

    Attributes:
        accepted: Whether the login is complete.
        partial: Whether this part of it was accepted, and others are missing.
        methods: The methods that can go on.
        wanted: Whether a key that was only named would be accepted.
        expired: The host wants a new password, since the old one has expired; what it
            says about that.
    """

    accepted: bool = False
    partial: bool = False
    methods: tuple[str, ...] = ()
    wanted: bool = False
    expired: str | None = None


class UserAuth(auth_handler.AuthHandler):  # type: ignore[misc]
    """A login over one transport. One thread logs in; the transport's reads."""

    def __init__(self, transport: Any, user: str) -> None:
        super().__init__(transport)
        self._user = user
        self._changed = threading.Condition()  # guards what follows
        self._service = False
        self._waiting = False
        self._gone = False
        self._only_named = False  # whether the key that was sent last has no signature yet
        self._answer: Outcome | Dialog | None = None
        self.words = ""  # the last thing the host said outside of questions

    @property
    def served(self) -> bool:
        """Whether the host was willing to talk about a login."""
        return self._service

    # In the thread that logs in

    def try_nothing(self, deadline: float) -> Outcome:
        """Ask to be let in without anything; the answer says which methods there are."""
        return self._outcome(self._request("none"), deadline)

    def try_password(self, reveal: Callable[[], str], deadline: float) -> Outcome:
        """Log in with a password."""
        message = self._request("password")
        message.add_boolean(False)
        message.add_string(reveal().encode("utf-8", "surrogateescape"))
        return self._outcome(message, deadline)

    def try_key(self, identity: Identity, deadline: float, sign_within: float) -> Outcome | None:
        """Log in with a key; None if the host knows no signature that it can make."""
        rsa = identity.kind.startswith("ssh-rsa")
        if rsa:
            # Which signatures the host takes has surely come when the service is accepted.
            self._have_service(deadline)
        algorithm = self._algorithm(identity.kind)
        if algorithm is None:
            return None
        if identity.by_agent:
            # Its user shall not be asked about a key that the host does not want. Where nobody
            # is asked, that round trip is saved.
            named = self._outcome(self._naming(algorithm, identity.blob, signed=False), deadline)
            if not named.wanted:
                return named
        message = self._naming(algorithm, identity.blob, signed=True)
        signed = Message()
        signed.add_string(self.transport.session_id)
        data = signed.asbytes() + message.asbytes()
        plain = algorithm.removesuffix(CERTIFICATE) if rsa else algorithm
        message.add_string(identity.sign(data, plain, sign_within))
        return self._outcome(message, deadline)

    def _naming(self, algorithm: str, blob: bytes, *, signed: bool) -> Any:
        self._only_named = not signed
        message = self._request("publickey")
        message.add_boolean(signed)
        message.add_string(algorithm)
        message.add_string(blob)
        return message

    def try_dialog(self, deadline: float) -> Outcome | Dialog:
        """Begin a dialog."""
        message = self._request("keyboard-interactive")
        message.add_string("")
        message.add_string("")
        return self._ask(message, deadline)

    def reply(self, answers: Sequence[Callable[[], str]], deadline: float) -> Outcome | Dialog:
        """Answer a round of questions."""
        message = _Sealed()
        message.add_byte(common.cMSG_USERAUTH_INFO_RESPONSE)
        message.add_int(len(answers))
        for reveal in answers:
            message.add_string(reveal().encode("utf-8", "surrogateescape"))
        return self._ask(message, deadline)

    def _algorithm(self, kind: str) -> str | None:
        if not kind.startswith("ssh-rsa"):
            return kind
        ours = [name for name in RSA if name in self.transport.preferred_pubkeys]
        tail = kind.removeprefix("ssh-rsa")
        if tail and "ssh-rsa" in ours and OLD_OPENSSH.search(self.transport.remote_version):
            return kind
        theirs = self.transport.server_extensions.get("server-sig-algs", b"")
        if theirs:
            text = theirs if isinstance(theirs, str) else theirs.decode("ascii", "replace")
            ours = [name for name in ours if name in text.split(",")]
        return ours[0] + tail if ours else None

    def _request(self, method: str) -> Any:
        self.auth_method = method
        message = _Sealed()
        message.add_byte(common.cMSG_USERAUTH_REQUEST)
        message.add_string(self._user)
        message.add_string("ssh-connection")
        message.add_string(method)
        return message

    def _service_request(self) -> list[Any]:
        """Return the message that asks for the service, if it has not been granted."""
        if self._service:
            return []
        message = Message()
        message.add_byte(common.cMSG_SERVICE_REQUEST)
        message.add_string("ssh-userauth")
        return [message]

    def _have_service(self, deadline: float) -> None:
        request = self._service_request()
        if request:
            self._send(request)
            self._wait(lambda: self._service, deadline)

    def _outcome(self, message: Any, deadline: float) -> Outcome:
        answer = self._ask(message, deadline)
        if isinstance(answer, Dialog):
            raise ConnectError("the host asks questions that were not asked for")
        return answer

    def _ask(self, message: Any, deadline: float) -> Outcome | Dialog:
        """Send a message and return the answer.

        Raises:
            ConnectTimeoutError: None came in time.
            ConnectError: The connection is gone.
        """
        if time.monotonic() >= deadline:  # also for a host that answers and never ends
            raise ConnectTimeoutError("no end of the login")
        # The request for the service goes along: that saves a round trip.
        messages = [*self._service_request(), message]
        with self._changed:
            self._answer = None
            self._waiting = True
        self._send(messages)
        answer = self._wait(lambda: self._answer, deadline)
        assert answer is not None
        return answer

    def _send(self, messages: Sequence[Any]) -> None:
        broken = ""
        try:
            self.transport.send_together(messages)
        except BrokenError as error:
            broken = str(error)
        if broken:  # raised here, it has no frames that hold the messages in plain
            raise ConnectError(broken)

    def _wait(self, look: Callable[[], T], deadline: float) -> T:
        """Return what `look` returns, once there is something."""
        with self._changed:
            while not (found := look()):
                if self._gone or not self.transport.active:
                    raise ConnectError(self.transport.reason())
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ConnectTimeoutError("no answer to the login")
                self._changed.wait(min(left, 1.0))
            return found

    # In the reading thread

    def _tell(self, answer: Outcome | Dialog) -> None:
        with self._changed:
            if not self._waiting or self._answer is not None:
                raise paramiko.SSHException("an answer to the login that nobody waits for")
            self._answer = answer
            self._waiting = False
            self._changed.notify_all()

    def abort(self) -> None:
        """Wake who waits: the connection is gone."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _parse_service_accept(self, m: Any) -> None:
        with self._changed:
            self._service = True
            self._changed.notify_all()

    def _parse_userauth_success(self, m: Any) -> None:
        super()._parse_userauth_success(m)
        self._tell(Outcome(accepted=True))

    def _parse_userauth_failure(self, m: Any) -> None:
        methods = m.get_binary().decode("ascii", "replace").split(",")
        partial = m.get_boolean()
        self._tell(Outcome(partial=partial, methods=tuple(filter(None, methods))))

    def _parse_userauth_banner(self, m: Any) -> None:
        self.words = m.get_binary()[:LONGEST_BANNER].decode("utf-8", "replace")

    def _parse_userauth_info_request(self, m: Any) -> None:
        # The number of this message means another thing for each method.
        if self.auth_method == "publickey" and self._only_named:
            return self._tell(Outcome(wanted=True))
        if self.auth_method == "password":
            text = m.get_binary()[:LONGEST_BANNER].decode("utf-8", "replace")
            return self._tell(Outcome(expired=text))
        if self.auth_method != "keyboard-interactive":
            raise paramiko.SSHException("questions that were not asked for")
        title, instructions, _ = (m.get_binary().decode("utf-8", "replace") for _ in range(3))
        count = m.get_int()
        if count > MOST_PROMPTS:
            raise paramiko.SSHException(f"{count} questions at once")
        questions = []
        for _ in range(count):
            text = m.get_binary().decode("utf-8", "replace")
            questions.append(Question(text, m.get_boolean()))
        return self._tell(Dialog(title, instructions, tuple(questions)))
