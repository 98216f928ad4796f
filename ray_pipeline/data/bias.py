"""What the training rows say of groups before a model learns from them.

Who is there, how many, with which label, and whether a difference is more than chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from upath import UPath

from ray_pipeline.data import balance, cells, chance, parts
from ray_pipeline.job import Balance
from ray_pipeline.schema import Schema

Frame = pd.DataFrame
FEWEST = 96
"""With fewer rows a share's 95 % interval may be wider than ±0.1: too few to judge by."""
PERSONAL = 5
"""Values that fewer rows have might point at a person and are not named."""
SHOWN = 20
CLASSES_SHOWN = 6
AND = " and "
_NOTE = (
    "Of the training rows alone. p is the probability of a difference at least this large if group "
    "and label had nothing to do with each other; the strength goes from 0 (nothing) to 1 (the "
    "label follows from the group). A tiny p says that a difference is no chance, not that it is "
    "unjust, nor that the world is so: only that the rows are."
)


def write(
    split: UPath,
    groups: Sequence[str],
    settings: Balance | None,
    positive: str | None,
    schema: Schema,
    *,
    out: UPath,
) -> dict[str, Any]:
    """Write `cells.parquet`, the training rows counted by group and class as in `cells.counted`.

    Only `split/train` is read, in one execution, one task per file. Groups are the columns
    `groups`, those of `settings`, and each pair of them. The record's `findings` hold the shares
    of the classes, rows, label rate and missing values by group, and the weights that `settings`
    asks for; `disparities` the tests; `warnings` name groups with too few rows to judge.

    `positive` is the class that rates speak of, the rarer of two if None.
    """
    columns = tuple(dict.fromkeys([*groups, *(settings.by if settings else ())]))
    counted = cells.counted(parts.existing_files(split / "train"), columns, schema)
    parts.written(counted, out / "cells.parquet")
    found = counted.to_pandas()
    judged = {name: _judged(found, key, positive, schema) for name, key in _keys(columns).items()}
    tables = [] if "class" not in found else [_class_table(found)]
    tables += [_table(name, lines, test) for name, (lines, test) in judged.items()]
    if settings is not None:
        own = [str(columns.index(name)) for name in settings.by]
        tables.append(_weight_table(balance.weighed(cells.by(counted, own), settings, schema)))
    warnings = [
        f"{name}: {lines.index[place]} has {rows} rows, too few to judge"
        for name, (lines, _) in judged.items()
        for place, rows in enumerate(lines["rows"])
        if PERSONAL <= rows < FEWEST
    ]
    rows = int(found["rows"].sum())
    return {
        "rows_in": rows,
        "rows_out": rows,
        "rows_quarantined": 0,
        "disparities": {name: test for name, (_, test) in judged.items()},
        "warnings": warnings,
        "findings": [{"title": "Groups before training", "note": _NOTE, "tables": tables}],
    }


def _keys(columns: Sequence[str]) -> dict[str, list[str]]:
    """The names of the groupings, and the columns of the cells that each goes by."""
    alone = {name: [str(index)] for index, name in enumerate(columns)}
    pairs = itertools.combinations(alone.items(), 2)
    return alone | {one + AND + other: [*first, *second] for (one, first), (other, second) in pairs}


def _judged(
    found: Frame, key: list[str], positive: str | None, schema: Schema
) -> tuple[Frame, dict[str, float]]:
    """A line for each group, most rows first, and the test over all groups."""
    sums = found.groupby(key)[[name for name in cells.SUMS if name in found]].sum()
    rows = sums["rows"].to_numpy()
    cells_of_group = np.maximum(rows * len(schema.features), 1)
    lines = pd.DataFrame(
        {"rows": rows, "share": rows / rows.sum(), "missing": sums["absent"] / cells_of_group}
    )
    if "class" in found:
        counts = found.pivot_table("rows", key, "class", aggfunc="sum", fill_value=0)
        shown = _shown_classes(counts, positive)
        for name in shown:
            lines[f"rate of {name}"] = counts[name] / rows
        if len(shown) == 1:
            lines[["low", "high"]] = chance.wilson(counts[shown[0]].to_numpy(), rows)
        p, strength = chance.independence(counts.to_numpy())
    else:
        total, squares = sums["sum"].to_numpy(), sums["squares"].to_numpy()
        lines["mean label"] = total / rows
        lines[["low", "high"]] = chance.mean_interval(rows, total, squares)
        p, strength = chance.equal_means(rows, total, squares)
    lines.index = [value if len(key) == 1 else AND.join(value) for value in lines.index]
    enough = lines[lines["rows"] >= FEWEST].iloc[:, 3]  # rates of a handful of rows are chance
    gap = float(enough.max() - enough.min()) if len(enough) else 0.0
    test = {"difference": gap, "p": p, "strength": strength}
    return lines.sort_values("rows", ascending=False, kind="stable"), test


