"""Lines of output of many hosts, printed as they come."""

from __future__ import annotations

import sys
import threading

from parallel_exec.observers.progress import beside_bars
from parallel_exec.text import plain, plain_lines

__all__ = ["print_line"]

_lock = threading.Lock()  # held while a line is written, so that lines stay whole


def print_line(host: str, line: str, stream: str) -> None:
    """Print a line with the name of its host.

    Args:
        host: The name.
        line: The line, without its end. What cannot be printed is escaped, but for tabs.
        stream: "stdout" or "stderr".

    **Thread safety:** yes; a line is written by one call.
    """
    file = getattr(sys, stream)
    if file is None:  # a program without a console
        return
    text = f"{plain(host)}: {' '.join(plain_lines(line))}\n"
    try:
        shown = text.encode(file.encoding or "utf-8", "backslashreplace").decode(file.encoding)
    except (AttributeError, LookupError, TypeError):
        shown = text
    with _lock, beside_bars(file):
        file.write(shown)
        file.flush()
