"""The steps that tidy columns, in the order in which the job file lists them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, field_validator, model_validator

from ray_pipeline.job.base import OneKey, Settings
from ray_pipeline.schema import Kind

Names = Annotated[tuple[str, ...], Field(min_length=1)]
NUMBERS: tuple[Kind, ...] = ("integer", "number")
TEXTS: tuple[Kind, ...] = ("category", "text")


class Text(Settings):
    """Texts without what is not text. Done in the order of the fields."""

    columns: Names
    html: Literal["keep", "strip"] = Field(
        "keep", description="`strip` leaves what a browser would show, entities as characters."
    )
    control: Literal["keep", "drop"] = Field(
        "drop",
        description="Control, zero-width and direction characters; never tabs and line ends.",
    )
    form: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = Field("NFC", description="Unicode's.")
    urls: str = Field(
        "keep", description="`keep`, `drop`, or the text that stands for each, such as `<url>`."
    )
    punctuation: Literal["keep", "drop"] = Field(
        "keep", description="`drop` makes it a space, an apostrophe nothing."
    )
    lower: bool = False
    collapse_spaces: bool = Field(False, description="Any run of white space becomes one space.")
    trim: bool = True


class Spelling(Settings):
    """A category's values in one spelling: listed ones, then other cases, then near ones."""

    column: str
    values: dict[str, str] = Field(default_factory=dict, description="{found: wanted}, exactly.")
    like: tuple[str, ...] = Field((), description="The right spellings, all of them.")
    fold: bool = Field(True, description="Whether case, width and inner spaces do not matter.")
    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Take the nearest of `like` if at least this alike: 2M/T, with M characters "
        "in common order of T in both. Needs the extra `clean`.",
    )
    other: Literal["keep", "missing", "quarantine"] = Field(
        "keep", description="What becomes of a value that is none of them."
    )

    @model_validator(mode="after")
    def _something_to_match(self) -> Self:
        if not self.values and not self.like:
            raise ValueError("give `values`, `like` or both")
        if self.threshold is not None and not self.like:
            raise ValueError("`threshold` needs `like`, the spellings to be near to")
        return self


class Dates(Settings):
    """How the texts of a date column are to be read; ISO 8601 always is."""

    column: str
    formats: Names = Field(
        description="As strptime's, such as `%d.%m.%Y %H:%M`; the first that fits is taken."
    )
    timezone: str = Field(
        "UTC",
        description="Of times without one, such as `Europe/Paris`; days are days. A time that "
        "occurs twice is the earlier, one that does not occur is moved forward.",
    )


class Units(Settings):
    """A number column whose texts carry units. Needs the extra `clean`."""

    column: str
    to: str = Field(description="The unit that all values get, as pint names it: `kg`, `degC`.")
    assume: str | None = Field(None, description="The unit of bare numbers; `to` if absent.")


class Limits(Settings):
    """Numbers outside what can be."""

    column: str
    min: float | None = None
    max: float | None = None
    outside: Literal["quarantine", "clip", "missing"] = "quarantine"

    @model_validator(mode="after")
    def _some_bound(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self


class Outliers(Settings):
    """Numbers far from the rest. The bounds are learnt from all rows but the test file's."""

    columns: Names
    method: Literal["iqr", "zscore", "mad"] = Field(
        "iqr",
        description="Distance from the quartiles in their ranges, from the mean in standard "
        "deviations, or from the median in median absolute deviations times 1.4826.",
    )
    bound: float | None = Field(
        None, gt=0, description="The greatest distance; 1.5 for iqr and 3 for the others if absent."
    )
    outside: Literal["clip", "missing", "quarantine"] = "clip"


class LinearFill(Settings):
    """What `missing: {with: model}` learnt, as a bundle keeps it; not for job files.

    `rounds` holds, in order: the index of the column that is filled, the weights of the other
    columns in their order, and the constant.
    """

    initial: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    rounds: tuple[tuple[int, tuple[float, ...], float], ...]


class Missing(Settings):
    """Rows or values that are not there. Constants, means, medians and modes are no step: they
    stand under `data.features.missing`, are learnt from the training rows alone, and are part of
    the bundle's graph."""

    model_config = ConfigDict(serialize_by_alias=True)

    columns: Names
    how: Literal["drop", "model"] = Field(
        alias="with",
        description="`drop` sets the row aside; `model` fills numbers by regression on the other "
        "columns named (scikit-learn's IterativeImputer; needs the extra `clean`).",
    )
    fitted: LinearFill | None = Field(None, description="Written by a run.")

    @field_validator("how", mode="before")
    @classmethod
    def _no_constants(cls, how: Any) -> Any:
        if how in {"constant", "mean", "median", "mode"}:
            raise ValueError(f"`{how}` is set per column under `data.features.missing`")
        return how

    @model_validator(mode="after")
    def _enough_columns(self) -> Self:
        if self.how == "model" and len(self.columns) < 2:
            raise ValueError("`model` fills columns by each other: name two or more")
        return self


class NearDuplicates(Settings):
    """Later rows whose text nearly repeats an earlier one's. Needs the extra `clean`."""

    column: str
    threshold: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of the texts' character sequences."
    )
    characters: int = Field(5, ge=1, le=20, description="Length of the sequences.")


class Language(Settings):
    """Rows whose text is in another language. Needs the extra `clean`."""

    column: str
    keep: Names = Field(description="ISO 639-1 codes, such as `en`.")
    among: tuple[str, ...] = Field(
        (), description="The only languages that occur, if known: the fewer, the fewer mistakes."
    )
    shortest: int = Field(
        20, ge=1, description="Texts with fewer characters are kept: too little to tell by."
    )

    @model_validator(mode="after")
    def _kept_occur(self) -> Self:
        if self.among and (absent := sorted(set(self.keep) - set(self.among))):
            raise ValueError(f"`keep` names {absent[0]!r}, which is not in `among`")
        return self


Action: TypeAlias = (
    Text | Spelling | Dates | Units | Limits | Outliers | Missing | NearDuplicates | Language
)


class Step(OneKey):
    """One step: a mapping with one key, its name."""

    text: Text | None = None
    spelling: Spelling | None = None
    dates: Dates | None = None
    units: Units | None = None
    range: Limits | None = None
    outliers: Outliers | None = None
    missing: Missing | None = None
    near_duplicates: NearDuplicates | None = None
    language: Language | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if len(self.given()) != 1:
            raise ValueError("a step is a mapping with one key: begin a new `- ` for the next")
        return self

    @property
    def action(self) -> Action:
        found: Action = getattr(self, self.name)
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        action = self.action
        one = getattr(action, "column", None)
        return (one,) if one is not None else tuple(getattr(action, "columns", ()))


KINDS: dict[str, tuple[Kind, ...]] = {
    "text": TEXTS,
    "spelling": TEXTS[:1],
    "dates": ("date",),
    "units": ("number",),
    "range": NUMBERS,
    "outliers": NUMBERS,
    "near_duplicates": TEXTS,
    "language": TEXTS,
}
"""The kinds of column that each step takes; `missing: drop` takes any, `model` numbers."""
