"""What hosts ask in a login, who answers, and logins of several parts."""

from __future__ import annotations

import gettext
import glob
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.ssh.prompts import asks_for_password
from parallel_exec.environments.ssh.userauth import Question
from parallel_exec.errors import AuthenticationError, ConfigError, ConnectTimeoutError
from tests.integration.ssh.hostile import Honest, Serve
from tests.integration.ssh.server import ROOT, make_keys, run

Prompts = Sequence[tuple[str, bool]]
PASSWORD = "the password"


class Asking(Honest):
    """Asks one round of questions after the other; keeps what it gets."""

    methods = "keyboard-interactive,password"

    def __init__(self, *rounds: Prompts, title: str = "", banner: str = "") -> None:
        self.rounds = rounds
        self.title = title
        self.answers: list[list[str]] = []
        self.passwords: list[str] = []
        self.begun = 0

    def login(self, method: str, user: str, given: Any) -> bool | None:
        if method == "password":
            self.passwords.append(given)
        return False

    def ask(self, user: str) -> Any:
        self.begun += 1
        self.answers = []
        return self.title, self.rounds[0]

    def answered(self, user: str, answers: list[str]) -> Any:
        self.answers.append(answers)
        done = len(self.answers)
        return True if done == len(self.rounds) else (self.title, self.rounds[done])


OTHERS = (
    "One-time code: ",
    "Verification code: ",
    "Password & verification code: ",
    "Enter PASSCODE: ",
    "One-time password (OATH) for `someone': ",
    "Your token: ",
    "Token password: ",
    "Enter your PIN: ",
    "Einmalpasswort: ",
    "Engangskode: ",
    "Mot de passe à usage unique : ",
    "动态密码：",
    "Одноразовый пароль: ",
    "New password: ",
    "Neues Passwort: ",
    "Retype new password: ",
    "s/key 97 fw13894 password: ",
    "What is your quest? ",
    "",
)
PASSWORD_PROMPTS = (
    "Password: ",
    "someone@host.example's password: ",
    "Password for someone: ",
    "Password for someone@pin.example.com:",
    "Password for kodak: ",
    "(current) UNIX password: ",
    "LDAP PASSWORD:",
    "Ｐａｓｓｗｏｒｄ：",
    "Enter your password now: ",
)


def test_what_a_password_prompt_is() -> None:
    """It speaks of a password, and not of a code, a token, a PIN or a new password."""
    for text in PASSWORD_PROMPTS:
        assert asks_for_password([Question(text, False)], "kodak"), text
        assert not asks_for_password([Question(text, True)], "kodak"), text
        assert not asks_for_password([Question(text, False)] * 2, "kodak"), text
    for text in OTHERS:
        assert not asks_for_password([Question(text, False)]), text


@pytest.mark.parametrize(
    "asked",
    [
        [("One-time code: ", False)],
        [("New password: ", False)],
        [("Password: ", True)],  # it would be shown
        [("Password: ", False), ("Domain: ", True)],  # not the only one of its round
    ],
)
def test_password_goes_to_prompts_for_a_password_only(hostile: Serve, asked: Prompts) -> None:
    """Whatever else is asked gets nothing, and the error says what it was."""
    server = Asking(asked)
    with pytest.raises(AuthenticationError) as refused:
        run(hostile(server).host(password=PASSWORD), "true")
    assert server.answers == []
    for text, _ in asked:
        assert f"'{text.strip()}'" in str(refused.value)
    assert "prompt= can answer" in str(refused.value)
    assert server.passwords == [PASSWORD]  # which this method is for


def test_password_prompt_gets_the_password(hostile: Serve) -> None:
    """And that logs in."""
    server = Asking([("(someone@host) Password: ", False)])
    assert run(hostile(server).host(password=PASSWORD), "true").ok
    assert server.answers == [[PASSWORD]]


