"""The service thread: descriptors, timers and messages, for every layer above."""

from parallel_exec.reactor.loop import Clock, Reactor, Timer, get, starts_no_more_threads
from parallel_exec.reactor.mishaps import report

__all__ = ["Clock", "Reactor", "Timer", "get", "report", "starts_no_more_threads"]
