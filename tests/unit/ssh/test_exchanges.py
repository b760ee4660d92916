"""What an exchange of keys costs here is not for the other side to choose."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from parallel_exec.environments.ssh.connection import Transport
from parallel_exec.environments.ssh.exchanges import EXPONENT_BITS

CHOSEN_BY_THE_HOST = [name for name in Transport._kex_info if "group-exchange" in name]


@pytest.mark.parametrize("name", [name for name in CHOSEN_BY_THE_HOST if "gss" not in name])
def test_an_exponent_is_as_long_as_is_good_for_anything(name: str) -> None:
    """However long the host's prime is: Python reckons with it in one go, GIL and all."""
    exchange = Transport._kex_info[name](SimpleNamespace(server_mode=False))
    exchange.p = (1 << 8191) + 1
    exponents = set()
    for _ in range(20):
        exchange._generate_x()
        exponents.add(exchange.x)
        assert exchange.x.bit_length() == EXPONENT_BITS
    assert len(exponents) == 20


def test_both_names_of_x25519_are_known() -> None:
    """That of RFC 8731, too."""
    assert {"curve25519-sha256", "curve25519-sha256@libssh.org"} <= set(Transport._kex_info)
