"""Where requests and the labels that came for them later are kept: Parquet files, newest last.

    <storage>/<job>/log/<endpoint>/requests/<nanoseconds>-<process>.parquet
    <storage>/<job>/log/<endpoint>/feedback/<nanoseconds>-<process>.parquet

Each replica writes files of its own, whole or not at all, and removes the oldest of everybody's.
"""

from __future__ import annotations

import io
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from ray_pipeline import audit
from ray_pipeline.files import LOCAL, write_whole

REQUESTS, FEEDBACK = "requests", "feedback"
FEEDBACK_SHARE = 0.25
"""What feedback may take beside the requests."""
_DAY_NS = 86_400 * 10**9


class File(NamedTuple):
    """A file of the log, when it was written and how large it is."""

    path: UPath
    nanoseconds: int
    size: int


def folder(bundle: str | UPath, name: str) -> UPath:
    """The log of the endpoint `name`, in the storage of its bundle or else this user's folder."""
    path = UPath(bundle)
    inside = path.parent.name == "bundles"
    root = path.parent.parent if inside else UPath(audit.storage_of(str(bundle)))
    return root / "log" / name


def added(kept: UPath, table: pa.Table, max_bytes: float, max_age_days: float) -> int:
    """Write a file to the folder `kept`, in which the oldest have made room for it; its bytes.

    Several replicas that write at the same moment may be above `max_bytes` by a file each, until
    one of them writes again. A table that alone is larger is not written: 0.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    content = buffer.getvalue()
    if len(content) > max_bytes:
        return 0
    swept(kept, max_bytes - len(content), max_age_days)
    if kept.protocol in LOCAL:
        Path(str(kept)).mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"{time.time_ns():020d}-{os.getpid()}{secrets.token_hex(2)}.parquet"
    write_whole(kept / name, content)
    return len(content)


def swept(kept: UPath, max_bytes: float, max_age_days: float) -> None:
    """Remove files that are too old, then the oldest of those that are too many."""
    oldest, total = time.time_ns() - max_age_days * _DAY_NS, 0
    for file in reversed(files(kept)):
        total += file.size
        if total > max_bytes or file.nanoseconds < oldest:
            _removed(file.path)


def files(kept: UPath) -> list[File]:
    """The files in a folder of the log, oldest first."""
    kept.fs.invalidate_cache()  # an object store's client keeps what it once listed
    if not kept.exists():
        return []
    found = kept.fs.find(kept.path, detail=True)
    names = sorted(name for name in found if name.endswith(".parquet"))
    return [
        File(kept / at, int(at.partition("-")[0]), int(found[name]["size"]))
        for name in names
        if not (at := name.rpartition("/")[2]).startswith(".")
    ]


def newest(kept: UPath, rows: int, since: float = 0.0) -> pa.Table | None:
    """The newest rows of a folder of the log, at most so many, oldest first; None if there are
    none. `since`: seconds since 1970, before which none are taken. Nor are those before which the
    log was kept otherwise: other columns, or of texts another thing."""
    tables: list[pa.Table] = []
    left = rows
    for table in _tables(kept, since):
        if tables and table.schema.types != tables[0].schema.types:
            break
        tables.append(table.slice(max(0, len(table) - left)))
        left -= len(tables[-1])
        if left <= 0:
            break
    return pa.concat_tables(reversed(tables), promote_options="default") if tables else None


def labelled(logged: pa.Table, kept: UPath) -> pa.Table:
    """Those of the logged rows for which a label came, with it as `label`; of several the last.

    `kept` is the folder of the feedback.
    """
    first = pc.min(logged["time"]).as_py().timestamp() if len(logged) else 0.0
    told = [table.select(["id", "row", "label", "time"]) for table in _tables(kept, first)]
    if not told:
        return logged.slice(0, 0).append_column("label", logged["predicted"].slice(0, 0))
    labels = pa.concat_tables(told, promote_options="default").sort_by(
        [("time", "ascending"), ("id", "ascending"), ("row", "ascending")]
    )
    last = labels.group_by(["id", "row"], use_threads=False).aggregate([("label", "last")])
    last = last.rename_columns(["id", "row", "label"])
    # Joins know no structs: rows are found by their place, and taken.
    places = pa.table(
        {"id": logged["id"], "row": logged["row"], "place": pa.array(range(len(logged)))}
    )
    met = places.join(last, ["id", "row"], join_type="inner").sort_by("place")
    return logged.take(met["place"]).append_column("label", met["label"])


def _tables(kept: UPath, since: float) -> Iterator[pa.Table]:
    """The tables of files written at `since` or later, newest first."""
    for file in reversed(files(kept)):
        if file.nanoseconds < since * 1e9:
            return
        try:
            with file.path.open("rb") as opened:
                table = pq.read_table(opened)
        except FileNotFoundError:
            continue  # a replica has removed it meanwhile
        if since:
            moment = pa.scalar(round(since * 1e6), pa.timestamp("us", "UTC"))
            table = table.filter(pc.greater_equal(table["time"], moment))
        yield table


def _removed(path: UPath) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return  # another replica was first
