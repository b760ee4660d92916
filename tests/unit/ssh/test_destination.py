"""Destinations, parsed and written."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from parallel_exec.environments.ssh.destination import Destination
from parallel_exec.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "host", "user", "port"),
    [
        ("web1", "web1", None, None),
        ("me@web1:2222", "web1", "me", 2222),
        ("a@b@web1", "web1", "a@b", None),
        ("::1", "::1", None, None),
        ("[::1]:22", "::1", None, 22),
        ("me@[fe80::1%eth0]", "fe80::1%eth0", "me", None),
        ("ssh://me@web1:22/", "web1", "me", 22),
    ],
)
def test_forms(text: str, host: str, user: str | None, port: int | None) -> None:
    """All that OpenSSH takes."""
    assert Destination.parse(text) == Destination(host, user, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@web",
        "web:",
        "web:0",
        "web:65536",
        "web:x",
        "[::1",
        "[::1]x",
        "-oProxyCommand=x",
        "a b",
        "me@-x",
        "web\n",
        "-x@web",
        ":22",
        "web:²",
    ],
)
def test_what_is_none(text: str) -> None:
    """The error names it; nothing can be taken for an option of ssh."""
    with pytest.raises(ConfigError, match="destination"):
        Destination.parse(text)


names = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)


@given(
    host=names | st.ip_addresses(v=6).map(str),
    user=st.none() | names,
    port=st.none() | st.integers(1, 65535),
)
def test_what_is_written_is_read(host: str, user: str | None, port: int | None) -> None:
    """`str` and `parse` are inverse."""
    destination = Destination(host, user, port)
    assert Destination.parse(str(destination)) == destination
