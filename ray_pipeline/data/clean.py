"""Every row typed and written, or set aside with its reason, once if it stands twice; counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ray_pipeline.data import (
    collect,
    duplicates,
    expectations,
    label_sets,
    parts,
    shares,
    summary,
)
from ray_pipeline.data.duplicates import Repeated
from ray_pipeline.data.expectations import Seen
from ray_pipeline.data.privacy.discreet import discreet
from ray_pipeline.data.privacy.treatment import ERASED
from ray_pipeline.data.rows import Replace, aside, few, kept, shown, typed, typed_whole
from ray_pipeline.data.shares import Share
from ray_pipeline.data.steps import applied, reading
from ray_pipeline.data.summary import Counts, Moments, Summary
from ray_pipeline.errors import DataError
from ray_pipeline.files import clear
from ray_pipeline.job import Data, Expectation, Source
from ray_pipeline.schema import Column, Schema

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["Replace", "typed", "write"]

_NO_FAULTS = ("duplicate", "also in the test file", *applied.REPEATS, ERASED)


class Part(NamedTuple):
    """What writing one table found: rows by destination, reasons, and the columns' summaries."""

    rows: int
    test: int
    reasons: Counter[str]
    summaries: dict[bool, dict[str, Summary]]  # by whether they are of the test file
    seen: list[Seen]  # by expectation


def write(data: Data, schema: Schema, out: UPath) -> dict[str, Any]:
    """Write `rows/`, `test/` (if the job has a test file) and `quarantine/`, all parquet.

    `rows` and `test` have the schema's columns, typed; `quarantine` has `source`, `row`, `reason`
    and `raw`. Three rounds of tasks: read, type and hash; compare hashes; read again and write.
    Rows are streamed; only where there are `clean.steps` all are in the object store.

    The record has `rows_in` = `rows_out` + `rows_quarantined`, the reasons' counts under
    `quarantine`, a summary of each of the `columns`, and `sides` with the same for the training
    and the test file.

    Raises:
        DataError: unreadable files, more unusable rows than `clean.max_quarantined`, a label with
            one class, or classes in the test file that training never sees.
    """
    files = collect.places(data)
    scratch = out / "scratch"
    tidied: dict[str, Any] = {}
    if data.clean.steps:
        whole, tidied = applied.applied(_typed_rows(data, schema), data.clean, schema, files)
        rows = shares.of_blocks(whole.to_arrow_refs())
    else:
        rows = _typed_shares(data, schema, scratch)
    drop = data.clean.duplicates == "drop"
    repeated = duplicates.NOTHING
    if drop or data.test:
        repeated = duplicates.found(rows, schema, files, drop, scratch)
    writing = partial(
        _written, schema=schema, files=files, repeated=repeated, expected=data.expect, out=out
    )
    found = [part for some in parts.results(rows, partial(_each, work=writing)) for part in some]
    clear(scratch)
    sides = _summed(found)
    record = discreet(_record(found, sides, schema), data.privacy) | tidied
    if data.expect:
        _add_expectations(record, data, found, files)
    _check_usable(record, data)
    if schema.labelled:
        _check_label(sides, schema.label, data)
    return record


def _typed_rows(data: Data, schema: Schema) -> Dataset:
    first, *rest = (
        _read(collect.rows(source, data, schema), data).map_batches(
            partial(typed_whole, schema=schema, replace=data.clean.replace, test=test),
            **parts.ARROW,
        )
        for source, test in _sides(data)
    )
    return first.union(*rest) if rest else first


def _sides(data: Data) -> list[tuple[Source, bool]]:
    """The sources, and whether each is the test's."""
    return [(data.source, False)] + ([(data.test, True)] if data.test else [])


def _read(rows: Dataset, data: Data) -> Dataset:
    if not reading.steps(data.clean):
        return rows
    return rows.map_batches(partial(reading.read, clean=data.clean), **parts.ARROW)


def _typed_shares(data: Data, schema: Schema, scratch: UPath) -> list[Share]:
    found: list[Share] = []
    for source, test in _sides(data):
        pieces, tables = collect.reading(source, data, schema)
        typing = partial(typed_whole, schema=schema, replace=data.clean.replace, test=test)
        reads = [(piece, partial(_all_typed, piece, tables, typing)) for piece in pieces]
        found += shares.of_pieces(reads, data, scratch, first=len(found))
    return found


def _all_typed(
    piece: Any,
    tables: Callable[[Any], Iterable[pa.Table]],
    typing: Callable[[pa.Table], pa.Table],
) -> Iterator[pa.Table]:
    return (typing(table) for table in tables(piece))


def _each(share: Share, work: Callable[[pa.Table], Part]) -> list[Part]:
    return [work(table) for table in share.again() if len(table)]


def _written(
    table: pa.Table,
    *,
    schema: Schema,
    files: list[str],
    repeated: Repeated,
    expected: Sequence[Expectation],
    out: UPath,
) -> Part:
    """Write a table's rows, to files named for the first row: a retry replaces them."""
    ids = duplicates.row_ids(table, files)
    reasons = pc.coalesce(table["_reason"], repeated.reasons(ids, files))
    faulty = pc.is_valid(reasons)
    repeats = pc.and_(faulty, pc.is_null(table["_reason"]))
    raw = pc.coalesce(table["_raw"], shown(table, schema, repeats))
    table = _with(table, _reason=reasons, _raw=raw)
    lineage = ["_source", "_row"] if expected else []
    good = kept(table.select([*schema.names, *lineage, "_test"]), pc.invert(faulty))
    sides = _by_side(good, schema)
    unusable = aside(few(table, faulty))
    name = f"{ids.min():016x}.parquet"
    for folder, part in (("rows", sides[False]), ("test", sides[True]), ("quarantine", unusable)):
        if len(part):
            parts.written(part, out / folder / name)
    return Part(
        len(sides[False]),
        len(sides[True]),
        Counter(_kinds(unusable["reason"])),
        {test: _summaries(part, schema) for test, part in sides.items()},
        expectations.seen(good, expected, files),
    )


