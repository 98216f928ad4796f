"""The steps of `data.clean.steps`, as functions of typed Arrow tables.

`compiled` is the row-wise ones: each row by itself, the same for a million and for a request.
`applied.py` is what a run does with all of them, `serving.py` what an endpoint does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data import parsing
from ray_pipeline.data.steps import language, limits, missing, spelling, text
from ray_pipeline.data.steps.found import Apply, Change, Found
from ray_pipeline.errors import JobError
from ray_pipeline.job import Clean
from ray_pipeline.job.steps import KINDS, NUMBERS, Step
from ray_pipeline.schema import Schema

__all__ = ["Change", "Changes", "Cleaned", "applied_to", "check", "compiled", "dumped", "function"]

Changes = dict[tuple[int, str], Change]
"""What was done, by the step's number in the job file and the column."""


class Cleaned(NamedTuple):
    """The same rows with their columns tidied, why a row belongs in quarantine (null: it does
    not), and what was done."""

    rows: pa.Table
    reasons: pa.ChunkedArray
    changes: Changes


def compiled(clean: Clean, schema: Schema) -> Callable[[pa.Table], Cleaned]:
    """The row-wise steps of `clean`, in order, as one function of typed tables.

    Steps that learn from all rows count once they are fitted (`Missing.fitted`; outliers become
    ranges); before, and for near duplicates, they are no part of it. A table may lack columns: a
    step about them does nothing there.

    Raises:
        JobError: a step is about a column that is not there, or of a kind that it cannot take.
    """
    check(clean, schema)
    functions = [
        (index, made)
        for index, step in enumerate(clean.steps)
        if (made := function(step, schema)) is not None
    ]

    def cleaned(rows: pa.Table) -> Cleaned:
        return applied_to(rows, functions)

    return cleaned


def applied_to(rows: pa.Table, functions: Sequence[tuple[int, Apply]]) -> Cleaned:
    """Rows after numbered functions, in their order. Rows that one sets aside, or that came with a
    `_reason`, stay as they are then: the next does not see them."""
    lineage = "_reason" in rows.column_names
    reasons = rows["_reason"] if lineage else pa.nulls(len(rows), pa.string())
    changes: Changes = {}
    live, aside = _parted(_Part(rows, reasons, np.arange(len(rows))))
    done = [aside]
    for number, apply in functions:
        live, changed = _after(live, apply)
        for name, change in changed.items():
            changes[number, name] = changes.get((number, name), Change()) + change
        live, aside = _parted(live)
        done.append(aside)
    whole = _joined([part for part in (live, *done) if len(part.rows)] or [live])
    return Cleaned(whole.rows, whole.reasons, changes)


class _Part(NamedTuple):
    """Some rows, their reasons, and their places [N] among all."""

    rows: pa.Table
    reasons: Any
    places: NDArray[np.int64]


def _parted(part: _Part) -> tuple[_Part, _Part]:
    """The usable rows, and those with a reason."""
    usable = pc.is_null(part.reasons)
    if pc.all(usable).as_py() is not False:
        nothing = _Part(part.rows.slice(0, 0), part.reasons.slice(0, 0), part.places[:0])
        return part, nothing
    live, out = (
        _Part(part.rows.filter(mask), part.reasons.filter(mask), part.places[np.asarray(mask)])
        for mask in (usable, pc.invert(usable))
    )
    return live, out


def _after(part: _Part, apply: Apply) -> tuple[_Part, dict[str, Change]]:
    rows, reasons = part.rows, part.reasons
    changed = {}
    for name, found in apply(_plain(rows)).items():
        before = parsing.as_texts(rows[name]) if _coded(rows[name]) else rows[name]
        changed[name] = Change.between(before, found, pc.is_null(reasons))
        rows = rows.set_column(rows.column_names.index(name), name, found.values)
        if found.faults is not None:
            why = pa.scalar(found.reason) if isinstance(found.reason, str) else found.reason
            nothing = pa.scalar(None, pa.string())
            reasons = pc.coalesce(reasons, pc.if_else(found.faults, why, nothing))
    return _Part(rows, reasons, part.places), changed


def _joined(parts: Sequence[_Part]) -> _Part:
    """All parts, their rows in the order of their places; types are the first's."""
    if len(parts) == 1:
        return parts[0]
    types = parts[0].rows.schema
    tables = [
        pa.table({field.name: _as(part.rows[field.name], field.type) for field in types})
        for part in parts
    ]
    places = np.concatenate([part.places for part in parts])
    order = pa.array(np.argsort(places))
    reasons = pa.chunked_array(
        [chunk for part in parts for chunk in _chunks(part.reasons)], pa.string()
    )
    return _Part(pa.concat_tables(tables).take(order), reasons.take(order), np.sort(places))


def _chunks(values: Any) -> list[Any]:
    return list(values.chunks) if isinstance(values, pa.ChunkedArray) else [values]


def _as(values: Any, wanted: pa.DataType) -> Any:
    """A column as a step left it: of texts, dictionary or not."""
    if values.type == wanted or not _coded(values):
        return values
    return parsing.as_texts(values)


def _coded(values: Any) -> bool:
    return bool(pa.types.is_dictionary(values.type))


def _plain(rows: pa.Table) -> pa.Table:
    """Dictionary-encoded texts as texts."""
    for index, name in enumerate(rows.column_names):
        if _coded(rows[name]):
            rows = rows.set_column(index, name, parsing.as_texts(rows[name]))
    return rows


def function(step: Step, schema: Schema) -> Apply | None:
    """A row-wise step as a function of typed rows; None for other steps."""
    made = _made(step, schema)
    if made is None:
        return None

    def apply(rows: pa.Table) -> dict[str, Found]:
        return made(rows) if set(step.columns) <= set(rows.column_names) else {}

    return apply


def _made(step: Step, schema: Schema) -> Apply | None:
    if step.text is not None:
        return text.applying(step.text)
    if step.spelling is not None:
        return spelling.applying(step.spelling)
    if step.range is not None:
        return limits.applying(step.range, schema)
    if step.language is not None:
        return language.applying(step.language)
    if step.missing is not None:
        return missing.applying(step.missing, schema)
    return None


def dumped(clean: Clean) -> dict[str, Any]:
    """Settings as JSON that `Clean` reads back."""
    return clean.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def check(clean: Clean, schema: Schema) -> None:
    """Raises JobError where a step is about a column that it cannot be about."""
    for index, step in enumerate(clean.steps):
        where = f"data.clean.steps[{index}].{step.name}"
        for name in step.columns:
            if name not in schema.names:
                raise JobError(
                    f"no column is called `{name}`", where=where, expected=", ".join(schema.names)
                )
            column = schema[name]
            filling = step.missing is not None and step.missing.how == "model"
            kinds = NUMBERS if filling else KINDS.get(step.name, (column.kind,))
            if column.kind not in kinds:
                raise JobError(
                    f"`{name}` is of the kind {column.kind}",
                    where=where,
                    expected=" or ".join(kinds),
                    hint=f"say `{name}: {kinds[-1]}` under `data.columns`, or leave it out",
                )
            if filling and column.role == "label":
                raise JobError(
                    f"`{name}` is the label, which no request carries",
                    where=where,
                    expected="columns that a row to predict has too",
                )
