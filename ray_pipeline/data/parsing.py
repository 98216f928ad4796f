"""Texts to typed values, a column at a time, with a mask of the texts that do not fit."""

from __future__ import annotations

from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.schema import Kind

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
}


def parsed(texts: Column, kind: Kind) -> tuple[Column, Column | None]:
    """The values of `texts` as the kind's Arrow type, and which texts do not fit (None: all do).

    Null stays null. Texts for infinities and NaN become null in a number or integer column. An
    integer may carry a fraction of zeros (`39.0`), as pandas writes integers with gaps.
    """
    if kind == "category":
        return texts, None
    if kind == "boolean":
        return _booleans(texts)
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


def inferred(texts: Column) -> Kind:
    """The narrowest kind that all of `texts` fit; a code such as `01234` is a category.

    Without a single value, a column is a category.
    """
    values = texts.drop_null()
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
