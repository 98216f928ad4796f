"""A client that sends requests when they are due, whether or not the ones before were answered.

So a server that is slow is not spared, as it is by clients that wait for their answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

PACE_S = 0.004
"""How often it is looked whether requests are due."""
MOST_CONNECTIONS = 2000


@dataclass
class Seen:
    """What came back: answers by status, how long those with 200 took (ms), and those that were
    refused without the seconds to wait."""

    statuses: Counter[int] = field(default_factory=Counter)
    accepted_ms: list[float] = field(default_factory=list)
    untold: int = 0
    lost: int = 0
    """Requests whose connection ended without an answer."""
    unsent: int = 0
    """Those that were due while MOST_CONNECTIONS waited for an answer."""


async def sent(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Seen:
    """Send `rate` requests a second, in turns, and return when all were answered."""
    seen, idle, alive = Seen(), list[_Connection](), set[_Connection]()
    loop = asyncio.get_running_loop()
    begun, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < seconds:
        while count < int(elapsed * rate):
            count += 1
            if not idle and len(alive) >= MOST_CONNECTIONS:
                seen.unsent += 1
                continue
            if not idle:
                await loop.create_connection(
                    lambda: _Connection(seen, idle, alive), "127.0.0.1", port
                )
            idle.pop().send(requests[count % len(requests)])
        await asyncio.sleep(PACE_S)
    while any(connection.waits for connection in alive):
        await asyncio.sleep(0.05)
    for connection in tuple(alive):
        connection.close()
    return seen


class _Connection(asyncio.Protocol):
    """One connection, which carries a request at a time; it is in `idle` while it may be sent one,
    and in `alive` while it is open."""

    def __init__(self, seen: Seen, idle: list[_Connection], alive: set[_Connection]) -> None:
        self._seen, self._idle, self._alive = seen, idle, alive
        self._read, self._begun, self.waits = b"", 0.0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._alive.add(self)
        self._idle.append(self)

    def send(self, request: bytes) -> None:
        self._begun, self.waits = time.perf_counter(), True
        self._transport.write(request)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, separator, body = self._read.partition(b"\r\n\r\n")
        headers = head.lower().split(b"\r\n")
        length = next((int(h[15:]) for h in headers if h.startswith(b"content-length:")), None)
        if not separator or length is None or len(body) < length:
            return
        status = int(head[9:12])
        self._seen.statuses[status] += 1
        if status == 200:
            self._seen.accepted_ms.append(1000 * (time.perf_counter() - self._begun))
        elif not any(header.startswith(b"retry-after:") for header in headers):
            self._seen.untold += 1
        self._read, self.waits = b"", False
        if b"connection: close" in headers:
            self._transport.close()
        else:
            self._idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self.waits:
            self._seen.lost += 1
            self.waits = False
        self._alive.discard(self)
        if self in self._idle:
            self._idle.remove(self)
