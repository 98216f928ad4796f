"""Two runs beside each other: figures, curves, and what differs of their settings and data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from upath import UPath

from ray_pipeline import charts, report, report_learning, report_view
from ray_pipeline.report_learning import stage_record

Record = Mapping[str, Any]

_SIDES = ("train", "validation", "test")
_ABOUT_ROWS = ("rows_in", "rows_out", "rows_quarantined")


def compared(first: Record, second: Record) -> dict[str, Any]:
    """What two runs' records have in common to be compared, and what differs.

    Returns:
        `runs` (the two ids), `metrics` (`name`, `values`, `intervals`, `difference` of the second
        to the first, `better`: whether that is the better side, `beyond`: whether it is more than
        both intervals allow), `same_rows` (whether both were judged on the same ones), `settings`
        and `data` (`name` and both `values` of what differs), `stages` (seconds of both).
    """
    pair = [report.without_secrets(record) for record in (first, second)]
    rows = {_digest(record, "split") for record in pair}
    return {
        "runs": [record["run"] for record in pair],
        "metrics": list(_metrics(*(record.get("metrics") or {} for record in pair))),
        "same_rows": len(rows) == 1 and None not in rows,
        "settings": _differing(*(dict(report_view.flat(one.get("job") or {})) for one in pair)),
        "data": _differing(*(dict(_data(one)) for one in pair)),
        "stages": _stages(*pair),
    }


def page(first: Record, second: Record) -> str:
    """One self-contained HTML page that shows both: no scripts, nothing loaded from elsewhere."""
    found = compared(first, second)
    return report.template("compare.html").render(
        **{**found, "metrics": [_drawn(one) for one in found["metrics"]]},
        heads=[_head(record) for record in (first, second)],
        curves=list(_curves(first, second)),
    )


def write(first: Record, second: Record, folder: UPath) -> UPath:
    """Write the page to the `folder` of the second run, named after the first."""
    path = folder / f"compare-{first['run']}.html"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(page(first, second), encoding="utf-8")
    return path


def told(found: Mapping[str, Any]) -> list[str]:
    """A comparison for people."""
    lines = [f"{'':<24} {found['runs'][0]:>22} {found['runs'][1]:>22}   difference"]
    for one in found["metrics"]:
        first, second = (report.figure(value) for value in one["values"])
        beyond = "" if one["beyond"] is None else "  beyond chance" if one["beyond"] else ""
        lines.append(
            f"{one['name']:<24} {first:>22} {second:>22}   {one['difference']:+.4f}"
            f"{' better' if one['better'] else ' worse' if one['difference'] else ''}{beyond}"
        )
    lines += ["", "judged on " + ("the same rows" if found["same_rows"] else "other rows each")]
    for title in ("settings", "data"):
        lines += ["", f"{title} that differ" if found[title] else f"{title}: no difference"]
        for one in found[title]:
            first, second = (report.plain(value) for value in one["values"])
            lines.append(f"  {one['name']}: {first} → {second}")
    return lines


def _metrics(first: Record, second: Record) -> Iterator[dict[str, Any]]:
    for key, name in report.METRICS.items():
        values = [metrics[key] for metrics in (first, second) if metrics.get(key) is not None]
        if len(values) < 2:
            continue
        spans = [_span(metrics, key) for metrics in (first, second)]
        difference = values[1] - values[0]
        yield {
            "name": name,
            "values": values,
            "intervals": spans,
            "difference": difference,
            "better": (difference < 0) if key in report.LOWER_IS_BETTER else difference > 0,
            "beyond": _beyond(difference, spans),
        }


def _span(metrics: Record, key: str) -> list[float] | None:
    span = (metrics.get("intervals") or {}).get(key)
    return span if span and None not in span else None


def _beyond(difference: float, spans: Sequence[Sequence[float] | None]) -> bool | None:
    """Whether a difference is more than the interval of a difference of independent estimates,
    sqrt(h1² + h2²) of both half widths; of the same rows it is less, so that this is careful.

    None where an interval is not known.
    """
    if None in spans:
        return None
    halves = [(span[1] - span[0]) / 2 for span in spans if span]
    return abs(difference) > math.hypot(*halves)


def _differing(first: Record, second: Record) -> list[dict[str, Any]]:
    names = dict.fromkeys([*first, *second])
    return [
        {"name": name, "values": [first.get(name), second.get(name)]}
        for name in names
        if first.get(name) != second.get(name)
    ]


def _data(record: Record) -> Iterator[tuple[str, Any]]:
    """What a run's data was: its places, how many rows, each column's kind, gaps and mean."""
    if record.get("sources"):
        yield "sources", ", ".join(map(str, record["sources"]))
    cleaned, split = stage_record(record, "clean"), stage_record(record, "split")
    for key in _ABOUT_ROWS:
        if key in cleaned:
            yield key.replace("_", " "), cleaned[key]
    rows = split.get("rows")
    sides = rows if isinstance(rows, Mapping) else {}
    yield from ((f"{side} rows", sides[side]) for side in _SIDES if side in sides)
    for name, column in (cleaned.get("columns") or {}).items():
        yield f"column {name}", column.get("kind")
        for key in ("missing", "distinct", "mean"):
            if isinstance(column.get(key), int | float):
                yield f"column {name}, {key}", round(column[key], 6)


def _stages(first: Record, second: Record) -> list[dict[str, Any]]:
    pair = [{stage["name"]: stage for stage in one.get("stages") or ()} for one in (first, second)]
    return [
        {
            "name": name,
            "seconds": [one[name]["seconds"] if name in one else None for one in pair],
            "cached": [name in one and one[name]["cached"] for one in pair],
            "same": all(name in one for one in pair)
            and pair[0][name].get("digest") == pair[1][name].get("digest"),
        }
        for name in dict.fromkeys([*pair[0], *pair[1]])
    ]


def _digest(record: Record, name: str) -> str | None:
    found = (stage.get("digest") for stage in record.get("stages") or () if stage["name"] == name)
    return next(found, None)


def _head(record: Record) -> dict[str, Any]:
    shown = report.without_secrets(record)
    return {
        "run": shown["run"],
        "job": (shown.get("job") or {}).get("name", "job"),
        "status": shown.get("status"),
        "started": str(shown.get("started") or "").replace("T", " ").replace("+00:00", " UTC"),
        "seconds": shown.get("seconds"),
    }


def _drawn(metric: Mapping[str, Any]) -> dict[str, Any]:
    """A metric with both values drawn on one scale."""
    ends = [*metric["values"], *(end for span in metric["intervals"] if span for end in span)]
    low, high = min(ends), max(ends)
    room = 0.1 * (high - low) or abs(high) or 1.0
    pairs = zip(metric["values"], metric["intervals"], strict=True)
    scale = (low - room, high + room)
    return {**metric, "charts": [charts.interval(v, s, None, (), scale) for v, s in pairs]}


def _curves(first: Record, second: Record) -> Iterator[Any]:
    """Both runs' epochs in one chart, by what is measured of them."""
    for key, name in (
        ("validation_loss", "validation loss"),
        ("train_loss", "training loss"),
        ("score", "validation score"),
    ):
        both = [
            charts.Line(number, report_learning.points(epochs, key), style)
            for number, style, epochs in (
                ("A", "first", report_learning.history(first)),
                ("B", "second", report_learning.history(second)),
            )
        ]
        if drawn := [line for line in both if line.points]:
            yield charts.curves(drawn, "epoch", name)
