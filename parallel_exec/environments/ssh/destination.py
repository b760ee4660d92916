"""Where to connect to: ``user@host:port``, with IPv6 addresses in brackets."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from parallel_exec.errors import ConfigError
from parallel_exec.values import checks
from parallel_exec.values.names import host_fault, user_fault

__all__ = ["Destination", "service"]


@dataclass(frozen=True, slots=True)
class Destination:
    """A host as the user wrote it: a name to look up, perhaps with user and port.

    Attributes:
        host: A name, an alias of the configuration, or an address without brackets.
        user: Who to log in as; None leaves it to the configuration.
        port: The port; None leaves it to the configuration.
    """

    host: str
    user: str | None = None
    port: int | None = None

    def __post_init__(self) -> None:
        """Refuse, wherever they come from, names that a shell could take for something else."""
        fault = host_fault(self.host) or user_fault(self.user or "")
        if fault is not None:
            raise ConfigError(f"destination cannot be {str(self)!r}: {fault.what}")

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Return the destination that `text` names.

        ``user@host:port``, ``[2001:db8::1]:22``, ``2001:db8::1`` (a bare IPv6 address
        has no port) and ``ssh://user@host:port`` are understood.

        Raises:
            ConfigError: It names none.
        """
        if not isinstance(text, str):
            raise ConfigError(f"destination must be a string like 'user@host:port', not {text!r}")
        rest = text.removeprefix("ssh://")
        if rest is not text and rest.endswith("/"):
            rest = rest[:-1]
        user: str | None = None
        if "@" in rest:
            user, _, rest = rest.rpartition("@")  # the last one: user names may have one too
            if not user:
                raise ConfigError(f"destination has an empty user: {text!r}")
        host, port = _host_and_port(rest, text)
        if not host:
            raise ConfigError(f"destination has no host: {text!r}")
        fault = host_fault(host) or user_fault(user or "")
        if fault is not None:
            raise ConfigError(f"destination cannot be {text!r}: {fault.what}")
        return cls(host, user, port)

    def completed(self, user: object, port: object) -> Destination:
        """Return this one with a user and a port where it has none of its own.

        Raises:
            ConfigError: They cannot be one.
        """
        if user is not None and not (isinstance(user, str) and user):
            raise checks.refuse("user", user, "the name of a user")
        fault = user_fault(user or "")
        if fault is not None:
            raise ConfigError(f"user cannot be {checks.shown(user)}: {fault.what}")
        if port is not None and checks.count("port", port) > 65535:
            raise checks.refuse("port", port, "a number from 1 to 65535")
        mine: Any = self.user if self.user is not None else user
        way: Any = self.port if self.port is not None else port
        return Destination(self.host, mine, way)

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.port is not None and ":" in self.host else self.host
        user = f"{self.user}@" if self.user is not None else ""
        return f"{user}{host}" + (f":{self.port}" if self.port is not None else "")


def _host_and_port(rest: str, text: str) -> tuple[str, int | None]:
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ConfigError(f"destination has an unclosed bracket: {text!r}")
        return host, _port(tail[1:], text) if tail else None
    if rest.count(":") > 1:
        return rest, None
    host, colon, port = rest.partition(":")
    return host, _port(port, text) if colon else None


def _port(digits: str, text: str) -> int:
    port = service(digits)
    if not (port.isascii() and port.isdigit()) or len(port) > 5 or not 0 < int(port) < 65536:
        raise ConfigError(f"destination has a port that is not between 1 and 65535: {text!r}")
    return int(port)


def service(port: str) -> str:
    """Return the number of a port that is given by the name of its service, as "ssh"."""
    try:
        return port if port.isdigit() else str(socket.getservbyname(port, "tcp"))
    except (OSError, UnicodeError, ValueError):
        return port
