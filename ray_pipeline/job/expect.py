"""What the cleaned rows are expected to be."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ray_pipeline.job.base import OneKey, Settings

_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Columns = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...]),
]


class InSet(Settings):
    column: str
    values: tuple[str | int | float | bool, ...] = Field(min_length=1)


class Within(Settings):
    column: str
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _some_bound(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self


class RowCount(Settings):
    min: int = Field(0, ge=0)
    max: int | None = Field(None, ge=0)


class Fresh(Settings):
    column: str = Field(description="A date column, whose latest value counts.")
    within: str = Field(
        pattern=r"^[0-9]+(\.[0-9]+)?[mhdw]$", description="Its greatest age: 30m, 6h, 2d, 1w."
    )

    @property
    def age(self) -> timedelta:
        return timedelta(seconds=float(self.within[:-1]) * _SECONDS[self.within[-1]])


class Match(Settings):
    column: str
    regex: str = Field(description="Found anywhere in the text; RE2's syntax, `^` and `$` anchor.")

    @field_validator("regex")
    @classmethod
    def _compiles(cls, regex: str) -> str:
        try:
            re.compile(regex)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return regex


Action: TypeAlias = tuple[str, ...] | InSet | Within | RowCount | Fresh | Match


class Expectation(OneKey):
    """One expectation: a mapping with one key, its name, and what a failure means. Where there is
    no value, only `not_null` fails."""

    BESIDE: ClassVar[frozenset[str]] = frozenset({"on_failure"})

    unique: Columns | None = Field(None, description="No two rows have the same values in these.")
    not_null: Columns | None = None
    in_set: InSet | None = None
    range: Within | None = None
    rows: RowCount | None = None
    fresh: Fresh | None = None
    match: Match | None = None
    on_failure: Literal["warn", "refuse"] = "refuse"

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if len(self.given()) != 1:
            raise ValueError("an expectation has one key beside `on_failure`: begin a new `- `")
        return self

    @property
    def action(self) -> Action:
        found: Action = getattr(self, self.name)
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        action = self.action
        if isinstance(action, tuple):
            return action
        return () if isinstance(action, RowCount) else (action.column,)
