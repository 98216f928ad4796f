"""Arrow types of files as kinds and as texts."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.errors import DataError
from ray_pipeline.schema import Kind


def kinds_of(schema: pa.Schema) -> dict[str, Kind]:
    """The kinds of the columns whose types say it; texts and dates may hold anything."""
    kinds = {field.name: _kind(field.type) for field in schema}
    return {name: kind for name, kind in kinds.items() if kind}


def _kind(column: pa.DataType) -> Kind | None:
    if pa.types.is_boolean(column):
        return "boolean"
    if pa.types.is_integer(column):
        return "integer"
    if pa.types.is_floating(column) or pa.types.is_decimal(column):
        return "number"
    return None


def texts(values: pa.Array, name: str, where: str) -> pa.Array:
    """A column as texts, which for floats are exact. Raises DataError for nested types."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        return pc.cast(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            f"column `{name}` holds {values.type}",
            where=where,
            expected="numbers, texts, booleans or times",
        ) from None
