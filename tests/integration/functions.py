"""Functions that other processes can import: what is sent to them goes by name."""

from __future__ import annotations

import os
from multiprocessing.synchronize import Barrier
from typing import Any

import parallel_exec as px


class Boom(Exception):  # noqa: N818 - it is one of a test
    """What these functions fail with."""


def warm_up(others: Barrier) -> None:
    """Start all that the library keeps in a worker, and wait for the others to have, too."""
    px.run("true")
    others.wait()


def value() -> int:
    return 42


def process_id(*_: Any) -> int:
    return os.getpid()


def boom(*_: Any) -> None:
    raise Boom("over there")


def double(number: int) -> int:
    return 2 * number


def is_even(number: int) -> bool:
    return number % 2 == 0


def add(one: str, other: str) -> str:
    return one + other


def nested(number: int) -> list[str]:
    """Run commands at the worker."""
    return [each.text() for each in px.all([["echo", str(number)], ["echo", "x"]])]
