"""How texts of dates and of numbers with units are read: before typing, to texts that it takes.

A text that cannot be read stays as it is; typing then sets its row aside, or a request is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.data import parsing
from ray_pipeline.data.steps.extra import needed
from ray_pipeline.errors import JobError
from ray_pipeline.job import Clean
from ray_pipeline.job.steps import Dates, Step

Reader = Callable[[Any], Any]
READ = "_read"
"""A column that tells, in one bit a step, which rows a reading step changed."""

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_WORD = "[A-Za-zµμ°Ωº%]{1,20}"
_UNIT = rf"{_WORD}(?:[ /]{_WORD}|\^?[23]|[²³]){{0,6}}"
_CLOCK = re.compile("%[HIcXsT]")
_MEASURED = re.compile(rf"({_NUMBER})\s*({_UNIT})?")


def steps(clean: Clean) -> list[tuple[int, Step]]:
    """The steps that read, each with its number among all steps."""
    return [(i, step) for i, step in enumerate(clean.steps) if step.name in {"dates", "units"}]


def reader(step: Step, bare: bool = False) -> Reader:
    """A function from a column to its texts as typing reads them; `bare` leaves numbers in the
    unit that numbers without one have, as requests carry them.

    Raises:
        JobError: no such unit or time zone.
    """
    if step.dates is not None:
        _check_zone(step.dates.timezone)
        return partial(_dates, settings=step.dates)
    assert step.units is not None, "dates or units"
    wanted = (step.units.assume or step.units.to) if bare else step.units.to
    assumed = step.units.assume or step.units.to
    factor(assumed, step.units.to)  # says at once that they do not exist
    return partial(_units, assumed=assumed, wanted=wanted)


def read(rows: pa.Table, clean: Clean, bare: bool = False) -> pa.Table:
    """Rows of `collect.rows` with their dates and units read, and READ."""
    bits = np.zeros(len(rows), np.int64)
    for index, step in steps(clean):
        (name,) = step.columns
        before = rows[name]
        after = reader(step, bare)(before)
        if after is before:
            continue
        other = pc.fill_null(pc.not_equal(parsing.as_texts(before), after), False)
        bits |= other.to_numpy().astype(np.int64) << index
        rows = rows.set_column(rows.column_names.index(name), name, after)
    return rows.append_column(READ, pa.array(bits))


def _dates(values: Any, settings: Dates) -> Any:
    if not parsing.is_text(values.type):
        return values
    texts = parsing.as_texts(values)
    coded = texts.combine_chunks().dictionary_encode()
    given = pd.Series(coded.dictionary.to_pylist(), dtype=object)
    told = pd.Series(None, index=given.index, dtype=object)
    for form in settings.formats:
        left = told.isna()
        if left.any():
            told[left] = _told(given[left], form, settings.timezone)
    read_ = pa.array(told.where(told.notna(), given).tolist(), pa.string())
    return pa.chunked_array([read_.take(coded.indices)])


def _told(texts: pd.Series[Any], form: str, zone: str) -> pd.Series[Any]:
    """Texts of one format as ISO 8601 in UTC; None for others."""
    moments = pd.to_datetime(texts, format=form, errors="coerce", utc="%z" in form)
    if moments.dt.tz is None and not _CLOCK.search(form):
        zone = "UTC"  # a day is that day, wherever
    if moments.dt.tz is None:
        first = np.ones(len(moments), bool)  # of a time that occurs twice, the summer's is earlier
        moments = moments.dt.tz_localize(zone, ambiguous=first, nonexistent="shift_forward")
    told = moments.dt.tz_convert("UTC").dt.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"
    return told.astype(object).where(moments.notna(), None)


def _check_zone(zone: str) -> None:
    try:
        pd.Timestamp(0, tz=zone)
    except (KeyError, ValueError, OSError, TypeError) as error:
        raise JobError(
            f"no time zone is called `{zone}`",
            where="data.clean.steps.dates",
            expected="a name such as Europe/Paris",
        ) from error


def _units(values: Any, assumed: str, wanted: str) -> Any:
    texts = parsing.as_texts(values)
    if assumed == wanted and not parsing.is_text(values.type):
        return texts
    coded = texts.combine_chunks().dictionary_encode()
    read_ = [_measured(text, assumed, wanted) for text in coded.dictionary.to_pylist()]
    return pa.chunked_array([pa.array(read_, pa.string()).take(coded.indices)])


def _measured(text: str, assumed: str, wanted: str) -> str:
    match = _MEASURED.fullmatch(text.strip())
    if match is None:
        return text
    unit = (match[2] or "").strip() or assumed
    if unit == wanted and not match[2]:
        return text
    found = factor_or_none(unit, wanted)
    return text if found is None else repr(float(match[1]) * found[0] + found[1])


def factor(unit: str, to: str) -> tuple[float, float]:
    """What to multiply with and to add, from one unit to another. Raises JobError."""
    found = factor_or_none(unit, to)
    if found is None:
        raise JobError(
            f"`{unit}` cannot be told in `{to}`",
            where="data.clean.steps.units",
            expected="units of one kind as pint names them, such as g and kg",
        )
    return found


@lru_cache(maxsize=1000)
def factor_or_none(unit: str, to: str) -> tuple[float, float] | None:
    """As `factor`; None for what is no unit, or of another kind, or not in proportion."""
    pint = needed("pint", "the step `units`")
    registry = _registry()
    spelled = {text: text.replace("º", "°").replace("μ", "µ") for text in (unit, to)}
    try:
        zero, one, two = (
            float(registry.Quantity(value, registry.parse_units(spelled[unit])).to(spelled[to]).m)
            for value in (0.0, 1.0, 2.0)
        )
    except (pint.errors.PintError, ArithmeticError, AssertionError, ValueError, TypeError):
        return None
    if abs((two - one) - (one - zero)) > 1e-9 * abs(one - zero):
        return None
    return one - zero, zero


@lru_cache(maxsize=1)
def _registry() -> Any:
    return needed("pint", "the step `units`").UnitRegistry(autoconvert_offset_to_baseunit=True)
