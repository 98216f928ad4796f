"""Lance tables, through pylance."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
from upath import UPath

from ray_pipeline.data.faults import missing
from ray_pipeline.data.readers.stores import options
from ray_pipeline.data.readers.versioned import Table, Version
from ray_pipeline.errors import DataError


def opened(path: UPath, version: Version = None) -> Table:
    """A Lance table as it is, or was: at a version's number or a tag."""
    try:
        import lance
    except ImportError:
        raise missing("pylance", "lance", str(path)) from None
    try:
        dataset = lance.dataset(str(path), version=version, storage_options=options())
    except (OSError, ValueError) as error:
        at = "" if version is None else f" at version {version}"
        message = str(error).partition(", /")[0]  # what follows are lines of Lance's own code
        raise DataError(f"no Lance table{at}: {message}", where=str(path)) from error
    fragments = dataset.get_fragments()

    def scan(start: int, end: int, columns: list[str]) -> Iterable[pa.RecordBatch]:
        reading = dataset.scanner(
            columns=columns, fragments=fragments[start:end], scan_in_order=True
        )
        return reading.to_batches()

    files = [
        (sum(file.file_size_bytes or 0 for file in fragment.metadata.files), fragment.count_rows())
        for fragment in fragments
    ]
    written = next(v["timestamp"] for v in dataset.versions() if v["version"] == dataset.version)
    identity = f"{dataset.version} {written}"
    return Table(dataset.schema, dataset.version, identity, files, scan)
