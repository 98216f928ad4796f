"""What the cleaned rows are expected to be, counted in the pass that writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data import dates, parsing
from ray_pipeline.data.duplicates import place_of, row_ids
from ray_pipeline.data.hashing import row_hashes
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.job import Expectation
from ray_pipeline.schema import TEXTS, Schema

EXAMPLES = 5
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Seen:
    """Of some rows: how many there are, how many fail, the ids of the first that do, the latest
    date in seconds, and where values must be unique each row's id and 64-bit hash."""

    rows: int = 0
    failed: int = 0
    first: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    latest: float = -np.inf
    ids: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    hashes: NDArray[np.uint64] = field(default_factory=lambda: _NONE.astype(np.uint64))

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            self.rows + other.rows,
            self.failed + other.failed,
            np.sort(np.concatenate([self.first, other.first]))[:EXAMPLES],
            max(self.latest, other.latest),
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.hashes, other.hashes]),
        )


def check(expected: Sequence[Expectation], schema: Schema) -> None:
    """Raises JobError where an expectation is about a column that it cannot be about."""
    wanted = {"range": ("integer", "number"), "fresh": ("date",), "match": TEXTS}
    for index, expectation in enumerate(expected):
        where = f"data.expect[{index}].{expectation.name}"
        for name in expectation.columns:
            if name not in schema.names:
                raise JobError(
                    f"no column is called `{name}`", where=where, expected=", ".join(schema.names)
                )
            kinds = wanted.get(expectation.name, (schema[name].kind,))
            if schema[name].kind not in kinds:
                raise JobError(
                    f"`{name}` is of the kind {schema[name].kind}",
                    where=where,
                    expected=" or ".join(kinds),
                )


def seen(rows: pa.Table, expected: Sequence[Expectation], files: list[str]) -> list[Seen]:
    """What typed rows with `_source` and `_row` show for each expectation, in order."""
    if not expected:
        return []
    ids = row_ids(rows, files)
    return [_seen(rows, expectation, ids) for expectation in expected]


def _seen(rows: pa.Table, expectation: Expectation, ids: NDArray[np.int64]) -> Seen:
    if expectation.unique:
        present = np.ones(len(rows), bool)
        for name in expectation.unique:
            present &= pc.is_valid(rows[name]).to_numpy()
        hashes = row_hashes(rows, expectation.unique, seed=0)
        return Seen(len(rows), ids=ids[present], hashes=hashes[present])
    if expectation.fresh:
        seconds = dates.seconds(rows[expectation.fresh.column])
        return Seen(len(rows), latest=float(np.nanmax(seconds, initial=-np.inf)))
    failing = _failing(rows, expectation)
    if failing is None:
        return Seen(len(rows))
    faults = pc.fill_null(failing, False).to_numpy().astype(bool)
    return Seen(len(rows), int(faults.sum()), np.sort(ids[faults])[:EXAMPLES])


def _failing(rows: pa.Table, expectation: Expectation) -> Any:
    """The rows that are not as expected, null where there is no value; None for other kinds."""
    if expectation.not_null:
        masks = [pc.is_null(rows[name]) for name in expectation.not_null]
        return reduce(pc.or_, masks)
    if expectation.in_set:
        texts = parsing.as_texts(rows[expectation.in_set.column])
        allowed = pa.array(map(_as_text, expectation.in_set.values), pa.string())
        return pc.and_(pc.is_valid(texts), pc.invert(pc.is_in(texts, allowed)))
    if within := expectation.range:
        values = rows[within.column]
        low = -np.inf if within.min is None else within.min
        high = np.inf if within.max is None else within.max
        return pc.or_(pc.less(values, low), pc.greater(values, high))
    if expectation.match:
        texts = parsing.as_texts(rows[expectation.match.column])
        return pc.invert(pc.match_substring_regex(texts, expectation.match.regex))
    return None


def _as_text(value: str | float | bool) -> str:
    """A value of the job file as a typed column's text: true, 5, 5.5."""
    return str(pc.cast(pa.scalar(value), pa.string()).as_py())


