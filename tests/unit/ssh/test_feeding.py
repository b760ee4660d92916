"""What a command reads, in the order in which it goes out."""

from __future__ import annotations

import pytest

from parallel_exec.environments.ssh.feeding import CHUNK, Input
from parallel_exec.values.secret import Hidden


@pytest.mark.parametrize("orders", [b"", b"orders"])
@pytest.mark.parametrize("tail", [b"", b"tail"])
@pytest.mark.parametrize("size", [0, 3, CHUNK + 1])
def test_orders_then_data_then_the_end(orders: bytes, tail: bytes, size: int) -> None:
    """Each byte once, whatever goes at a time; much data is sent from where it is."""
    data = bytes(size)
    source = Input(Hidden(orders), [], Hidden(data), tail, lambda: None)
    out = b""
    objects = []
    while not source.last or source.peek():
        view = source.peek().reveal()
        assert source.ready()
        objects.append(view.obj if isinstance(view, memoryview) else view)
        out += view[:100_000]
        source.sent(len(view[:100_000]))
    assert out == orders + data + tail
    if size > CHUNK:
        assert any(each is data for each in objects)
