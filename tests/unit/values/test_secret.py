"""Masks over what was printed, and frames that are forgotten."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, strategies as st

from parallel_exec.environments.ssh import remote
from parallel_exec.errors import ConfigError
from parallel_exec.values.command import Command, sh
from parallel_exec.values.secret import MASK, Hidden, Secret, encodes, forget_frames, mask

words = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0*"), min_size=4).filter(
    lambda text: len(text.translate(dict.fromkeys(map(ord, "'\"\\\r\n$1 ")))) >= 4
)


@given(words, st.integers(0, 4))
def test_a_secret_is_masked_however_often_it_was_quoted(word: str, times: int) -> None:
    """By the library's two ways to quote, which put quotes between its characters."""
    plain = quoted = word
    for _ in range(times):
        plain, quoted = shlex.quote(plain), remote.quote(quoted)
    for said in (plain, quoted):
        shown = mask(f"<{said}>".encode(), [Secret(word)]).decode()
        assert MASK in shown
        assert word not in shown
        assert set(shown) <= set(f"<>{MASK}'\"$1\\\n\r ") | set(word) & set("'\"\\\r\n$1 ")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("before hunter2 after", "before *** after"),
        ("hunter2hunter2", "***"),
        ("sh: hunt'er'2: not found", "sh: ***: not found"),
        (r"PW=hunter\2", "PW=***"),
        ("PW='hunt", "PW='***"),  # cut off by whoever said it
        ("PW='hunte...", "PW='***..."),  # cut off by us
        ("hun", "hun"),  # too little to be worth anything
        ("nothing of it", "nothing of it"),
    ],
)
def test_what_is_masked(said: str, shown: str) -> None:
    """Whole, quoted in any way, and as the beginning of it at the end."""
    masked = mask(said.encode(), [Secret("hunter2"), None, "no secret"]).decode()
    assert masked.replace("******", MASK) == shown


def test_each_line_of_a_secret_is_masked() -> None:
    """A shell quotes the line that it does not understand."""
    key = Secret("-----BEGIN KEY-----\nMIIEowIBAAKC\nab\n-----END KEY-----\n")
    assert mask(b"sh: 2: MIIEowIBAAKC: not found", [key]) == b"sh: 2: ***: not found"


def test_what_a_secret_was_made_of_is_masked() -> None:
    """Joined, quoted by `sh`, in variables and in the input."""
    secret = Secret("hunter2 and more")
    joined = "user:" + secret + "@" + Secret("second one")
    for said in (b"hunter2 and more", b"second one", b"user:hunter2 and more@second one"):
        assert mask(said, [joined]) == b"***"
    command = sh("echo '{}'", secret, env={"A": Secret("in env")}, input=Secret("in input"))
    for said in (b"hunter2 and more", b"in env", b"in input"):
        assert mask(said, command.secrets()) == b"***"


def test_a_secret_in_another_encoding_is_masked() -> None:
    """As its bytes were sent."""
    assert mask("geheim: müsli".encode("latin-1"), [Secret("müsli")], "latin-1") == b"geheim: ***"


def test_much_is_masked_in_a_moment_and_from_its_end() -> None:
    """What is cut off leaves no end of a secret at the edge."""
    secret = Secret("s3cret" * 50)
    said = ("s3cret" * 50 + "\n").encode() * 20_000
    assert b"s3cret" not in mask(said, [secret])
    assert len(mask(said, [secret])) < 100_000


def test_secrets_of_quotes_only_mask_nothing_and_harm_nothing() -> None:
    """There is nothing left to compare."""
    assert mask(b"it's", [Secret("'"), Secret("")]) == b"it's"


def test_an_error_without_frames_has_none_in_its_whole_chain() -> None:
    """Causes and contexts, circles included."""

    def fail(word: str) -> None:
        try:
            raise ValueError
        except ValueError as inner:
            raise KeyError from inner

    with pytest.raises(KeyError) as caught:
        fail("hunter2")
    error = caught.value
    assert error.__cause__ is not None
    error.__cause__.__context__ = error
    assert forget_frames(error) is error
    assert error.__traceback__ is error.__cause__.__traceback__ is None


def test_hidden_bytes_show_nothing() -> None:
    """They have a length and a value."""
    assert repr(Hidden(b"hunter2")) == f"{Hidden(b'hunter2')}" == MASK
    assert len(Hidden(b"hunter2")) == 7


def test_what_cannot_be_encoded_is_known_without_an_error() -> None:
    """Bytes of the system that are no text may pass as words, and only there."""
    assert encodes("\udcff", errors="surrogateescape")
    assert not encodes(Secret("\udcff"))
    assert not encodes("\ud800", errors="surrogateescape")
    assert not encodes("é", "ascii")


def test_a_directory_that_is_secret_is_refused() -> None:
    """Errors show where a command ran."""
    with pytest.raises(ConfigError, match=r"cwd must be .* not \*\*\*"):
        Command("true", cwd=Secret("/hunter2"))  # type: ignore[arg-type]