def described(
    expected: Sequence[Expectation], found: Iterable[list[Seen]], files: list[str]
) -> list[dict[str, Any]]:
    """For each expectation: what it is, rows checked, how many fail, and which are the first."""
    whole = [reduce(Seen.__add__, parts, Seen()) for parts in zip(*found, strict=True)]
    return [
        _described(expectation, _with_repeats(seen) if expectation.unique else seen, files)
        for expectation, seen in zip(expected, whole, strict=True)
    ]


def _with_repeats(seen: Seen) -> Seen:
    """Later rows with the hash of an earlier one fail."""
    order = np.lexsort((seen.ids, seen.hashes))
    hashes, ids = seen.hashes[order], seen.ids[order]
    again = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    return Seen(seen.rows, len(again), np.sort(ids[again])[:EXAMPLES])


def _described(expectation: Expectation, seen: Seen, files: list[str]) -> dict[str, Any]:
    failed = seen.failed
    if expectation.rows:
        most = expectation.rows.max
        failed = int(seen.rows < expectation.rows.min or (most is not None and seen.rows > most))
    dated = expectation.fresh is not None and np.isfinite(seen.latest)
    return {
        "expectation": expectation.name,
        "about": _about(expectation),
        "rows": seen.rows,
        "failed": failed,
        "first": [place_of(id_, files) for id_ in seen.first.tolist()],
        "latest": dates.shown(seen.latest) if dated else None,
        "on_failure": expectation.on_failure,
    }


def _about(expectation: Expectation) -> str:
    if isinstance(expectation.action, tuple):
        return ", ".join(expectation.action)
    said = expectation.action.model_dump(exclude_none=True)
    return ", ".join(f"{key} {_shown(value)}" for key, value in said.items())


def _shown(value: Any) -> str:
    return " | ".join(map(str, value[:10])) if isinstance(value, tuple) else str(value)


def judged(
    record: Mapping[str, Any], expected: Sequence[Expectation], now: datetime | None = None
) -> list[str]:
    """What failed and is only to be warned of, in sentences. `record` is the clean stage's, which
    has what `described` gave under `expectations`. Freshness is judged by the time it is `now`.

    Raises:
        DataError: an expectation failed that is to be refused.
    """
    warnings: list[str] = []
    refused: list[str] = []
    found = record.get("expectations", ())
    for told, expectation in zip(found, expected, strict=True):
        if sentence := _failure(told, expectation, now or datetime.now(UTC)):
            (warnings if expectation.on_failure == "warn" else refused).append(sentence)
    if refused:
        raise DataError(
            f"the cleaned rows are not as expected: {'; '.join(refused)}",
            where="data.expect",
            expected="no failure of an expectation with `on_failure: refuse`",
            hint="correct the data or the expectation, or say `on_failure: warn`",
        )
    return warnings


def _failure(told: dict[str, Any], expectation: Expectation, now: datetime) -> str:
    what = f"{told['expectation']} ({told['about']})"
    if expectation.fresh:
        if told["latest"] is None:
            return f"{what}: there is no date"
        age = now - datetime.fromisoformat(told["latest"])
        return f"{what}: the latest is {told['latest']}" if age > expectation.fresh.age else ""
    if not told["failed"]:
        return ""
    if expectation.rows:
        return f"{what}: there are {told['rows']:,} rows"
    first = f", the first in {', '.join(told['first'])}" if told["first"] else ""
    return f"{what}: {told['failed']:,} of {told['rows']:,} rows fail{first}"


def finding(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report's section."""
    columns = ["expectation", "about", "rows", "failing", "first failing rows", "if it fails"]
    rows = [
        [
            *(told["expectation"], told["about"], told["rows"]),
            told["latest"] or told["failed"],
            *(", ".join(told["first"]), told["on_failure"]),
        ]
        for told in found
    ]
    note = "Of the rows that cleaning left. Of dates that must be fresh, the latest is shown."
    return {
        "title": "Expectations",
        "note": note,
        "tables": [{"columns": columns, "rows": rows}],
    }
