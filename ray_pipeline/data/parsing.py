"""Columns to their kinds' types, with a mask of the values that do not fit.

A column that already has a type that fits stays typed; all others go through texts.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.data import dates, label_sets
from ray_pipeline.schema import ARROW_TYPES, SEPARATOR, Kind, kind_of

_INTEGER = r"^[+-]?[0-9]{1,38}$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_NOT_FINITE = r"(?i)^[+-]?(nan|inf|infinity)$"
_TRUE = pa.array(["true", "t", "yes", "y", "1"])
_FALSE = pa.array(["false", "f", "no", "n", "0"])

Column: TypeAlias = Any
"""A pa.ChunkedArray or pa.Array, which carry no types."""

EXPECTED: dict[Kind, str] = {
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "category": "text",
    "date": "date (ISO 8601)",
    "text": "text",
    "image": "the bytes of an image",
    "labels": "names, or a list of them",
}


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of texts, which mean what they spell."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def as_texts(values: Column) -> Column:
    """A column of any flat type as texts, which for floats are exact; of bytes, only how many; of
    lists as JSON."""
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        lists = values.to_pylist()
        texts = [
            None if items is None else json.dumps(items, ensure_ascii=False) for items in lists
        ]
        return pa.chunked_array([pa.array(texts, pa.string())])
    if pa.types.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        return pc.binary_join_element_wise(
            pc.cast(pc.binary_length(values), pa.string()), "bytes", " "
        )
    return pc.cast(values, pa.string())


def present(values: Column, missing: Collection[str]) -> Column:
    """`values` with null for those that the texts `missing` stand for; texts lose outer space."""
    if pa.types.is_dictionary(values.type) and is_text(values.type):
        return _by_dictionary(values, missing)
    if is_text(values.type):
        trimmed = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
        return _without(trimmed, pa.array(sorted(missing), pa.string()))
    spelled = [text for text in sorted(missing) if text]
    if not spelled or pa.types.is_nested(values.type):
        return values
    found = pc.is_in(as_texts(values), pa.array(spelled, pa.string()))
    return pc.if_else(found, pa.scalar(None, values.type), values)


def _without(texts: Column, missing: pa.Array) -> Column:
    return pc.if_else(pc.is_in(texts, missing), pa.scalar(None, pa.string()), texts)


def _by_dictionary(values: Column, missing: Collection[str]) -> Column:
    """As `present`, a look at each different text instead of at each row; a dictionary again."""
    whole = values.unify_dictionaries() if isinstance(values, pa.ChunkedArray) else values
    chunks = whole.chunks if isinstance(whole, pa.ChunkedArray) else [whole]
    if not chunks:
        return values
    texts = present(chunks[0].dictionary, missing)
    codes = texts.dictionary_encode()  # two texts may become one
    parts = [
        pa.DictionaryArray.from_arrays(codes.indices.take(chunk.indices), codes.dictionary)
        for chunk in chunks
    ]
    return pa.chunked_array(parts) if isinstance(whole, pa.ChunkedArray) else parts[0]


def parsed(values: Column, kind: Kind, separator: str = SEPARATOR) -> tuple[Column, Column | None]:
    """`values` as the kind's Arrow type, and which of them do not fit (None: all do).

    Null stays null. Infinities and NaN, and texts for them, become null in a number or integer
    column. A text of an integer may carry a fraction of zeros (`39.0`), as pandas writes integers
    with gaps. Categories may stay dictionary-encoded. `labels` are told apart by the `separator`.
    """
    if not is_text(values.type):
        typed = _fitted(values, kind)
        if typed is not None:
            return typed, None
        values = as_texts(values)
    if kind == "category":
        return values, None
    if kind == "text":
        return pc.cast(values, pa.string()), None
    if kind == "labels":
        return label_sets.typed(pc.cast(values, pa.string()), separator)
    return _parsed_texts(pc.cast(values, pa.string()), kind)


def _fitted(values: Column, kind: Kind) -> Column | None:
    """Typed values as the kind's type; None if the column must go through texts."""
    found = values.type
    if kind == "number":
        if pa.types.is_floating(found) or pa.types.is_integer(found) or pa.types.is_decimal(found):
            return _finite(pc.cast(values, pa.float64(), safe=False))
        return None
    if kind == "integer" and pa.types.is_integer(found) and found != pa.uint64():
        return pc.cast(values, pa.int64())
    if kind == "date" and (pa.types.is_timestamp(found) or pa.types.is_date(found)):
        return pc.cast(values, dates.TYPE, safe=False)  # what is finer is cut off
    return values if found == ARROW_TYPES[kind] else None


