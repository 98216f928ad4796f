"""A look at what an endpoint has answered of late, beside what its model was made for."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy import log_files, reference, vectors
from ray_pipeline.deploy.reference import Numbers
from ray_pipeline.job.watch import Drift, Log
from ray_pipeline.watch import drift, mmd, replay
from ray_pipeline.watch.drift import Answer, Finding
from ray_pipeline.watch.shapes import Shape, shapes

_VECTORS = 512
"""Rows of a look whose vectors are compared, spread evenly over it."""


class Look(NamedTuple):
    """What was found of the newest logged rows of one version."""

    rows: int
    labelled: pa.Table
    """Those whose labels came: what was logged, and `label`."""
    since: str
    until: str
    findings: list[Finding]
    alarms: list[Finding]
    shapes: dict[str, Shape]
    """Of each column: how it was distributed, and how it is."""

    def record(self) -> dict[str, Any]:
        """What is kept of it."""
        return {
            "rows": self.rows,
            "labels": len(self.labelled),
            "since": self.since,
            "until": self.until,
            "findings": [_kept(one) for one in self.findings],
            "alarms": [_kept(one) for one in self.alarms],
            "shapes": self.shapes,
        }


def looked(kept: UPath, opened: Bundle, settings: Drift, log: Log) -> Look | None:
    """A look at the log in the folder `kept`; None where the bundle does not say what it was made
    for, or where the rows of its version are too few."""
    known = reference.known(opened)
    since = time.time() - settings.days * 86_400 if settings.days else 0.0
    table = log_files.newest(kept / log_files.REQUESTS, settings.rows, since)
    if known is None or table is None:
        return None
    table = table.filter(pc.equal(table["version"], opened.manifest.version))
    if len(table) < settings.min_rows:
        return None
    labelled = log_files.labelled(table, kept / log_files.FEEDBACK)
    enough = len(labelled) >= settings.min_labels
    named = isinstance(known.labels, reference.Values)
    columns, predicted = _columns(table, known, log), _plain(table["predicted"], not named)
    told = losses(labelled, labelled["predicted"], named) if enough else None
    answers = drift.answers(known, columns, settings, predicted, told)
    answers += _of_vectors(table, opened, settings, log, len(answers))
    findings = drift.corrected(answers)
    moments = pc.min_max(table["time"]).as_py()
    return Look(
        len(table),
        labelled,
        moments["min"].isoformat(timespec="seconds"),
        moments["max"].isoformat(timespec="seconds"),
        findings,
        [one for one in findings if one.alarms(settings)],
        _drawn(shapes(known, columns, predicted), opened),
    )


def losses(labelled: pa.Table, predicted: Any, named: bool) -> NDArray[np.float64]:
    """How wrong each prediction is: 1 for another class, or by how much a value is off."""
    if named:
        wrong = pc.not_equal(labelled["label"], predicted)
        return np.asarray(pc.fill_null(wrong, True), float)
    apart: NDArray[np.float64] = np.abs(
        np.asarray(labelled["label"], float) - np.asarray(predicted, float)
    )
    return apart


def _columns(table: pa.Table, known: reference.Reference, log: Log) -> dict[str, Any]:
    """The columns to compare: those that are neither masked nor changed on their way."""
    rows = replay.inputs(table)
    found = {}
    for name in rows.column_names:
        expected, values = known.columns.get(name), rows[name]
        if expected is None or name in log.mask:
            continue
        number = isinstance(expected, Numbers)
        if number and pa.types.is_string(values.type):
            if log.texts != "whole":
                continue
            values = pc.utf8_length(values)
        found[name] = _plain(values, number)
    return found


def _of_vectors(
    table: pa.Table, opened: Bundle, settings: Drift, log: Log, others: int
) -> list[Answer]:
    """Whether the vectors of rows are distributed otherwise, which is asked beside so many `others`
    where the bundle keeps some and the log has the rows as the model read them."""
    usual = vectors.known(opened)
    if usual is None or log.texts == "mask":  # what masks a text changes its vector
        return []
    few = table.take(np.unique(np.linspace(0, len(table) - 1, _VECTORS).astype(int)))
    rows = replay.columns(few, opened.manifest, log.mask)
    vectors_of = vectors.reading_of(opened)
    if rows is None or vectors_of is None:
        return []
    # So many that the smallest chance, too, is an alarm among all questions.
    divisions = math.ceil(4 * (others + 1) / settings.false_alarms)
    found = mmd.apart(usual, vectors_of(rows), divisions)
    return [Answer(drift.VECTORS, "distribution", found.size, settings.max_mmd, found.p)]


def _drawn(found: dict[str, Shape], opened: Bundle) -> dict[str, Shape]:
    """The shapes with their columns' kinds: a date is in seconds, a text's length is a number."""
    kinds = {column.name: column.kind for column in opened.manifest.schema.features}
    return {name: {**shape, "kind": kinds.get(name)} for name, shape in found.items()}


def _plain(values: pa.ChunkedArray, number: bool) -> Any:
    if not number:
        return values.combine_chunks()
    return pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy()


def _kept(one: Finding) -> dict[str, Any]:
    return {**one._asdict(), "size": round(one.size, 6), "chance": float(f"{one.chance:.3g}")}
