"""Rows of every kind that annotators are shown, and the tasks that were made of them when Label
Studio's exports beside this file were recorded."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_pipeline.data.labels import identity, tasks
from ray_pipeline.schema import ARROW_TYPES, Column, Schema

EXPORTS = Path(__file__).parent / "exports"
"""What Label Studio 1.23 exported of TASKS after two people had answered them (export.json), and
the same as JSON-MIN (export_min.json): both said great of row 0, they disagreed on row 1, row 2
the first skipped and the second called great, row 3 is other to both, row 4 great to the second
and other as the first one's ground truth, row 5 nobody answered."""
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
COLUMNS = (
    Column(name="review text", kind="text"),
    Column(name="photo", kind="image"),
    Column(name="price", kind="number"),
    Column(name="bought", kind="date"),
)
SCHEMA = Schema(columns=(*COLUMNS, Column(name="y", kind="category", role="label")))
CLASSES = ("great", "other")
TEXTS = ["best tea", "so & so", "<b>bold</b>", "stale", 'the "finest"', "none of your $business"]


def rows() -> pa.Table:
    values: dict[str, list[Any]] = {
        "review text": TEXTS,
        "photo": [PIXEL, PIXEL, None, PIXEL, PIXEL, PIXEL],
        "price": [1.5, 2.0, None, 3.0, 4.0, 5.0],
        "bought": [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 7)],
    }
    types = {column.name: ARROW_TYPES[column.kind] for column in COLUMNS}
    return pa.table({name: pa.array(found, types[name]) for name, found in values.items()})


def made() -> list[dict[str, Any]]:
    """The tasks; what a model said is in every second."""
    of = identity.columns(SCHEMA)
    said = {"label": "great", "chance": 0.75, "model": "label model"}
    return [
        tasks.task(row, COLUMNS, item, of, said if place % 2 else None)
        for place, (row, item) in enumerate(
            zip(rows().to_pylist(), identity.ids(rows(), of), strict=True)
        )
    ]
