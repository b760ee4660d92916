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
        target: Where it went.
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
