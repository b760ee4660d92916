"""The library at the very end of the interpreter, when objects that are left are finalized: a
call works or raises at once. No other thread runs any more, so nothing may wait for one.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

CALLS = {
    "run": "px.run('true')",
    "run with retry": "px.run('false', retry=px.Retry(2, wait=0), check=False)",
    "submit": "px.submit('true').result()",
    "all": "px.all(['true', int])",
    "all_settled": "px.all_settled([int])",
    "any": "px.any([int])",
    "map": "px.parallel_map(int, [1])",
    "map of an iterator": "px.parallel_map(int, iter([1]))",
    "imap": "list(px.parallel_imap(int, [1]))",
    "as_completed": "list(px.as_completed([int]))",
    "reduce": "px.parallel_reduce(max, [1, 2])",
    "pool": "self.pool.submit(int).result()",
    "pool, many": "self.pool.execute_with_errors([int])",
    "pool, shutdown": "self.pool.shutdown()",
    "new pool": "px.ParallelExecutor(1).submit(int).result()",
    "batcher": "self.batcher.add(1).result()",
    "batcher, flush": "self.batcher.flush()",
    "batcher, close": "self.batcher.close()",
    "new batcher": "px.TaskBatcher(1, 0, list).add(1).result()",
    "limiter": "self.limiter.run(int)",
    "limiter that is full": "self.full.run(int)",
    "rate that is used up": "self.rate.run(int)",
    "controller": "px.AIMDController(1).run(int)",
    "token": "px.CancelToken().cancel()",
    "token, wait": "px.CancelToken().wait()",
    "iterator, next": "next(self.values)",
    "iterator, close": "self.values.close()",
    "iterator, forgotten": "setattr(self, 'values', None)",
    "balancer": "px.LoadBalancer([abs]).execute(1)",
    "environment": "self.local.run('true')",
    "environment, close": "self.local.close()",
}
SCRIPT = """
import contextvars
import parallel_exec as px

class Left:
    def __init__(self, name, call):
        self.name, self.call = name, call
        self.pool = px.ParallelExecutor(1)
        self.batcher = px.TaskBatcher(2, 60, list)
        self.limiter = px.ConcurrencyLimiter(1)
        self.full = px.ConcurrencyLimiter(1)
        contextvars.copy_context().run(self.full.__enter__)
        self.rate = px.RateLimiter(1, per=60)
        self.rate.run(int)
        self.values = px.parallel_imap(int, [1, 2, 3])
        self.local = px.Local()
        {used}

    def __del__(self):
        print(self.name, "calls", flush=True)
        try:
            self.call(self)
            print(self.name, "works", flush=True)
        except Exception as error:
            print(self.name, "raises", flush=True)

{objects}
"""
USED = {
    "functions": (
        "px.parallel_map(int, [1]); next(self.values); self.pool.submit(int).result();"
        " self.batcher.add(0)"
    ),
    "commands": "px.run('true')",
    "nothing": "pass",
}


@pytest.mark.parametrize("used", USED)
def test_a_call_in_a_finalizer_at_the_end_works_or_raises_at_once(used: str) -> None:
    """Whatever has been used before: each call comes to an end, and the interpreter does."""
    objects = "\n".join(
        f"left_{number} = Left({number}, lambda self: {call})"
        for number, call in enumerate(CALLS.values())
    )
    script = SCRIPT.format(used=USED[used], objects=objects)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    said = done.stdout.splitlines()
    for number, name in enumerate(CALLS):
        assert f"{number} calls" in said, name
        assert {f"{number} works", f"{number} raises"} & set(said), name
