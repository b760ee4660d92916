"""The service thread: descriptors, timers and messages, for every layer above."""

from parallel_exec.reactor.loop import Clock, Reactor, Timer, get, starts_no_more_threads

__all__ = ["Clock", "Reactor", "Timer", "get", "starts_no_more_threads"]
