"""Steps that several threads bring at once: each is made once, what it decides is done once."""

from __future__ import annotations

import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

import parallel_exec as px
from parallel_exec import reactor
from parallel_exec.engine.run import Run
from parallel_exec.engine.task import Stoppable, Task
from parallel_exec.engine.work import Broken
from parallel_exec.errors import ConfigError
from parallel_exec.limits.fixed import ConcurrencyLimiter


@pytest.fixture
def switching() -> Iterator[None]:
    """Have threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("concurrency", [2, 16])
def test_every_item_is_called_once_and_no_thread_more_than_allowed(concurrency: int) -> None:
    """A step that is left to another thread is neither lost nor made twice."""
    calls: Counter[int] = Counter()
    threads = set()

    def note(item: int) -> int:
        calls[item] += 1  # each item has a key of its own
        threads.add(threading.current_thread())
        return item

    for _ in range(20):
        calls.clear()
        threads.clear()
        assert px.parallel_map(note, range(500), concurrency) == list(range(500))
        assert set(calls.values()) == {1}
        assert len(threads) <= concurrency


def test_what_a_step_decided_is_taken_by_one_thread() -> None:
    """An empty list that was taken is not filled by the next step."""
    run = Run(ConcurrencyLimiter(1))
    first = run._take()
    run._scheduler.actions.append(("start", None, None))
    assert first == []
    assert run._take() == [("start", None, None)]
    assert run._take() == []


def test_a_step_that_comes_while_another_is_made_is_left_to_that_thread() -> None:
    """Whoever brings it goes on at once; it is made before the other returns."""
    run = Run(ConcurrencyLimiter(1))
    order: list[str] = []

    def other() -> None:
        run._step(order.append, "left")
        order.append("gone on")

    def during() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()  # it does not wait for this step

    run._step(during)
    assert order == ["gone on", "left"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: px.run(["true"]),
        lambda: px.all([["true"]] * 3),
        lambda: px.submit(["true"]).result(),
    ],
    ids=["run", "all", "submit"],
)
def test_a_call_wakes_the_service_thread_once(
    call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message from outside is a switch of threads, and that is much of a short command."""
    call()  # so that all is started
    posted = []
    post = reactor.Reactor.post

    def noted(self: reactor.Reactor, action: Callable[..., object], *args: object) -> None:
        if not self.inside():
            posted.append(action)
        post(self, action, *args)

    monkeypatch.setattr(reactor.Reactor, "post", noted)
    call()
    assert len(posted) == 1


def test_input_that_comes_while_a_task_begins_is_begun_after_it() -> None:
    """Not within it, and the next within that: as deep as the input is long."""
    begun, handed_over = threading.Semaphore(0), threading.Semaphore(0)
    depths = []

    class Slow(Broken):
        """Takes until the task after it has been handed over."""

        def start(self, task: Task) -> Stoppable:
            depths.append(len(traceback.extract_stack()))
            begun.release()
            handed_over.acquire()
            return super().start(task)

    def tasks() -> Iterator[Task]:
        yield Task(0, Slow(ConfigError("no"), "slow"))
        for index in range(1, 20):
            begun.acquire()
            yield Task(index, Slow(ConfigError("no"), "slow"))
            handed_over.release()
        handed_over.release()

    run = Run(ConcurrencyLimiter(20))
    done = run.drive(tasks(), window=lambda: 100, at_hand=False)
    assert len(list(done)) == 20
    assert len(set(depths)) == 1


@pytest.mark.parametrize("killed", [False, True])
def test_a_task_asked_to_end_while_it_is_started_is_ended(killed: bool) -> None:
    """What was asked before anybody knew whom to ask is asked then, KILL included."""
    asked: list[str] = []

    class Started:
        def end(self, reason: str) -> None:
            asked.append(reason)
            task.run.clock.post(task.run.ended, task, None, px.errors.TaskCancelledError("ended"))

        def kill(self) -> None:
            asked.append("kill")

    class Slow(Broken):
        """Starts while its run is stopped, and killed."""

        def start(self, task: Task) -> Started:
            run._step(run._scheduler.stop, "cancelled", RuntimeError, 0.0)
            if killed:
                run._step(run._scheduler.kill, 0.0)
            return Started()

    task = Task(0, Slow(ConfigError("no"), "slow"))
    run = Run(ConcurrencyLimiter(1))
    (ended,) = run.drive(iter([task]), window=lambda: 1, at_hand=True)
    assert ended.status == "cancelled"
    assert asked == ["cancel", "kill"][: 1 + killed]
