"""Rows of requests that arrive together share one run of a model."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from ray_pipeline.deploy.protocol import Rows

_NEWS = 0.2
"""What the last run counts for in the seconds that a row is thought to take: texts differ."""
_LONG_S = 0.02
"""A run that is thought to take longer is made in a thread. In the event loop each turn would wait
for one, and a request takes several turns to be read and to be answered: with 32 reviews in flight
the slowest in a hundred took four times the median. A thread costs shorter runs a tenth of what an
endpoint can do: they begin before as many rows have come."""


class _Asked(NamedTuple):
    """Rows of a request, its future, and since when they wait."""

    rows: Rows
    future: asyncio.Future[list[Any]]
    since: float


class _Made(NamedTuple):
    """What came of a run: a result for each row, or why there is none."""

    results: list[Any] | Exception
    begun: float
    took: float


class Batcher:
    """Runs a function once for all rows that arrive while another run is made, or in one turn of
    the event loop.

    A run gets no more rows than it can do in about `target_s`, by what the runs before it took; a
    request's own rows stay together however many they are. One run is made at a time.

    Args:
        run: rows to one result for each; called in a thread if it is thought to take long.
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
        self._waiting: deque[_Asked] = deque()
        self._thread = ThreadPoolExecutor(1, "model")
        self._is_running = False

    async def results(self, rows: Rows) -> list[Any]:
        """The results for `rows`, in their order."""
        loop = asyncio.get_running_loop()
        if not self._waiting and not self._is_running:
            loop.call_soon(self._next)
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append(_Asked(rows, future, self._clock()))
        return await future

    def _next(self) -> None:
        """Make the next run."""
        batch = self._taken()
        rows = [row for asked in batch for row in asked.rows]
        loop = asyncio.get_running_loop()
        if len(rows) * self._row_s > _LONG_S:
            self._is_running = True
            running = loop.run_in_executor(self._thread, self._made, rows)
            running.add_done_callback(partial(self._made_apart, batch))
            return
        if self._waiting:
            loop.call_soon(self._next)
        self._answer(batch, self._made(rows))

    def _taken(self) -> list[_Asked]:
        """Those that waited longest, as many as a run may have."""
        batch = [self._waiting.popleft()]
        count, most = len(batch[0].rows), self._rows_in_time()
        while self._waiting and count + len(self._waiting[0].rows) <= most:
            batch.append(self._waiting.popleft())
            count += len(batch[-1].rows)
        return batch

    def _made(self, rows: Rows) -> _Made:
        begun = self._clock()
        try:
            results: list[Any] | Exception = self._run(rows)
        except Exception as error:  # noqa: BLE001 - each request's own handler reports it
            results = error
        return _Made(results, begun, self._clock() - begun)

    def _made_apart(self, batch: list[_Asked], running: asyncio.Future[_Made]) -> None:
        self._is_running = False
        self._answer(batch, running.result())
        if self._waiting:
            self._next()

    def _answer(self, batch: list[_Asked], made: _Made) -> None:
        if isinstance(made.results, Exception):
            for asked in batch:
                if not asked.future.done():
                    asked.future.set_exception(made.results)
            return
        self._learn(made.took / len(made.results))
        if self._ran:
            waited = [made.begun - asked.since for asked in batch]
            self._ran(len(made.results), waited, made.took)
        start = 0
        for asked in batch:
            if not asked.future.done():  # a client that left has cancelled its request
                asked.future.set_result(made.results[start : start + len(asked.rows)])
            start += len(asked.rows)

    def _rows_in_time(self) -> int:
        if self._row_s * self._max_rows <= self._target_s:
            return self._max_rows
        return int(self._target_s / self._row_s)

    def _learn(self, row_s: float) -> None:
        self._row_s += (row_s - self._row_s) * (_NEWS if self._row_s else 1)
