"""What the job asks to be tried on single rows: behaviour, robustness, importance."""

from __future__ import annotations

from typing import Any

from ray_pipeline.model import behaviour, importance, robustness
from ray_pipeline.model.attack import attacking
from ray_pipeline.model.case import Case

Found = tuple[dict[str, Any], list[dict[str, Any]]]
"""Metrics, and the report's sections on them."""


def tested(case: Case) -> Found:
    """`behaviour`, `importance` and `robustness`, of each what its module says; {} if not asked."""
    metrics: dict[str, Any] = {}
    findings: list[dict[str, Any]] = []
    for name, found in (
        ("behaviour", _behaviour(case)),
        ("importance", _importance(case)),
        ("robustness", _robustness(case)),
    ):
        metrics[name] = found[0]
        findings += found[1]
    return metrics, findings


def _behaviour(case: Case) -> Found:
    if not case.settings.behaviour:
        return {}, []
    rows = case.sample(behaviour.ROWS)
    found = behaviour.results(
        case.settings.behaviour, rows, case.statistics, case.schema, case.positive
    )
    return found, behaviour.findings(found)


def _importance(case: Case) -> Found:
    settings = case.settings.importance
    columns = tuple(column.name for column in case.schema.features)
    if not settings.rows or len(columns) < 2:  # of one column it is all that the model knows
        return {}, []
    rows = case.sample(settings.rows, settings.seed)
    found = importance.importances(rows, columns, settings)
    return found, importance.findings(found, case.score, settings, len(rows.rows))


def _robustness(case: Case) -> Found:
    settings = case.settings.robustness
    if settings is None:
        return {}, []
    rows = case.sample(settings.rows, settings.seed)
    attack = attacking(case.model, case.statistics, rows, settings)
    found = robustness.results(rows, case.schema, settings, attack)
    return found, robustness.findings(found, case.score)
