"""``python -m benchmarks.ssh.delay TARGET_PORT SECONDS``: a line of that latency, each way.

Prints the port it listens on. What comes is read at once, however much, and handed on when
its time has come: it limits no rate.
"""

from __future__ import annotations

import asyncio
import collections
import socket
import sys

AT_ONCE = 1 << 18  # bytes
UNDER_WAY = 256 << 20  # bytes at most


async def pump(reader: socket.socket, writer: socket.socket, seconds: float) -> None:
    """Hand on what comes in one direction."""
    loop = asyncio.get_running_loop()
    queue: collections.deque[tuple[float, bytes]] = collections.deque()
    waiting = 0
    changed = asyncio.Event()

    async def send() -> None:
        nonlocal waiting
        while True:
            while not queue:
                changed.clear()
                await changed.wait()
            due, data = queue.popleft()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            if not data:
                writer.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(writer, data)
            waiting -= len(data)

    sending = asyncio.ensure_future(send())
    try:
        data = b"-"
        while data and not sending.done():
            data = await loop.sock_recv(reader, AT_ONCE)
            queue.append((loop.time() + seconds, data))
            waiting += len(data)
            changed.set()
            while waiting > UNDER_WAY and not sending.done():
                await asyncio.sleep(0.001)
        await sending
    except OSError:
        pass
    finally:
        sending.cancel()


async def serve(near: socket.socket, target: int, seconds: float) -> None:
    """Forward one connection."""
    far = socket.socket()
    far.setblocking(False)
    with near, far:
        await asyncio.get_running_loop().sock_connect(far, ("127.0.0.1", target))
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(pump(near, far, seconds), pump(far, near, seconds))


async def main(target: int, seconds: float) -> None:
    """Accept for ever."""
    listener = socket.create_server(("0.0.0.0", 0), backlog=1000)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    tasks = set()
    while True:
        near, _ = await asyncio.get_running_loop().sock_accept(listener)
        near.setblocking(False)
        task = asyncio.ensure_future(serve(near, target, seconds))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
