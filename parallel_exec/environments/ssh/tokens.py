"""Tokens of OpenSSH's configuration: ``%h``, ``${NAME}`` and ``~`` in its values."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping

from parallel_exec.errors import ConfigError
from parallel_exec.values import shell

__all__ = ["fill_in", "for_shell", "known_tokens", "path"]

TOKEN = re.compile(r"%(.?)", re.DOTALL)
VARIABLE = re.compile(r"\$\{([^}]*)\}")
# What means itself in every place of a script, whatever quotes it stands in.
SAFE = re.compile(r"[A-Za-z0-9._:/@%+,][A-Za-z0-9._:/@%+,-]*")


def known_tokens(
    *, alias: str, host: str, user: str, port: int, key_alias: str | None, local_user: str
) -> dict[str, str]:
    """Return what each token stands for, all but those that few settings have."""
    here = socket.gethostname()
    return {
        "d": os.path.expanduser("~"),
        "h": host,
        "i": str(os.getuid()) if hasattr(os, "getuid") else "",
        "k": key_alias or alias,
        "L": here.partition(".")[0],
        "l": here,
        "n": alias,
        "p": str(port),
        "r": user,
        "u": local_user,
    }


def fill_in(keyword: str, text: str, tokens: Mapping[str, str], only: str = "") -> str:
    """Return `text` with its tokens filled in.

    Args:
        keyword: The setting, for errors.
        text: Its value.
        tokens: What they stand for.
        only: The letters of those that the setting has; "" for all.

    Raises:
        ConfigError: The text has another one.
    """
    if "%" not in text:
        return text
    return TOKEN.sub(lambda found: _token(keyword, text, found, tokens, only), text)


def path(keyword: str, text: str, tokens: Mapping[str, str]) -> str:
    """Return a path with its tokens, variables and ``~`` filled in.

    Raises:
        ConfigError: A token is not known, or a variable is not set.
    """

    def variable(found: re.Match[str]) -> str:
        value = os.environ.get(found[1])
        if value is None:
            raise ConfigError(
                f"{keyword} of the SSH configuration has {found[0]}, and {found[1]} is not set"
                f" in the environment: {text!r}"
            )
        return value

    filled = fill_in(keyword, os.path.expanduser(text), tokens)
    return VARIABLE.sub(variable, filled) if "${" in text else filled


def for_shell(keyword: str, text: str, tokens: Mapping[str, str], only: str = "") -> str:
    """Return a shell command with its tokens filled in, so that none becomes code.

    Raises:
        ConfigError: A token is not known, or one that has signs of the shell in it stands
            where no quotes keep them from having a meaning.
    """
    made = []
    end = 0
    for place in shell.scan(text, TOKEN):
        value = _token(keyword, text, place.found, tokens, only)
        if not SAFE.fullmatch(value):
            if place.refused is not None:
                raise ConfigError(
                    f"{keyword} of the SSH configuration has {place.found[0]} {place.refused},"
                    f" where {value!r} could become code: {text!r}"
                )
            value = shell.put_in(value, place.quotes)
        made += [text[end : place.found.start()], value]
        end = place.found.end()
    return "".join([*made, text[end:]])


def _token(
    keyword: str, text: str, found: re.Match[str], tokens: Mapping[str, str], only: str
) -> str:
    name = found[1]
    if name == "%":
        return "%"
    if name not in tokens or (only and name not in only):
        raise ConfigError(
            f"{keyword} of the SSH configuration has the token %{name}, which is not understood"
            f" there: {text!r}"
        )
    return tokens[name]
