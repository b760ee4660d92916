"""Keys are exchanged anew while commands run."""

from __future__ import annotations

import hashlib
from typing import Any

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
