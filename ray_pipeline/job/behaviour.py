"""What a model is expected to do whatever its figures are: tests of its behaviour.

The three kinds are those of Ribeiro et al., "Beyond Accuracy: Behavioral Testing of NLP Models
with CheckList" (2020), https://arxiv.org/abs/2005.04118.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from ray_pipeline.job.base import OneKey, Settings

Value = str | int | float | bool


class Invariance(Settings):
    """The prediction stays when this column is changed and all others are left as they are."""

    column: str
    to: tuple[Value, ...] = Field(
        (),
        description="The values it is given, one after the other; the ten most frequent among the "
        "test rows if none is.",
    )
    tolerance: float = Field(
        0.0, ge=0, description="Of a regression: the change that still counts as none."
    )


class Direction(Settings):
    """The prediction moves one way when this column is changed and all others are left."""

    column: str
    by: float | None = Field(None, description="What is added to a number.")
    to: Value | None = Field(None, description="What the value becomes instead.")
    of: str | None = Field(
        None, description="The class whose probability moves; of a regression, the value does."
    )
    expect: Literal["rises", "falls", "never rises", "never falls"]
    tolerance: float = Field(1e-6, ge=0, description="The change that counts as none.")

    @model_validator(mode="after")
    def _one_change(self) -> Self:
        if (self.by is None) == (self.to is None):
            raise ValueError("give `by`, for a number, or `to`")
        return self


class Minimum(Settings):
    """Rows that any model worth its place gets right."""

    rows: tuple[dict[str, Value | None], ...] = Field(
        min_length=1, description="Values by column; what is left out is missing."
    )
    label: str | None = Field(None, description="The class that each of the rows has.")
    min: float | None = Field(None, description="Of a regression: the least that is right.")
    max: float | None = Field(None, description="Of a regression: the most that is right.")

    @model_validator(mode="after")
    def _some_answer(self) -> Self:
        if (self.label is None) == (self.min is None and self.max is None):
            raise ValueError("give `label`, or of a regression `min`, `max` or both")
        return self


Test: TypeAlias = Invariance | Direction | Minimum


class Behaviour(OneKey):
    """One test: a mapping with one key, its kind, and what a failure means."""

    BESIDE: ClassVar[frozenset[str]] = frozenset({"called", "at_least", "required"})

    invariance: Invariance | None = None
    direction: Direction | None = None
    minimum: Minimum | None = None
    called: str | None = Field(
        None, description="Its name in the report and in gates; kind and column if not given."
    )
    at_least: float = Field(1.0, gt=0, le=1, description="Share of the rows that must pass.")
    required: bool = Field(False, description="Whether nothing is deployed if it fails (exit 3).")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self.given()) != 1:
            raise ValueError("a test has one of invariance, direction, minimum: begin a new `- `")
        return self

    @property
    def test(self) -> Test:
        found: Any = getattr(self, self.name)
        return found  # type: ignore[no-any-return]

    @property
    def title(self) -> str:
        column = getattr(self.test, "column", None)
        return self.called or (f"{self.name} {column}" if column else self.name)
