"""Conditions on keys as SQL text, for stores that take no parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import date, datetime
from typing import Any

from ray_pipeline.errors import DataError

MOST = 1000
"""Keys in one condition."""


def among(column: str, keys: Sequence[Any] | None, mark: str = '"') -> Iterator[str]:
    """Conditions that together hold for the rows whose `column` is one of `keys`, or for all.

    `mark` encloses names: Lance takes what stands in double quotes for a text, and wants backticks.
    """
    if keys is None:
        yield "true"
        return
    for start in range(0, len(keys), MOST):
        chosen = ", ".join(literal(key) for key in keys[start : start + MOST])
        yield f"{quoted(column, mark)} IN ({chosen})"


def texts_among(column: str, texts: Collection[str], mark: str = '"') -> str:
    """A condition that holds for the rows whose `column` is one of `texts` when cast to a text."""
    chosen = ", ".join(map(literal, sorted(texts)))
    return f"CAST({quoted(column, mark)} AS STRING) IN ({chosen})"


def literal(value: Any) -> str:
    """A value as SQL. Raises DataError for one that no key has."""
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    if isinstance(value, datetime | date):
        return f"'{value.isoformat()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    raise DataError(f"a key is {type(value).__name__}", expected="a number, a text or a date")


def quoted(name: str, mark: str = '"') -> str:
    """A column's name as an identifier."""
    return mark + name.replace(mark, mark * 2) + mark
