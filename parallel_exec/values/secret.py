"""A value that is used but never shown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

__all__ = [
    "MASK",
    "Hidden",
    "Secret",
    "encodes",
    "forget_frames",
    "hide_passwords",
    "mask",
    "mask_text",
    "reveal",
    "sensitive",
]

MASK = "***"


class Secret:
    """A string that shows as ``***`` wherever it would be printed.

    Use it in an argv, in `env`, as `input` or as an argument of `sh`. Its value
    reaches the command and nothing else: not a repr, a log line, an event or an
    error, nor the local variables that a traceback keeps. Where an error quotes what
    the command or its host printed, ``***`` stands for the value, quoted or not. What
    the command itself prints is never altered.

    Joining a secret with a string gives a secret: ``"user:" + Secret("pw")``.
    Formatting it (f-strings, ``%s``) gives the mask, so a value cannot leak by
    accident; call `reveal` where the plain string is really wanted.

    A pickle has the plain value, and so has the pickle of a command, a result, an error
    or an `SSH` that holds a secret: another process needs it. Keep pickles as you keep
    the secret itself.

    Args:
        value: The string to keep.
    """

    __slots__ = ("_sources", "_value")

    def __init__(self, value: str) -> None:
        given: object = value
        if not isinstance(given, str):
            kind = type(value).__name__
            del given, value  # the traceback keeps this frame
            raise TypeError(f"a Secret holds a str, not {kind}")
        self._value = value
        self._sources: tuple[str, ...] = (value,)  # what is to be masked

    def reveal(self) -> str:
        """Return the plain string."""
        return self._value

    def made_into(self, value: str) -> Secret:
        """Return another form of this secret, quoted or joined; both are masked."""
        made = Secret(value)
        made._sources = (*self._sources, value)
        return made

    def __add__(self, other: object) -> Secret:
        if isinstance(other, str):
            return self.made_into(self._value + other)
        if not isinstance(other, Secret):
            return NotImplemented
        joined = self.made_into(self._value + other._value)
        joined._sources += other._sources
        return joined

    def __radd__(self, other: object) -> Secret:
        return self.made_into(other + self._value) if isinstance(other, str) else NotImplemented

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self._value, self._sources))


def _rebuild(value: str, sources: tuple[str, ...]) -> Secret:
    made = Secret(value)
    made._sources = sources
    return made


class Hidden:
    """Bytes that may have a secret in them, on their way to where they are sent.

    Frames hold them as this, since tracebacks keep frames and their local variables.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data

    def reveal(self) -> bytes | memoryview:
        """Return the plain bytes."""
        return self._data

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return MASK


def reveal(value: str | Secret) -> str:
    """Return the plain string of `value`."""
    return value.reveal() if isinstance(value, Secret) else value


PASSWORDS = ("password", "passphrase", "sudo_password")
SENSITIVE = re.compile(r"pass|pwd|pw\Z|secret|token|credential", re.IGNORECASE)


def sensitive(name: str) -> bool:
    """Return whether an option of this name may be a password, mistyped ones included."""
    return bool(SENSITIVE.search(name) or difflib.get_close_matches(name, PASSWORDS, 1, 0.75))


def hide_passwords(options: dict[str, Any]) -> None:
    """Make secrets of the passwords among options: the frames of a refusal, of whichever of
    them, stay in its traceback.
    """
    for name, value in options.items():
        if isinstance(value, str) and sensitive(name):
            options[name] = Secret(value)


def encodes(value: str | Secret, encoding: str = "utf-8", errors: str = "strict") -> bool:
    """Return whether `value` can be sent.

    By its answer and not by an error: a `UnicodeEncodeError` has the whole text in it, and
    would be the context of whatever is raised while it is handled.
    """
    try:
        reveal(value).encode(encoding, errors)
    except ValueError:
        return False
    return True


