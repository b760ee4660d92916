"""The exchanges of keys: paramiko's, with what is missing or costs too much replaced."""

from __future__ import annotations

import secrets
from typing import Any

__all__ = ["exchanges", "with_rfc_8731"]

# Twice what the strongest group there is good for (NIST SP 800-56A, 5.6.1.1), which is what
# OpenSSH does as well. paramiko takes as many as the host's prime has: with 8,192 that holds
# the GIL for seconds, and whoever answers on the port chooses the prime.
EXPONENT_BITS = 512


def exchanges(known: dict[str, Any]) -> dict[str, Any]:
    """Return the exchanges by their names, from paramiko's."""
    quick = {
        name: _quick(kind) if name.startswith("diffie-hellman-group-exchange-") else kind
        for name, kind in known.items()
    }
    return with_rfc_8731(quick)


def with_rfc_8731(names: dict[str, Any]) -> dict[str, Any]:
    """Return the key exchanges, with both names of X25519 where there is one."""
    made: dict[str, Any] = {}
    for name, value in names.items():
        if name == "curve25519-sha256@libssh.org":
            made["curve25519-sha256"] = value
        made[name] = value
    return made


def _quick(kind: Any) -> Any:
    def generate(self: Any) -> None:
        self.x = secrets.randbits(EXPONENT_BITS - 1) | 1 << (EXPONENT_BITS - 1)

    return type(kind.__name__, (kind,), {"_generate_x": generate})
