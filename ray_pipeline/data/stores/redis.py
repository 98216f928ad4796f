"""Redis as the online store: a hash for each key, read by the endpoint within a request."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import redis

from ray_pipeline.data.stores.rows import address, table
from ray_pipeline.errors import DataError
from ray_pipeline.job import Store

BATCH = 1000
"""Keys in one round trip."""


class Redis:
    """`<table>:<key>` is a hash of the columns, each value as JSON; `<table>:keys` all keys.

    A write overwrites hashes, so a killed one is mended by the same write. Values become visible
    key by key, a key's all at once.
    """

    def __init__(self, settings: Store) -> None:
        assert settings.key, "checked by the settings"
        self.settings, self.key, self.table = settings, settings.key, settings.table
        self.client = redis.Redis.from_url(address(settings), decode_responses=True)

    def version(self) -> str | None:
        with self._reached():
            found = self.client.get(f"{self.table}:version")
        return None if found is None else str(found)

    def write(self, rows: pa.RecordBatchReader, version: str) -> int:
        fresh, count = f"{self.table}:keys:{version}", 0
        with self._reached():
            self.client.delete(fresh)
            for batch in rows:
                for start in range(0, len(batch), BATCH):
                    count += self._put(batch.slice(start, BATCH).to_pylist(), fresh)
            if self.settings.mode == "replace":
                gone = self.client.sdiff([f"{self.table}:keys", fresh])
                self._drop(gone, [f"{self.table}:keys"])
                if count:
                    self.client.rename(fresh, f"{self.table}:keys")
            else:
                self.client.sunionstore(f"{self.table}:keys", [f"{self.table}:keys", fresh])
                self.client.delete(fresh)
            self.client.set(f"{self.table}:version", version)
        return count

    def reset(self) -> None:
        with self._reached():
            self.client.delete(f"{self.table}:version")

    def search(self, keys: Sequence[Any]) -> pa.Table:
        found = zip(keys, self.values(keys, None), strict=True)
        return table([{self.key: key, **row} for key, row in found if row])

    def values(self, keys: Sequence[Any], columns: Sequence[str] | None) -> list[dict[str, Any]]:
        """The columns of each key, all if none are named; empty for a key that is not there."""
        pipe = self.client.pipeline(transaction=False)
        for key in keys:
            name = f"{self.table}:{key}"
            if columns is None:
                pipe.hgetall(name)
            else:
                pipe.hmget(name, list(columns))
        with self._reached():
            found = pipe.execute()
        if columns is not None:
            found = [dict(zip(columns, values, strict=True)) for values in found]
        return [
            {name: json.loads(text) for name, text in row.items() if text is not None}
            for row in found
        ]

    def delete(self, keys: Sequence[Any] | None) -> int:
        with self._reached():
            chosen = self._members() if keys is None else [str(key) for key in keys]
            return self._drop(chosen, self._sets())

    def holding(self, column: str, texts: Collection[str]) -> list[Any]:
        with self._reached():
            members = self._members()
        found = []
        for start in range(0, len(members), BATCH):
            some = members[start : start + BATCH]
            rows = self.values(some, [column])
            found += [
                key for key, row in zip(some, rows, strict=True) if _text(row, column) in texts
            ]
        return found

    def _sets(self) -> list[str]:
        """The sets of keys: the table's, and those of writes that were killed."""
        found = self.client.scan_iter(match=f"{self.table}:keys*", count=BATCH, _type="SET")
        return [str(name) for name in found]

    def _members(self) -> list[str]:
        known = self._sets()
        return sorted(map(str, self.client.sunion(known))) if known else []

    def _put(self, rows: list[dict[str, Any]], fresh: str) -> int:
        pipe = self.client.pipeline(transaction=True)
        for row in rows:
            key = row.pop(self.key)
            if key is None:
                raise DataError("a row has no key", where=f"stores, redis, column {self.key}")
            name = f"{self.table}:{key}"
            pipe.delete(name)  # columns of before that are null now
            texts: dict[Any, Any] = {
                column: json.dumps(v, default=str) for column, v in row.items() if v is not None
            }
            pipe.hset(name, mapping={self.key: json.dumps(key, default=str), **texts})
            pipe.sadd(fresh, str(key))
        pipe.execute()
        return len(rows)

    def _drop(self, keys: Any, sets: Sequence[str]) -> int:
        removed = 0
        listed = list(keys)
        for start in range(0, len(listed), BATCH):
            chosen = listed[start : start + BATCH]
            removed += int(self.client.unlink(*(f"{self.table}:{key}" for key in chosen)))
            for name in sets:
                self.client.srem(name, *chosen)
        return removed

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except redis.ConnectionError as error:
            raise DataError(
                f"Redis: {error}",
                where=f"stores, redis {self.table}",
                hint="check that the server runs, and REDIS_PASSWORD",
            ) from error


def _text(row: dict[str, Any], column: str) -> str | None:
    return str(row[column]) if column in row else None
