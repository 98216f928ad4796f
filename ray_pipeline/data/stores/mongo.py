"""A MongoDB collection: one document a key, replaced by its key."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pymongo

from ray_pipeline.data.stores.rows import address, table
from ray_pipeline.job import Store

BATCH = 1000
VERSION = "_version"


class Mongo:
    """The key is the document's `_id`, so that a repeated write puts the same documents there."""

    def __init__(self, settings: Store) -> None:
        assert settings.key, "checked by the settings"
        self.settings, self.key = settings, settings.key
        database = pymongo.MongoClient[dict[str, Any]](address(settings)).get_default_database()
        self.rows = database[settings.table]
        self.writes = database["ray_pipeline_writes"]

    def version(self) -> str | None:
        found = self.writes.find_one({"_id": self.settings.table})
        return found["version"] if found else None

    def write(self, rows: pa.RecordBatchReader, version: str) -> int:
        count = 0
        for batch in rows:
            for start in range(0, len(batch), BATCH):
                found = batch.slice(start, BATCH).to_pylist()
                count += len(found)
                self.rows.bulk_write([self._replaced(row, version) for row in found], ordered=False)
        if self.settings.mode == "replace":
            self.rows.delete_many({VERSION: {"$ne": version}})
        self.writes.replace_one(
            {"_id": self.settings.table}, {"version": version, "rows": count}, upsert=True
        )
        return count

    def reset(self) -> None:
        self.writes.delete_one({"_id": self.settings.table})

    def search(self, keys: Sequence[Any]) -> pa.Table:
        found = self.rows.find({"_id": {"$in": list(keys)}}, {"_id": 0, VERSION: 0})
        return table(list(found))

    def delete(self, keys: Sequence[Any] | None) -> int:
        chosen = {} if keys is None else {"_id": {"$in": list(keys)}}
        return int(self.rows.delete_many(chosen).deleted_count)

    def holding(self, column: str, texts: Collection[str]) -> list[Any]:
        as_text = {"$convert": {"input": f"${column}", "to": "string", "onError": None}}
        found = self.rows.find({"$expr": {"$in": [as_text, sorted(texts)]}}, {"_id": 1})
        return [document["_id"] for document in found]

    def _replaced(self, row: dict[str, Any], version: str) -> pymongo.ReplaceOne[dict[str, Any]]:
        document = {**row, VERSION: version}
        return pymongo.ReplaceOne({"_id": row[self.key]}, document, upsert=True)
