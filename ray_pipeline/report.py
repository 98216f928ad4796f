"""The Report: numbers with their split, group and baseline, and the page drawn from them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from upath import UPath

from ray_pipeline import charts, report_view

Record = dict[str, Any]

METRICS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "f1_macro": "F1, macro",
    "f1_micro": "F1, micro",
    "precision_micro": "precision, micro",
    "precision_macro": "precision, macro",
    "recall_micro": "recall, micro",
    "recall_macro": "recall, macro",
    "subset_accuracy": "subset accuracy",
    "hamming_loss": "Hamming loss",
    "mean_average_precision": "mean average precision",
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "log_loss": "log loss",
    "brier": "Brier score",
    "calibration_error": "calibration error",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "perplexity": "perplexity",
    "perplexity_change": "change of perplexity",
    "token_accuracy": "token accuracy",
    "mrr": "MRR",
    "recall_at_1": "recall at 1",
    "recall_at_5": "recall at 5",
    "recall_at_10": "recall at 10",
    "ndcg_at_10": "nDCG at 10",
}
_HEADLINE = (
    *("accuracy", "roc_auc", "f1", "r2", "rmse", "mae", "perplexity", "token_accuracy"),
    *("mrr", "recall_at_1", "ndcg_at_10", "f1_micro", "mean_average_precision"),
)
_CONFUSIONS_SHOWN, _MATRIX_CLASSES = 12, 12
LOWER_IS_BETTER = {
    *("log_loss", "brier", "calibration_error", "rmse", "mae", "perplexity", "hamming_loss"),
}

_SECRET = re.compile(r"password|passwd|secret|token|credential|api_?key", re.IGNORECASE)
_HIDDEN = re.compile(r"(?<=://)[^/@\s]+(?=@)|(?<=Bearer )(?![$<{])[^\s\"']+")  # URL users, keys


def numbers(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    """Every number in nested `metrics` by its dotted name; None where it is undefined.

    Lists are left out: they are curves and intervals, not figures to put a bound on.
    """
    found: dict[str, float | None] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key}.")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[f"{prefix}{key}"] = value
    return found


def applicable(metrics: Mapping[str, Any], gates: Mapping[str, Any]) -> dict[str, Any]:
    """The gates, less those on a comparison with a champion where there was none."""
    there = bool(metrics.get("champion"))
    return {name: gate for name, gate in gates.items() if there or not name.startswith("champion.")}


def verdicts(metrics: Mapping[str, Any], gates: Mapping[str, Mapping[str, Any]]) -> list[Record]:
    """Of each gate: metric, value, bounds, `bound` in words, `passed` (never if undefined)."""
    known = numbers(metrics)
    return [
        {
            "metric": name,
            "value": known.get(name),
            **bounds,
            "bound": bound_text(bounds),
            "passed": _within(known.get(name), bounds),
        }
        for name, bounds in applicable(metrics, gates).items()
    ]


def bound_text(bounds: Mapping[str, Any]) -> str:
    """A gate's bounds in words: `at least 0.85`, `at most 0.1`, `from 0.2 to 0.4`."""
    low, high = bounds.get("min"), bounds.get("max")
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    return f"at least {low:g}" if low is not None else f"at most {high:g}"


def without_secrets(value: Any, name: str = "") -> Any:
    """`value` as it may be shown: secrets by name, users in URLs and bearer keys are `***`."""
    if isinstance(value, Mapping):
        return {key: without_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner, name) for inner in value]
    if isinstance(value, str):
        return "***" if _SECRET.search(name) else _HIDDEN.sub("***", value)
    return value


def write(record: Record, folder: UPath) -> UPath:
    """Write the run's page to `folder/report.html` and note its place in the record."""
    path = folder / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(page(record), encoding="utf-8")
    record["report"] = str(path)
    return path


