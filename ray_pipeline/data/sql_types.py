"""Types of SQL columns as Arrow types and kinds, and drivers' values as Arrow arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import sqlalchemy as sa

_SHOWN = 60  # characters of a value that a fault quotes


def arrow_type(column: sa.types.TypeEngine[Any]) -> pa.DataType:
    """The Arrow type that holds every value of an SQL type; text for those without an equal.

    NUMERIC with a precision becomes a decimal of the same, without one text: both are exact.
    """
    from sqlalchemy import types

    if isinstance(column, types.Numeric) and not isinstance(column, types.Float):
        precision, scale = column.precision, column.scale or 0
        return pa.decimal128(precision, scale) if precision and precision <= 38 else pa.string()
    if isinstance(column, types.DateTime):
        return pa.timestamp("us", tz="UTC" if column.timezone else None)
    if getattr(column, "unsigned", False):
        return pa.uint64()
    if _is_mysql_boolean(column):
        return pa.bool_()
    equals = {
        types.Boolean: pa.bool_(),
        types.Integer: pa.int64(),
        types.Float: pa.float64(),
        types.Date: pa.date32(),
        types.LargeBinary: pa.binary(),
    }
    return next((ours for its, ours in equals.items() if isinstance(column, its)), pa.string())


def _is_mysql_boolean(column: Any) -> bool:
    """MySQL has no booleans: BOOLEAN is TINYINT(1)."""
    return type(column).__name__ == "TINYINT" and getattr(column, "display_width", None) == 1


def inferred_type(values: Sequence[Any]) -> pa.DataType:
    """The Arrow type of a query's column, whose SQL type is not told, by its first values."""
    known = [value for value in values if value is not None]
    if not known or any(isinstance(value, Decimal | str) for value in known):
        return pa.string()
    try:
        found = pa.array(known).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.string()
    if pa.types.is_timestamp(found):
        return pa.timestamp("us", tz="UTC" if found.tz else None)
    flat = pa.types.is_primitive(found) or pa.types.is_binary(found)
    return found if flat and not pa.types.is_duration(found) else pa.string()


def array(values: Sequence[Any], wanted: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """A driver's values as `wanted`, null for those that do not fit, and what these were by place.

    SQLite holds any type in any column, MySQL dates such as 0000-00-00.
    """
    try:
        return _array(values, wanted), {}
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError, ValueError):
        each = [_one(value, wanted) for value in values]
    faults = {
        place: str(value)[:_SHOWN]
        for place, (value, found) in enumerate(zip(values, each, strict=True))
        if found is None
    }
    nothing = pa.nulls(1, wanted)
    return pa.concat_arrays([nothing if found is None else found for found in each]), faults


def _one(value: Any, wanted: pa.DataType) -> pa.Array | None:
    try:
        return _array([value], wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError, ValueError):
        return None


def _array(values: Sequence[Any], wanted: pa.DataType) -> pa.Array:
    """The values as `wanted`; raises an Arrow error if one does not fit."""
    if pa.types.is_string(wanted):
        return pa.array([_text(value) for value in values], wanted)
    if pa.types.is_decimal(wanted):
        values = [_finite(value) for value in values]
    try:
        return pa.array(values, wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
        if pa.types.is_binary(wanted):
            raise
        return pc.cast(pa.array([_text(value) for value in values], pa.string()), wanted)


def _finite(value: Any) -> Any:
    return None if isinstance(value, Decimal) and not value.is_finite() else value


def _text(value: Any) -> str | None:
    """A value as text: JSON for lists and objects, bytes as hexadecimal digits."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
