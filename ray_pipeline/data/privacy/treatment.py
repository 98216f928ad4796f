"""What becomes of columns with personal data: in tables as they are read, and in requests.

Rows are treated in the task that reads them, so that nothing of what a treatment removes reaches
the object store, a stored row, the quarantine, a summary or a log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data import dates, parsing
from ray_pipeline.data.hashing import row_hashes
from ray_pipeline.data.privacy import keys, recognise
from ray_pipeline.data.privacy.keys import Key
from ray_pipeline.errors import JobError
from ray_pipeline.job.privacy import Privacy, Treatment
from ray_pipeline.schema import TEXTS, Column, Kind, Schema

MASKED = "<MASKED>"
WITHHELD = "<withheld>"
ERASED = "erased: this person asked to be forgotten"
IDENTITY = "_identity"
"""A hash of what a treatment takes away, so that different rows do not turn into duplicates."""

Columns = dict[str, NDArray[Any]]


def stored_schema(schema: Schema, privacy: Privacy | None) -> Schema:
    """The schema of what is stored of rows with `schema`.

    Dropped columns are gone; hashed and masked ones are categories; masked ones and the subject
    are no features. Raises JobError where a treatment does not fit its column.
    """
    if privacy is None:
        return schema
    _check(privacy, schema)
    kept = [column for column in schema if privacy.method(column.name) != "drop"]
    return schema.model_copy(
        update={"columns": tuple(_stored_column(column, privacy) for column in kept)}
    )


def _stored_column(column: Column, privacy: Privacy) -> Column:
    method = privacy.method(column.name)
    kind: Kind = "category" if method in ("hash", "mask") else column.kind
    hidden = column.role == "feature" and (method == "mask" or column.name == privacy.subject)
    return Column(name=column.name, kind=kind, role="ignore" if hidden else column.role)


@dataclass(frozen=True)
class Treat:
    """Treats tables of `collect.rows`; goes to the tasks that read.

    Attributes:
        privacy: the settings, with `key` and `erased` filled in.
        schema: of what is stored.
        known: the keys by which erased subjects are recognised, and the key of new hashes.
    """

    privacy: Privacy
    schema: Schema
    known: tuple[Key, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns that must be read besides the schema's: those that are dropped."""
        named = self.privacy.columns
        return tuple(name for name in named if self.privacy.method(name) == "drop")

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table as it may be stored: the schema's columns, lineage, and IDENTITY where a
        treatment makes different values equal."""
        changed = list(self.privacy.columns)
        identity = _identity(table, changed) if changed else None
        for column in self.schema:
            if given := self.privacy.columns.get(column.name):
                values = self._treated(table[column.name], column, given)
                table = _with(table, column.name, values)
        if changed or self.privacy.subject:
            withheld = pc.if_else(pc.is_valid(table["_raw"]), WITHHELD, None)
            table = _with(table, "_raw", withheld.cast(pa.string()))
        table = self._without_erased(table.drop_columns(list(self.reads)))
        return table if identity is None else table.append_column(IDENTITY, identity)

    def _treated(self, values: Any, column: Column, given: Treatment) -> Any:
        if given.method == "hash":
            key = keys.key_called(str(self.privacy.key), self.known)
            return _mapped(values, key.all_hashed)
        if given.mask is True:
            present = pc.is_valid(values)
            return pc.if_else(present, MASKED, pa.scalar(None, pa.string()))
        if isinstance(given.mask, tuple):
            return _mapped(
                values, partial(recognise.masked, entities=given.mask, column=column.name)
            )
        return generalised(values, column.kind, given.generalise)

    def _without_erased(self, table: pa.Table) -> pa.Table:
        """Rows of erased subjects without any value, and with ERASED as their fault."""
        if not self.privacy.erased or not self.privacy.subject:
            return table
        gone = is_of(table[self.privacy.subject], frozenset(self.privacy.erased), self.known)
        for name in (*self.schema.names, "_raw"):
            nothing = pa.scalar(None, table[name].type)
            table = _with(table, name, pc.if_else(gone, nothing, table[name]))
        return _with(table, "_error", pc.if_else(gone, ERASED, table["_error"]))


def of(privacy: Privacy | None, schema: Schema) -> Treat | None:
    """What treats the rows of a job; None where nothing is to be done.

    Raises:
        JobError: a key is not on this machine.
    """
    if privacy is None or not (privacy.columns or privacy.subject):
        return None
    known = keys.keys() if privacy.key or privacy.erased else ()
    for id_ in {text.partition(":")[0] for text in privacy.erased} | {privacy.key or ""} - {""}:
        keys.key_called(id_, known)
    return Treat(privacy, schema, known)


def is_of(values: Any, hashes: frozenset[str], known: tuple[Key, ...]) -> pa.ChunkedArray:
    """Which values of a subject column are, or are the hash of, one of `hashes`."""
    ids = {text.partition(":")[0] for text in hashes}
    using = [key for key in known if key.id in ids]

    def found(texts: list[str]) -> list[bool]:
        hashed = [key.all_hashed(texts) for key in using]
        return [
            text in hashes or any(column[index] in hashes for column in hashed)
            for index, text in enumerate(texts)
        ]

    return pc.fill_null(_mapped(values, found, pa.bool_()), False)


def _mapped(
    values: Any, function: Callable[[list[str]], list[Any]], kind: pa.DataType | None = None
) -> Any:
    """`function` of each different text of a column; null stays null."""
    texts = parsing.as_texts(values)
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    whole = whole.dictionary_encode()
    made = pa.array(function(whole.dictionary.to_pylist()), kind or pa.string())
    return pa.chunked_array([made.take(whole.indices)], made.type)


def generalised(values: Any, kind: Kind, by: float | str | None) -> Any:
    """Coarser values, as texts: the lower bound of a bin, the month or year, the first characters.

    What does not fit the kind becomes WITHHELD, which does not fit either: it ends in quarantine
    as it would have, without the value.
    """
    if kind in TEXTS:
        return pc.utf8_slice_codeunits(parsing.as_texts(values), 0, int(str(by)))
    typed, misfits = parsing.parsed(values, kind)
    if kind == "date":
        coarse = pc.floor_temporal(typed, unit=str(by))
    else:
        coarse = _binned(typed, float(str(by)), whole=kind == "integer")
    # Texts, whether or not one misfits: the blocks of a dataset must have the same types.
    texts = parsing.as_texts(coarse)
    return texts if misfits is None else pc.if_else(misfits, WITHHELD, texts)


def _binned(typed: Any, width: float, whole: bool) -> pa.Array:
    missing = pc.is_null(typed).to_numpy()
    if whole:
        integers = pc.fill_null(typed, 0).to_numpy()
        bins = integers // int(width) * int(width)
    else:
        bins = np.floor(pc.fill_null(typed, 0.0).to_numpy() / width) * width
    return pa.chunked_array([pa.array(bins, mask=missing)])


def _check(privacy: Privacy, schema: Schema) -> None:
    """Raises JobError where a treatment does not fit its column."""
    for name, given in privacy.columns.items():
        column, by = schema[name], given.generalise
        if by is None:
            continue
        whole = isinstance(by, int | float) and by == int(by)
        fits = (
            isinstance(by, str)
            if column.kind == "date"
            else whole
            if column.kind in (*TEXTS, "integer")
            else not isinstance(by, str) and column.kind == "number"
        )
        if not fits:
            raise JobError(
                f"a column of the kind {column.kind} cannot be generalised by `{by}`",
                where=f"data.privacy.columns.{name}",
                expected="`month` or `year` for dates, a width for numbers, whole for integers, "
                "a number of characters for texts",
            )


def at_serving(schema: Schema, privacy: Privacy | None) -> dict[str, Any]:
    """What a bundle says of its features' treatment: by column, as the job file has it; {} if
    there is none. A hash names its key."""
    if privacy is None:
        return {}
    return {
        column.name: {"hash": privacy.key} if given.hash else {"generalise": given.generalise}
        for column in schema.features
        if (given := privacy.columns.get(column.name))
    }


def of_requests(
    schema: Schema, treatment: Mapping[str, Mapping[str, Any]]
) -> Callable[[Columns], Columns] | None:
    """What does to the columns of a Predictor that which was done to the training rows.

    Raises:
        JobError: the key of a hashed feature is not on this machine.
    """
    if not treatment:
        return None
    known = keys.keys() if any("hash" in given for given in treatment.values()) else ()
    work = {
        name: _request_function(schema[name].kind, given, known)
        for name, given in treatment.items()
    }
    return partial(_request_columns, work=work)


def _request_columns(columns: Columns, work: Mapping[str, Callable[[Any], Any]]) -> Columns:
    return columns | {name: function(columns[name]) for name, function in work.items()}


def _request_function(
    kind: Kind, given: Mapping[str, Any], known: tuple[Key, ...]
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    if "hash" in given:
        return partial(_hashed_array, key=keys.key_called(given["hash"], known))
    by = given["generalise"]
    if kind in TEXTS:
        return partial(_cut_array, length=int(by))
    return partial(_dated_array, unit=by) if kind == "date" else partial(_binned_array, width=by)


def _hashed_array(values: NDArray[Any], key: Key) -> NDArray[Any]:
    hashed = key.all_hashed(values)
    return np.array([h if v else "" for v, h in zip(values, hashed, strict=True)], np.object_)


def _cut_array(values: NDArray[Any], length: int) -> NDArray[Any]:
    return np.array([value[:length] for value in values], np.object_)


def _binned_array(values: NDArray[Any], width: float) -> NDArray[Any]:
    binned: NDArray[Any] = np.floor(values / width) * width
    return binned


def _dated_array(values: NDArray[Any], unit: str) -> NDArray[Any]:
    moments = pa.array(values * 1e6, mask=np.isnan(values)).cast(pa.int64(), safe=False)
    floored = pc.floor_temporal(moments.cast(dates.TYPE), unit=unit)
    return dates.seconds(floored)


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _identity(table: pa.Table, names: list[str]) -> pa.Array:
    texts = pa.table({name: parsing.as_texts(table[name]) for name in names})
    return pa.array(row_hashes(texts, names).view(np.int64))
