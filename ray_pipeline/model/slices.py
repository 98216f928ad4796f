"""Parts of the test rows that the job names by conditions, each judged on its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as pads
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import conditions
from ray_pipeline.job.evaluate import Conditions, each
from ray_pipeline.model import judgement
from ray_pipeline.model.metrics import Booleans, Floats
from ray_pipeline.schema import Schema

_SHOWN = ("accuracy", "f1", "roc_auc", "rmse", "mae", "r2")


def check(slices: Mapping[str, Conditions], schema: Schema) -> None:
    """Raises JobError for a condition on what is no column, or of another kind."""
    for name, met in slices.items():
        for condition in each(met):
            conditions.check(condition, schema, f"evaluate.slices.{name}")


def masks(folder: UPath, slices: Mapping[str, Conditions]) -> dict[str, Booleans]:
    """Of each slice, which rows [N] of the parquet files in `folder` are in it, in their order."""
    if not slices:
        return {}
    named = {condition.column for met in slices.values() for condition in each(met)}
    rows = pads.dataset(folder.path, filesystem=folder.fs, format="parquet").to_table(
        columns=sorted(named)
    )
    return {
        name: reduce(
            pc.and_, (conditions.holds(condition, rows) for condition in each(met))
        ).to_numpy()
        for name, met in slices.items()
    }


def judged(
    found: Mapping[str, Booleans],
    labels: NDArray[Any],
    outputs: Floats,
    positive: judgement.Focus,
    resamples: int,
) -> dict[str, dict[str, Any]]:
    """By slice the `rows`, the key metrics and their `intervals`; no metrics where no row is."""
    results: dict[str, dict[str, Any]] = {}
    for name, mask in found.items():
        results[name] = {"rows": int(np.count_nonzero(mask))}
        if results[name]["rows"]:
            own = labels[mask], outputs[mask], positive
            results[name] |= judgement.key_metrics(*own)
            results[name]["intervals"] = judgement.intervals(*own, resamples)
    return results


def findings(found: Mapping[str, Mapping[str, Any]], whole: Mapping[str, Any]) -> list[Any]:
    """The report's section, all rows first."""
    if not found:
        return []
    shown = [key for key in _SHOWN if whole.get(key) is not None]
    everything = {"rows": whole["about"]["rows"], **whole}
    rows = [
        [name, figures["rows"], *(_figure(figures, key) for key in shown)]
        for name, figures in [("all rows", everything), *found.items()]
    ]
    note = "Parts of the test rows by the job's own conditions, with 95 % intervals."
    columns = ["slice", "rows", *(key.replace("_", " ") for key in shown)]
    tables = [{"columns": columns, "rows": rows}]
    return [{"title": "Slice by slice", "note": note, "tables": tables}]


def _figure(figures: Mapping[str, Any], key: str) -> str:
    value = figures.get(key)
    if value is None:
        return "–"
    low, high = (figures.get("intervals") or {}).get(key) or (None, None)
    return f"{value:.4f}" if low is None else f"{value:.4f} ({low:.4f} – {high:.4f})"
