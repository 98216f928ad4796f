"""Summaries that single nobody out: for records, reports and whoever reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_pipeline.job.privacy import Privacy

_NEVER = {"top", "min", "mean", "max", "deviation", "histogram"}


def discreet(record: Mapping[str, Any], privacy: Privacy | None) -> dict[str, Any]:
    """The clean stage's record without the subject's values, and without any text that fewer
    than `k` rows hold."""
    if privacy is None:
        return dict(record)
    sides = {
        side: {**found, "columns": _discreet_columns(found["columns"], privacy)}
        for side, found in record["sides"].items()
    }
    return {**record, "columns": _discreet_columns(record["columns"], privacy), "sides": sides}


def _discreet_columns(columns: Mapping[str, Any], privacy: Privacy) -> dict[str, Any]:
    return {
        name: {key: value for key, value in found.items() if key not in _NEVER}
        if name == privacy.subject
        else {**found, **_common(found, privacy.k)}
        for name, found in columns.items()
    }


def _common(found: Mapping[str, Any], k: int) -> dict[str, Any]:
    if "top" not in found:
        return {}
    return {"top": [pair for pair in found["top"] if pair[1] >= k]}
