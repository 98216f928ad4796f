"""Rows of a MongoDB collection: one for each document, by ranges of `_id`.

Ray's own `read_mongo` cuts a collection by a sample and turns documents into a table of one fixed
schema, in which a field of two types is lost. Here ranges are cut by the index of `_id`, each
range knows how many documents it has, and fields become texts, to be typed and, if need be,
quarantined like those of JSON Lines. Nested values stay JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from ray_pipeline.data.connectors import Connector
from ray_pipeline.data.credentials import Login, login, variables
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Source
from ray_pipeline.schema import Kind

BATCH = 5_000
"""Documents turned into one table; the first ones tell the collection's fields."""
DOCUMENTS_A_RANGE = 50_000
MOST_RANGES = 64
_WAIT_MS = 10_000


@dataclass(frozen=True)
class Range:
    """Documents with `_id` in [low, high), to the end without a `high`; all without a `low`."""

    source: Source
    login: Login
    first: int = 0
    low: Any = None
    high: Any = None
    count: int | None = None

    @property
    def filter(self) -> dict[str, Any]:
        bounds = {"$gte": self.low, "$lt": self.high}
        given = {sign: bound for sign, bound in bounds.items() if bound is not None}
        return {"_id": given} if given else {}


@contextmanager
def _collection(source: Source, entry: Login) -> Iterator[Any]:
    """The collection `table` of the URL's database. Raises DataError as `redis_keys` does."""
    try:
        import pymongo
        from pymongo.errors import OperationFailure, PyMongoError
    except ImportError:
        raise DataError(
            "reading MongoDB needs `pymongo`, which is not installed",
            where=str(source),
            hint="pip install 'ray-pipeline[mongodb]'",
        ) from None
    database = urlsplit(source.url).path.strip("/")
    if not database or not source.table:
        raise DataError(
            "the source does not say what to read",
            where=str(source),
            expected="mongodb://host/database, and the collection under `table`",
        )
    try:
        client: Any = pymongo.MongoClient(entry.url, serverSelectionTimeoutMS=_WAIT_MS)
        with client:
            yield client[database][source.table]
    except OperationFailure as error:
        hint = f"check {variables(source)} in the environment of this command"
        raise DataError(
            f"MongoDB refused: {entry.scrubbed(error)}", where=str(source), hint=hint
        ) from None
    except PyMongoError as error:
        raise DataError(
            f"MongoDB cannot be reached: {entry.scrubbed(error)}",
            where=str(source),
            hint="run the same command again when it is back; what is stored is kept",
        ) from None


def names(source: Source, data: Data) -> list[str]:
    """The fields of the first documents, in the order in which they appear."""
    with _collection(source, login(source)) as collection:
        first = collection.find({}).sort("_id", 1).limit(BATCH)
        fields = dict.fromkeys(name for document in first for name in document)
    if not fields:
        raise DataError("the collection is empty or not there", where=str(source))
    return list(fields)


def kinds(source: Source, data: Data) -> dict[str, Kind]:
    """None: a field may hold another type in each document."""
    return {}


def fingerprint(source: Source, data: Data) -> Any:
    """How many documents, the least and greatest `_id`, and the greatest value of `key`.

    It does not see a document that is changed in place, unless the job names under `key` a field
    that grows with each change.
    """
    with _collection(source, login(source)) as collection:
        ends = [
            (name, order) for name, order in (("_id", 1), ("_id", -1), (source.key, -1)) if name
        ]
        found = [collection.find_one({}, {name: 1}, sort=[(name, order)]) for name, order in ends]
        count = collection.count_documents({})
    return [count, [str((one or {}).get(name)) for one, (name, _) in zip(found, ends, strict=True)]]


def pieces(source: Source, data: Data) -> list[Range]:
    """Ranges of `_id` with as many documents each; one, where ids of several types have no order
    in common."""
    entry = login(source)
    with _collection(source, entry) as collection:
        total = collection.count_documents({})
        wanted = source.partitions or min(-(-total // DOCUMENTS_A_RANGE), MOST_RANGES)
        if wanted < 2 or not total:
            return [Range(source, entry)]
        step = -(-total // wanted)
        ids = collection.find({}, {"_id": 1}).sort("_id", 1)
        places = range(0, total, step)
        cuts = [next(ids.clone().skip(place).limit(1))["_id"] for place in places]
        ranges = [
            Range(source, entry, place, low, high, min(step, total - place))
            for place, low, high in zip(places, cuts, [*cuts[1:], None], strict=True)
        ]
        counts = [collection.count_documents(part.filter) for part in ranges]
    return ranges if counts == [part.count for part in ranges] else [Range(source, entry)]


def tables(piece: Range, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    """The range's documents as texts; `_row` counts the documents by `_id`, from 1.

    Raises:
        DataError: the server breaks off, or documents came or went since the range was cut.
    """
    count = 0
    with _collection(piece.source, piece.login) as collection:
        cursor = collection.find(piece.filter, dict.fromkeys(["_id", *names], 1)).sort("_id", 1)
        batch: list[Mapping[str, Any]] = []
        for document in cursor:
            batch.append(document)
            if len(batch) == BATCH:
                yield _table(batch, names, piece.first + count)
                count += len(batch)
                batch = []
        if batch:
            yield _table(batch, names, piece.first + count)
            count += len(batch)
    if piece.count is not None and piece.high is not None and count != piece.count:
        raise DataError(
            f"the collection changed while it was read: {count:,} documents where there were "
            f"{piece.count:,}",
            where=str(piece.source),
            hint="run the same command again, or set `partitions: 1`",
        )


def _table(documents: Sequence[Mapping[str, Any]], names: Sequence[str], before: int) -> pa.Table:
    texts = {
        name: pa.array([_text(document.get(name)) for document in documents], pa.string())
        for name in names
    }
    nothing = pa.nulls(len(documents), pa.string())
    numbers = pa.array(range(before + 1, before + 1 + len(documents)), pa.int64())
    return pa.table(texts | {"_row": numbers, "_error": nothing, "_raw": nothing})


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)  # numbers, decimals and object ids as they spell themselves


CONNECTOR = Connector(fingerprint, names, kinds, pieces, tables)