def _parsed_texts(texts: Column, kind: Kind) -> tuple[Column, Column | None]:
    if kind == "boolean":
        return _booleans(texts)
    if kind == "date":
        return dates.parsed(texts)
    try:
        return _all_parsed(texts, kind), None
    except pa.ArrowInvalid:
        return _integers(texts) if kind == "integer" else _numbers(texts)


def _all_parsed(texts: Column, kind: Kind) -> Column:
    """The values of a column without a misfit, which is the rule. Raises ArrowInvalid."""
    if kind == "number":
        return _finite(pc.cast(texts, pa.float64()))
    if pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py():
        raise pa.ArrowInvalid("Arrow would read 0x10 as 16")
    return pc.cast(texts, pa.int64())


def _finite(values: Column) -> Column:
    if pc.all(pc.is_finite(values)).as_py() is not False:  # None: there is no value
        return values
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))


def _numbers(texts: Column) -> tuple[Column, Column]:
    fits = pc.match_substring_regex(texts, _NUMBER)
    values = _finite(pc.cast(_where(fits, texts), pa.float64()))
    return values, _misfits(texts, fits)


def _integers(texts: Column) -> tuple[Column, Column]:
    whole = pc.replace_substring_regex(texts, r"\.0*$", "")
    wide = pc.cast(_where(pc.match_substring_regex(whole, _INTEGER), whole), pa.decimal128(38, 0))
    low, high = (pa.scalar(bound, pa.decimal128(38, 0)) for bound in (-(2**63), 2**63 - 1))
    fits = pc.fill_null(pc.and_(pc.greater_equal(wide, low), pc.less_equal(wide, high)), False)
    return pc.cast(_where(fits, wide), pa.int64()), _misfits(texts, fits)


def _booleans(texts: Column) -> tuple[Column, Column]:
    lower = pc.utf8_lower(texts)
    true, false = pc.is_in(lower, _TRUE), pc.is_in(lower, _FALSE)
    fits = pc.or_(true, false)
    values = pc.if_else(fits, true, pa.scalar(None, pa.bool_()))
    return values, pc.and_(pc.is_valid(texts), pc.invert(fits))


def _where(keep: Any, values: Column) -> Column:
    return pc.if_else(keep, values, pa.scalar(None, values.type))


def _misfits(texts: Column, fits: Column) -> Column:
    """Texts that are neither a value nor one of those that mean that there is none."""
    known = pc.or_(fits, pc.match_substring_regex(texts, _NOT_FINITE))
    return pc.fill_null(pc.invert(known), False)


def inferred(values: Column) -> Kind:
    """The narrowest kind that all of `values` fit; a code such as `01234` is a category.

    Numbers, booleans and times are what their type says. Without a single value, a column is a
    category.
    """
    if kind := kind_of(values.type):
        return kind
    return _inferred_of_texts(as_texts(values).drop_null())


def _inferred_of_texts(values: Column) -> Kind:
    if dates.all_dates(values):
        return "date"
    if not len(values) or pc.any(pc.match_substring_regex(values, r"^[+-]?0[0-9]")).as_py():
        return "category"
    if pc.all(pc.is_in(pc.utf8_lower(values), pa.array(["true", "false"]))).as_py():
        return "boolean"
    kinds: tuple[Kind, ...] = ("integer", "number")
    for kind in kinds:
        found, misfits = parsed(values, kind)
        # All NaN is no evidence; nor is NaN that of an integer.
        whole = kind == "number" or not found.null_count
        fit = misfits is None or not pc.any(misfits).as_py()
        if fit and whole and found.null_count < len(found):
            return kind
    return "category"
