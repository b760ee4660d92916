"""Whether this system, as it is now, has what the service thread and commands need."""

from __future__ import annotations

import os
import sys
from typing import Any

from parallel_exec.errors import CommandStartError

__all__ = ["check"]

GEVENT = ("threading", "select", "subprocess", "os")
EVENTLET = ("thread", "select", "os")


def check() -> None:
    """See that nothing is missing or replaced. Costs two look-ups in a dictionary.

    Raises:
        CommandStartError: This is Windows, or gevent or eventlet has replaced modules of the
            standard library by its own; the message says what to do.
    """
    if not hasattr(os, "fork"):
        raise CommandStartError(
            "parallel_exec runs nothing here: it needs Linux or macOS, Windows is not supported"
        )
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None:
        replaced = [name for name in GEVENT if monkey.is_module_patched(name)]
        if replaced:
            raise CommandStartError(
                f"gevent has replaced {', '.join(replaced)}, and parallel_exec needs the original"
                " modules: call gevent.monkey.patch_all(thread=False, select=False,"
                " subprocess=False, os=False), or run commands by gevent.subprocess"
            )
    patcher: Any = sys.modules.get("eventlet.patcher")
    if patcher is not None:
        replaced = [name for name in EVENTLET if patcher.is_monkey_patched(name)]
        if replaced:
            raise CommandStartError(
                f"eventlet has replaced {', '.join(replaced)}, and parallel_exec needs the original"
                " modules: call eventlet.monkey_patch(thread=False, select=False, os=False), or run"
                " commands by eventlet.green.subprocess"
            )
