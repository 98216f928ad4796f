"""Personal data: what is looked for, what becomes of it before it is stored, how long it stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from ray_pipeline.job.base import Settings

Entity = Literal[
    "PERSON", "EMAIL", "PHONE", "CARD", "IBAN", "SSN", "NHS", "GERMAN_TAX_ID", "ADDRESS", "IP"
]
Off = Annotated[Literal["auto", "off"], BeforeValidator(lambda v: "off" if v is False else v)]
"""YAML reads a bare `off` as false."""


class Treatment(Settings):
    """What becomes of a column before any of it is stored: one of these. A name alone turns it on.

    The same is done to a request's value at the endpoint.
    """

    drop: bool = Field(False, description="The column is read, and nothing of it is kept.")
    mask: bool | tuple[Entity, ...] = Field(
        False,
        description="`true`: every value becomes `<MASKED>`. A list: what is found of these in "
        "the text becomes its name, such as `<EMAIL>`. The column is no feature.",
    )
    hash: bool = Field(
        False,
        description="Each value becomes a keyed hash (HMAC-SHA256, 128 bits) behind its key's id: "
        "equal values stay equal, and nobody without the key can test a guess.",
    )
    generalise: int | float | Literal["month", "year"] | None = Field(
        None,
        description="Numbers: the width of bins, each value becoming its bin's lower bound. Dates: "
        "`month` or `year`. Texts: how many first characters are kept.",
    )

    @property
    def method(self) -> str:
        """The one that is set: `drop`, `mask`, `hash` or `generalise`."""
        return next(iter(self.model_fields_set))

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in self.model_fields_set if getattr(self, name)]
        if len(given) != 1 or len(self.model_fields_set) != 1:
            raise ValueError("give one of drop, mask, hash, generalise")
        if isinstance(self.generalise, int | float) and not self.generalise > 0:
            raise ValueError("`generalise` must be above 0")
        return self


def _treatment(name: str) -> Treatment:
    return Treatment.model_validate({name: True})


def _form(value: Any) -> str:
    return "text" if isinstance(value, str) else "mapping"


if TYPE_CHECKING:
    TreatmentEntry = Treatment
else:  # a validator before the union would have YAML's lists refused as tuples
    TreatmentEntry = Annotated[
        Annotated[Literal["drop", "mask", "hash"], AfterValidator(_treatment), Tag("text")]
        | Annotated[Treatment, Tag("mapping")],
        Discriminator(_form),
    ]


class Privacy(Settings):
    find: Off = Field(
        "auto",
        description="`auto` looks for personal data in a sample of each column's values, and "
        "reports what was found where, never the values.",
    )
    columns: dict[str, TreatmentEntry] = Field(
        default_factory=dict, description="What becomes of each column, by its name."
    )
    subject: str | None = Field(
        None, description="The column that says whose row it is: what `forget` goes by."
    )
    quasi_identifiers: tuple[str, ...] = Field(
        (), description="Columns that together could single a person out, such as age, sex, zip."
    )
    k: int = Field(
        5, ge=2, description="Rows that must share each combination of the quasi-identifiers."
    )
    retention_days: int | None = Field(
        None,
        ge=1,
        description="How long stored rows may be kept: each run, and the command `expire`, first "
        "remove what is older.",
    )
    on_found: Literal["warn", "refuse"] = Field(
        "warn",
        description="What follows when personal data is found in a column without a treatment, or "
        "fewer than `k` rows share a combination: a line in the report, or a refused run.",
    )

    key: str | None = Field(
        None, description="Id of the key that hashes; if absent, the newest, which the run records."
    )
    erased: tuple[str, ...] = Field(
        (),
        description="Hashes of subjects whose rows are left out. `forget` keeps them beside the "
        "job's runs, and every run adds those.",
    )

    def method(self, column: str) -> str | None:
        """What becomes of a column: `drop`, `mask`, `hash`, `generalise`, or None."""
        found = self.columns.get(column)
        return found.method if found else None

    @property
    def named(self) -> tuple[str, ...]:
        """The columns that these settings speak of."""
        subject = (self.subject,) if self.subject else ()
        return (*self.columns, *subject, *self.quasi_identifiers)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.subject and self.method(self.subject) not in (None, "hash"):
            raise ValueError(
                f"the subject `{self.subject}` must be kept or hashed: a person could not be "
                "found by it otherwise"
            )
        for name in self.quasi_identifiers:
            if self.method(name) in ("drop", "mask"):
                raise ValueError(f"`{name}` is not stored, so it cannot be a quasi-identifier")
        return self
