"""Rows of requests that arrive together share one run of a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ray_pipeline.deploy.protocol import Rows


class Batcher:
    """Runs a function once for all rows that arrive in one turn of the event loop.

    Args:
        run: rows to one result for each.
        max_rows: rows in a run; more wait for the next, so that no run blocks the loop for long.
    """

    def __init__(self, run: Callable[[Rows], list[Any]], max_rows: int) -> None:
        self._run, self._max_rows = run, max_rows
        self._waiting: list[tuple[Rows, asyncio.Future[list[Any]]]] = []

    async def results(self, rows: Rows) -> list[Any]:
        """The results for `rows`, in their order."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((rows, future))
        return await future

    def _flush(self) -> None:
        batch, count = [self._waiting.pop(0)], 0
        count = len(batch[0][0])
        while self._waiting and count + len(self._waiting[0][0]) <= self._max_rows:
            batch.append(self._waiting.pop(0))
            count += len(batch[-1][0])
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        try:
            results = self._run([row for rows, _ in batch for row in rows])
        except Exception as error:  # noqa: BLE001 - each request's own handler reports it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        start = 0
        for rows, future in batch:
            if not future.done():  # a client that left has cancelled its request
                future.set_result(results[start : start + len(rows)])
            start += len(rows)
