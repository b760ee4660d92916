"""Items that come one by one, processed many at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Literal

import pytest

import parallel_exec as px
from parallel_exec.errors import CommandFailedError, ConfigError, ExecutorClosedError

NEVER_S = 3600.0


class Gate:
    """A processor that waits until it is let on, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.entered.release()
        self.open.wait()
        return [item * 10 for item in items]


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is open in the end, whatever happens."""
    gate = Gate()
    yield gate
    gate.open.set()


def values(futures: list[Future[int]]) -> list[int]:
    """Return what each gives; a hang is a failure."""
    return [future.result(10) for future in futures]


def test_a_full_batch_goes_at_once() -> None:
    """Size alone flushes; each item gets its own result."""
    batches = []

    def process(items: list[int]) -> list[int]:
        batches.append(items)
        return [item * 10 for item in items]

    with px.TaskBatcher(3, NEVER_S, process) as batcher:
        assert values([batcher.add(item) for item in range(6)]) == [0, 10, 20, 30, 40, 50]
    assert batches == [[0, 1, 2], [3, 4, 5]]


def test_a_part_of_a_batch_goes_after_the_delay() -> None:
    """Nobody waits for a batch to fill up longer than the delay."""
    with px.TaskBatcher[int, int](100, 0.01, list) as batcher:
        assert values([batcher.add(1)]) == [1]
        assert values([batcher.add(2)]) == [2]


def test_flush_lets_go_what_is_there() -> None:
    """An explicit flush waits for nothing."""
    with px.TaskBatcher[int, int](100, NEVER_S, list) as batcher:
        futures = [batcher.add(item) for item in range(2)]
        batcher.flush()
        assert values(futures) == [0, 1]


def test_close_processes_what_is_there_and_takes_no_more() -> None:
    """Leaving the `with` drains; then it is closed for good."""
    with px.TaskBatcher[int, int](100, NEVER_S, list) as batcher:
        future = batcher.add(1)
    assert future.done()
    assert future.result() == 1
    batcher.close()
    with pytest.raises(ExecutorClosedError):
        batcher.add(2)


def test_a_processor_that_raises_rejects_its_batch_only() -> None:
    """Other batches are processed as if nothing had happened."""

    def process(items: list[int]) -> list[float]:
        return [10 / item for item in items]

    with px.TaskBatcher[int, float](2, NEVER_S, process) as batcher:
        futures = [batcher.add(item) for item in [1, 0, 2, 5]]
    assert [type(future.exception()) for future in futures] == [
        ZeroDivisionError,
        ZeroDivisionError,
        type(None),
        type(None),
    ]
    assert futures[2].result() == 5


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3], None, "ab", {1: 2, 2: 3}, 5])
def test_a_wrong_number_of_results_is_an_error_on_every_item(results: object) -> None:
    """No item is given the result of another."""
    with px.TaskBatcher[int, int](2, NEVER_S, lambda items: results) as batcher:  # type: ignore[arg-type,return-value]
        futures = [batcher.add(item) for item in range(2)]
    for future in futures:
        with pytest.raises(px.errors.BatchResultError):
            future.result()


def test_no_more_batches_at_once_than_workers(gate: Gate) -> None:
    """Batches beyond that wait, in their order."""
    with px.TaskBatcher(1, NEVER_S, gate, workers=2) as batcher:
        futures = [batcher.add(item) for item in range(4)]
        for _ in range(2):
            assert gate.entered.acquire(timeout=10)
        assert not gate.entered.acquire(blocking=False)
        gate.open.set()
        assert values(futures) == [0, 10, 20, 30]
    assert sorted(gate.batches) == [[0], [1], [2], [3]]


def test_a_full_queue_blocks(gate: Gate) -> None:
    """With "block", `add` waits until a batch has been taken."""
    with px.TaskBatcher(1, NEVER_S, gate, max_queue=1) as batcher:
        futures = [batcher.add(0)]
        assert gate.entered.acquire(timeout=10)
        futures.append(batcher.add(1))
        added = threading.Event()

        def add() -> None:
            futures.append(batcher.add(2))
            added.set()

        thread = threading.Thread(target=add)
        thread.start()
        while not batcher._blocked:
            assert not added.is_set()
        gate.open.set()
        thread.join()
        assert values(futures) == [0, 10, 20]


def test_a_full_queue_refuses(gate: Gate) -> None:
    """With "error", `add` raises and what waits is not touched."""
    with px.TaskBatcher(1, NEVER_S, gate, max_queue=1, overflow="error") as batcher:
        first = batcher.add(0)
        assert gate.entered.acquire(timeout=10)
        second = batcher.add(1)
        with pytest.raises(px.errors.BatcherFullError, match="1 items wait"):
            batcher.add(2)
        gate.open.set()
        assert values([first, second]) == [0, 10]


def test_a_full_queue_drops_the_oldest(gate: Gate) -> None:
    """With "drop oldest" that one's future says so, and it is not processed."""
    with px.TaskBatcher(1, NEVER_S, gate, max_queue=1, overflow="drop oldest") as batcher:
        first = batcher.add(0)
        assert gate.entered.acquire(timeout=10)
        dropped, last = batcher.add(1), batcher.add(2)
        assert isinstance(dropped.exception(10), px.errors.BatcherFullError)
        gate.open.set()
        assert values([first, last]) == [0, 20]
    assert gate.batches == [[0], [2]]


