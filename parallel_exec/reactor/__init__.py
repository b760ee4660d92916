"""The service thread: descriptors, timers and messages, for every layer above."""

from parallel_exec.reactor.loop import (
    Clock,
    Reactor,
    Timer,
    at_work,
    get,
    refuse_when_finalizing,
    starts_no_more_threads,
)
from parallel_exec.reactor.mishaps import report
from parallel_exec.reactor.threads import Thread

__all__ = [
    "Clock",
    "Reactor",
    "Thread",
    "Timer",
    "at_work",
    "get",
    "refuse_when_finalizing",
    "report",
    "starts_no_more_threads",
]
