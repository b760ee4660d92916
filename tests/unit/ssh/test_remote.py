"""What is said to the far side's shell."""

from __future__ import annotations

import itertools
import subprocess

import pytest
from hypothesis import given, settings, strategies as st

from parallel_exec.environments.ssh import remote
from parallel_exec.environments.ssh.connection import choose
from parallel_exec.errors import ConfigError
from parallel_exec.values.command import Command

texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@settings(max_examples=50, deadline=None)
@given(word=texts, value=texts)
def test_words_and_values_survive_the_shell(word: str, value: str) -> None:
    """Over standard input."""
    command = Command.of(
        ["/bin/sh", "-c", 'printf "%s/%s" "$1" "$V"', "sh", word], env={"V": value}
    )
    given_ = remote.orders(command, "PXn", stdin=False, pty=False, leads=True)
    done = subprocess.run(
        ["/bin/sh", "-c", remote.LINE], input=given_.reveal(), capture_output=True
    )
    out = done.stdout.partition(b"\n")[2]
    assert out == f"{word}/{value}".encode()
    assert done.stderr == b"PXn ok\n"


@settings(max_examples=50, deadline=None)
@given(word=texts)
def test_words_survive_in_the_line(word: str) -> None:
    """Where they may stand there."""
    command = Command.of(["printf", "%s", word or "x"])
    given_ = remote.orders(command, "PXn", stdin=False, pty=False, leads=True)
    line = remote.line_with(given_)
    if "!" in word or "\\" in word:
        assert line is None
    if line is not None:
        done = subprocess.run(["/bin/sh", "-c", line.encode()], input=b"", capture_output=True)
        assert done.stdout.partition(b"\n")[2] == (word or "x").encode()


def test_head_finds_its_line_in_any_pieces() -> None:
    """And an echo of the orders is not taken for it."""
    data = b'junk echo "PXn $$";\r\nPXn 4711\r\nrest'
    for size in range(1, len(data)):
        head = remote.Head("PXn")
        after = b""
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            if head.word is None:
                after = head.feed(piece) or b""
            else:
                after += piece
        assert (head.word, after) == ("4711", b"rest")
        assert head.junk.endswith(b'$$";\r\n')


talk = st.lists(
    st.sampled_from([b"PXn", b"PX", b" ", b"ok", b"\n", b"\r\n", b" 42\n", b" sudo", b"x" * 30]),
    max_size=12,
).map(b"".join)


@given(talk, st.lists(st.integers(1, 9), min_size=1))
def test_head_finds_what_is_found_in_one_piece(said: bytes, sizes: list[int]) -> None:
    """Wherever the talk is cut."""
    whole, cut = remote.Head("PXn"), remote.Head("PXn")
    rest = whole.feed(said)
    got: bytes | None = None
    given_ = 0
    for size in itertools.cycle(sizes):
        piece = said[given_ : given_ + size]
        given_ += size
        got = got + piece if got is not None else cut.feed(piece)
        if given_ >= len(said):
            break
    assert (cut.word, cut.junk, got) == (whole.word, whole.junk, rest)
    assert cut.pending == whole.pending


def test_talk_without_end_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again at each byte, however often the nonce is in it; and only the last is kept."""
    looks = []

    class Counts:
        def match(self, seen: bytearray, start: int) -> None:
            looks.append(start)

    monkeypatch.setattr(remote, "_WORD", Counts())
    head = remote.Head("PX0123456789abcdef")
    spam = b"PX0123456789abcdef" * 2000
    head.feed(spam)
    for _ in range(3000):
        head.feed(b"x")
    assert len(looks) < 2000 + 3 * remote.LONGEST_WORD
    for _ in range(100):
        head.feed(spam)
    assert len(head._seen) <= 2 * head.LONGEST
    assert len(head.pending) <= head.LONGEST


def test_names_that_no_shell_exports() -> None:
    """An error, before anything is sent."""
    with pytest.raises(ConfigError, match="a b"):
        remote.orders(Command("true", env={"a b": "1"}), "PXn", stdin=False, pty=False, leads=True)


def test_choosing_algorithms() -> None:
    """As OpenSSH's "+", "-" and "^" have it; what is not there is left out."""
    ours, there = ("a", "b", "c"), ["a", "b", "c", "d"]
    assert choose(ours, None, there) == ("a", "b", "c")
    assert choose(ours, "c,a,x", there) == ("c", "a")
    assert choose(ours, "+d,x", there) == ("a", "b", "c", "d")
    assert choose(ours, "-b*", there) == ("a", "c")
    assert choose(ours, "^c", there) == ("c", "a", "b")
