"""Paths of files that are copied, as users write them."""

from __future__ import annotations

import os

from parallel_exec.errors import ConfigError
from parallel_exec.values import checks

__all__ = ["file_path", "for_host"]

HOST = "{host}"


def file_path(name: str, value: object, *, empty: bool = False) -> str:
    """Return a path as text.

    Args:
        name: The parameter that it is.
        value: What was given.
        empty: Whether it may be empty.

    Raises:
        ConfigError: It is no path, is empty, or has what no path can have.
    """
    if not isinstance(value, str | os.PathLike):
        raise checks.refuse(name, value, "a path")
    text = os.fspath(value)
    if not isinstance(text, str) or not (text or empty):
        raise checks.refuse(name, value, "a path, as text")
    try:
        if b"\0" in os.fsencode(text):
            raise checks.refuse(name, value, "a path without NUL")
    except UnicodeEncodeError:  # a lone surrogate
        raise checks.refuse(name, value, "a path that can be encoded") from None
    return text


def for_host(name: str, template: str, host: str) -> str:
    """Return a path with the host's name in the place of each ``{host}``.

    The name stays within one part of the path: none can lead out of it.

    Args:
        name: The parameter that the path is.
        template: The path.
        host: The name.

    Raises:
        ConfigError: The name cannot be a part of a path.
    """
    if HOST not in template:
        return template
    plain = host.removeprefix("ssh://").removesuffix("/") if "://" in host else host
    parts = template.split("/")
    filled = [part.replace(HOST, plain) for part in parts]
    for before, after in zip(parts, filled, strict=True):
        if after != before and (after in ("", ".", "..") or "/" in after or "\0" in after):
            raise ConfigError(
                f"{name} has {HOST}, and the name of the host, {host!r}, cannot be a part of a"
                f" path: {checks.shown(template)}"
            )
    return "/".join(filled)
