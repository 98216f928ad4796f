"""How a model is judged, and what refuses it."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from ray_pipeline.job.base import Bound, Fraction, Settings
from ray_pipeline.job.behaviour import Behaviour
from ray_pipeline.job.label import When


def _form(value: Any) -> str:
    return "one" if isinstance(value, dict | When) else "several"


Several = Annotated[tuple[When, ...], Field(min_length=1)]
Conditions = Annotated[
    Annotated[When, Tag("one")] | Annotated[Several, Tag("several")], Discriminator(_form)
]
"""One condition on a column, or several that all must hold."""


def each(met: Conditions) -> tuple[When, ...]:
    """The conditions, be it one or several."""
    return (met,) if isinstance(met, When) else met


class Robustness(Settings):
    """How far the score falls when rows are disturbed; an empty list of sizes is not tried."""

    rows: int = Field(1000, ge=1, description="Test rows that are disturbed.")
    gradient: tuple[float, ...] = Field(
        (0.05, 0.1, 0.2),
        description="FGSM and PGD on the numbers that the network reads: the most that each is "
        "moved, in standard deviations.",
    )
    steps: int = Field(10, ge=1, description="Steps of PGD.")
    noise: tuple[float, ...] = Field(
        (0.1, 0.3), description="Deviation of what is added to raw numbers, in their own."
    )
    swaps: tuple[Fraction, ...] = Field(
        (0.1, 0.3), description="Share of raw categories that become those of another row."
    )
    typos: tuple[Fraction, ...] = Field(
        (0.05, 0.2), description="Share of the words of raw texts that are misspelt."
    )
    case: bool = Field(True, description="Raw texts in lower and in upper case.")
    seed: int = 0


class Importance(Settings):
    """How much worse the model is without what a column tells it."""

    rows: int = Field(1000, ge=0, description="Test rows that columns are shuffled among; 0: off.")
    repeats: int = Field(5, ge=1, description="Shuffles of each column.")
    seed: int = 0


class Evaluate(Settings):
    groups: tuple[str, ...] = Field(
        (), description="Columns whose values are compared as groups of people, say sex."
    )
    slices: dict[str, Conditions] = Field(
        default_factory=dict,
        description="Parts of the test rows that are judged on their own, by name.",
        examples=[{"young": {"column": "age", "below": 25}}],
    )
    positive: str | None = Field(
        None,
        description="For two classes, the one that precision, recall and F1 speak of; the rarer "
        "one if not given.",
    )
    folds: int = Field(
        0,
        ge=0,
        description="Cross-validation: train so many times more on the training and validation "
        "rows, each time without a fold of them, and judge each on its fold. 0: not at all; 5 is "
        "usual, and costs five trainings. Gates on it are `folds.<metric>.mean`.",
    )
    thresholds: Literal["f1", "half"] = Field(
        "f1",
        description="Of labels of which a row may have several: from which probability on a row "
        "gets one. `f1`: from where its F1 is highest on the validation rows; `half`: from 0.5.",
    )
    bootstrap: int = Field(1000, ge=0, description="Resamples behind each interval; 0 for none.")
    baseline: Literal["prior", "linear"] = Field(
        "prior",
        description="What the model is compared with: the shares of the classes (or the mean), or "
        "a logistic (or ridge) regression on the same features.",
    )
    champion: str | None = Field(
        None,
        description="A bundle to compare with on the same rows, or `live` for the one that the "
        "endpoint has now. Gates on it are `champion.<metric>`: ours less its.",
    )
    behaviour: tuple[Behaviour, ...] = Field((), description="Tests of what the model does.")
    robustness: Robustness | None = Field(None, description="Tests on disturbed rows.")
    importance: Importance = Importance()
    gates: dict[str, Bound] = Field(
        default_factory=dict,
        description="Bounds on test metrics; outside them nothing is deployed (exit 3).",
        examples=[{"accuracy": {"min": 0.85}}],
    )

    @field_validator("folds")
    @classmethod
    def _more_than_one(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("one fold leaves nothing to train on: give 2 or more, or 0")
        return folds

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = Counter(behaviour.title for behaviour in self.behaviour)
        if twice := [name for name, times in names.items() if times > 1]:
            raise ValueError(f"two tests are called {twice[0]!r}: give one of them `called`")
        return self

    @property
    def bounds(self) -> dict[str, Bound]:
        """All that refuses a model: `gates`, and the shares that required tests must reach."""
        required = {
            f"behaviour.{behaviour.title}.share": Bound(min=behaviour.at_least)
            for behaviour in self.behaviour
            if behaviour.required
        }
        return {**required, **self.gates}