def test_translations_of_linux_pam() -> None:
    """The password goes to "Password: " in every language, and in none to "New password: "."""
    languages = {
        "ar": ("كلمة السر: ", "كلمة سر الجديدة: "),
        "cs": ("Heslo: ", "Nové heslo: "),
        "da": ("Adgangskode: ", "Ny adgangskode: "),
        "de": ("Passwort: ", "Geben Sie ein neues Passwort ein: "),
        "es": ("Contraseña: ", "Nueva contraseña: "),
        "et": ("Parool: ", "Uus parool: "),
        "fi": ("Salasana: ", "Uusi salasana: "),
        "fr": ("Mot de passe : ", "Nouveau mot de passe\xa0: "),
        "he": ("ססמה: ", "ססמה חדשה: "),
        "hu": ("Jelszó: ", "Új jelszó: "),
        "ja": ("パスワード:", "新しい パスワード:"),
        "ko": ("암호: ", "새 암호: "),
        "nl": ("Wachtwoord: ", "Nieuw wachtwoord: "),
        "pl": ("Hasło: ", "Nowe hasło: "),
        "pt_BR": ("Senha: ", "Nova senha: "),
        "ru": ("Пароль: ", "Новый пароль: "),
        "sv": ("Lösenord: ", "Nytt lösenord: "),
        "tr": ("Parola: ", "Yeni parola: "),
        "uk": ("Пароль: ", "Новий пароль: "),
        "zh_CN": ("密码： ", "新的密码： "),
        "zh_TW": ("密碼： ", "新 密碼： "),
    }
    # And those of this machine, which are all of them if it has them.
    for path in glob.glob("/usr/share/locale/*/LC_MESSAGES/Linux-PAM.mo"):
        with open(path, "rb") as file:
            translated = gettext.GNUTranslations(file).gettext
        language = Path(path).parts[-3]
        languages[f"{language} here"] = (translated("Password: "), translated("New password: "))
    for language, (old, new) in languages.items():
        assert asks_for_password([Question(old, False)]), (language, old)
        assert not asks_for_password([Question(new, False)]), (language, new)


def test_prompt_answers_the_other_questions(hostile: Serve) -> None:
    """In their order, with a str or a Secret; the password prompt gets the password."""
    server = Asking(
        [("Password: ", False)], [("Code: ", False), ("Where from? ", True)], [], [("PIN", False)]
    )
    asked: list[tuple[str, bool]] = []

    def prompt(text: str, shown: bool) -> str | px.Secret:
        asked.append((text, shown))
        answers: dict[str, str | px.Secret] = {"Where from? ": "Ålesund", "PIN": "9"}
        return answers.get(text, px.Secret("123"))

    assert run(hostile(server).host(password=PASSWORD, prompt=prompt), "true").ok
    assert asked == [("Code: ", False), ("Where from? ", True), ("PIN", False)]
    assert server.answers == [[PASSWORD], ["123", "Ålesund"], [], ["9"]]


def test_prompt_answers_for_the_password_where_there_is_none(hostile: Serve) -> None:
    """And where it is asked for again."""
    server = Asking([("Password: ", False)])
    assert run(hostile(server).host(prompt=lambda text, shown: "typed"), "true").ok
    assert server.answers == [["typed"]]
    server = Asking([("Password: ", False)], [("Password: ", False)])
    host = hostile(server).host(password=PASSWORD, prompt=lambda text, shown: "typed")
    assert run(host, "true").ok
    assert server.answers == [[PASSWORD], ["typed"]]


def test_password_is_given_once(hostile: Serve) -> None:
    """A second question is no reason to repeat it: it may be about a new one."""
    server = Asking([("Password: ", False)], [("Password: ", False)])
    with pytest.raises(AuthenticationError, match="the host asks 'Password:'"):
        run(hostile(server).host(password=PASSWORD), "true")
    assert server.answers == [[PASSWORD]]


