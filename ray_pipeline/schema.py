"""Column and Schema: what a row is, from the raw file to the request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

Kind = Literal["integer", "number", "boolean", "category", "date", "text", "image", "labels"]
"""A `category` has a vocabulary; a `text` is read word by word, and is never one. An `image` is
the bytes of a JPEG, PNG or the like. `labels` are the names of whatever applies to a row: several,
one or none; only a label can be such."""

SEPARATOR = "|"
"""What stands between the names of `labels`, where a job says nothing else."""

TEXTS: tuple[Kind, ...] = ("category", "text", "labels")
"""Kinds whose values are texts wherever they go; all others come to be numbers."""
Role = Literal["feature", "label", "ignore"]

ARROW_TYPES: dict[str, pa.DataType] = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "category": pa.string(),
    "date": pa.timestamp("us", "UTC"),
    "text": pa.string(),
    "image": pa.binary(),
    "labels": pa.string(),
}


def kind_of(column: pa.DataType) -> Kind | None:
    """The kind that a column's type says it is; texts may hold anything."""
    if pa.types.is_boolean(column):
        return "boolean"
    if pa.types.is_integer(column):
        return "integer"
    if pa.types.is_floating(column) or pa.types.is_decimal(column):
        return "number"
    if pa.types.is_timestamp(column) or pa.types.is_date(column):
        return "date"
    if pa.types.is_list(column) or pa.types.is_large_list(column):
        of_texts = pa.types.is_string(column.value_type) or pa.types.is_large_string(
            column.value_type
        )
        return "labels" if of_texts else None
    return None


class Column(BaseModel):
    """One column: its name, the kind of its values, and what it is used for.

    `separator` stands between the names of `labels`, and is of no meaning for other kinds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    role: Role = "feature"
    separator: str = SEPARATOR


class Schema(BaseModel):
    """The columns of a table, in order, and the texts that stand for a missing value.

    Texts are compared after surrounding white space is removed; the empty text is always missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[Column, ...]
    missing: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Column]:  # type: ignore[override]
        return iter(self.columns)

    def __getitem__(self, name: str) -> Column:
        """The column called `name`; raises KeyError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns a request carries and a model reads, in order."""
        return tuple(column for column in self.columns if column.role == "feature")

    @property
    def label(self) -> Column:
        """The column to predict; raises KeyError where there is none."""
        for column in self.columns:
            if column.role == "label":
                return column
        raise KeyError("label")

    @property
    def labelled(self) -> bool:
        """Whether one of the columns is to be predicted."""
        return any(column.role == "label" for column in self.columns)

    @property
    def missing_texts(self) -> frozenset[str]:
        return frozenset(("", *self.missing))

    def arrow(self) -> pa.Schema:
        """The schema of cleaned rows: integer → int64, number → float64, category,
        text and labels → string, date → timestamp[us, UTC]."""
        return pa.schema([(column.name, ARROW_TYPES[column.kind]) for column in self.columns])
