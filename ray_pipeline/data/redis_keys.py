"""Rows of Redis: one for each key that matches a pattern, a hash or a JSON object.

The column `key` is the key; the others are the hash's fields, or the object's. The keys are found
by SCAN, which may tell one twice but misses none that is there all along, and are shared out to
tasks, so each is read once. The list of keys has to fit into memory, the values need not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_pipeline.data.connectors import Connector
from ray_pipeline.data.credentials import Login, login, variables
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Source
from ray_pipeline.schema import Kind

KEYS = 10_000
"""Keys that a task reads."""
BATCH = 1_000
"""Keys asked for in one round trip."""
Found = Mapping[str, Any] | str
"""A key's fields, or what is wrong with it."""


@dataclass(frozen=True)
class Keys:
    """Keys that one task reads, and how many there are before them."""

    source: Source
    login: Login
    keys: tuple[bytes, ...]
    first: int


@contextmanager
def _connected(source: Source, entry: Login) -> Iterator[Any]:
    """A client. Raises DataError: not installed, not reached, refused, or broken meanwhile."""
    try:
        import redis
    except ImportError:
        raise DataError(
            "reading Redis needs `redis`, which is not installed",
            where=str(source),
            hint="pip install 'ray-pipeline[redis]'",
        ) from None
    try:
        with redis.Redis.from_url(entry.url) as client:
            yield client
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise DataError(
            f"Redis refused the user or the password: {entry.scrubbed(error)}",
            where=str(source),
            hint=f"check {variables(source)} in the environment of this command",
        ) from None
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise DataError(
            f"Redis cannot be reached: {entry.scrubbed(error)}",
            where=str(source),
            hint="run the same command again when it is back; what is stored is kept",
        ) from None
    except redis.RedisError as error:
        raise DataError(f"Redis says: {entry.scrubbed(error)}", where=str(source)) from None


def _keys(source: Source, client: Any) -> list[bytes]:
    """All keys that match, each once, in order. Raises DataError where there is none."""
    found = sorted(set(client.scan_iter(match=source.pattern or "*", count=BATCH)))
    if not found:
        raise DataError("no key matches", where=str(source), hint="check `pattern`")
    return found


def _values(client: Any, keys: Sequence[bytes]) -> list[Found]:
    """What each key holds."""
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.type(key)
    types = pipe.execute()
    for key, kind in zip(keys, types, strict=True):
        ask = {b"hash": pipe.hgetall, b"string": pipe.get, b"ReJSON-RL": _json(pipe)}
        ask.get(kind, pipe.exists)(key)
    told = pipe.execute(raise_on_error=False)
    return [_fields(kind, value) for kind, value in zip(types, told, strict=True)]


def _json(pipe: Any) -> Any:
    return lambda key: pipe.execute_command("JSON.GET", key)


def _fields(kind: bytes, value: Any) -> Found:
    if isinstance(value, Exception) or not value:  # gone, or another type, since it was asked for
        return "the key is gone"
    try:
        if kind == b"hash":
            return {name.decode(): text.decode() for name, text in value.items()}
        found = json.loads(value, parse_int=str, parse_float=str, parse_constant=str)
    except UnicodeDecodeError:
        return "expected UTF-8 text"
    except (ValueError, TypeError):
        found = None
    held = "text" if kind == b"string" else kind.decode()
    return found if isinstance(found, dict) else f"expected a hash or a JSON object, found {held}"


def names(source: Source, data: Data) -> list[str]:
    """`key`, then the fields of the first keys, in the order in which they appear."""
    with _connected(source, login(source)) as client:
        found = _values(client, _keys(source, client)[:BATCH])
    fields = dict.fromkeys(name for row in found if not isinstance(row, str) for name in row)
    if "key" in fields:
        raise DataError("a field is called `key`, as the key itself is", where=str(source))
    return ["key", *fields]


def kinds(source: Source, data: Data) -> dict[str, Kind]:
    """None: Redis holds texts."""
    return {}


def fingerprint(source: Source, data: Data) -> str:
    """A digest of every key and value: Redis keeps no count of changes, so all are read."""
    digest = hashlib.sha256()
    with _connected(source, login(source)) as client:
        keys = _keys(source, client)
        for start in range(0, len(keys), BATCH):
            part = keys[start : start + BATCH]
            for key, found in zip(part, _values(client, part), strict=True):
                digest.update(key + json.dumps(found, sort_keys=True).encode())
    return digest.hexdigest()


def pieces(source: Source, data: Data) -> list[Keys]:
    entry = login(source)
    with _connected(source, entry) as client:
        keys = _keys(source, client)
    size = -(-len(keys) // source.partitions) if source.partitions else KEYS
    return [
        Keys(source, entry, tuple(keys[start : start + size]), start)
        for start in range(0, len(keys), size)
    ]


def tables(piece: Keys, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    """The keys' rows as texts; `_row` counts the keys in their order, from 1."""
    with _connected(piece.source, piece.login) as client:
        for start in range(0, len(piece.keys), BATCH):
            keys = piece.keys[start : start + BATCH]
            found = _values(client, keys)
            yield _table(keys, found, names, piece.first + start)


def _table(
    keys: Sequence[bytes], found: Sequence[Found], names: Sequence[str], before: int
) -> pa.Table:
    shown = [key.decode(errors="backslashreplace") for key in keys]
    faults = [value if isinstance(value, str) else None for value in found]
    rows = [{} if isinstance(value, str) else value for value in found]
    columns = {
        name: [_text(row.get(name)) for row in rows] if name != "key" else shown for name in names
    }
    raw = [None if fault is None else key for key, fault in zip(shown, faults, strict=True)]
    texts = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    numbers = pa.array(range(before + 1, before + 1 + len(keys)), pa.int64())
    lineage = {"_row": numbers, "_error": pa.array(faults, pa.string())}
    return pa.table(texts | lineage | {"_raw": pa.array(raw, pa.string())})


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


CONNECTOR = Connector(fingerprint, names, kinds, pieces, tables)
