"""The service threads: descriptors, timers and messages, for every layer above."""

from parallel_exec.reactor.loop import (
    COUNT,
    Clock,
    Reactor,
    Timer,
    get,
    starts_no_more_threads,
)

__all__ = ["COUNT", "Clock", "Reactor", "Timer", "get", "starts_no_more_threads"]
