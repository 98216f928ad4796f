"""Tests of what a model does with single rows, as the job file declares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.data import parsing
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import JobError
from ray_pipeline.job import Behaviour
from ray_pipeline.job.behaviour import Direction, Invariance, Minimum, Value
from ray_pipeline.model.metrics import Booleans, Floats
from ray_pipeline.model.sample import Sample, replaced
from ray_pipeline.schema import ARROW_TYPES, Column, Schema

ROWS = 2000
"""Test rows that a test changes."""
_VALUES = 10
_WHERE = "evaluate.behaviour"


def check(tests: Sequence[Behaviour], schema: Schema) -> None:
    """Refuse tests on what is no feature, and values not of their column's kind. JobError."""
    for behaviour in tests:
        test = behaviour.test
        if isinstance(test, Minimum):
            _rows(test, schema)
            continue
        column = _feature(test.column, schema)
        if isinstance(test, Direction) and test.by is not None:
            if column.kind not in ("integer", "number"):
                raise JobError(f"`{column.name}` is no number to add to", where=_WHERE, hint="`to`")
            continue
        given = test.to if isinstance(test, Invariance) else (test.to,)
        for value in given:
            _typed(value, column)


def results(
    tests: Sequence[Behaviour],
    sample: Sample,
    statistics: Statistics,
    schema: Schema,
    positive: int | None,
) -> dict[str, dict[str, Any]]:
    """By test the `rows` it was tried on, the `share` of them that passed, and what was asked for.

    Raises:
        JobError: a class that a test names is none, or one that it needs is not named.
    """
    found = {}
    for behaviour in tests:
        passed = _passed(behaviour, sample, statistics, schema, positive)
        share = float(passed.mean()) if len(passed) else None
        found[behaviour.title] = {
            "kind": behaviour.name,
            "rows": len(passed),
            "share": share,
            "at_least": behaviour.at_least,
            "required": behaviour.required,
            "passed": share is not None and share >= behaviour.at_least,
        }
    return found


def findings(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The report's section on the tests."""
    if not found:
        return []
    rows = [
        [
            title,
            result["kind"],
            result["rows"],
            "–" if result["share"] is None else f"{100 * result['share']:.1f} %",
            f"{100 * result['at_least']:g} %",
            ("✓" if result["passed"] else "✗") + (" required" if result["required"] else ""),
        ]
        for title, result in found.items()
    ]
    note = (
        "Rows are changed as a test says, and what the model answers is compared with its answer "
        "to the row as it was. A required test that fails keeps the model from being deployed."
    )
    table = {"columns": ["test", "kind", "rows", "passed", "asked for", ""], "rows": rows}
    return [{"title": "How it behaves", "note": note, "tables": [table]}]


def _passed(
    behaviour: Behaviour,
    sample: Sample,
    statistics: Statistics,
    schema: Schema,
    positive: int | None,
) -> Booleans:
    """Whether each row that the test speaks of passes."""
    test, classes = behaviour.test, statistics.label.classes
    if isinstance(test, Invariance):
        return _stays(test, sample, schema)
    if isinstance(test, Direction):
        wanted = None if classes is None else _class(test.of, classes, positive, behaviour.title)
        return _moves(test, sample, schema, wanted)
    outputs = sample.answers(_rows(test, schema))
    if classes is not None:
        named = _class(test.label, classes, None, behaviour.title)
        right: Booleans = outputs.argmax(1) == named
        return right
    if test.label is not None:
        raise JobError("values have no label", where=_WHERE, expected="`min` or `max`")
    low = -np.inf if test.min is None else test.min
    high = np.inf if test.max is None else test.max
    return (outputs >= low) & (outputs <= high)


def _stays(test: Invariance, sample: Sample, schema: Schema) -> Booleans:
    column = _feature(test.column, schema)
    before = sample.answers(sample.rows)
    held = np.ones(len(before), dtype=bool)
    for value in _tried(test, sample.rows[column.name], column):
        constant = pa.repeat(value, len(before))
        after = sample.answers(replaced(sample.rows, column.name, constant))
        if before.ndim == 2:
            held &= after.argmax(1) == before.argmax(1)
        else:
            held &= abs(after - before) <= test.tolerance
    return held


def _tried(test: Invariance, values: pa.ChunkedArray, column: Column) -> list[pa.Scalar]:
    if test.to:
        return [_typed(value, column) for value in test.to]
    counted = pc.value_counts(values.drop_null())
    ranked = np.argsort(-counted.field("counts").to_numpy(), kind="stable")[:_VALUES]
    return list(counted.field("values").take(pa.array(ranked)))


def _moves(test: Direction, sample: Sample, schema: Schema, wanted: int | None) -> Booleans:
    """Of the rows that the change changes: those without a value cannot be added to."""
    column = _feature(test.column, schema)
    values = sample.rows[column.name]
    if test.by is not None:
        able = pc.is_valid(values)
        moved = pc.cast(pc.add(pc.cast(values, pa.float64()), test.by), values.type, safe=False)
    else:
        value = _typed(test.to, column)
        able = pc.fill_null(pc.not_equal(values, value), True)
        moved = pa.repeat(value, len(values))
    mask: Booleans = np.asarray(able)
    if not mask.any():
        return np.zeros(0, dtype=bool)
    before = _watched(sample.answers(sample.rows), wanted)
    after = _watched(sample.answers(replaced(sample.rows, column.name, moved)), wanted)
    change = (after - before)[mask]
    found: dict[str, Booleans] = {
        "rises": change > test.tolerance,
        "falls": change < -test.tolerance,
        "never rises": change <= test.tolerance,
        "never falls": change >= -test.tolerance,
    }
    return found[test.expect]


def _watched(outputs: Floats, wanted: int | None) -> Floats:
    return outputs if wanted is None else outputs[:, wanted]


def _rows(test: Minimum, schema: Schema) -> pa.Table:
    """The rows of a minimum test, typed, with null for what they leave out. Raises JobError."""
    for name in {name for row in test.rows for name in row}:
        _feature(name, schema)
    columns = {}
    for column in schema.features:
        given = [row.get(column.name) for row in test.rows]
        cells = [None if value is None else _typed(value, column).as_py() for value in given]
        columns[column.name] = pa.array(cells, ARROW_TYPES[column.kind])
    return pa.table(columns)


def _typed(value: Value | None, column: Column) -> pa.Scalar:
    """A value of the job file as one of the column's. Raises JobError."""
    texts = pa.chunked_array([pa.array([str(value)])])
    values, misfits = parsing.parsed(texts, column.kind)
    if misfits is not None and pc.any(misfits).as_py():
        expected = parsing.EXPECTED[column.kind]
        raise JobError(f"`{value}` is no value of {column.name}", where=_WHERE, expected=expected)
    return values.cast(ARROW_TYPES[column.kind])[0]


def _feature(name: str, schema: Schema) -> Column:
    known = {column.name: column for column in schema.features}
    if name not in known:
        shown = ", ".join(known)
        raise JobError(f"no feature is called `{name}`", where=_WHERE, expected=f"one of {shown}")
    return known[name]


def _class(named: str | None, classes: tuple[str, ...], default: int | None, title: str) -> int:
    if named in classes:
        return classes.index(named)
    if named is None and default is not None:
        return default
    raise JobError(
        f"the test `{title}` needs a class" if named is None else f"no class is called `{named}`",
        where=_WHERE,
        expected="one of " + ", ".join(classes[:12]),
    )
