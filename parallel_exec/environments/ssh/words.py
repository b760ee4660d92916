"""What the other side said, made fit for one line of an error or a log."""

from __future__ import annotations

from parallel_exec.text import SAID, plain

__all__ = ["said"]


def said(text: str | bytes) -> str:
    """Return its beginning on one line: blanks run together, the rest as `plain` has it."""
    text = text[: 8 * SAID]
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return plain(" ".join(text.split()), SAID)