@pytest.mark.parametrize("overflow", ["block", "error", "drop oldest"])
def test_a_queue_smaller_than_a_batch_does_not_wait_for_one(
    gate: Gate, overflow: Literal["block", "error", "drop oldest"]
) -> None:
    """What fills the queue goes, since nothing could be added to it."""
    with px.TaskBatcher(10, NEVER_S, gate, max_queue=2, overflow=overflow) as batcher:
        futures = [batcher.add(0), batcher.add(1)]
        entered = gate.entered.acquire(timeout=10)
        gate.open.set()
        assert entered
        futures += [batcher.add(2), batcher.add(3)]
        assert values(futures) == [0, 10, 20, 30]


def test_what_goes_wrong_with_a_future_costs_no_other(gate: Gate) -> None:
    """A callback that ends its thread, and a user who settles a future himself."""

    def leave(_: Future[int]) -> None:
        raise SystemExit

    with px.TaskBatcher(3, NEVER_S, gate) as batcher:
        futures = [batcher.add(item) for item in range(6)]
        futures[4].set_result(-1)
        assert gate.entered.acquire(timeout=10)
        futures[0].add_done_callback(leave)
        futures[1].set_result(-1)
        gate.open.set()
        assert values(futures) == [0, -1, 20, 30, -1, 50]
    assert gate.batches == [[0, 1, 2], [3, 5]]


def test_a_cancelled_item_is_left_out(gate: Gate) -> None:
    """Cancelling a future that waits takes its item out of the batch."""
    with px.TaskBatcher(2, NEVER_S, gate) as batcher:
        futures = [batcher.add(0), batcher.add(1)]
        assert gate.entered.acquire(timeout=10)
        futures += [batcher.add(2), batcher.add(3)]
        assert futures[2].cancel()
        assert not futures[0].cancel()
        gate.open.set()
    assert gate.batches == [[0, 1], [3]]
    with pytest.raises(CancelledError):
        futures[2].result()


def test_a_command_reads_and_answers_json() -> None:
    """A processor may be a command."""
    program = "import json, sys; print(json.dumps([len(item) for item in json.load(sys.stdin)]))"
    with px.TaskBatcher[str, int](2, NEVER_S, [sys.executable, "-c", program]) as batcher:
        assert values([batcher.add(item) for item in ["a", "ccc"]]) == [1, 3]


def test_a_command_that_fails_rejects_its_batch() -> None:
    """What a command ends with is what its items get."""
    with px.TaskBatcher[str, int](1, NEVER_S, "exit 3") as batcher:
        future = batcher.add("a")
    with pytest.raises(CommandFailedError):
        future.result()


def test_closing_inside_of_the_processor_does_not_hang() -> None:
    """It cannot wait for itself."""
    batcher: px.TaskBatcher[int, int]

    def process(items: list[int]) -> list[int]:
        batcher.close()
        return items

    batcher = px.TaskBatcher(1, NEVER_S, process)
    assert values([batcher.add(1)]) == [1]
    batcher.close()


