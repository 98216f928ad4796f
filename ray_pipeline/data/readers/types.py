"""The types of files that have types."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ray_pipeline.errors import DataError
from ray_pipeline.schema import Kind, kind_of


def kinds_of(schema: pa.Schema) -> dict[str, Kind]:
    """The kinds of the columns whose types say it; texts may hold anything."""
    kinds = {field.name: kind_of(field.type) for field in schema}
    return {name: kind for name, kind in kinds.items() if kind}


def plain(column: pa.DataType) -> pa.DataType:
    """The type by which texts go here, whatever a library's own is; other types as they are."""
    wide = pa.types.is_large_string(column) or pa.types.is_string_view(column)
    return pa.string() if wide else column


def check_flat(schema: pa.Schema, wanted: Sequence[str], where: str) -> None:
    """Raises DataError where one of the columns `wanted` holds maps, records or lists that are not
    of texts."""
    for name in wanted:
        found = schema.field(name).type
        if pa.types.is_nested(found) and kind_of(found) is None:
            raise DataError(
                f"column `{name}` holds {found}",
                where=where,
                expected="numbers, texts, booleans, times, or lists of texts as a label",
            )
