"""Keys are exchanged anew while commands run."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.integration.ssh.server import run


def test_output_and_input_survive_new_keys(make_sshd: Any) -> None:
    """The server asks for new keys after each megabyte, in both directions."""
    server = make_sshd(extra=["RekeyLimit 1M"])
    backend = server.backend()
    data = b"0123456789abcdef" * (8 << 16)
    assert run(backend, "cat", input=data).stdout == data
    digest = hashlib.sha256(data).hexdigest()
    assert run(backend, "sha256sum", input=data).text().split()[0] == digest
    assert server.logins() == 1


@pytest.mark.parametrize(
    "exchange",
    [
        "diffie-hellman-group-exchange-sha256",
        "diffie-hellman-group14-sha256",
        "diffie-hellman-group16-sha512",
        "ecdh-sha2-nistp521",
        "curve25519-sha256",
    ],
)
def test_each_exchange_of_keys_is_understood(make_sshd: Any, exchange: str) -> None:
    """Those with exponents of our own as well."""
    server = make_sshd(extra=[f"KexAlgorithms {exchange}", "RekeyLimit 1M"])
    data = b"0123456789abcdef" * (3 << 16)
    assert run(server.backend(), "cat", input=data).stdout == data
