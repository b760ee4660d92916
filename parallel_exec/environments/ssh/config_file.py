"""Files of OpenSSH's client configuration: their lines, and the patterns in them."""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parallel_exec.environments import room
from parallel_exec.errors import ConfigError
from parallel_exec.reactor import lifecycle

__all__ = ["Line", "matches", "read"]

# What follows these is taken as it stands: a command keeps its quotes.
WHOLE = ("proxycommand", "localcommand")
SIGNS = ("'", '"', "\\")  # which a backslash keeps from having a meaning
ALIASES = {
    "challengeresponseauthentication": "kbdinteractiveauthentication",
    "hostbasedkeytypes": "hostbasedacceptedalgorithms",
    "identityfile2": "identityfile",
    "pubkeyacceptedkeytypes": "pubkeyacceptedalgorithms",
    "skeyauthentication": "kbdinteractiveauthentication",
    "tisauthentication": "kbdinteractiveauthentication",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One setting of a file: where it stands, its keyword in small letters, its words."""

    where: str
    keyword: str
    words: tuple[str, ...]


def matches(patterns: Sequence[str], name: str, *, exact_case: bool = False) -> bool:
    """Return whether a pattern with ``*`` and ``?`` matches and none with ``!`` does."""
    if not exact_case:
        name = name.lower()
    hit = False
    for pattern in patterns:
        pattern = pattern if exact_case else pattern.lower()
        if pattern.startswith("!"):
            if _pattern(pattern[1:]).fullmatch(name):
                return False
        elif not hit and _pattern(pattern).fullmatch(name):
            hit = True
    return hit


@functools.lru_cache(maxsize=4096)
def _pattern(pattern: str) -> re.Pattern[str]:
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.compile("".join(parts), re.DOTALL)


_files: dict[str, tuple[tuple[int, int, int], list[Line]]] = {}
_files_lock = threading.Lock()  # guards _files


def _after_fork_in_child() -> None:
    global _files_lock
    _files_lock = threading.Lock()


lifecycle.at_fork("ssh files", _after_fork_in_child)


def read(path: str, *, own: bool = False) -> list[Line] | None:
    """Return the lines of a file, from memory if it has not changed; None without one.

    Args:
        path: The file.
        own: Whether it must be safe from other users: it can have commands in it.

    Raises:
        ConfigError: It is not safe, or has a line that is no setting.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    if own and (status.st_mode & 0o022 or status.st_uid not in (0, os.getuid())):
        raise ConfigError(
            f"{path} can be changed by other users, and can have commands in it: make it yours"
            " with chown, and with chmod go-w"
        )
    signature = (status.st_mtime_ns, status.st_size, status.st_ino)
    with _files_lock:
        known = _files.get(path)
    if known is not None and known[0] == signature:
        return known[1]
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            lines = list(_lines(path, file.read()))
    except OSError as error:
        if room.is_shortage(error):  # it is there, and must not be passed over
            raise
        return None
    with _files_lock:
        _files[path] = (signature, lines)
    return lines


def _lines(path: str, text: str) -> Iterator[Line]:
    for number, raw in enumerate(text.split("\n"), 1):
        stripped = raw.strip()
        if not stripped or stripped.startswith("#"):
            continue
        head = re.match(r"([A-Za-z0-9]+)\s*(?:=\s*|\s+|$)", stripped)
        where = f"{path}:{number}"
        if head is None:
            raise ConfigError(f"{where}: not a setting: {stripped!r}")
        keyword = ALIASES.get(head[1].lower(), head[1].lower())
        rest = stripped[head.end() :]
        if keyword in WHOLE:
            words: tuple[str, ...] = (rest.lstrip("= \t"),)
        elif keyword == "proxyjump":  # without quotes, and a comment needs no blank before it
            words = tuple(rest.partition("#")[0].lstrip("= \t").split())
        else:
            words = _words(rest, where)
        if not words or words == ("",):
            raise ConfigError(f"{where}: {head[1]} has no value")
        yield Line(where, keyword, tuple(words))


def _words(text: str, where: str) -> tuple[str, ...]:
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    escaped = False
    for char, following in zip(text, [*text[1:], ""], strict=False):
        if escaped:
            word, escaped = [*(word or []), char], False
        elif char == "\\" and (following in SIGNS or (following == " " and not quote)):
            escaped = True
        elif quote:
            if char == quote:
                quote = ""
            else:
                word = [*(word or []), char]
        elif char in "'\"":
            quote = char
            word = word or []
        elif char in " \t":
            if word is not None:
                words.append("".join(word))
            word = None
        elif char == "#" and word is None:
            break
        else:
            word = [*(word or []), char]
    if quote:
        raise ConfigError(f"{where}: a quote is not closed")
    if word is not None:
        words.append("".join(word))
    return tuple(words)
