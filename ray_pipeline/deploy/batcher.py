"""Rows of requests that arrive together share one run of a model."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ray_pipeline.deploy.protocol import Rows

_NEWS = 0.2
"""What the last run counts for in the seconds that a row is thought to take: texts differ."""


class Batcher:
    """Runs a function once for all rows that arrive in one turn of the event loop.

    A run blocks the loop. So it gets no more rows than it can do in about `target_s`, by what the
    runs before it took; a request's own rows stay together however many they are.

    Args:
        run: rows to one result for each.
        max_rows: rows in a run; more wait for the next.
        target_s: seconds that a run for several requests should take at most.
        clock: seconds that never go back.
        ran: told of each run its rows, how long those of each request waited for it, in seconds,
            and how long it took.
    """

    def __init__(
        self,
        run: Callable[[Rows], list[Any]],
        max_rows: int,
        target_s: float = math.inf,
        clock: Callable[[], float] = time.perf_counter,
        ran: Callable[[int, list[float], float], None] | None = None,
    ) -> None:
        self._run, self._max_rows = run, max_rows
        self._target_s, self._clock, self._ran = target_s, clock, ran
        self._row_s = 0.0
        self._waiting: deque[tuple[Rows, asyncio.Future[list[Any]], float]] = deque()

    async def results(self, rows: Rows) -> list[Any]:
        """The results for `rows`, in their order."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((rows, future, self._clock()))
        return await future

    def _flush(self) -> None:
        batch = [self._waiting.popleft()]
        count, most = len(batch[0][0]), self._rows_in_time()
        while self._waiting and count + len(self._waiting[0][0]) <= most:
            batch.append(self._waiting.popleft())
            count += len(batch[-1][0])
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        begun = self._clock()
        try:
            results = self._run([row for rows, _, _ in batch for row in rows])
        except Exception as error:  # noqa: BLE001 - each request's own handler reports it
            for _, future, _ in batch:
                if not future.done():
                    future.set_exception(error)
            return
        took = self._clock() - begun
        self._learn(took / count)
        if self._ran:
            self._ran(count, [begun - since for _, _, since in batch], took)
        start = 0
        for rows, future, _ in batch:
            if not future.done():  # a client that left has cancelled its request
                future.set_result(results[start : start + len(rows)])
            start += len(rows)

    def _rows_in_time(self) -> int:
        if self._row_s * self._max_rows <= self._target_s:
            return self._max_rows
        return int(self._target_s / self._row_s)

    def _learn(self, row_s: float) -> None:
        self._row_s += (row_s - self._row_s) * (_NEWS if self._row_s else 1)
