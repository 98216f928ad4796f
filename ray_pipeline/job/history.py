"""What happened before a row: aggregates of another table's rows, as of the row's time."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal

from pydantic import Field, field_validator

from ray_pipeline.job.base import Settings
from ray_pipeline.job.source import Place

Aggregate = Literal["count", "mean", "sum", "min", "max", "last"]

_WINDOW = re.compile(r"^([1-9][0-9]{0,5})([smhdw])$")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class History(Settings):
    """Adds columns to the rows, one for each window and aggregate: `amount_mean_7d`.

    They are made of the rows of `source` with the same key and a time in the window that ends just
    before the row's own time: what is of the same moment or later is never seen.
    """

    source: Place = Field(description="Where the past rows are.")
    key: str = Field(description="The column, of both tables, that says whose past it is.")
    time: str = Field(description="The column, of both tables, that says when.")
    windows: tuple[str, ...] = Field(
        min_length=1, description="How far back: a number and s, m, h, d or w.", examples=[["7d"]]
    )
    aggregates: dict[str, tuple[Aggregate, ...]] = Field(
        min_length=1,
        description="What is aggregated, by number column of `source`. Without a past a count and "
        "a sum are 0, the rest is missing.",
        examples=[{"amount": ["mean", "count"]}],
    )

    @field_validator("windows")
    @classmethod
    def _lengths(cls, windows: tuple[str, ...]) -> tuple[str, ...]:
        for window in windows:
            if not _WINDOW.match(window):
                raise ValueError(f"{window!r} is no window; write it as 30m, 12h, 7d or 4w")
        return windows

    def columns(self) -> dict[str, tuple[str, Aggregate, str]]:
        """The columns that are added, by name: column of `source`, aggregate, window."""
        return {
            f"{column}_{aggregate}_{window}": (column, aggregate, window)
            for column, wanted in self.aggregates.items()
            for aggregate in wanted
            for window in self.windows
        }


def length(window: str) -> timedelta:
    """How long a window is: `7d` is seven days."""
    number, unit = window[:-1], window[-1]
    return timedelta(**{_UNITS[unit]: int(number)})
