"""Logging in: keys, agent, keyboard-interactive and password, in OpenSSH's order.

Keys that the agent holds and a file names come first, then the agent's others (unless
only configured ones are wanted), then the files; then keyboard-interactive, then the
password. Key files are read once and shared.
"""

from __future__ import annotations

import base64
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from parallel_exec.environments.ssh.border import agent as agent_module
from parallel_exec.environments.ssh.border import paramiko
from parallel_exec.environments.ssh.config import HostConfig
from parallel_exec.environments.ssh.connection import Transport
from parallel_exec.environments.ssh.settings import Settings
from parallel_exec.errors import AuthenticationError, ConnectError, ConnectTimeoutError
from parallel_exec.values.secret import Secret

__all__ = ["load_key", "login"]


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to log in: what to call it, its method, and how to start it."""

    name: str
    method: str
    start: Callable[[Any, threading.Event], object]


def login(transport: Transport, settings: Settings, config: HostConfig, timeout: float) -> None:
    """Log in, or raise.

    Raises:
        AuthenticationError: Every way that was offered was refused; it names them.
        ConnectError: The connection broke meanwhile, or no answer came.
    """
    deadline = time.monotonic() + timeout
    notes: list[str] = []
    tried: list[str] = []
    offered = {"publickey", "keyboard-interactive", "password"}
    agent = _Agent(settings, config)
    try:
        for way in _ways(settings, config, agent, notes):
            if way.method not in offered:
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConnectTimeoutError(f"no answer to the login within {timeout:g} s")

            def start(event: threading.Event, way: _Way = way) -> object:
                return way.start(transport.login_handler(), event)

            try:
                if transport.attempt(start, left):
                    return
            except ConnectTimeoutError:
                raise
            except ConnectError as error:
                if tried:  # servers close after a number of refusals
                    tried.append(way.name)
                    raise _refused(config, tried, notes, f"; then {error}") from error
                raise
            tried.append(way.name)
            if transport.allowed_methods:
                offered = set(transport.allowed_methods)
        if not tried and transport.attempt(lambda event: _none(transport, config, event), timeout):
            return  # a host that lets in whoever comes
        if transport.allowed_methods:
            notes.append(f"the host wants {' or '.join(transport.allowed_methods)}")
        raise _refused(config, tried, notes, "")
    finally:
        agent.close()


def _refused(
    config: HostConfig, tried: list[str], notes: list[str], tail: str
) -> AuthenticationError:
    what = ", ".join(tried) if tried else "nothing to offer"
    told = "".join(f"; {note}" for note in notes)
    return AuthenticationError(f"login as {config.user} refused (tried: {what}){told}{tail}")


def _none(transport: Transport, config: HostConfig, event: threading.Event) -> None:
    transport.login_handler().auth_none(config.user, event)


def _ways(
    settings: Settings, config: HostConfig, agent: _Agent, notes: list[str]
) -> Iterator[_Way]:
    if config.publickey:
        yield from _keys(settings, config, agent, notes)
    password = settings.password
    if password is not None:
        if config.keyboard_interactive:
            yield _Way(
                "keyboard-interactive",
                "keyboard-interactive",
                lambda handler, event: handler.auth_interactive(
                    config.user, _answers(password), event
                ),
            )
        if config.password:
            yield _Way(
                "password",
                "password",
                lambda handler, event: handler.auth_password(config.user, password.reveal(), event),
            )


def _answers(password: Secret) -> Callable[[str, str, list[tuple[str, bool]]], list[str]]:
    """Return a function that answers the hidden questions with the password, once."""
    left = [password.reveal()]

    def answer(title: str, instructions: str, prompts: list[tuple[str, bool]]) -> list[str]:
        return [(left.pop() if left and not shown else "") for _, shown in prompts]

    return answer


def _keys(
    settings: Settings, config: HostConfig, agent: _Agent, notes: list[str]
) -> Iterator[_Way]:
    paths = settings.identity_files or config.identity_files
    explicit = bool(settings.identity_files) or config.explicit_keys
    only_these = bool(settings.identity_files) or config.identities_only
    held = agent.keys()
    if held:
        named = [blob for blob in map(_public_blob, paths) if blob is not None]
        chosen = sorted(
            (key for key in held if not only_these or key.asbytes() in named),
            key=lambda key: named.index(key.asbytes()) if key.asbytes() in named else len(named),
        )
        for key in chosen:
            yield _way(f"agent key {key.get_name()}", config, key)
    in_agent = {key.asbytes() for key in held}
    for path in paths:
        try:
            key = load_key(path, settings.passphrase)
        except FileNotFoundError:
            if explicit:
                notes.append(f"{path} does not exist")
            continue
        except (OSError, ValueError, TypeError, paramiko.SSHException) as error:
            notes.append(_why_not(path, settings.passphrase, error))
            continue
        if key.asbytes() not in in_agent:
            yield _way(path, config, key)


def _way(name: str, config: HostConfig, key: Any) -> _Way:
    return _Way(
        name, "publickey", lambda handler, event: handler.auth_publickey(config.user, key, event)
    )


def _why_not(path: str, passphrase: Secret | None, error: Exception) -> str:
    encrypted = isinstance(error, TypeError | paramiko.PasswordRequiredException) or (
        "password" in str(error).lower() or "encrypted" in str(error).lower()
    )
    if encrypted and passphrase is None:
        return f"{path} is encrypted and there is no passphrase"
    if passphrase is not None and not isinstance(error, OSError):
        return f"{path} cannot be read with this passphrase"
    return f"{path} cannot be read: {error}"


_cache: dict[tuple[str, int, int, Secret | None], Any] = {}
_cache_lock = threading.Lock()  # guards _cache; a key is read under it, by one thread


def _after_fork_in_child() -> None:
    global _cache_lock
    _cache_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def load_key(path: str, passphrase: Secret | None) -> Any:
    """Return the private key in a file, read once as long as it does not change."""
    path = os.path.expanduser(path)
    status = os.stat(path)
    place = (path, status.st_mtime_ns, status.st_size, passphrase)
    with _cache_lock:
        if place not in _cache:
            _cache[place] = _read_key(path, passphrase)
        return _cache[place]


def _read_key(path: str, passphrase: Secret | None) -> Any:
    word = passphrase.reveal() if passphrase is not None else None
    error: Exception | None = None
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            key = kind.from_private_key_file(path, password=word)
            break
        except paramiko.PasswordRequiredException:
            raise
        except (paramiko.SSHException, ValueError, IndexError) as refused:
            # Each class says of the others' keys that they are broken; the one that
            # fits says what is wrong with the passphrase.
            error = error if error is not None and "pass" in str(error).lower() else refused
    else:
        raise paramiko.SSHException(str(error)) from error
    if os.path.exists(f"{path}-cert.pub"):
        key.load_certificate(f"{path}-cert.pub")
    return key


def _public_blob(path: str) -> bytes | None:
    """Return the public half of a key file, to recognise it in the agent."""
    path = os.path.expanduser(path)
    try:
        with open(f"{path}.pub", encoding="utf-8", errors="replace") as file:
            words = file.read().split()
        return base64.b64decode(words[1])
    except (OSError, IndexError, ValueError):
        pass
    try:
        key: bytes = load_key(path, None).asbytes()
        return key
    except Exception:
        return None


class _Agent:
    """The user's agent, over a connection of this login's own: two cannot share one."""

    def __init__(self, settings: Settings, config: HostConfig) -> None:
        path = config.identity_agent
        if path is None:
            path = os.environ.get("SSH_AUTH_SOCK", "")
        self._path = path if settings.agent else ""
        self._agent: Any = None

    def keys(self) -> list[Any]:
        """Return its keys; none if it cannot be asked."""
        if not self._path:
            return []
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(10.0)
            sock.connect(self._path)
            self._agent = agent_module.AgentSSH()
            self._agent._connect(sock)
            return list(self._agent.get_keys())
        except (OSError, paramiko.SSHException):
            sock.close()
            return []

    def close(self) -> None:
        """Close the connection to it."""
        if self._agent is not None:
            self._agent._close()
