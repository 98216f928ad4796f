"""Small files and the settings to read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from upath import UPath

from ray_pipeline.data import collect, parts
from ray_pipeline.job import Data


def data_of(source: Path | str, **settings: Any) -> Data:
    return Data(source=str(source), **{"label": "label", **settings})


def file_of(folder: Path, text: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def collected(data: Data) -> list[dict[str, Any]]:
    """What `collect.rows` makes of the source, in the rows' order."""
    rows = parts.executed(collect.rows(data.source, data, collect.schema(data)).take_all)
    return sorted(rows, key=lambda row: (row["_source"], row["_row"]))


def table_in(folder: UPath) -> pa.Table:
    """All rows of a folder's parquet files."""
    return pa.concat_tables([parts.read(path) for path in parts.existing_files(folder)])


def folder(parent: Path, name: str) -> UPath:
    path = UPath(parent) / name
    path.mkdir()
    return path
