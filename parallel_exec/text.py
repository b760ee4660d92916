"""Text from elsewhere, made fit for a terminal, a log and a message: escaped and cut.

What a command or a host says, what a server calls an error, and the labels and names that
users give may hold anything: escape sequences that rewrite a terminal, line feeds that
forge a line of a log, a megabyte in one line. `plain` takes that away wherever such text
goes into an error, a line of progress, a report or a log. Results, labels and names
themselves stay as they are, byte for byte.
"""

from __future__ import annotations

__all__ = ["LABEL", "MESSAGE", "SAID", "plain", "plain_lines"]

LABEL = 200
"""Characters of a command, a label or a value in a message."""

SAID = 300
"""Characters of what a command or a host said, in a message: the last ones."""

MESSAGE = 4000
"""Characters of a whole message."""

CUT = "..."


def plain(text: object, limit: int = LABEL, *, end: bool = False) -> str:
    r"""Return `text` on one line: what cannot be printed escaped, as `repr` has it.

    Escaped are control characters (a line feed is ``\n``), marks that change the direction
    of text, lone surrogates and blanks that are no space. A backslash stays as it is, so
    plain text stays as it is, too.

    Args:
        text: A string, or what `str` makes one of.
        limit: How many characters to keep at most; where some are left out, three dots
            stand for them.
        end: Whether the last ones are kept instead of the first.
    """
    kept = _string(text)
    too_long = len(kept) > limit
    if too_long:
        kept = kept[len(kept) - limit :] if end else kept[:limit]
    kept = _escaped(kept)
    if not too_long and len(kept) <= limit:
        return kept
    room = max(limit - len(CUT), 0)
    return CUT + kept[len(kept) - room :] if end else kept[:room] + CUT


def plain_lines(text: str) -> list[str]:
    """Return the lines of `text`, each as `plain` has it but whole; tabs stay."""
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    return ["\t".join(map(_escaped, line.split("\t"))) for line in lines]


def _escaped(text: str) -> str:
    if text.isprintable():  # as nearly always
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _string(text: object) -> str:
    if isinstance(text, str):
        return str.__str__(text)
    try:
        return str.__str__(str(text))
    except Exception:  # a `__str__` that raises is not worth another failure
        return f"<{type(text).__name__}>"