def forget_frames(error: BaseException) -> BaseException:
    """Take the tracebacks away from `error` and from those that led to it; return it.

    For errors out of code that handles plain secrets: the frames keep its variables.
    """
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            left += (each.__cause__, each.__context__)
    return error


# Masking. Shells, and what is quoted for them, put quotes and backslashes between the
# characters of a value, or around them: so both sides are compared without. A line feed
# is sent to a remote shell as "$1".

QUOTES = b"'\"\\\r"
LINE_FEEDS = (b"\n", b"$1")
LEAST_PART = 4  # characters of a line of a secret, or of a piece at an edge, that say something
LOOKED_AT = 1 << 16  # bytes: more is not shown


def mask(data: bytes, secrets: Iterable[object], encoding: str = "utf-8") -> bytes:
    """Return the end of `data` with every secret in it replaced by ``***``, in any form in
    which it may have been sent: as it is, quoted once or several times, line by line. A
    piece of one at an edge is masked, too.

    Args:
        data: What a command or a host has printed.
        secrets: What is to be masked; what is no `Secret` is passed over.
        encoding: What the command's input and output are encoded with.
    """
    needles = _needles(secrets, encoding)
    if not needles:
        return data
    longest = max(map(len, needles))
    cut = len(data) > LOOKED_AT + 4 * longest
    if cut:
        data = data[-(LOOKED_AT + 4 * longest) :]
    bare = data.translate(None, QUOTES)
    spans: list[tuple[int, int]] = []
    for needle in needles:
        at = bare.find(needle)
        while at >= 0:
            spans.append((at, at + len(needle)))
            at = bare.find(needle, at + 1)
        spans += _at_the_end(bare, needle)
        if cut:
            spans += _at_the_start(bare, needle)
    if not spans:
        return data
    places = [at for at, byte in enumerate(data) if byte not in QUOTES]
    parts: list[bytes] = []
    done = 0
    for start, end in sorted(spans):
        first, last = places[start], places[end - 1] + 1
        if first >= done:
            parts += [data[done:first], MASK.encode()]
        done = max(done, last)
    parts.append(data[done:])
    return b"".join(parts)


def mask_text(text: str, secrets: Iterable[object]) -> str:
    """Do what `mask` does, with text."""
    data = mask(text.encode("utf-8", "surrogatepass"), secrets)
    return data.decode("utf-8", "replace")


def _needles(secrets: Iterable[object], encoding: str) -> set[bytes]:
    needles = set()
    for secret in secrets:
        if not isinstance(secret, Secret):
            continue
        for source in secret._sources:
            lines = [line for line in source.splitlines() if len(line) >= LEAST_PART]
            for text in (source, *lines):
                for name in {"utf-8", encoding}:
                    data = text.encode(name, "surrogateescape" if name == "utf-8" else "replace")
                    bare = data.translate(None, QUOTES)
                    needles |= {bare.replace(b"\n", feed) for feed in LINE_FEEDS}
    return needles - {b""}


def _at_the_end(bare: bytes, needle: bytes) -> list[tuple[int, int]]:
    """Return where `bare` ends with the beginning of `needle`, cut off with dots or without."""
    end = len(bare.removesuffix(b"..."))
    at = bare.find(needle[:LEAST_PART], max(0, end - len(needle) + 1), end)
    while at >= 0:
        if needle.startswith(bare[at:end]):
            return [(at, end)]
        at = bare.find(needle[:LEAST_PART], at + 1, end)
    return []


def _at_the_start(bare: bytes, needle: bytes) -> list[tuple[int, int]]:
    """Return where `bare` begins with the end of `needle`."""
    head = bare[: len(needle) - 1]
    at = head.rfind(needle[-LEAST_PART:])
    while at >= 0:
        end = at + len(needle[-LEAST_PART:])
        if needle.endswith(bare[:end]):
            return [(0, end)]
        at = head.rfind(needle[-LEAST_PART:], 0, end - 1)
    return []
