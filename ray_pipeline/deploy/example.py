"""A row to show and to try: each column's typical value, from the training statistics."""

from __future__ import annotations

from typing import Any

from ray_pipeline.bundle import Bundle
from ray_pipeline.data.statistics import Statistics


def statistics(opened: Bundle) -> Statistics:
    """What the bundle's model learned from its training rows."""
    text = (opened.path / "statistics.json").read_text(encoding="utf-8")
    return Statistics.model_validate_json(text)


def example_row(opened: Bundle) -> dict[str, Any]:
    """The median of each number and the most frequent value of each category; None if none."""
    known = statistics(opened)
    medians = {column.name: column.median for column in known.numbers}
    values = {column.name: column.values for column in known.categories}
    row: dict[str, Any] = {}
    for column in opened.manifest.schema.features:
        if column.kind == "category":
            row[column.name] = next(iter(values[column.name]), None)
        elif column.kind == "boolean":
            row[column.name] = medians[column.name] >= 0.5
        elif column.kind == "integer":
            row[column.name] = round(medians[column.name])
        else:
            row[column.name] = medians[column.name]
    return row
