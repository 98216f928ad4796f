"""What the report page shows, picked out of a run's record: all knowledge of its form is here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ray_pipeline import charts

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
_LOSS = "validation_loss"  # what trials and epochs are chosen by
_TRIALS_SHOWN = 8
_FEWEST_SHOWN = 5  # a value held by fewer rows might point at a person


def sections(record: Record, verdicts: Sequence[Record]) -> dict[str, Any]:
    """The template's variables; a section that the record has nothing for is None or empty."""
    metrics = record.get("metrics") or {}
    return {
        "head": _head(record, verdicts),
        "verdicts": verdicts,
        "about": {
            "split": "test",
            **dict.fromkeys(("rows", "positive", "resamples")),
            **(metrics.get("about") or {}),
        },
        "baseline": metrics.get("baseline"),
        "stages": _stages(record),
        "columns": _columns(record),
        "quarantine": _quarantine(record),
        "split": _split(record),
        "findings": _findings(record),
        "search": _search(record),
        "training": _training(record),
        "classes": metrics.get("classes"),
        "calibration": _calibration(metrics),
        "groups": _groups(metrics),
        "model": _model(record),
        "call": {"curl": record.get("curl"), "endpoint": record.get("endpoint")},
        "settings": list(flat(record.get("job") or {})),
    }


def stage_record(record: Record, name: str) -> Record:
    """What the stage `name` returned; empty if it was not passed."""
    found = (stage for stage in record.get("stages") or () if stage["name"] == name)
    return (next(found, None) or {}).get("record") or {}


def history(record: Record) -> Sequence[Record]:
    """The epochs of the final training."""
    found = record.get("history") or stage_record(record, "train").get("history")
    return found if isinstance(found, Sequence) else ()


def trials(record: Record) -> Sequence[Record]:
    """The trials of the search, in the order in which they were started."""
    found = record.get("trials") or stage_record(record, "tune").get("trials")
    return found if isinstance(found, Sequence) else ()


def best_trial(tried: Sequence[Record]) -> int | None:
    """The index of the trial that the search chose: the one with the lowest validation loss."""
    losses = {index: trial[_LOSS] for index, trial in enumerate(tried) if _loss(trial) is not None}
    return min(losses, key=losses.__getitem__, default=None)


def _loss(trial: Record) -> float | None:
    return None if trial.get("state") == "failed" else trial.get(_LOSS)


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


def _findings(record: Record) -> list[dict[str, Any]]:
    """Sections that stages describe themselves, in the order of the path.

    A stage's record may hold `findings`: a list of {`title`, `note`, `tables`}, each table
    {`columns`: names, `rows`: lists of values}, with a `caption` if it needs one.
    """
    return [
        {
            "title": found["title"],
            "note": found.get("note", ""),
            "tables": [{"caption": table.get("caption", ""), **table} for table in found["tables"]],
        }
        for stage in record.get("stages") or ()
        for found in (stage.get("record") or {}).get("findings") or ()
    ]


def _search(record: Record) -> dict[str, Any] | None:
    tried = trials(record)
    best = best_trial(tried)
    if best is None:
        return None
    losses = {
        index: loss for index, trial in enumerate(tried) if (loss := _loss(trial)) is not None
    }
    ranked = sorted(losses, key=losses.__getitem__)
    lines = [
        charts.Line("best" if index == best else "", _points(tried[index], _LOSS), style)
        for index, style in [*((i, "faint") for i in reversed(ranked[1:])), (best, "first")]
        if len(_points(tried[index], _LOSS)) > 1
    ]
    names = list(dict.fromkeys(name for trial in tried for name in trial.get("settings") or ()))
    return {
        "trials": len(tried),
        "failed": sum(trial.get("state") == "failed" for trial in tried),
        "scatter": charts.trials([_loss(trial) for trial in tried], best, "validation loss"),
        "curves": charts.curves(lines, "epoch", "validation loss") if lines else None,
        "names": names,
        "top": [{"number": i + 1, **tried[i]} for i in ranked[:_TRIALS_SHOWN]],
    }


def _training(record: Record) -> dict[str, Any] | None:
    trained, epochs = stage_record(record, "train"), history(record)
    whole = {"history": epochs}
    losses = [
        charts.Line("training", _points(whole, "train_loss"), "second"),
        charts.Line("validation", _points(whole, _LOSS), "first"),
    ]
    if not losses[1].points:
        return None
    best = trained.get("best_epoch") or min(losses[1].points, key=lambda point: point[1])[0]
    mark = (float(best), f"best, epoch {best}")
    score = charts.Line("", _points(whole, "score"), "first")
    facts = {key: value for key, value in trained.items() if isinstance(value, int | float | str)}
    return {
        "loss": charts.curves([line for line in losses if line.points], "epoch", "loss", mark),
        "score": charts.curves([score], "epoch", "validation score", mark)
        if score.points
        else None,
        "facts": facts,
    }


def _points(trial: Record, key: str) -> list[charts.Point]:
    epochs = trial.get("history") or ()
    return [(epoch["epoch"], epoch[key]) for epoch in epochs if epoch.get(key) is not None]


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
        "compression": exported.get("compression") or [],
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
