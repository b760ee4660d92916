"""Paths with the name of a host in them."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, strategies as st

from parallel_exec.errors import ConfigError
from parallel_exec.values.paths import for_host

PIECES = st.lists(
    st.sampled_from(["{host}", "a", ".", "..", "/", "x{host}", "-"]), min_size=1, max_size=6
)
NAMES = st.text(alphabet="./ab\0:@", min_size=0, max_size=6)


@given(PIECES, NAMES)
def test_a_name_stays_in_its_part_of_the_path(pieces: list[str], name: str) -> None:
    """Whatever both are: as many parts, the others as they were, and no way up in its own."""
    template = "".join(pieces)
    try:
        filled = for_host("target", template, name)
    except ConfigError:
        assert "{host}" in template
        return
    before, after = template.split("/"), filled.split("/")
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert new == old if "{host}" not in old else new not in ("", ".", "..")
    assert "\0" not in filled


def test_a_destination_may_be_written_as_an_address() -> None:
    """`ssh://` is not a part of the host's name."""
    assert for_host("target", "a/{host}", "ssh://me@web1:22/") == os.path.join("a", "me@web1:22")


def test_the_error_names_the_parameter_and_the_name() -> None:
    """As the user wrote them."""
    with pytest.raises(ConfigError, match=r"target has \{host\}, and .* '\.\./x', cannot be"):
        for_host("target", "logs/{host}", "../x")
