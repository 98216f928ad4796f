"""Numbers outside given bounds."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.data.steps.found import Apply, Found, count, no_value
from ray_pipeline.job.steps import Limits
from ray_pipeline.schema import Schema


def applying(settings: Limits, schema: Schema) -> Apply:
    """The step as a function of typed rows. Integers are clipped to the integers inside."""
    whole = schema[settings.column].kind == "integer"
    low = -math.inf if settings.min is None else settings.min
    high = math.inf if settings.max is None else settings.max

    def apply(rows: pa.Table) -> dict[str, Found]:
        values = rows[settings.column]
        below = pc.fill_null(pc.less(values, low), False)
        above = pc.fill_null(pc.greater(values, high), False)
        outside = pc.or_(below, above)
        kinds = Counter({"below": count(below), "above": count(above)})
        if settings.outside == "quarantine":
            return {settings.column: Found(values, +kinds, outside, _reason(settings))}
        if settings.outside == "missing":
            kept = pc.if_else(outside, no_value(values), values)
            return {settings.column: Found(kept, +kinds)}
        lowest = _bound(math.ceil(low) if whole and math.isfinite(low) else low, values)
        highest = _bound(math.floor(high) if whole and math.isfinite(high) else high, values)
        clipped = pc.if_else(below, lowest, pc.if_else(above, highest, values))
        return {settings.column: Found(clipped, +kinds)}

    return apply


def _bound(bound: float, values: Any) -> pa.Scalar:
    """A bound in the column's type; one that is not there is never taken."""
    return pa.scalar(bound if math.isfinite(bound) else 0, pa.float64()).cast(values.type)


def _reason(settings: Limits) -> str:
    low, high = settings.min, settings.max
    if high is None:
        return f"{settings.column}: below {low:g}"
    if low is None:
        return f"{settings.column}: above {high:g}"
    return f"{settings.column}: outside {low:g} to {high:g}"
