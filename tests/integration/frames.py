"""What the frames of a traceback hold."""

from __future__ import annotations

import contextlib
import traceback
from types import FrameType

__all__ = ["hides_in_frames"]


def hides_in_frames(error: BaseException, *words: str) -> None:
    """Check that no frame of the library's or paramiko's, in the whole chain of errors, has one
    of `words` in a local variable: neither in its repr nor in itself.
    """
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        left += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
        for frame, line in traceback.walk_tb(each.__traceback__):
            if "/tests/" not in frame.f_code.co_filename:
                _check(frame, line, words)


def _check(frame: FrameType, line: int, words: tuple[str, ...]) -> None:
    for name, value in frame.f_locals.items():
        texts = []
        with contextlib.suppress(AttributeError):  # it is half made
            texts.append(repr(value))
        if isinstance(value, bytes | bytearray | memoryview):
            texts.append(bytes(value).decode("latin-1"))
        for word in words:
            place = f"{name} in {frame.f_code.co_qualname}, line {line}"
            assert not any(word in text for text in texts), place
