"""Dates: parts of the calendar as points on a circle, or as numbers from -1 to 1.

Both forms read seconds since 1970 as doubles. In bulk the calendar is Arrow's; the graph computes
it in integers by Howard Hinnant's `civil_from_days`, which counts days from the first of March of
the year 0 (https://howardhinnant.github.io/date_algorithms.html). Dates outside the years 1 to
9999 count as the nearest in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from onnx import TensorProto

from ray_pipeline.data.encoders.build import Build
from ray_pipeline.data.quantiles import Doubles
from ray_pipeline.data.statistics import PERIODS, DateStatistics

FIRST, LAST = -62_135_596_800, 253_402_300_799
"""The first and the last second of the years 1 to 9999."""
_DAY = 86_400

_ARROW: dict[str, Callable[[Any], Any]] = {
    "minute": pc.minute,
    "hour": pc.hour,
    "weekday": pc.day_of_week,
    "day": lambda moments: pc.subtract(pc.day(moments), 1),
    "month": lambda moments: pc.subtract(pc.month(moments), 1),
    "day_of_year": lambda moments: pc.subtract(pc.day_of_year(moments), 1),
}


def table(part: str, cyclic: bool) -> NDArray[np.float32]:
    """What a model reads for each value of a part, [period, 2 or 1]."""
    values = np.arange(PERIODS[part])
    if not cyclic:
        return (2 * values / (PERIODS[part] - 1) - 1)[:, None].astype(np.float32)
    angles = 2 * np.pi * values / PERIODS[part]
    return np.column_stack([np.sin(angles), np.cos(angles)]).astype(np.float32)


def encoded(seconds: Doubles, column: DateStatistics) -> NDArray[np.float32]:
    """The column's parts [N, number_width]; 0 where `seconds` is NaN or infinite."""
    there = np.isfinite(seconds)
    whole = np.floor(np.where(there, seconds, 0.0).clip(FIRST, LAST)).astype(np.int64)
    moments = pa.array(whole, pa.timestamp("s"))
    blocks = [
        table(part, column.cyclic)[_ARROW[part](moments).to_numpy()] * there[:, None]
        for part in column.parts
    ]
    return np.concatenate(blocks, axis=1, dtype=np.float32)


def encoded_node(build: Build, columns: Sequence[DateStatistics], cyclic: bool) -> str:
    """The parts of all `columns`, which are alike in `cyclic`, [N, width] float.

    Every (column, part) is an index into one table of all parts, whose last row is for no date.
    """
    seconds = build.columns([column.name for column in columns])
    missing = build.missing(seconds)
    wanted = [(at, part) for at, column in enumerate(columns) for part in column.parts]
    parts = list(dict.fromkeys(part for _, part in wanted))
    values = dict(zip(parts, _parts(build, seconds, missing, parts), strict=True))
    starts = dict(
        zip(parts, np.cumsum([0, *(PERIODS[part] for part in parts)]).tolist(), strict=False)
    )
    rows = np.concatenate([table(part, cyclic) for part in parts])
    rows = np.concatenate([rows, np.zeros_like(rows[:1])])
    none = build.constant(len(rows) - 1, np.int64)
    indices = {
        part: build.node(
            "Where",
            missing,
            none,
            build.node("Add", values[part], build.constant(starts[part], np.int64)),
        )
        for part in parts
    }  # each [N, columns]
    chosen = [
        build.node("Gather", indices[part], build.constant([at], np.int64), axis=1)
        for at, part in wanted
    ]
    index = build.node("Concat", *chosen, axis=1)
    found = build.node("Gather", build.constant(rows, np.float32), index, axis=0)
    width = len(wanted) * rows.shape[1]
    return build.node("Reshape", found, build.constant([-1, width], np.int64))


def _parts(build: Build, seconds: str, missing: str, parts: Sequence[str]) -> list[str]:
    """Each of the `parts` counted from 0, int64, of `seconds` of any shape."""
    whole = _Integers(build)
    inside = build.node("Where", missing, build.constant(0.0), seconds)
    bounds = [build.constant(float(bound)) for bound in (FIRST, LAST)]
    floored = build.node("Floor", build.node("Clip", inside, *bounds))
    second = build.cast(floored, TensorProto.INT64)
    clock = whole.modulo(second, _DAY)
    days = whole.over(whole.minus(second, clock), _DAY)
    found = {
        "minute": lambda: whole.modulo(whole.over(clock, 60), 60),
        "hour": lambda: whole.over(clock, 3600),
        "weekday": lambda: whole.modulo(whole.plus(days, 3), 7),  # 1970 began on a Thursday
    }
    if set(parts) - found.keys():
        found |= _calendar(whole, days)
    return [found[part]() for part in parts]


def _calendar(whole: _Integers, days: str) -> dict[str, Callable[[], str]]:
    """Day, month and day of the year by `civil_from_days`, with its names of things.

    All numbers are positive from the year 1 on, so that division needs no care.
    """
    shifted = whole.plus(days, 719_468)
    doe = whole.modulo(shifted, 146_097)  # day of the era of 400 years
    yoe = whole.over(
        whole.minus(
            whole.plus(whole.minus(doe, whole.over(doe, 1460)), whole.over(doe, 36_524)),
            whole.over(doe, 146_096),
        ),
        365,
    )
    centuries, leaps = whole.over(yoe, 100), whole.over(yoe, 4)
    before = whole.minus(whole.plus(whole.times(yoe, 365), leaps), centuries)
    doy = whole.minus(doe, before)  # day of the year from the first of March
    mp = whole.over(whole.plus(whole.times(doy, 5), 2), 153)  # month from March
    started = whole.over(whole.plus(whole.times(mp, 153), 2), 5)

    def day_of_year() -> str:
        # March 1 is day 59, or 60 in a leap year; January 1 is day 306 from March.
        build = whole.build
        nothing = build.constant(0, np.int64)
        fourth = build.node("Equal", whole.modulo(yoe, 4), nothing)
        hundredth = build.node("Equal", whole.modulo(yoe, 100), nothing)
        first = build.node("Equal", yoe, nothing)  # the era's first year is a leap year
        leap = build.node("Or", build.node("And", fourth, build.node("Not", hundredth)), first)
        march = whole.plus(build.cast(leap, TensorProto.INT64), 59)
        late = build.node("Less", doy, build.constant(306, np.int64))
        return build.node("Where", late, whole.plus(doy, march), whole.plus(doy, -306))

    return {
        "day": lambda: whole.minus(doy, started),
        "month": lambda: whole.modulo(whole.plus(mp, 2), 12),
        "day_of_year": day_of_year,
    }


class _Integers:
    """Arithmetic on int64 tensors and constants."""

    def __init__(self, build: Build) -> None:
        self.build = build

    def _node(self, kind: str, left: str, right: str | int) -> str:
        other = right if isinstance(right, str) else self.build.constant(right, np.int64)
        return self.build.node(kind, left, other)

    def plus(self, left: str, right: str | int) -> str:
        return self._node("Add", left, right)

    def minus(self, left: str, right: str | int) -> str:
        return self._node("Sub", left, right)

    def times(self, left: str, right: str | int) -> str:
        return self._node("Mul", left, right)

    def over(self, left: str, right: str | int) -> str:
        return self._node("Div", left, right)

    def modulo(self, left: str, right: str | int) -> str:
        """The remainder with the divisor's sign, as Python's."""
        return self._node("Mod", left, right)
