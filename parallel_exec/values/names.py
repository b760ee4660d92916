"""Names of hosts and users that no shell, and no option parser, takes for something else.

A name may reach a shell on this machine (``ProxyCommand``, ``Match exec``), and through
quotes that are not ours another one behind it. What could become code there is refused at
every door, whether a shell would come into it or not.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Fault", "host_fault", "user_fault"]

SIGNS = "'\"`;&<>|(){}"
HOST = re.compile(rf"(?!-)[^\s{SIGNS}$\\]*")
# A user may be "DOMAIN\user", or have a $ that expands nothing but a variable.
USER = re.compile(rf"(?!-)(?:[^\s{SIGNS}$\\]|\$(?!\()|\\(?!\Z))*")


class Fault(NamedTuple):
    """What is wrong with a name, as "a host cannot have ';'", and at which character."""

    what: str
    at: int


def host_fault(name: str) -> Fault | None:
    """Return what is wrong with the name of a host; None if nothing is."""
    return _fault("host", HOST, name)


def user_fault(name: str) -> Fault | None:
    """Return what is wrong with the name of a user; None if nothing is."""
    return _fault("user", USER, name)


def _fault(kind: str, allowed: re.Pattern[str], name: str) -> Fault | None:
    match = allowed.match(name)
    if match is None:
        return Fault(f"a {kind} cannot start with '-'", 0)
    if match.end() == len(name) and name.isprintable():
        return None
    # Besides signs of the shell, control characters and others that nobody sees.
    hidden = (at for at, sign in enumerate(name) if not sign.isprintable())
    at = min(match.end(), next(hidden, len(name)))
    if name[at:] == "\\":
        return Fault(f"a {kind} cannot end with a backslash", at)
    return Fault(f"a {kind} cannot have {name[at]!r}", at)