def test_processors_that_close_do_not_wait_for_each_other() -> None:
    """Each of two that run at once closes the batcher."""
    batcher: px.TaskBatcher[int, int]
    both = threading.Barrier(2)

    def process(items: list[int]) -> list[int]:
        both.wait(10)
        batcher.close()
        both.wait(10)
        return items

    batcher = px.TaskBatcher(1, NEVER_S, process, workers=2)
    assert values([batcher.add(1), batcher.add(2)]) == [1, 2]
    batcher.close()


def test_items_added_by_many_threads_are_each_processed_once() -> None:
    """None is lost and none is doubled."""
    seen: list[int] = []

    def process(items: list[int]) -> list[int]:
        seen.extend(items)
        return [-item for item in items]

    with px.TaskBatcher(7, 0.001, process, max_queue=20) as batcher:

        def add(first: int) -> list[int]:
            return values([batcher.add(item) for item in range(first, first + 50)])

        answers = px.parallel_map(add, range(0, 500, 50), concurrency=10)
    assert sorted(seen) == list(range(500))
    assert answers == [[-item for item in range(first, first + 50)] for first in range(0, 500, 50)]


def printed(program: str) -> str:
    """Run a program and return what it printed, errors included."""
    return subprocess.run(
        [sys.executable, "-c", "import parallel_exec as px\n" + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    ).stdout


def test_the_end_of_the_interpreter_loses_nothing() -> None:
    """What was accepted is processed, although nobody closes the batcher."""
    program = (
        "batcher = px.TaskBatcher(2, 3600, lambda items: print(items) or items)\n"
        "for item in range(5): batcher.add(item)\n"
        "del batcher\n"
    )
    assert printed(program) == "[0, 1]\n[2, 3]\n[4]\n"


def test_the_end_of_the_interpreter_waits_for_commands() -> None:
    """A processor may still be a command, which needs the rest of the library."""
    program = (
        "future = px.TaskBatcher(100, 3600, 'cat').add(5)\n"
        "future.add_done_callback(lambda future: print(future.result()))\n"
    )
    assert printed(program) == "5\n"


def test_a_batcher_may_hand_on_to_one_made_before_at_the_end() -> None:
    """The end of the interpreter closes the last that was made first."""
    program = (
        "last = px.TaskBatcher(100, 3600, lambda items: print(items) or items)\n"
        "for _ in range(5):\n"
        "    def hand_on(items, to=last): return [to.add(item) for item in items]\n"
        "    last = px.TaskBatcher(100, 3600, hand_on)\n"
        "last.add(7)\n"
    )
    assert printed(program) == "[7]\n"


def test_an_interrupted_close_can_be_called_again() -> None:
    """It waits for what the first one would have waited for."""
    program = (
        "import os, signal, threading\n"
        "interrupted = threading.Event()\n"
        "def process(items):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    interrupted.wait()\n"
        "    sum(range(5_000_000))\n"
        "    print('processed', flush=True)\n"
        "    return items\n"
        "batcher = px.TaskBatcher(1, 3600, process)\n"
        "try:\n"
        "    batcher.add(1)\n"
        "    batcher.close()\n"
        "except KeyboardInterrupt:\n"
        "    interrupted.set()\n"
        "batcher.close()\n"
        "print('closed')\n"
    )
    assert printed(program) == "processed\nclosed\n"


def test_a_forgotten_batcher_leaves_no_thread() -> None:
    """Threads exist only while there are items; the leak check of every test looks."""
    assert values([px.TaskBatcher[int, int](1, NEVER_S, list).add(1)]) == [1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: px.TaskBatcher(0, 1, list), "batch_size must be"),
        (lambda: px.TaskBatcher(1, -1, list), "batch_delay must be"),
        (lambda: px.TaskBatcher(1, 1, 5), "processor must be"),  # type: ignore[arg-type]
        (lambda: px.TaskBatcher(1, 1, list, workers=0), "workers must be"),
        (lambda: px.TaskBatcher(1, 1, list, max_queue=0), "max_queue must be"),
        (lambda: px.TaskBatcher(1, 1, list, overflow="drop"), "overflow must be"),  # type: ignore[arg-type]
    ],
)
def test_unusable_arguments_are_refused(make: Callable[[], object], message: str) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=message):
        make()
