"""The addresses of names, within a time of our own.

The system's resolver asks name servers that may not answer, for as long as its own
settings say, and cannot be interrupted: it is asked in a thread that is left behind when
the time is over, and ends when the resolver does.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from parallel_exec import reactor
from parallel_exec.errors import ConnectError, ConnectTimeoutError

__all__ = ["Found", "addresses"]

LOOK_S = 0.2  # how often it is looked whether the answer is still wanted

Found = list[tuple[Any, ...]]


def addresses(
    host: str,
    port: int | None,
    family: int,
    *,
    within: float,
    flags: int = 0,
    wanted: Callable[[], bool] = lambda: True,
) -> Found:
    """Return what `socket.getaddrinfo` returns for a stream.

    Args:
        within: Seconds for the name servers to answer.
        wanted: Asked now and then whether to go on.

    Raises:
        ConnectTimeoutError: They did not.
        ConnectError: It is no longer wanted.
        OSError, UnicodeError: The name does not resolve.
    """
    try:  # most are no names but addresses: nobody has to be asked
        return _ask(host, port, family, flags | socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        pass
    answers: list[Found | Exception] = []
    answered = threading.Event()

    def ask() -> None:
        try:
            answers.append(_ask(host, port, family, flags))
        except Exception as error:
            answers.append(error)
        finally:
            answered.set()

    try:
        reactor.Thread(target=ask, name=f"parallel_exec look up {host}").start()
    except RuntimeError:  # out of threads
        ask()
    deadline = time.monotonic() + within
    while not answered.wait(min(LOOK_S, max(0.0, deadline - time.monotonic()))):
        if time.monotonic() >= deadline:
            raise ConnectTimeoutError(f"no name server answered for {host} within {within:g} s")
        if not wanted():
            raise ConnectError("the environment was closed")
    answer = answers.pop()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _ask(host: str, port: int | None, family: int, flags: int) -> Found:
    return list(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, flags))
