"""What each raw column is worth to the model: how far the score falls when it is shuffled.

Breiman, "Random Forests" (2001), https://doi.org/10.1023/A:1010933404324, section 10; on rows that
the model has not seen. Columns that tell the same share their worth, so that each alone may seem
to have little of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ray_pipeline.job import Importance
from ray_pipeline.model.sample import Sample, mean_interval, replaced

_SHOWN = 20


def importances(
    sample: Sample, columns: tuple[str, ...], settings: Importance
) -> dict[str, dict[str, float]]:
    """By column the `drop` of the score, `low` and `high` of its 95 % interval; largest first.

    A drop is the mean over `repeats` shuffles, its interval that of a mean over rows.
    """
    rng = np.random.default_rng(settings.seed)
    whole = sample.scores(sample.rows)
    found = {}
    for name in columns:
        lost = np.zeros(len(whole))
        for _ in range(settings.repeats):
            order = pa.array(rng.permutation(len(whole)))
            shuffled = replaced(sample.rows, name, sample.rows[name].take(order))
            lost += (whole - sample.scores(shuffled)) / settings.repeats
        found[name] = dict(zip(("drop", "low", "high"), mean_interval(lost), strict=True))
    return dict(sorted(found.items(), key=lambda item: -item[1]["drop"]))


def findings(
    found: Mapping[str, Mapping[str, float | None]], score: str, settings: Importance, rows: int
) -> list[dict[str, Any]]:
    """The report's section, its bars the columns that matter most."""
    if not found:
        return []
    note = (
        f"How far {score} falls when a column's values are shuffled among {rows:,} test rows, over "
        f"{settings.repeats} shuffles; the line is the 95 % interval. Columns that tell the same "
        "share their worth."
    )
    shown = list(found.items())[:_SHOWN]
    bars = [[name, drop["drop"] or 0.0, drop["low"], drop["high"]] for name, drop in shown]
    plot = {"kind": "bars", "x": f"fall of {score}", "bars": bars}
    section: dict[str, Any] = {"title": "What it goes by", "note": note, "plots": [plot]}
    if len(found) > _SHOWN:
        section["note"] += f" The {_SHOWN} columns that matter most of {len(found)}."
    return [section]
