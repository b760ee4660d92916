"""Checks of arguments: each names the parameter and the value it refuses."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from datetime import timedelta

from parallel_exec.errors import ConfigError
from parallel_exec.text import plain

__all__ = ["count", "number", "refuse", "seconds", "sequence_of_tasks", "shown", "size"]

SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)", re.IGNORECASE)


def refuse(name: str, value: object, wanted: str) -> ConfigError:
    """Return the error for a parameter that has an unusable value."""
    return ConfigError(f"{name} must be {wanted}, not {shown(value)}")


def shown(value: object) -> str:
    """Return the repr of `value`, shortened; one that raises is not worth another failure."""
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return plain(text)


def count(name: str, value: object, *, minimum: int = 1) -> int:
    """Return `value` as a whole number of at least `minimum`, and no more than a list may hold."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise refuse(name, value, f"a whole number of at least {minimum}")
    if value > sys.maxsize:
        raise refuse(name, value, f"a whole number of at most {sys.maxsize}")
    return value


def number(name: str, value: object, *, minimum: float = 0.0, allow_minimum: bool = False) -> float:
    """Return `value` as a finite number above `minimum` (or equal to it, if allowed)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse(name, value, "a number")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        finite = False
    if not finite or value < minimum or (value == minimum and not allow_minimum):
        wanted = f"a finite number {'of at least' if allow_minimum else 'above'} {minimum:g}"
        raise refuse(name, value, wanted)
    return float(value)


def seconds(name: str, value: object, *, allow_zero: bool = False) -> float:
    """Return a duration in seconds, from a number or a `timedelta`."""
    if not isinstance(value, timedelta):
        return number(name, value, allow_minimum=allow_zero)
    in_seconds = value.total_seconds()
    if in_seconds < 0 or (in_seconds == 0 and not allow_zero):
        raise refuse(name, value, f"a time of {'at least' if allow_zero else 'more than'} 0")
    return in_seconds


def size(name: str, value: object) -> int:
    """Return a number of bytes, from a whole number or a text such as "500M" or "2G"."""
    if not isinstance(value, str):
        return count(name, value, minimum=0)
    match = SIZE.fullmatch(value.strip())
    if match is None:
        raise refuse(name, value, 'bytes, or a text such as "500M" or "2G"')
    bytes_ = float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ")
    return count(name, int(bytes_), minimum=0)


def sequence_of_tasks(name: str, value: object) -> Iterable[object]:
    """Return `value` if it can hold tasks: a bare string is one command, not many."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise refuse(name, value, "a list or another iterable of tasks")
    return value
