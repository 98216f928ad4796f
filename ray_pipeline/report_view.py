"""What the report page shows of a run, its data, its groups and its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ray_pipeline import charts, report_findings, report_learning
from ray_pipeline.report_learning import stage_record

Record = Mapping[str, Any]

_GROUP_FIGURES = {
    "rows": "rows",
    "accuracy": "accuracy",
    "f1": "F1",
    "f1_macro": "F1, macro",
    "positive_rate": "positive rate",
    "true_positive_rate": "true pos. rate",
    "false_positive_rate": "false pos. rate",
    "rmse": "RMSE",
    "mae": "MAE",
    "mean_error": "mean error",
}
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # years 1 to 9999
_FEWEST_SHOWN = 5  # a value held by fewer rows might point at a person


def sections(record: Record, verdicts: Sequence[Record]) -> dict[str, Any]:
    """The template's variables; a section that the record has nothing for is None or empty."""
    metrics = record.get("metrics") or {}
    return {
        "head": _head(record, verdicts),
        "verdicts": verdicts,
        "about": {
            "split": "test",
            **dict.fromkeys(("rows", "positive", "resamples", "questions")),
            **(metrics.get("about") or {}),
        },
        "baseline": metrics.get("baseline"),
        "stages": _stages(record),
        "columns": _columns(record),
        "quarantine": _quarantine(record),
        "split": _split(record),
        "findings": report_findings.by_place(record),
        "search": report_learning.search(record),
        "training": report_learning.training(record),
        "classes": metrics.get("classes"),
        "calibration": _calibration(metrics),
        "groups": _groups(metrics),
        "model": _model(record),
        "call": {"curl": record.get("curl"), "endpoint": record.get("endpoint")},
        "settings": list(flat(record.get("job") or {})),
    }


def _head(record: Record, verdicts: Sequence[Record]) -> dict[str, Any]:
    tone, verdict = _verdict(record, verdicts)
    return {
        "job": (record.get("job") or {}).get("name", "job"),
        "run": record.get("run"),
        "started": str(record.get("started") or "").replace("T", " ").replace("+00:00", " UTC"),
        "seconds": record.get("seconds"),
        "version": record.get("version"),
        "tone": tone,
        "verdict": verdict,
        "error": record.get("error"),
    }


def _verdict(record: Record, verdicts: Sequence[Record]) -> tuple[str, str]:
    """A tone (good, bad, quiet) and one sentence."""
    failed, gates = sum(not verdict["passed"] for verdict in verdicts), len(verdicts)
    passed = [stage["name"] for stage in record.get("stages") or ()]
    if failed:
        return "bad", f"Refused: {failed} of {gates} gate{'s' * (gates > 1)} failed"
    if record.get("error"):
        return "bad", f"Failed after {passed[-1]}" if passed else "Failed before any stage ended"
    if gates:
        return "good", "Passed its gate" if gates == 1 else f"Passed all {gates} gates"
    return "quiet", "Done; the job sets no gates" if "evaluate" in passed else "Not yet evaluated"


def _stages(record: Record) -> list[dict[str, Any]]:
    """Each stage with where its bar begins and how long it is, in percent of the run's work."""
    stages = record.get("stages") or ()
    total = sum(stage["seconds"] for stage in stages if not stage["cached"]) or 1.0
    rows, begun = [], 0.0
    for stage in stages:
        spent = 0.0 if stage["cached"] else stage["seconds"]
        bar = {"start": 100 * begun / total, "length": 100 * spent / total}
        rows.append({**stage, **bar})
        begun += spent
    return rows


def _columns(record: Record) -> list[dict[str, Any]]:
    cleaned = stage_record(record, "clean")
    roles = {
        column["name"]: column["role"] for column in (record.get("schema") or {}).get("columns", ())
    }
    rows = cleaned.get("rows_out") or 0
    return [
        {
            "name": name,
            "kind": column.get("kind"),
            "role": roles.get(name, "feature"),
            "missing": column.get("missing", 0) / rows if rows else None,
            "distinct": column.get("distinct"),
            "spark": _spark(column.get("histogram")),
            "range": _range(column),
            "top": _top(column.get("top"), rows),
        }
        for name, column in (cleaned.get("columns") or {}).items()
    ]


def _range(column: Mapping[str, Any]) -> list[Any] | None:
    """The smallest value, the mean and the largest; of dates, which are seconds, as texts."""
    found = [column[key] for key in ("min", "mean", "max") if column.get(key) is not None]
    if len(found) < 3:
        return None
    if column.get("kind") != "date":
        return found
    bounded = [min(max(value, _FIRST_SECOND), _LAST_SECOND) for value in found]
    return [f"{datetime(1970, 1, 1) + timedelta(seconds=int(value))}" for value in bounded]


def _spark(histogram: Any) -> Any:
    counts = histogram.get("counts") if isinstance(histogram, Mapping) else histogram
    return charts.spark(counts) if counts and any(counts) else None


def _top(values: Any, rows: int) -> list[tuple[str, float]]:
    """The most frequent values with their shares, save those so rare that they are personal."""
    pairs = values.items() if isinstance(values, Mapping) else values or ()
    return [(str(value), count / rows) for value, count in pairs if count >= _FEWEST_SHOWN][:3]


def _quarantine(record: Record) -> dict[str, Any] | None:
    cleaned = stage_record(record, "clean")
    if "rows_in" not in cleaned:
        return None
    reasons = sorted((cleaned.get("quarantine") or {}).items(), key=lambda item: -item[1])
    return {key: cleaned[key] for key in ("rows_in", "rows_out", "rows_quarantined")} | {
        "reasons": reasons
    }


def _split(record: Record) -> list[dict[str, Any]]:
    split = stage_record(record, "split")
    found = next(
        (split[key] for key in ("rows", "sides") if isinstance(split.get(key), Mapping)), split
    )
    sides = [(side, found[side]) for side in ("train", "validation", "test") if side in found]
    total = sum(rows for _, rows in sides) or 1
    return [{"side": side, "rows": rows, "share": rows / total} for side, rows in sides]


def _calibration(metrics: Record) -> Any:
    bins = [(b["probability"], b["observed"], b["rows"]) for b in metrics.get("calibration") or ()]
    return charts.calibration(bins) if bins else None


def _groups(metrics: Record) -> list[dict[str, Any]]:
    return [
        {
            "column": column,
            "figures": {
                key: name
                for key, name in _GROUP_FIGURES.items()
                if any(key in figures for figures in group["values"].values())
            },
            "values": group["values"],
            "gaps": {
                key.removesuffix("_difference").replace("_", " "): value
                for key, value in group.items()
                if key.endswith("_difference")
            },
        }
        for column, group in (metrics.get("groups") or {}).items()
    ]


def _model(record: Record) -> dict[str, Any] | None:
    exported = stage_record(record, "export")
    if not exported and not record.get("bundle"):
        return None
    parity = exported.get("parity") or {}
    return {
        "bundle": record.get("bundle"),
        "version": exported.get("version"),
        "parity": {k: value for k, value in parity.items() if not isinstance(value, Mapping)},
        "lineage": {
            stage["name"]: stage["digest"]
            for stage in record.get("stages") or ()
            if stage.get("digest")
        },
    }


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings as (dotted name, value), in the job file's order; unset ones left out."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif value is not None and value not in ({}, []):
        yield prefix, value
