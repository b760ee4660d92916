"""A value that is used but never shown."""

from __future__ import annotations

__all__ = ["MASK", "Secret"]

MASK = "***"


class Secret:
    """A string that shows as ``***`` wherever it would be printed.

    Use it in an argv, in `env`, as `input` or as an argument of `sh`. Its value
    reaches the command and nothing else: not a repr, a log line, an event or an
    error. What the command itself prints is never altered.

    Joining a secret with a string gives a secret: ``"user:" + Secret("pw")``.
    Formatting it (f-strings, ``%s``) gives the mask, so a value cannot leak by
    accident; call `reveal` where the plain string is really wanted.

    Args:
        value: The string to keep.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"a Secret holds a str, not {type(value).__name__}")
        self._value = value

    def reveal(self) -> str:
        """Return the plain string."""
        return self._value

    def __add__(self, other: object) -> Secret:
        if isinstance(other, str):
            return Secret(self._value + other)
        return Secret(self._value + other._value) if isinstance(other, Secret) else NotImplemented

    def __radd__(self, other: object) -> Secret:
        return Secret(other + self._value) if isinstance(other, str) else NotImplemented

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return (Secret, (self._value,))


def reveal(value: str | Secret) -> str:
    """Return the plain string of `value`."""
    return value.reveal() if isinstance(value, Secret) else value
