"""Request bodies: JSON rows, decoded and checked against the schema in one pass.

A row carries every feature column; null means no value. Columns that the schema knows but the
model does not read (the label, ignored ones) may be there and are not looked at; any other is an
error. Integer columns take whole numbers (5 and 5.0), number columns any number, boolean columns
true and false; category columns take texts, and numbers and booleans as their text; text columns
take texts; date columns ISO 8601 texts, and numbers as seconds since 1970 in UTC; image columns
an image file in base64.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ray_pipeline.data import dates
from ray_pipeline.data.statistics import ImageStatistics
from ray_pipeline.deploy import pictures
from ray_pipeline.errors import RequestError
from ray_pipeline.schema import TEXTS, Column, Schema

Columns = dict[str, NDArray[Any]]
Rows = list[Any]
"""Rows as decoded: structs with an attribute per feature, in the schema's order."""

_BOUND = 2**63
_INTEGER = Annotated[int, msgspec.Meta(ge=-_BOUND, le=_BOUND - 1)]
_FLOAT = sys.float_info.max
_TYPES: dict[str, Any] = {
    "integer": _INTEGER | None,
    "number": float | None,
    "boolean": bool | None,
    "category": str | _INTEGER | float | bool | None,
    "date": datetime | _INTEGER | float | None,
    "text": str | None,
    "image": str | None,  # once it is read, pixels
}
EXPECTED = {
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "category": "text",
    "date": "date (ISO 8601, or seconds since 1970)",
    "text": "text",
    "image": "an image file (JPEG, PNG, WebP, …) in base64",
}


