"""Bounds on what evaluation found: outside them nothing is deployed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_pipeline import report
from ray_pipeline.errors import GateRefused, JobError
from ray_pipeline.job import Bound, Evaluate
from ray_pipeline.model import fairness
from ray_pipeline.model.unknown import unknown
from ray_pipeline.schema import Schema

_WHERE = "evaluate.gates"
_SECTIONS = (
    *("validation", "baseline", "classes", "groups", "slices", "training", "gap"),
    *("champion", "behaviour", "robustness", "importance", "folds"),
)


def passed(found: Mapping[str, Any], bounds: Mapping[str, Bound]) -> None:
    """Pass if every number that `bounds` names, dotted where nested, is within its bound.

    Where there is no champion to compare with, bounds on the comparison hold.

    Raises:
        JobError: a gate names no number in `found`.
        GateRefused: numbers outside their bounds, all of them.
    """
    given = {name: bound.model_dump() for name, bound in bounds.items()}
    known = report.numbers(found)
    for name in (asked := report.applicable(found, given)):
        if name not in known:
            raise unknown("metric", name, list(known), _WHERE)
    failed = [verdict for verdict in report.verdicts(found, asked) if not verdict["passed"]]
    if failed:
        raise GateRefused(
            "; ".join(f"{verdict['metric']} is {_shown(verdict['value'])}" for verdict in failed),
            where=_WHERE,
            expected="; ".join(f"{v['metric']} {report.bound_text(v)}" for v in failed),
            hint="nothing was deployed; the report shows where the model errs. Search or train "
            "longer, add data, or change the bound if it asks too much",
        )


def check(settings: Evaluate, schema: Schema, paired: bool = False) -> None:
    """Refuse gates on what evaluation will not find; texts that are `paired` are found, not
    written. Raises JobError."""
    from ray_pipeline.model.judgement import KEYS  # and PyTorch with it

    kind = schema.label.kind
    both = kind in ("integer", "number")
    keys = [*(KEYS["regression"] if both else ()), *KEYS["classification"]]
    if kind == "labels":
        keys = [*KEYS["multilabel"]]
    if kind == "text":
        keys = [*KEYS["retrieval" if paired else "generation"]]
    for name in settings.gates:
        if name.partition(".")[0] not in (*keys, *_SECTIONS):
            raise unknown("metric", name, keys, _WHERE)
        if name.startswith("groups."):
            _check_group(name, settings)
        _check_asked_for(name, settings)


def _check_group(name: str, settings: Evaluate) -> None:
    """Refuse `groups.<column>.<gap>` where the column is no group, or the gap is none."""
    gaps = (*fairness.GAPS, "mae_difference")
    known = [f"groups.{group}.{gap}" for group in settings.groups for gap in gaps]
    figures = tuple(f"groups.{group}.values." for group in settings.groups)
    if name not in known and not name.startswith(figures):
        raise unknown("metric", name, known, _WHERE)


def _check_asked_for(name: str, settings: Evaluate) -> None:
    """Refuse a gate on a slice, a test or a comparison that the job does not ask for."""
    titles = [behaviour.title for behaviour in settings.behaviour]
    asked = {
        "slices": [f"slices.{part}." for part in settings.slices],
        "behaviour": [f"behaviour.{title}.share" for title in titles],
        "champion": ["champion."] if settings.champion else [],
        "folds": ["folds."] if settings.folds else [],
        "robustness": ["robustness."] if settings.robustness else [],
        "importance": ["importance."] if settings.importance.rows else [],
    }
    section = name.partition(".")[0]
    if section in asked and not name.startswith(tuple(asked[section])):
        raise JobError(
            f"`{name}` will not be measured",
            where=_WHERE,
            expected=" or ".join(asked[section]) or f"`evaluate.{section}` in the job",
        )


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
