"""What a transfer of files amounted to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Transfer"]


@dataclass(frozen=True, slots=True)
class Transfer:
    """What was transferred.

    Attributes:
        environment: The host.
        source: Where it came from; a file object as its repr.
        target: Where it is now: the file that was written, or the directory. On a host it is
            as the target was given, with the name that the source has kept there; of a file
            that was written through a link it is where that led.
        files: How many files.
        bytes: How many bytes in them.
        duration_s: Seconds that it took.
    """

    environment: str
    source: str
    target: str
    files: int
    bytes: int
    duration_s: float
