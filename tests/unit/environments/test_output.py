"""Lines out of chunks of bytes."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from parallel_exec.environments.output import LONGEST_LINE, LineSplitter

texts = st.text("ab\r\né€", max_size=40)


def expected(text: str) -> list[str]:
    r"""Return the lines of `text`: parted by "\n", a "\r" before one belongs to it."""
    *ended, rest = text.split("\n")
    return [line.removesuffix("\r") for line in ended] + ([rest] if rest else [])


def fed(splitter: LineSplitter, chunks: list[bytes]) -> list[str]:
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return lines + splitter.feed(b"", final=True)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut `data` at some places."""
    at = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


@given(texts, st.lists(st.integers(0, 200)), st.sampled_from(["utf-8", "utf-16", "utf-16-le"]))
@example("a\r\nb", [2], "utf-8")
@example("é\n", [1], "utf-8")
def test_chunk_borders_do_not_show(text: str, places: list[int], encoding: str) -> None:
    """The lines are the same wherever the stream is cut, inside of characters too."""
    assert fed(LineSplitter(encoding), cut(text.encode(encoding), places)) == expected(text)


@given(st.text("ab\né", max_size=40), st.lists(st.integers(0, 200)), st.integers(1, 7))
@example("aaa\nb", [3], 3)
@example("aaaa", [], 2)
def test_long_lines_come_in_pieces(text: str, places: list[int], longest: int) -> None:
    """No piece is longer than allowed, nothing is lost, and no line is made up."""
    lines = fed(LineSplitter("utf-8", longest), cut(text.encode(), places))
    pieces = [
        line[at : at + longest]
        for line in expected(text)
        for at in range(0, max(1, len(line)), longest)
    ]
    assert lines == pieces


def test_end_of_a_line_in_pieces_may_be_cut() -> None:
    r"""A whole line that was handed over and then ends by a cut "\r\n" makes no other."""
    assert fed(LineSplitter("utf-8", 3), [b"aaa", b"\r", b"\nb\n"]) == ["aaa", "b"]


def test_unfinished_line_is_handed_over_at_1_mib() -> None:
    """What has no end is not kept for ever; its end makes no empty line."""
    splitter = LineSplitter("utf-8")
    assert splitter.feed(b"x" * (LONGEST_LINE - 1)) == []
    assert splitter.feed(b"x") == ["x" * LONGEST_LINE]
    assert splitter.feed(b"\n\nnext\n") == ["", "next"]


def test_bytes_that_do_not_decode_are_replaced() -> None:
    """A broken character harms neither its line nor the next, at the very end too."""
    assert fed(LineSplitter("utf-8"), [b"a\xffb\nc\xe2\x82"]) == ["a�b", "c�"]


def test_unknown_encoding_is_an_error() -> None:
    """An encoding that does not exist is named."""
    with pytest.raises(LookupError, match="no-such"):
        LineSplitter("no-such")
