"""All steps over a dataset's blocks: one execution for each run of row-wise steps, one more for
each step that must first see every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from ray_pipeline.data import duplicates, parts
from ray_pipeline.data.duplicates import Repeated, row_ids
from ray_pipeline.data.steps import (
    Changes,
    applied_to,
    check,
    dumped,
    function,
    missing,
    outliers,
    reading,
)
from ray_pipeline.data.steps import near_duplicates as near
from ray_pipeline.data.steps.found import Apply, Change, Found, count
from ray_pipeline.data.steps.outliers import Sampled
from ray_pipeline.data.steps.report import described
from ray_pipeline.job import Clean
from ray_pipeline.job.steps import NearDuplicates, Step
from ray_pipeline.schema import Schema

if TYPE_CHECKING:
    from ray.data import Dataset

Blocks = list[Any]
"""References to tables."""
REPEATS = ("near duplicate", "near duplicate of a test row")
"""Reasons for rows that are no fault of theirs: of another row, and of one in the test file."""


def applied(
    rows: Dataset, clean: Clean, schema: Schema, files: list[str]
) -> tuple[Dataset, dict[str, Any]]:
    """Typed rows after all steps, and the record of what was done.

    `rows` has the schema's columns, typed, and `_source`, `_row`, `_reason`, `_raw` and `_test`;
    so has what comes back, the same rows in the same blocks, more of them with a reason. What is
    learnt is learnt from the usable rows that are not of the test file. The record has `steps`
    (counts by step and column), `fitted` (the steps as they were applied: a mapping that
    `serving.served` reads) and `findings` for the report.

    Raises:
        JobError: a step is about a column that it cannot be about.
        DataError: there is nothing to learn from, or a library is not installed.
    """
    check(clean, schema)
    work = _Work(parts.executed(rows.to_arrow_refs), schema, files)
    work.waiting += [(number, _as_read(number, step)) for number, step in reading.steps(clean)]
    for number, step in enumerate(clean.steps):
        for ready in work.fitted(step):
            work.fitted_steps.append(ready)
            if (made := function(ready, schema)) is not None:
                work.waiting.append((number, made))
        if step.near_duplicates is not None:
            found = work.near_duplicates(step.near_duplicates)
            work.waiting.append((number, _setting_aside(found, files, step.near_duplicates.column)))
    if schema.labelled and any(schema.label.name in step.columns for step in clean.steps):
        work.waiting.append((len(clean.steps), _without_label(schema.label.name)))
    work.flush()
    as_applied = clean.model_copy(update={"steps": tuple(work.fitted_steps)})
    record = described(clean, work.changes) | {"fitted": dumped(as_applied)}
    import ray.data

    return ray.data.from_arrow_refs(work.blocks), record


@dataclass
class _Work:
    """Blocks, the functions that wait to be applied to them, and what was found so far."""

    blocks: Blocks
    schema: Schema
    files: list[str]
    waiting: list[tuple[int, Apply]] = field(default_factory=list)
    changes: Changes = field(default_factory=dict)
    fitted_steps: list[Step] = field(default_factory=list)

    def flush(self) -> None:
        """Apply what waits, a task a block; only counts come to the driver."""
        if not self.waiting:
            return
        task: Any = ray.remote(_applied).options(num_returns=2)
        pairs = [task.remote(block, self.waiting) for block in self.blocks]
        self.blocks = [pair[0] for pair in pairs]
        for changes in _got([pair[1] for pair in pairs]):
            for key, change in changes.items():
                self.changes[key] = self.changes.get(key, Change()) + change
        self.waiting = []

    def each(self, work: Callable[[pa.Table], Any]) -> list[Any]:
        """`work(table)` for each block that has rows, once what waits is applied."""
        self.flush()
        task = ray.remote(_worked)
        found = _got([task.remote(work, block) for block in self.blocks])
        return [result for result in found if result is not None]

    def fitted(self, step: Step) -> list[Step]:
        """A step as it is applied: with what it had to learn, as other steps, or itself."""
        if step.outliers is not None:
            sample = self._sample(step.outliers.columns, outliers.SAMPLE)
            found = outliers.fitted(sample, step.outliers, self.schema)
            return [Step(range=limits) for limits in found]
        if step.missing is not None and step.missing.how == "model":
            sample = self._sample(step.missing.columns, missing.SAMPLE).smallest(missing.SAMPLE)
            order = np.argsort(sample.hashes, kind="stable")  # the same in any order of work
            return [Step(missing=missing.fitted(sample.values[order], step.missing))]
        return [step]

    def _sample(self, columns: tuple[str, ...], size: int) -> Sampled:
        names = self.schema.names
        found: list[Sampled] = self.each(partial(_sampled, columns=columns, names=names, size=size))
        return reduce(
            Sampled.__add__,
            found or [Sampled.of(self.schema.arrow().empty_table(), columns, names)],
        )

    def near_duplicates(self, settings: NearDuplicates) -> Repeated:
        bands = self.each(partial(near.banded, settings=settings, files=self.files))
        if not bands:
            return duplicates.NOTHING
        groups = near.proposed(bands)
        wanted = np.unique(np.concatenate([ids for ids, _ in groups]))
        tested = np.concatenate([part.ids[part.test] for part in bands])
        found = self.each(
            partial(near.texts_of, settings=settings, files=self.files, wanted=wanted)
        )
        texts = {id_: text for part in found for id_, text in part.items()}
        test = frozenset(tested[np.isin(tested, wanted)].tolist())
        return near.repeated(groups, texts, test, settings)


def _got(refs: Sequence[Any]) -> list[Any]:
    found: list[Any] = parts.executed(lambda: ray.get(list(refs)))
    return found


def _worked(work: Callable[[pa.Table], Any], rows: pa.Table) -> Any:
    return work(rows) if len(rows) else None  # an empty block may have no columns


def _sampled(rows: pa.Table, columns: tuple[str, ...], names: Iterable[str], size: int) -> Sampled:
    usable = rows.filter(pc.and_(pc.is_null(rows["_reason"]), pc.invert(rows["_test"])))
    return Sampled.of(usable, columns, tuple(names)).smallest(size)


def _applied(rows: pa.Table, functions: list[tuple[int, Apply]]) -> tuple[pa.Table, Changes]:
    """A block after the functions, and what they did."""
    if not len(rows):
        return rows, {}
    cleaned = applied_to(rows, functions)
    place = rows.column_names.index("_reason")
    return cleaned.rows.set_column(place, "_reason", cleaned.reasons), cleaned.changes


def _as_read(number: int, step: Step) -> Apply:
    """Tells what a step did that was done before typing."""
    (name,) = step.columns

    def apply(rows: pa.Table) -> dict[str, Found]:
        bits = pc.bit_wise_and(rows[reading.READ], 1 << number)
        changed = count(pc.not_equal(bits, 0))
        return {name: Found(rows[name], +Counter({"read": changed}), changed=changed)}

    return apply


def _setting_aside(found: Repeated, files: list[str], column: str) -> Apply:
    def apply(rows: pa.Table) -> dict[str, Found]:
        reasons = found.reasons(row_ids(rows, files), files)
        for said, told in zip(("^duplicate", "^also in the test file"), REPEATS, strict=True):
            reasons = pc.replace_substring_regex(reasons, said, told)
        faults = pc.is_valid(reasons)
        kinds = {"nearly the same": count(faults)}
        return {column: Found(rows[column], Counter(kinds), faults, reasons)}

    return apply


def _without_label(label: str) -> Apply:
    """Sets rows aside whose label a step took away."""

    def apply(rows: pa.Table) -> dict[str, Found]:
        absent = pc.is_null(rows[label])
        return {label: Found(rows[label], Counter(), absent, f"{label}: missing label")}

    return apply
