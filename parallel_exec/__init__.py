"""Runs commands and functions concurrently, and tells the truth about every one of them.

    import parallel_exec as px

    px.run("uptime")                                   # one command
    px.all(["make test", ["ls", "-l"], some_function])  # many, first failure stops the rest
    px.all_settled(tasks, concurrency=50, progress=True)  # many, whatever happens

The names below are the public face, with `parallel_exec.errors` and
`parallel_exec.testing`.
"""

from typing import TYPE_CHECKING

from parallel_exec import errors
from parallel_exec.api.adaptive import AIMDController
from parallel_exec.api.batcher import TaskBatcher
from parallel_exec.api.distribution import (
    LoadBalancer,
    RoundRobinDistributor,
    WorkerResult,
    WorkerResults,
    WorkerStatistics,
)
from parallel_exec.api.environments import Environment, Local, Runnable
from parallel_exec.api.executor import ExecutedWithErrors, ParallelExecutor, TaskFailure
from parallel_exec.api.group import Group
from parallel_exec.api.host_outcomes import HostOutcomes
from parallel_exec.api.hosts import hosts
from parallel_exec.api.many import (
    DEFAULT_CONCURRENCY,
    AsCompleted,
    ManyOptions,
    all as all,
    all_settled,
    any as any,
    as_completed,
    fail_safe,
    fast_fail,
    race,
)
from parallel_exec.api.mapreduce import (
    Imap,
    parallel_filter,
    parallel_for_each,
    parallel_imap,
    parallel_map,
    parallel_map_settled,
    parallel_reduce,
)
from parallel_exec.api.one import CommandFuture, RunOptions, run, submit
from parallel_exec.api.progress import ParallelProgress, VisualProgress
from parallel_exec.api.tasks import Task
from parallel_exec.engine.cancel import CancelToken
from parallel_exec.engine.events import (
    Event,
    RunFinished,
    RunStarted,
    TaskFinished,
    TaskRetrying,
    TaskStarted,
)
from parallel_exec.engine.retry import Retry
from parallel_exec.limits.adaptive import AdaptiveStatistics, LimitChange
from parallel_exec.limits.aimd import AIMD, Probing
from parallel_exec.limits.composed import AllOf
from parallel_exec.limits.cubic import Cubic
from parallel_exec.limits.fixed import ConcurrencyLimiter
from parallel_exec.limits.keyed import PerHost, PerKey
from parallel_exec.limits.latency import Latency
from parallel_exec.limits.pressure import Pressure
from parallel_exec.limits.rate import RateLimiter
from parallel_exec.limits.step import Step
from parallel_exec.values.command import Command, sh
from parallel_exec.values.outcome import Outcome, Outcomes
from parallel_exec.values.result import Result
from parallel_exec.values.secret import Secret
from parallel_exec.values.transfer import Transfer

if TYPE_CHECKING:
    from parallel_exec.api.ssh import SSH

__version__ = "0.1.0"

# Without `all` and `any`: `from parallel_exec import *` must not replace Python's own.
__all__ = [
    "AIMD",
    "DEFAULT_CONCURRENCY",
    "SSH",
    "AIMDController",
    "AdaptiveStatistics",
    "AllOf",
    "AsCompleted",
    "CancelToken",
    "Command",
    "CommandFuture",
    "ConcurrencyLimiter",
    "Cubic",
    "Environment",
    "Event",
    "ExecutedWithErrors",
    "Group",
    "HostOutcomes",
    "Imap",
    "Latency",
    "LimitChange",
    "LoadBalancer",
    "Local",
    "ManyOptions",
    "Outcome",
    "Outcomes",
    "ParallelExecutor",
    "ParallelProgress",
    "PerHost",
    "PerKey",
    "Pressure",
    "Probing",
    "RateLimiter",
    "Result",
    "Retry",
    "RoundRobinDistributor",
    "RunFinished",
    "RunOptions",
    "RunStarted",
    "Runnable",
    "Secret",
    "Step",
    "Task",
    "TaskBatcher",
    "TaskFailure",
    "TaskFinished",
    "TaskRetrying",
    "TaskStarted",
    "Transfer",
    "VisualProgress",
    "WorkerResult",
    "WorkerResults",
    "WorkerStatistics",
    "all_settled",
    "as_completed",
    "errors",
    "fail_safe",
    "fast_fail",
    "hosts",
    "parallel_filter",
    "parallel_for_each",
    "parallel_imap",
    "parallel_map",
    "parallel_map_settled",
    "parallel_reduce",
    "race",
    "run",
    "sh",
    "submit",
]


if not TYPE_CHECKING:  # for a checker, a module with this has every name

    def __getattr__(name: str) -> object:
        """Import `SSH` when it is first asked for: paramiko takes longer than all the rest."""
        if name == "SSH":
            from parallel_exec.api.ssh import SSH

            return SSH
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