def test_questions_are_escaped(hostile: Serve) -> None:
    """For the function that may print them, and in errors; they may be long."""
    text = "\x1b[2Jpass\x07word\u202e: \nnext"
    asked = []

    def prompt(text: str, shown: bool) -> str:
        asked.append(text)
        return ""

    assert run(hostile(Asking([(text, False)])).host(prompt=prompt), "true").ok
    assert asked == ["\\x1b[2Jpass\\x07word\\u202e: \nnext"]
    with pytest.raises(AuthenticationError) as refused:
        run(hostile(Asking([(text + "x" * 100_000, False)])).host(), "true")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


class _Unprintable:
    def __str__(self) -> str:
        return "S3CRET"


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        (lambda text, shown: None, "must give a str or a Secret, not NoneType"),
        (lambda text, shown: b"x", "must give a str or a Secret, not bytes"),
        (lambda text, shown: _Unprintable(), "must give a str or a Secret, not _Unprintable"),
        (lambda text, shown: px.Secret("x\ud800y"), "cannot be encoded"),
        (
            lambda text, shown: dict[str, str]()["S3CRET"],
            "raised KeyError when the host asked 'Code:'",
        ),
    ],
)
def test_prompt_that_fails(hostile: Serve, prompt: Callable[..., Any], what: str) -> None:
    """It is a refused login, which is not repeated, and shows no answer."""
    server = Asking([("Code: ", False)])
    with pytest.raises(AuthenticationError, match=what) as refused:
        px.all([hostile(server).host(prompt=prompt).command("true")], retry=px.Retry(3, wait=0.01))
    assert "S3CRET" not in str(refused.value)
    assert server.begun == 1