def _shown_classes(counts: Frame, positive: str | None) -> list[str]:
    """The classes whose rates are shown: the positive one of two, else the most frequent."""
    ranked = counts.sum().sort_values(ascending=False, kind="stable").index.tolist()
    if len(ranked) == 2:
        return [positive] if positive is not None and positive in ranked else ranked[1:]
    return ranked[:CLASSES_SHOWN]


def _class_table(found: Frame) -> dict[str, Any]:
    rows = found.groupby("class")["rows"].sum().sort_values(ascending=False, kind="stable")
    lines = [[name, int(count), _percent(count / rows.sum())] for name, count in rows.items()]
    caption = f"Classes: {rows.max() / rows.min():.3g} rows of the commonest for one of the rarest"
    return {
        "caption": caption,
        "columns": ["class", "rows", "share"],
        "rows": lines[:SHOWN] + _more(len(lines)),
    }


def _table(name: str, lines: Frame, test: dict[str, float]) -> dict[str, Any]:
    named = lines[lines["rows"] >= PERSONAL]
    rates = [str(column) for column in lines if str(column).startswith(("rate", "mean"))]
    interval = ["95 % interval"] if "low" in lines else []
    rows = []
    for group, line in named.head(SHOWN).iterrows():
        number = f"{line['rows']:.0f}"
        texts = [_figure(line[rate], rate) for rate in rates]
        if interval:
            texts.append(f"{_figure(line['low'], rates[0])} to {_figure(line['high'], rates[0])}")
        judged = "too few rows to judge" if line["rows"] < FEWEST else ""
        rows.append([group, number, *map(_percent, line[["share", "missing"]]), *texts, judged])
    rare = len(lines) - len(named)
    if rare:
        rows.append([f"{rare} with fewer than {PERSONAL} rows", *[""] * (len(rates) + 4)])
    return {
        "caption": f"{name}: largest difference {_figure(test['difference'], rates[0])} between "
        f"groups of {FEWEST} rows or more; p {_p(test['p'])}, strength {test['strength']:.2f}",
        "columns": ["group", "rows", "share", "missing", *rates, *interval, ""],
        "rows": rows + _more(len(named)),
    }


def _weight_table(weights: balance.Weights) -> dict[str, Any]:
    *by, label = weights.columns
    found = weights.cells.to_pandas().sort_values("rows", ascending=False, kind="stable")
    named = found[found["rows"] >= PERSONAL].head(SHOWN)
    told = balance.described(weights)
    return {
        "caption": f"Weights ({weights.method}), from {told['lightest']:.3g} to "
        f"{told['heaviest']:.3g}: as telling as {told['effective_rows']:,.0f} rows of one weight, "
        f"of {told['rows']:,}",
        "columns": [*by, label, "rows", "weight"],
        "rows": [
            [
                *line[[*map(str, range(len(by))), "class"]],
                int(line["rows"]),
                f"{line['weight']:.3f}",
            ]
            for _, line in named.iterrows()
        ],
    }


def _more(lines: int) -> list[list[str]]:
    return [[f"and {lines - SHOWN} more"]] if lines > SHOWN else []


def _figure(value: float, name: Any) -> str:
    return f"{value:.4g}" if str(name).startswith("mean") else _percent(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"
