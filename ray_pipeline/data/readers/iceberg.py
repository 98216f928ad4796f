"""Iceberg tables, through PyIceberg."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from upath import UPath

from ray_pipeline.data.faults import missing, told
from ray_pipeline.data.readers.stores import properties
from ray_pipeline.data.readers.versioned import Table, Version
from ray_pipeline.errors import DataError


def opened(path: UPath, version: Version = None) -> Table:
    """An Iceberg table by its folder or one of its `.metadata.json`, as it is, or was.

    The version is a snapshot's number, or a branch's or tag's name.
    """
    try:
        from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow
        from pyiceberg.table import StaticTable
    except ImportError:
        raise missing("pyiceberg", "iceberg", str(path)) from None
    with told(path):
        location = metadata_file(path)
        try:
            table = StaticTable.from_metadata(str(location), properties())
        except ValueError as error:
            raise DataError("no Iceberg metadata", where=str(location)) from error
    snapshot = _snapshot(table, version, path)
    planned = table.scan(snapshot_id=snapshot) if snapshot else None
    tasks = sorted(planned.plan_files(), key=_path) if planned else []

    def scan(start: int, end: int, columns: list[str]) -> Iterable[pa.RecordBatch]:
        wanted = table.scan(snapshot_id=snapshot, selected_fields=tuple(columns))
        reading = ArrowScan(table.metadata, table.io, wanted.projection(), wanted.row_filter)
        return reading.to_record_batches(tasks[start:end])

    projection = planned.projection() if planned else table.schema()
    files = [(task.file.file_size_in_bytes, task.file.record_count) for task in tasks]
    schema = schema_to_pyarrow(projection, include_field_ids=False)
    return Table(schema, snapshot, f"{table.metadata.table_uuid} {snapshot}", files, scan)


def metadata_file(path: UPath) -> UPath:
    """The table's newest metadata: what `version-hint.text` says, else the highest number.

    Raises:
        DataError: there is none, or two have that number: only a catalog can tell which counts.
    """
    if path.name.endswith(".metadata.json"):
        return path
    folder = path / "metadata"
    hint = folder / "version-hint.text"
    if hint.exists():
        said = hint.read_text().strip()
        named = said if said.endswith(".metadata.json") else f"{said}.metadata.json"
        return folder / (f"v{named}" if said.isnumeric() else named)
    found = sorted(folder.glob("*.metadata.json"), key=lambda file: (_number(file), file.name))
    if not found:
        raise DataError("no Iceberg table", where=str(path), expected="metadata/*.metadata.json")
    if len(found) > 1 and _number(found[-1]) == _number(found[-2]):
        raise DataError(
            f"`{found[-2].name}` and `{found[-1].name}` both claim to be the newest",
            where=str(folder),
            hint="give the one that the catalog names as the `url`",
        )
    return found[-1]


def _number(file: UPath) -> int:
    found = re.match(r"v?(\d+)", file.name)
    return int(found[1]) if found else -1


def _path(task: Any) -> str:
    return str(task.file.file_path)


def _snapshot(table: Any, version: Version, path: UPath) -> int | None:
    """The number of the snapshot asked for; None for a table that has none yet."""
    by = table.snapshot_by_id if isinstance(version, int) else table.snapshot_by_name
    found = table.current_snapshot() if version is None else by(version)
    if found is None and version is not None:
        known = [str(snapshot.snapshot_id) for snapshot in table.metadata.snapshots]
        raise DataError(
            f"there is no snapshot {version}",
            where=str(path),
            expected=f"one of {', '.join(known[-5:]) or 'none yet'}",
        )
    return found.snapshot_id if found else None
