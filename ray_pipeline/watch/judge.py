"""Whether a challenger is better, whether new labels can be believed, and whether what was live
before was better after all."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy.halves import Columns
from ray_pipeline.deploy.predictions import plain_numbers, prediction_maker
from ray_pipeline.deploy.reference import Numbers, Reference
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.deploy.tally import said
from ray_pipeline.errors import JobError
from ray_pipeline.job.watch import Drift, Judge, Watch
from ray_pipeline.watch import drift, look, replay

_LOWER = frozenset({"rmse", "mae", "log_loss", "brier", "hamming_loss"})
"""Metrics of which less is better."""
_ROWS = 8192


class Verdict(NamedTuple):
    """Whether a challenger takes over, and by what number."""

    better: bool
    why: str


def verdict(compared: dict[str, Any] | None, settings: Judge) -> Verdict:
    """By the record of the champion stage; None where nothing was live.

    A difference counts where the whole of its paired bootstrap interval is on the better side.

    Raises:
        JobError: the metric is not among those with an interval.
    """
    if compared is None:
        return Verdict(True, "nothing was live")
    intervals = compared["intervals"]
    metric = settings.metric or next(m for m in ("accuracy", "rmse", *intervals) if m in intervals)
    if metric not in intervals:
        raise JobError(
            f"`{metric}` has no interval",
            where="watch.judge.metric",
            expected=", ".join(intervals),
        )
    low, high = intervals[metric]
    gain = compared[metric]
    if metric in _LOWER:
        gain, low, high = -gain, -high, -low
    told = (
        f"{metric} is {abs(gain):.4f} {'better' if gain >= 0 else 'worse'} than version "
        f"{compared['version']}'s {compared['theirs'][metric]:.4f} "
        f"(95 % interval {low:+.4f} to {high:+.4f})"
    )
    return Verdict(low > 0 and gain >= settings.min_gain, told)


def unbelievable(cleaned: UPath, label: str, reference: Reference, settings: Watch) -> str:
    """Why the labels that a challenger would learn from or be judged on cannot be believed; empty
    if they can. `cleaned` is what the clean stage wrote."""
    if reference.labels is None:
        return ""
    usual = Reference(rows=reference.rows, columns={label: reference.labels})
    bounds = Drift(max_psi=settings.judge.max_label_psi, false_alarms=settings.drift.false_alarms)
    for folder, what in (("test", "newest"), ("rows", "older")):
        place = cleaned / folder
        if not place.exists():
            continue
        dataset = pads.dataset(place.path, filesystem=place.fs, format="parquet")
        if label not in dataset.schema.names:  # functions or people will give it
            continue
        values = dataset.to_table(columns=[label])[label].drop_null()
        number = isinstance(reference.labels, Numbers)
        column = np.asarray(values, float) if number else _texts(values)
        for one in drift.found(usual, {label: column}, bounds):
            if one.question == "distribution" and one.alarms(bounds):
                return (
                    f"the labels of the {what} files are distributed otherwise: a stability index "
                    f"of {one.size:.3g}, and {one.bound:g} is believed"
                )
    return ""


def better_before(
    labelled: pa.Table, before: Bundle, settings: Drift, masked: Collection[str] = ()
) -> str:
    """Why the version that was live before is to be live again: it is better on the rows whose
    labels came, beyond chance and beyond `max_worse`. Empty if it is not, or if
    the log does not have the rows as it reads them, as of columns that are `masked`.

    Classes are compared by McNemar's exact test (1947) on the rows that only one has right, values
    by Wilcoxon's signed ranks of their absolute errors.
    """
    from scipy import stats

    manifest = before.manifest
    rows = replay.columns(labelled, manifest, masked)
    if manifest.task not in ("classification", "regression") or rows is None:
        return ""
    named = manifest.classes is not None
    ours = look.losses(labelled, labelled["predicted"], named)
    theirs = look.losses(labelled, pa.array(_predicted(before, rows)), named)
    if named:
        only_ours, only_theirs = int((ours < theirs).sum()), int((theirs < ours).sum())
        size = float((ours - theirs).mean())
        p = _mcnemar(only_theirs, only_ours)
    else:
        size = float(ours.mean() / max(theirs.mean(), 1e-12) - 1)
        changed = bool((ours != theirs).any())
        p = float(stats.wilcoxon(ours, theirs, alternative="greater")[1]) if changed else 1.0
    if size <= settings.max_worse or p >= settings.false_alarms:
        return ""
    lost = f"{size:.4f} of accuracy is lost" if named else f"errors are {size:.1%} larger"
    return (
        f"{lost} against version {manifest.version} on {len(labelled):,} rows whose labels came "
        f"(the chance of that is {p:.2g})"
    )


def _mcnemar(better: int, worse: int) -> float:
    """The chance of at least `better` of the rows on which two models differ, were both as good."""
    from scipy import stats

    if not better + worse:
        return 1.0
    return float(stats.binomtest(better, better + worse, alternative="greater").pvalue)


def _predicted(opened: Bundle, rows: Columns) -> list[str | float]:
    """What a bundle says of rows, clean."""
    predictor, say = Predictor(opened), prediction_maker(opened.manifest)
    found: list[str | float] = []
    for start in range(0, len(next(iter(rows.values()))), _ROWS):
        part = {name: values[start : start + _ROWS] for name, values in rows.items()}
        found += [said(say(one)) for one in plain_numbers(predictor.of_clean(part))]
    return found


def _texts(values: pa.ChunkedArray) -> pa.Array:
    whole: NDArray[Any] | pa.Array = values.cast(pa.string()).combine_chunks()
    return whole
