"""A look at what an endpoint has answered of late, beside what its model was made for."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy import log_files, reference
from ray_pipeline.deploy.reference import Numbers
from ray_pipeline.job.watch import Drift, Log
from ray_pipeline.watch import drift
from ray_pipeline.watch.drift import Finding


class Look(NamedTuple):
    """What was found of the newest logged rows of one version."""

    rows: int
    labelled: pa.Table
    """Those whose labels came: what was logged, and `label`."""
    since: str
    until: str
    findings: list[Finding]
    alarms: list[Finding]

    def record(self) -> dict[str, Any]:
        """What is kept of it."""
        return {
            "rows": self.rows,
            "labels": len(self.labelled),
            "since": self.since,
            "until": self.until,
            "findings": [_kept(one) for one in self.findings],
            "alarms": [_kept(one) for one in self.alarms],
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
    findings = drift.found(
        known,
        _columns(table, known, log),
        settings,
        _plain(table["predicted"], not named),
        losses(labelled, labelled["predicted"], named) if enough else None,
    )
    moments = pc.min_max(table["time"]).as_py()
    return Look(
        len(table),
        labelled,
        moments["min"].isoformat(timespec="seconds"),
        moments["max"].isoformat(timespec="seconds"),
        findings,
        [one for one in findings if one.alarms(settings)],
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


def inputs(table: pa.Table) -> pa.Table:
    """The rows' columns, which the log has as one."""
    whole = table["input"].combine_chunks()
    fields = [whole.type.field(place).name for place in range(whole.type.num_fields)]
    return pa.table(dict(zip(fields, whole.flatten(), strict=True)))


def _columns(table: pa.Table, known: reference.Reference, log: Log) -> dict[str, Any]:
    """The columns to compare: those that are neither masked nor changed on their way."""
    if "input" not in table.column_names:
        return {}
    rows = inputs(table)
    found = {}
    for name in rows.column_names:
        expected = known.columns.get(name)
        number = isinstance(expected, Numbers)
        masked = name in log.mask or (number and pa.types.is_string(rows[name].type))
        if expected is not None and not masked:
            found[name] = _plain(rows[name], number)
    return found


def _plain(values: pa.ChunkedArray, number: bool) -> Any:
    if not number:
        return values.combine_chunks()
    return pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy()


def _kept(one: Finding) -> dict[str, Any]:
    return {**one._asdict(), "size": round(one.size, 6), "chance": float(f"{one.chance:.3g}")}