class Protocol:
    """Decodes the requests of one endpoint.

    Args:
        schema: the columns, from the bundle.
        max_rows: rows that a request may carry.
        readers: by column, what reads a text that stands for a number or a date.
        image: what the model knows of its image column, if it reads one.
    """

    def __init__(
        self,
        schema: Schema,
        max_rows: int,
        readers: Mapping[str, Callable[[str], Any]] | None = None,
        image: ImageStatistics | None = None,
    ) -> None:
        self.image = image
        self.features = schema.features
        self.max_rows = max_rows
        self._readers = dict(readers or {})
        self._known = {column.name: column for column in schema}
        self._missing = schema.missing_texts
        self._row = _row_type(schema)
        self._decode = _decoder(self._row, max_rows)
        self._values = _values_getter(len(self.features))
        kinds = [column.kind for column in self.features]
        self._texts_at = [index for index, kind in enumerate(kinds) if kind in TEXTS]
        self._numbers = [index for index, kind in enumerate(kinds) if kind not in (*TEXTS, "image")]
        self._images = [index for index, kind in enumerate(kinds) if kind == "image"]
        self._dates = [index for index, kind in enumerate(kinds) if kind == "date"]
        self._names = [self.features[index].name for index in (*self._numbers, *self._texts_at)]

    def rows(self, body: bytes) -> Rows:
        """The rows of a body `{"rows": [{column: value, …}, …]}`.

        Raises:
            RequestError: 400 not JSON; 413 more than `max_rows`; 422 anything else, and where.
        """
        try:
            rows: Rows = self._decode(body).rows
        except msgspec.ValidationError as error:
            if "out of range" in str(error):
                raise _out_of_range(error) from error
            # What is wrong, or right after all (5.0 in an integer column), is found at leisure.
            return self._rows_checked(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise not_json(error) from error
        return self._pictured(rows)

    def rows_from(self, columns: Mapping[str, Sequence[Any]], count: int) -> Rows:
        """The rows of a request that came by column, each a sequence of `count` values.

        Raises:
            RequestError: as `rows` does.
        """
        self._check_count(count)
        return self.checked(
            [{name: values[index] for name, values in columns.items()} for index in range(count)]
        )

    def columns(self, rows: Rows) -> Columns:
        """What a Predictor reads: float64 [N] with NaN, or object [N] of str with "", by column.

        Dates are seconds since 1970; images are pixels [N, H, W, C].
        """
        by_column: list[Any] = list(zip(*map(self._values, rows), strict=True))
        for index in self._dates:
            by_column[index] = [
                dates.seconds_of(value) if isinstance(value, datetime) else value
                for value in by_column[index]
            ]
        # One array for all columns of a kind costs less than one each; None becomes NaN.
        numbers = np.array([by_column[index] for index in self._numbers], np.float64)
        texts = np.array([self._texts(by_column[index]) for index in self._texts_at], np.object_)
        found = dict(zip(self._names, (*numbers, *texts), strict=True))
        return found | {self.features[at].name: np.stack(by_column[at]) for at in self._images}

    @property
    def read(self) -> frozenset[str]:
        """Columns whose texts are read as numbers or dates."""
        return frozenset(self._readers)

    def _texts(self, values: Iterable[Any]) -> list[str]:
        missing = self._missing
        texts = [value.strip() if type(value) is str else canonical_text(value) for value in values]
        return ["" if text in missing else text for text in texts]

    def _rows_checked(self, body: bytes) -> Rows:
        return self.checked(self.documents(body))

    def documents(self, body: bytes) -> list[Any]:
        """The rows of a body as they stand; they are yet to be checked.

        Raises:
            RequestError: 400 not JSON; 413 more than `max_rows`; 422 not a list of rows.
        """
        document = decoded(body)
        if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
            raise _invalid('expected {"rows": [{column: value, …}]}', "")
        extra = [name for name in document if name != "rows"]
        if extra:
            raise _invalid(f"unknown field {_shown(extra[0])}; the only field is `rows`", extra[0])
        rows: list[Any] = document["rows"]
        self._check_count(len(rows))
        return rows

    def checked(self, rows: Sequence[Any]) -> Rows:
        """Rows as they stood in a body, decoded. Raises RequestError: 422, and where."""
        return self._pictured([self._row_checked(index, row) for index, row in enumerate(rows)])

    def _pictured(self, rows: Rows) -> Rows:
        """The rows with pixels in the place of their images' texts. Raises RequestError."""
        for index in self._images:
            assert self.image is not None, "a model reads each image column that its schema has"
            field = f"f{index}"
            texts = [getattr(row, field) for row in rows]
            for row, found in zip(rows, pictures.requested(texts, self.image), strict=True):
                setattr(row, field, found)
        return rows

    def _check_count(self, count: int) -> None:
        if count == 0:
            raise _invalid("expected at least one row", "rows")
        if count > self.max_rows:
            raise RequestError(
                f"expected at most {self.max_rows} rows, found {count}",
                status=413,
                code="too_many_rows",
                where="rows",
            )

    def _row_checked(self, index: int, row: Any) -> Any:
        place = f"rows[{index}]"
        if not isinstance(row, dict):
            raise _invalid(f"expected an object of column: value, found {_shown(row)}", place)
        for name in row:
            if name not in self._known:
                near = difflib.get_close_matches(name, self._known, n=1)
                meant = f"; did you mean `{near[0]}`?" if near else ""
                raise _invalid(f"unknown column {_shown(name)}{meant}", f"{place}.{name}")
        row = row | {
            name: read(row[name])
            for name, read in self._readers.items()
            if isinstance(row.get(name), str)
        }
        for column in self.features:
            if column.name not in row:
                raise _invalid(
                    f"the column is absent; expected {EXPECTED[column.kind]}, or null for no value",
                    f"{place}.{column.name}",
                )
            if not _fits(column, row[column.name]):
                raise _invalid(
                    f"expected {EXPECTED[column.kind]}, found {_shown(row[column.name])}",
                    f"{place}.{column.name}",
                )
        return self._row(*(_decoded(column, row[column.name]) for column in self.features))


def decoded(body: bytes) -> Any:
    """The JSON document in `body`.

    Raises:
        RequestError: 400 not JSON (NaN and Infinity are not); 422 a number out of range.
    """
    try:
        return msgspec.json.decode(body)
    except msgspec.ValidationError as error:  # a number beyond what a float can hold
        raise _out_of_range(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(error) from error


def not_json(error: Exception) -> RequestError:
    """The 400 that a body which is no JSON deserves."""
    reason = str(error).removeprefix("JSON is malformed: ")
    if isinstance(error, RecursionError):
        reason = "it is nested too deeply"
    elif reason == "Input data was truncated":
        reason = "it ends too early"
    return RequestError(f"the body is not JSON: {reason}", status=400, code="not_json")


def _out_of_range(error: msgspec.ValidationError) -> RequestError:
    _, _, place = str(error).partition(" - at `$.")
    return _invalid("the number is larger than 64 bits can hold", place.rstrip("`"))


def canonical_text(value: float | bool | None) -> str:
    """A number or boolean as the text that a category has in files: 5, 5.5, true."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if value == int(value) else repr(value)


def _row_type(schema: Schema) -> type[msgspec.Struct]:
    features, others = schema.features, [c for c in schema if c.role != "feature"]
    # Columns may have any name, attributes may not: hence f0, f1, … and the renaming.
    fields: list[Any] = [(f"f{i}", _TYPES[column.kind]) for i, column in enumerate(features)]
    fields += [(f"o{i}", object, msgspec.UNSET) for i in range(len(others))]
    names = [column.name for column in (*features, *others)]
    return msgspec.defstruct(
        "Row",
        fields,
        rename={field[0]: name for field, name in zip(fields, names, strict=True)},
        forbid_unknown_fields=True,
        gc=False,  # rows hold no cycles, and a collection of many would stop the replica
    )


def _decoder(row: type[msgspec.Struct], max_rows: int) -> Callable[[bytes], Any]:
    rows = Annotated[list[row], msgspec.Meta(min_length=1, max_length=max_rows)]  # type: ignore[valid-type]
    request = msgspec.defstruct("Request", [("rows", rows)], forbid_unknown_fields=True)
    return msgspec.json.Decoder(request).decode


def _values_getter(count: int) -> Callable[[Any], tuple[Any, ...]]:
    if count == 1:  # attrgetter of one name gives no tuple
        return lambda row: (row.f0,)
    return attrgetter(*(f"f{index}" for index in range(count)))


def _decoded(column: Column, value: Any) -> Any:
    """A value that fits, as the fast way decodes it."""
    return dates.moment(value) if column.kind == "date" and isinstance(value, str) else value


def _fits(column: Column, value: Any) -> bool:
    kind = column.kind
    if value is None:
        return True
    if isinstance(value, bool):
        return kind in ("boolean", "category")
    if isinstance(value, str):
        return dates.moment(value) is not None if kind == "date" else kind in (*TEXTS, "image")
    if not isinstance(value, (int, float)) or abs(value) > _FLOAT:
        return False
    if kind == "integer":
        return value == int(value) and -_BOUND <= int(value) < _BOUND
    return kind in ("number", "category", "date")


def _shown(value: Any, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _invalid(what: str, where: str) -> RequestError:
    return RequestError(what, status=422, code="invalid_request", where=where)
