"""Nothing new begins while this machine is busy or short of memory."""

from __future__ import annotations

import logging

from parallel_exec.errors import ConfigError
from parallel_exec.limits import base
from parallel_exec.limits.base import Request
from parallel_exec.limits.machine import Machine
from parallel_exec.limits.timed import TimedLimiter
from parallel_exec.reactor import Clock
from parallel_exec.values import checks
from parallel_exec.values.options import only_known

__all__ = ["Pressure"]

log = logging.getLogger("parallel_exec")

LOOK_S = 0.1  # how old a reading may become, and how often it is taken while tasks wait


class Pressure(TimedLimiter):
    """Lets nothing new begin while this machine is under pressure.

    It does not say how many run at once, so compose it:
    ``concurrency=px.AllOf(8, px.Pressure(load=0.9, memory_free="2G"))``. One task always
    runs, whatever the pressure, so that every run comes to its end. What runs goes on.

    Args:
        load: The most threads that may run or wait for a processor, for each processor that
            this process may use (its affinity and the quota of its control groups count).
            The threads of all processes of the machine are counted as they are now: the
            averages of `uptime` lag by a minute. A task that has just begun counts as one,
            until the next reading can see it. None: the load does not matter.
        memory_free: The least memory that must be available, in bytes or as "500M", "2G"
            (1 K is 1024 bytes); what control groups still admit counts. None: memory does
            not matter.
        clock: The time, and what wakes those who wait; the library's own by default.

    Raises:
        ConfigError: An argument cannot be used, both are None, or the system has no
            `/proc/loadavg` and `/proc/meminfo` to read.

    **Ordering:** by priority, then first come, first served; nobody overtakes.
    **Thread safety:** yes. Nested calls borrow the room of the call around them.
    **Cost:** two small files are read at most ten times a second, and only while tasks begin
    or wait. What is waited for is logged once, at INFO.
    """

    @only_known
    def __init__(
        self,
        load: float | None = None,
        memory_free: int | str | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(clock)
        if load is None and memory_free is None:
            raise ConfigError("Pressure needs load= or memory_free=, or both")
        self._load = None if load is None else checks.number("load", load)
        self._memory_free = None if memory_free is None else checks.size("memory_free", memory_free)
        self._machine = Machine()
        if not self._machine.tells():
            raise ConfigError(
                "Pressure reads /proc/loadavg and /proc/meminfo, which this system does not have"
            )
        self._processors = self._machine.processors()
        self._read_at = float("-inf")
        self._runnable = 0
        self._available = 0
        self._begun = 0.0  # what began since the last reading, which cannot show it
        self._awaited: str | None = None  # what the log says that tasks wait for

    def _room(self, weight: float) -> bool:
        if self._in_flight == 0:
            return True
        now = self._clock.now()
        if now - self._read_at >= LOOK_S:
            self._look(now)
        awaited = self._pressure()
        if awaited != self._awaited:
            self._awaited = awaited
            if awaited is not None:  # told when the lock has been released
                base.alarms.append(lambda: log.info("tasks wait for %s", awaited))
        return awaited is None

    def _look(self, now: float) -> None:
        self._read_at = now
        self._begun = 0.0
        if self._load is not None:
            self._runnable = self._machine.runnable()
        if self._memory_free is not None:
            self._available = self._machine.memory_free()

    def _pressure(self) -> str | None:
        """Return what is too much or too little now, or None."""
        if self._load is not None:
            load = (self._runnable + self._begun) / self._processors
            if load > self._load:
                return f"a load of at most {self._load:g} for each processor"
        if self._memory_free is not None and self._available < self._memory_free:
            return f"{self._memory_free:,} bytes of free memory"
        return None

    def _may_fit_at(self, request: Request, now: float) -> float:
        return now + LOOK_S

    def _taken(self, request: Request) -> None:
        self._begun += request.weight

    def __repr__(self) -> str:
        given = {"load": self._load, "memory_free": self._memory_free}
        shown = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
        return f"Pressure({shown})"