class _Asker:
    """A callable without a hash."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asker)

    def __call__(self, text: str, shown: bool) -> str:
        return "1"


def test_prompt_may_be_any_callable(hostile: Serve) -> None:
    """Also one without a hash; equal ones share their connections."""
    server = hostile(Asking([("Code: ", False)]))
    assert run(server.host(prompt=_Asker()), "true").ok
    assert run(server.host(prompt=_Asker()), "true").ok
    assert server.connections == 1
    assert run(server.host(prompt=lambda text, shown: "2"), "true").ok
    assert server.connections == 2


@pytest.mark.parametrize("wrong", ["a text", 5, True])
def test_prompt_must_be_a_function(wrong: Any) -> None:
    """Said before anything starts."""
    with pytest.raises(ConfigError, match="prompt must be a function"):
        px.SSH("web", prompt=wrong)


def test_prompt_is_called_one_at_a_time(hostile: Serve) -> None:
    """Whichever the host: there is one user at one terminal. The time that it takes is not
    the hosts'.
    """
    inside: list[str] = []
    most: list[int] = []

    def prompt(text: str, shown: bool) -> str:
        inside.append(text)
        most.append(len(inside))
        if len(most) == 1:
            threading.Event().wait(2.2)  # as somebody who types
        inside.remove(text)
        return "1"

    hosts = [
        hostile(Asking([("Code: ", False)])).host(
            prompt=lambda text, shown: prompt(text, shown), connect_timeout=2
        )
        for _ in range(6)
    ]
    with ThreadPoolExecutor(6) as threads:
        assert all(result.ok for result in threads.map(lambda host: run(host, "true"), hosts))
    assert most == [1] * 6


def test_host_that_asks_without_an_end(hostile: Serve) -> None:
    """It is given `connect_timeout`, and the answers take none of it."""

    class Endless(Asking):
        def answered(self, user: str, answers: list[str]) -> Any:
            return "", []

    with pytest.raises(ConnectTimeoutError):
        run(hostile(Endless([])).host(connect_timeout=1), "true")


def test_jump_hosts_by_name_do_not_ask_the_function(hostile: Serve) -> None:
    """It is not told who asks: what is meant for one host must not go to another."""
    bastion, inner = hostile(Asking([("Code: ", False)])), hostile(Honest())
    asked = []

    def prompt(text: str, shown: bool) -> str:
        asked.append(text)
        return "1"

    with pytest.raises(AuthenticationError, match=f"{bastion.port}.* the host asks 'Code:'"):
        run(inner.host(prompt=prompt, jump=bastion.destination,
                       known_hosts=[bastion.known_hosts, inner.known_hosts]), "true")  # fmt: skip
    assert asked == []


class Parts(Honest):
    """Wants several parts of a login, in an order."""

    def __init__(self, *parts: str, prompts: Prompts = ()) -> None:
        self.parts = list(parts)
        self.prompts = prompts
        self.keys: list[bytes] = []

    @property
    def methods(self) -> str:  # type: ignore[override]
        return self.parts[0] if self.parts else ""

    def login(self, method: str, user: str, given: Any) -> bool | None:
        if method != self.methods:
            return False
        if method == "publickey":
            if given.asbytes() in self.keys:
                return False
            self.keys.append(given.asbytes())
        elif given != PASSWORD:
            return False
        return self._next()

    def _next(self) -> bool | None:
        self.parts.pop(0)
        return None if self.parts else True

    def ask(self, user: str) -> Any:
        return ("push sent", self.prompts) if self.methods == "keyboard-interactive" else False

    def answered(self, user: str, answers: list[str]) -> Any:
        return self._next()


@pytest.mark.parametrize(
    "parts",
    [
        ["publickey", "password"],
        ["password", "publickey"],
        ["keyboard-interactive", "publickey"],
        ["publickey", "keyboard-interactive"],
        ["password", "keyboard-interactive", "publickey"],
        ["keyboard-interactive", "publickey", "password"],
    ],
)
def test_partial_success_in_any_order(hostile: Serve, parts: list[str]) -> None:
    """What was refused before its turn is tried again in it."""
    assert run(hostile(Parts(*parts)).host(password=PASSWORD), "true").ok


def test_push_login_without_a_prompt(hostile: Serve) -> None:
    """It is begun although there is no password, and answered with nothing."""
    assert run(hostile(Parts("publickey", "keyboard-interactive")).host(), "true").ok
    assert run(hostile(Parts("keyboard-interactive")).host(), "true").ok


def test_two_keys(hostile: Serve, tmp_path: Path) -> None:
    """A host may want two: none is offered again that it has taken."""
    server = hostile(Parts("publickey", "publickey"))
    first = server.options["identity_file"]
    with pytest.raises(AuthenticationError, match="the host wants publickey"):
        run(server.host(), "true")
    second = make_keys(tmp_path)
    server = hostile(Parts("publickey", "publickey"))
    assert run(server.host(identity_file=[first, str(second)]), "true").ok


@pytest.mark.skipif(not ROOT, reason="needs root, to make an account whose password is known")
@pytest.mark.parametrize(
    "methods",
    ["password,publickey", "keyboard-interactive,publickey", "publickey,keyboard-interactive"],
)
def test_openssh_that_wants_both(make_sshd, methods: str) -> None:  # type: ignore[no-untyped-def]
    """In either order."""
    server = make_sshd(
        extra=["UsePAM yes", "KbdInteractiveAuthentication yes", f"AuthenticationMethods {methods}"]
    )
    assert run(server.backend(password=server.account.password), "echo in").text() == "in\n"


@pytest.mark.skipif(not ROOT, reason="needs root, to make an account whose password is known")
def test_password_is_no_second_failure(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """Methods that the host has not are not tried before: it allows one attempt only."""
    server = make_sshd(extra=["MaxAuthTries 1", "KbdInteractiveAuthentication no"])
    backend = server.backend(identity_file="/no/such/key", password=server.account.password)
    assert run(backend, "echo in").text() == "in\n"


def test_key_exchange_by_the_name_of_rfc_8731(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """A server that has nothing else; also as configured."""
    server = make_sshd(extra=["KexAlgorithms curve25519-sha256"])
    assert run(server.backend(), "echo in").text() == "in\n"
    config = server.base / "kex"
    config.write_text("KexAlgorithms curve25519-sha256\n")
    assert run(server.backend(config=config), "echo in").text() == "in\n"
