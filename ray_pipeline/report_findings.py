"""Sections of the report that stages describe themselves.

A stage's record may hold `findings`: a list of

    {"title": …, "note": …, "tables": [{"caption": …, "columns": […], "rows": [[…], …]}, …],
     "plots": [
        {"kind": "curves", "x": …, "y": …, "lines": {name: [[x, y], …], …}},
        {"kind": "bars", "x": …, "bars": [[name, value, low, high], …]},
        {"kind": "dots", "x": …, "y": …, "dots": [[name, x, y], …]},
        {"kind": "parallel", "axes": [name, …], "rows": [[value, …], …], "chosen": row,
         "log": [name, …]},
        {"kind": "front", "points": [[x, y], …], "best": [point, …], "chosen": point, "bound": x},
     ]}

where `note`, `caption`, `tables` and `plots` may be left out, and an interval's ends be null. A
finding that belongs elsewhere than its stage says so under `place`; those of the run itself, which
are under `findings` in its record, always do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from ray_pipeline import charts, charts_search

Record = Mapping[str, Any]

_PLACES = {
    "learned": ("tune", "train", "folds", "prune", "distill", "compress"),
    "judged": ("evaluate", "champion", "judge"),
    "served": ("export", "deploy"),
}
"""What the page says of its own before these; all other stages' findings follow the data."""

_STYLES = ("first", "second", "third", "fourth")


def by_place(record: Record) -> dict[str, list[dict[str, Any]]]:
    """The findings to show after the data, what was learned, the judgement and what is served."""
    found: dict[str, list[dict[str, Any]]] = {place: [] for place in ("data", *_PLACES)}
    for stage in record.get("stages") or ():
        place = next((p for p, stages in _PLACES.items() if stage["name"] in stages), "data")
        for finding in (stage.get("record") or {}).get("findings") or ():
            found[finding.get("place", place)].append(_section(finding))
    for finding in record.get("findings") or ():
        found[finding["place"]].append(_section(finding))
    return found


def _section(finding: Record) -> dict[str, Any]:
    tables = finding.get("tables") or ()
    return {
        "title": finding["title"],
        "note": finding.get("note", ""),
        "plots": [_drawn(plot) for plot in finding.get("plots") or ()],
        "tables": [{"caption": table.get("caption", ""), **table} for table in tables],
    }


def _drawn(plot: Record) -> Markup:
    if plot["kind"] == "bars":
        return charts.bars([charts.Bar(*bar) for bar in plot["bars"]], plot["x"])
    if plot["kind"] == "dots":
        return charts.dots(plot["dots"], plot["x"], plot["y"])
    if plot["kind"] == "parallel":
        return charts_search.parallel(plot["axes"], plot["rows"], plot["chosen"], plot["log"])
    if plot["kind"] == "front":
        return charts_search.front(plot["points"], plot["best"], plot["chosen"], plot["bound"])
    lines = [
        charts.Line(name, [(x, y) for x, y in points], _STYLES[index % len(_STYLES)])
        for index, (name, points) in enumerate(plot["lines"].items())
    ]
    return charts.curves(lines, plot["x"], plot["y"])