def page(record: Mapping[str, Any]) -> str:
    """One self-contained HTML page: no scripts, nothing loaded from elsewhere.

    What the record lacks leaves its section out, so a run that ended early has a page too.
    """
    shown = without_secrets(record)
    metrics = shown.get("metrics") or {}
    asked = ((shown.get("job") or {}).get("evaluate") or {}).get("gates") or {}
    gates = shown.get("gates") or asked
    judged = verdicts(metrics, gates) if metrics else []
    return template("report.html").render(
        report_view.sections(shown, judged),
        headline=_rows(metrics, judged, _HEADLINE)[:3],
        metrics=_rows(metrics, judged, tuple(METRICS)),
        confusion=_confusion(metrics),
    )


def _rows(
    metrics: Record, verdicts: Sequence[Record], names: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        _row(metrics, name, [v for v in verdicts if v["metric"] == name])
        for name in names
        if metrics.get(name) is not None
    ]


def _row(metrics: Record, name: str, verdicts: Sequence[Record]) -> dict[str, Any]:
    value, span = metrics[name], (metrics.get("intervals") or {}).get(name)
    span = span if span and None not in span else None
    baseline = (metrics.get("baseline") or {}).get(name)
    bounds = [v[side] for v in verdicts for side in ("min", "max") if v.get(side) is not None]
    reach = [value, *(span or ()), *bounds, *([] if baseline is None else [baseline])]
    low, high = min(reach), max(reach)
    scale = (min(0.0, 1.05 * low), 1.0 if high <= 1 else 1.05 * high)
    return {
        "name": METRICS[name],
        "value": value,
        "span": span,
        "baseline": baseline,
        "validation": (metrics.get("validation") or {}).get(name),
        "lower": name in LOWER_IS_BETTER,
        "verdicts": verdicts,
        "chart": charts.interval(value, span, baseline, bounds, scale),
    }


def _confusion(metrics: Record) -> dict[str, Any] | None:
    """The matrix with each row's shares, or the most frequent confusions of many classes."""
    confusion = metrics.get("confusion")
    if not confusion:
        return None
    classes, counts = confusion["classes"], confusion["counts"]
    rows = [
        {
            "name": name,
            "total": sum(row),
            "cells": [
                {"count": cell, "share": cell / (sum(row) or 1), "right": index == column}
                for column, cell in enumerate(row)
            ],
        }
        for index, (name, row) in enumerate(zip(classes, counts, strict=True))
    ]
    wrong = sorted(
        (-cell["count"], row["name"], name, cell["share"])
        for row in rows
        for name, cell in zip(classes, row["cells"], strict=True)
        if cell["count"] and not cell["right"]
    )
    pairs = [(true, called, -count, share) for count, true, called, share in wrong]
    few = len(classes) <= _MATRIX_CLASSES
    return {
        "classes": classes,
        "rows": rows if few else [],
        "pairs": [] if few else pairs[:_CONFUSIONS_SHOWN],
    }


def _within(value: float | None, bounds: Mapping[str, Any]) -> bool:
    low, high = bounds.get("min"), bounds.get("max")
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


@functools.cache
def template(name: str) -> jinja2.Template:
    """A page's template, of those beside this file."""
    return environment(Path(__file__).parent).get_template(name)


def environment(*folders: Path) -> jinja2.Environment:
    """The templates in some folders, with the ways in which figures are written here as filters."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "figure": figure,
        "count": count,
        "percent": percent,
        "duration": duration,
        "size": size,
        "plain": plain,
        "amount": amount,
    }
    return made


def figure(value: float | None, digits: int = 4) -> str:
    """A metric to a fixed number of decimals; large ones to whole numbers."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:,.0f}"


def count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share of 1; what would round to nothing is shown as less than the last digit."""
    if value is None:
        return "–"
    least = 10.0**-digits
    return f"< {least:g} %" if 0 < 100 * value < least / 2 else f"{100 * value:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """Seconds as `0.42 s`, `12.3 s`, `4 min 05 s`, `2 h 03 min`."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def size(number: float | None) -> str:
    """Bytes in decimal units."""
    if number is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def amount(value: Any) -> str:
    """A quantity, with its thousands set apart."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 1000:
        return f"{value:,.0f}"
    return plain(value)


def plain(value: Any) -> str:
    """Any setting or figure as a person would write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(plain, value))
    return str(value)
