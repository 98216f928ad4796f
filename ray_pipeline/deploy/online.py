"""Features that a request does not carry: read from the online store by the row's key."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio

from ray_pipeline.data.credentials import login
from ray_pipeline.errors import RequestError
from ray_pipeline.job import Online, Source

TIMEOUT_S = 0.5
"""A request waits no longer for the store."""


class Lookup:
    """Fills rows from the hashes that a job's store wrote, in one round trip a request.

    Args:
        settings: the job's `serve.online`. The password comes from this process's environment.

    Raises:
        DataError: the URL names a variable that is not set.
    """

    def __init__(self, settings: Online) -> None:
        self.settings = settings
        self._client = redis.asyncio.Redis.from_url(
            login(Source(url=settings.url, table=settings.table)).url,
            decode_responses=True,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
        )

    async def filled(self, rows: Sequence[Any]) -> list[Any]:
        """`rows` with the columns that they lack, null where the store does not know the key.

        What a row carries itself is kept. Rows that are no objects, or without a key, stay as
        they are: the check that follows says what is wrong with them.

        Raises:
            RequestError: 503, the store does not answer.
        """
        key, columns = self.settings.key, self.settings.columns
        known = [
            row for row in rows if isinstance(row, dict) and isinstance(row.get(key), str | int)
        ]
        pipe = self._client.pipeline(transaction=False)
        for row in known:
            pipe.hmget(f"{self.settings.table}:{row[key]}", list(columns))
        try:
            found = await pipe.execute() if known else []
        except (redis.RedisError, OSError) as error:
            raise RequestError(
                "the online store does not answer",
                status=503,
                code="online_store",
                where=self.settings.table,
            ) from error
        stored = {id(row): _values(columns, texts) for row, texts in zip(known, found, strict=True)}
        return [{**stored[id(row)], **row} if id(row) in stored else row for row in rows]


def _values(columns: Sequence[str], texts: Sequence[str | None]) -> dict[str, Any]:
    return {
        name: None if text is None else json.loads(text)
        for name, text in zip(columns, texts, strict=True)
    }


def latency(settings: Online, rounds: int = 200) -> dict[str, float]:
    """Milliseconds that one row's lookup takes from this machine: `p50` and `p99` of `rounds`.

    Raises:
        RequestError: the store does not answer.
    """

    async def taken() -> list[float]:
        lookup = Lookup(settings)
        seconds = []
        for number in range(rounds):
            begun = time.perf_counter()
            await lookup.filled([{settings.key: number}])
            seconds.append(time.perf_counter() - begun)
        await lookup._client.aclose()
        return sorted(seconds)

    spent = asyncio.run(taken())
    return {
        "p50": round(1000 * spent[len(spent) // 2], 3),
        "p99": round(1000 * spent[int(0.99 * len(spent))], 3),
    }
