"""What is written on errors that are the user's own: notes, and nothing that could fail.

An error may refuse attributes (a frozen dataclass does), hold something else where notes
belong, or be raised again and again, since its user has kept it. None of that may cost the
error itself, which is what the user wants to see.
"""

from __future__ import annotations

import time

__all__ = ["add_note", "begin_anew"]

MOST_RAISES = 16
"""How many times one error may have been raised, with the frames of each kept."""


class Note(str):
    """A note of the library's, which knows when it was added."""

    __slots__ = ("added_at",)

    def __init__(self, text: str) -> None:
        self.added_at = time.monotonic()

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)  # who gets it need not have this package


def add_note(error: BaseException, text: str) -> None:
    """Add a note to `error`, once. If it takes none, it goes without."""
    try:
        notes = getattr(error, "__notes__", None) or []
        if isinstance(notes, list) and text not in notes:
            _set_notes(error, [*notes, Note(text)])
    except Exception:
        pass


def begin_anew(error: BaseException, since: float) -> None:
    """Take back what is not of this time from an error that may be raised not for the first
    time: notes of the library's that were added before `since` (monotonic seconds), which
    name another task, and the frames of more than `MOST_RAISES`.
    """
    try:
        notes = getattr(error, "__notes__", None)
        if isinstance(notes, list):
            kept = [note for note in notes if not isinstance(note, Note) or note.added_at >= since]
            if len(kept) < len(notes):
                _set_notes(error, kept)
    except Exception:
        pass
    raises = 1
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        # Within one raise, each frame was called by the one before it.
        if at.tb_next.tb_frame.f_back is not at.tb_frame:
            raises += 1
            if raises > MOST_RAISES:
                at.tb_next = None
        at = at.tb_next


def _set_notes(error: BaseException, notes: list[str]) -> None:
    # Neither by `add_note` nor by an assignment: both ask the error's own `__setattr__`.
    if notes:
        object.__setattr__(error, "__notes__", notes)
    else:
        object.__delattr__(error, "__notes__")
