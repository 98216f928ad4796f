"""STORES: tables, databases and vectors that rows are written to, with the same three verbs.

A write is named by a version, the digest of the rows' stage. A store that already holds the
version is left alone; a write that was killed leaves no row behind, or only such as the same write
puts there again: so a run may be killed and repeated without a duplicate or a hole.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.dataset as pads
from upath import UPath

from ray_pipeline.data import parts
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.job import History, Store

BATCH = 10_000
"""Rows written at a time."""


class Opened(Protocol):
    """A store that is open. Keys are values of the setting `key`'s column."""

    def version(self) -> str | None:
        """The version that was written last; None before the first."""

    def write(self, rows: pa.RecordBatchReader, version: str) -> int:
        """Put `rows` there as `version`; how many there were."""

    def reset(self) -> None:
        """Forget the version, so that the same is written again. What rows there are stay."""

    def search(self, keys: Sequence[Any]) -> pa.Table:
        """The rows of `keys`."""

    def delete(self, keys: Sequence[Any] | None) -> int:
        """Remove the rows of `keys`, from old versions too, or all; how many the newest had."""

    def holding(self, column: str, texts: Collection[str]) -> list[Any]:
        """The keys of the rows, in old versions too, whose `column` is one of `texts` when written
        as a text; none where there is no such column, or nothing at all."""


class Versioned(Opened, Protocol):
    """A store whose old versions can still be read: VERSIONED."""

    def trim(self, before: datetime) -> None:
        """Remove the versions, but for the newest, that were written before `before`."""


class Vectors(Opened, Protocol):
    """A store of vectors."""

    def nearest(self, vector: Sequence[float], count: int = 10, where: str = "") -> pa.Table:
        """The `count` rows nearest by cosine, nearest first, with their `distance`; of those that
        the SQL condition `where` holds for, if one is given."""


STORES = {
    "parquet": "parquet:Parquet",
    "delta": "delta:Delta",
    "lance": "lance:Lance",
    "lancedb": "lancedb:LanceDb",
    "postgresql": "postgres:Postgres",
    "mongodb": "mongo:Mongo",
    "redis": "redis:Redis",
}
VERSIONED = ("parquet", "delta", "lance", "lancedb")


def opened(settings: Store) -> Any:
    """The store that `settings` describe: `Opened`, and `Vectors` where it has vectors.

    Raises:
        JobError: its library is not installed.
        DataError: it cannot be reached.
    """
    module, _, name = STORES[settings.kind].partition(":")
    try:
        found = importlib.import_module(f"ray_pipeline.data.stores.{module}")
    except ModuleNotFoundError as error:
        raise JobError(
            f"{settings.kind} needs the package `{error.name}`",
            where="stores",
            hint="pip install 'ray-pipeline[stores]'",
        ) from error
    return getattr(found, name)(settings)


def write(
    cleaned: UPath, stores: Sequence[Store], version: str, history: Sequence[History] = ()
) -> dict[str, Any]:
    """Write `cleaned/rows`, or what `history` left beside it, to each of `stores`, as `version`.

    Raises:
        JobError: a store of the history has a key that no history has.
        DataError: a store cannot be reached, lacks a column, or a key stands twice.
    """
    kept = []
    for index, settings in enumerate(stores):
        name = _folder(settings, history, f"stores[{index}]")
        parts.existing_files(cleaned / name)
        whole = pads.dataset((cleaned / name).path, filesystem=cleaned.fs, format="parquet")
        kept.append(_written(whole, settings, version))
    return {
        "stores": kept,
        "unchanged": not any(store["written"] for store in kept),
        "findings": [
            {
                "title": "Stores",
                "note": f"Version {version}; what was there already is not written again.",
                "tables": [
                    {
                        "columns": ["store", "table", "rows", "written now"],
                        "rows": [
                            [store["kind"], store["table"], store["rows"], store["written"]]
                            for store in kept
                        ],
                    }
                ],
            }
        ],
    }


def _folder(settings: Store, history: Sequence[History], where: str) -> str:
    """Which folder of the stage has the store's rows."""
    if settings.rows == "clean":
        return "rows"
    for index, past in enumerate(history):
        if past.key == settings.key and set(settings.columns) <= set(past.columns()):
            return f"latest{index}"
    raise JobError(
        f"no history has the key `{settings.key}` and the columns of this store",
        where=where,
        expected="the key of one of "
        + (", ".join(past.key for past in history) or "`data.history`"),
    )


def _written(whole: pads.Dataset, settings: Store, version: str) -> dict[str, Any]:
    names = list(settings.columns) or whole.schema.names
    wanted = dict.fromkeys([*filter(None, [settings.key, settings.vector]), *names])
    if lacking := [name for name in wanted if name not in whole.schema.names]:
        raise DataError(
            f"no column is called `{lacking[0]}`",
            where=f"stores, {settings.kind} {settings.table}".rstrip(),
            expected=f"one of {', '.join(whole.schema.names)}",
        )
    store = opened(settings)
    rows = whole.count_rows()
    known = store.version() == version
    if not known:
        reader = whole.scanner(columns=list(wanted), batch_size=BATCH).to_reader()
        rows = store.write(reader, version)
    where = settings.table or settings.url.rstrip("/").rpartition("/")[2]
    return {"kind": settings.kind, "table": where, "rows": rows, "written": not known}