def _with(table: pa.Table, **columns: Any) -> pa.Table:
    """The table with columns in the place of those that are called so."""
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return table


def _by_side(good: pa.Table, schema: Schema) -> dict[bool, pa.Table]:
    """The usable rows' columns, of training and of the test file; most tables are of one."""
    rows, tests = good.select(list(schema.names)), pc.unique(good["_test"]).to_pylist()
    if len(tests) == 2:
        return {test: rows.filter(pc.equal(good["_test"], test)) for test in (False, True)}
    return {test: rows if test in tests else rows.slice(0, 0) for test in (False, True)}


def _kinds(reasons: pa.ChunkedArray) -> dict[str, int]:
    """How often each kind of reason occurs: the part that is not about the one row."""
    kinds = pc.replace_substring_regex(reasons, r"(?s), (found|the same as) .*$", "")
    return dict(Counts.of(kinds).values)


def _summaries(part: pa.Table, schema: Schema) -> dict[str, Summary]:
    if not len(part):
        return {}
    return {column.name: summary.summarised(part[column.name], column) for column in schema}


def _summed(found: list[Part]) -> dict[str, dict[str, Summary]]:
    """The columns' summaries by side, `train` and `test`; a side without rows is left out."""
    sides = {
        side: summary.merged(part.summaries[test] for part in found)
        for side, test in (("train", False), ("test", True))
    }
    return {side: columns for side, columns in sides.items() if columns}


def _record(
    found: list[Part], sides: Mapping[str, dict[str, Summary]], schema: Schema
) -> dict[str, Any]:
    reasons: Counter[str] = sum((part.reasons for part in found), Counter())
    rows = {"train": sum(part.rows for part in found), "test": sum(part.test for part in found)}
    kept, quarantined = sum(rows.values()), reasons.total()
    return {
        "rows_in": kept + quarantined,
        "rows_out": kept,
        "rows_quarantined": quarantined,
        "quarantine": dict(reasons.most_common()),
        "columns": _described(summary.merged(sides.values()), schema),
        "sides": {
            side: {"rows": rows[side], "columns": _described(columns, schema)}
            for side, columns in sides.items()
        },
    }


def _add_expectations(
    record: dict[str, Any], data: Data, found: list[Part], files: list[str]
) -> None:
    told = expectations.described(data.expect, (part.seen for part in found), files)
    record["expectations"] = told
    record["findings"] = [*record.get("findings", ()), expectations.finding(told)]


def _described(columns: Mapping[str, Summary], schema: Schema) -> dict[str, Any]:
    return {
        name: {"kind": schema[name].kind, "role": schema[name].role, **summary.described(found)}
        for name, found in columns.items()
    }


def _check_usable(record: Mapping[str, Any], data: Data) -> None:
    faults = {kind: count for kind, count in record["quarantine"].items() if kind not in _NO_FAULTS}
    rows, unusable = record["rows_in"], sum(faults.values())
    bound = data.clean.max_quarantined
    if unusable > bound * rows:
        commonest = "; ".join(
            f"{kind} ({count:,} rows)" for kind, count in list(faults.items())[:3]
        )
        raise DataError(
            f"{unusable:,} of {rows:,} rows cannot be used: {commonest}",
            where=str(data.source),
            expected=f"at most {bound:.1%}",
            hint="correct the file, `data.columns` or `data.missing`, or raise "
            "`data.clean.max_quarantined`",
        )


def _check_label(sides: Mapping[str, dict[str, Summary]], label: Column, data: Data) -> None:
    if "train" not in sides:
        raise DataError("no row is left to train on", where=str(data.source))
    if data.test and "test" not in sides:
        raise DataError("no row is left to test on", where=str(data.test))
    found = sides["train"][label.name]
    if label.kind == "text":
        return
    if label.kind == "labels":
        assert isinstance(found, Counts), "labels are counted"
        label_sets.check_any(found.values, label, str(data.source))
        return
    if isinstance(found, Moments):
        if found.minimum == found.maximum:
            raise _one_class(label, found.minimum, data)
        return
    if len(found.values) < 2:
        raise _one_class(label, next(iter(found.values)), data)
    tested = sides["test"][label.name] if "test" in sides else Counts()
    assert isinstance(tested, Counts)
    if strange := sorted(set(tested.values) - set(found.values)):
        raise DataError(
            f"`{strange[0]}` is a class of the test file only",
            where=f"{data.test}, column {label.name}",
            expected=f"one of {', '.join(sorted(found.values)[:10])}",
            hint="map other spellings under `data.clean.replace`",
        )


def _one_class(label: Column, value: object, data: Data) -> DataError:
    return DataError(
        f"every row has the label `{value}`",
        where=f"{data.source}, column {label.name}",
        expected="two classes or more, or different values",
        hint="check `data.label`",
    )
