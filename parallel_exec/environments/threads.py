"""Threads of the environments, where the system may be out of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from parallel_exec import reactor
from parallel_exec.environments.base import Stop

__all__ = ["start"]

AGAIN_S = 0.05


def start(
    make: Callable[[], threading.Thread],
    stop: Stop,
    strained: Callable[[BaseException], object],
) -> threading.Thread | None:
    """Start a thread as soon as there is one to be had; None if it is stopped before.

    Args:
        make: Makes the thread, anew for each try.
        stop: What is waited for meanwhile.
        strained: Told that there is none.

    Raises:
        RuntimeError: The interpreter exits: no thread starts any more.
    """
    while True:
        thread = make()
        try:
            thread.start()
            return thread
        except RuntimeError as error:  # out of threads: others end
            if reactor.starts_no_more_threads(error):
                raise
            strained(error)
        if stop.wait(AGAIN_S):
            return None
