"""The rows: where they are, what they hold, and how they are divided."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from ray_pipeline.job.balance import Balance
from ray_pipeline.job.base import Fraction, Settings
from ray_pipeline.job.clean import Clean
from ray_pipeline.job.expect import Expectation
from ray_pipeline.job.features import Features
from ray_pipeline.job.history import History
from ray_pipeline.job.privacy import Privacy
from ray_pipeline.job.source import Place
from ray_pipeline.schema import SEPARATOR, Kind, Role


class ColumnSettings(Settings):
    kind: Kind = Field(description="What the values are.")
    role: Role = Field("feature", description="`ignore` keeps a column out of the model.")
    separator: str = Field(
        SEPARATOR, min_length=1, description="Of `labels`: what stands between their names."
    )
    min_rows: int = Field(
        1,
        ge=1,
        description="Of `labels`: those that fewer training rows have are not learned, and left "
        "out of all rows. With 1, one that training lacks is an error.",
    )

    @model_validator(mode="after")
    def _of_labels(self) -> ColumnSettings:
        if self.kind != "labels" and {"separator", "min_rows"} & self.model_fields_set:
            raise ValueError("`separator` and `min_rows` are of the kind `labels`")
        return self


def _column_form(value: Any) -> str:
    return "text" if isinstance(value, str) else "mapping"


ColumnEntry = Annotated[
    Annotated[Kind, Tag("text")] | Annotated[ColumnSettings, Tag("mapping")],
    Discriminator(_column_form),
]


class Split(Settings):
    validation: Fraction = Field(0.15, description="Share of rows for validation.")
    test: Fraction = Field(
        0.15, description="Share of rows for the final test, where there is no separate test file."
    )
    by: tuple[str, ...] = Field(
        (),
        description="Columns whose values decide a row's side (say, a customer id); all features "
        "if empty. Equal values always fall on the same side.",
    )
    seed: int = 0


class Data(Settings):
    source: Place = Field(description="Where the rows are: a text, or a mapping with its `url`.")
    test: Place | None = Field(None, description="A separate test file; replaces `split.test`.")
    format: Literal[
        "auto",
        "csv",
        "tsv",
        "jsonl",
        "parquet",
        "arrow",
        "excel",
        "delta",
        "iceberg",
        "lance",
        "text",
        "html",
        "pdf",
        "images",
        "video",
    ] = Field(
        "auto",
        description="`auto` goes by the file's extension, or by what a folder holds, else CSV.",
    )
    header: bool = Field(True, description="Whether CSV files begin with the columns' names.")
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    missing: tuple[str, ...] = Field(
        (), description="Texts that mean `no value`, besides the empty one."
    )
    label: str = Field(
        "",
        description="The column to predict, which only a `chat` has not; if several of its values "
        "may apply to a row, its kind is `labels`: their names with a separator "
        "between them, or a list. Of a model that writes, its kind is `text`: answers "
        "to the prompts in another, or transcripts of chats as JSON. So it is of one "
        "that finds: the passages that belong to the questions in another.",
    )
    columns: dict[str, ColumnEntry] = Field(
        default_factory=dict,
        description="Kinds by column name, in file order where there is no header; columns not "
        "named here are inferred.",
    )
    clean: Clean = Clean()
    expect: tuple[Expectation, ...] = Field(
        (), description="What the cleaned rows must be, or else the run warns or refuses."
    )
    history: tuple[History, ...] = Field(
        (), description="Columns to add: aggregates of what happened before each row."
    )
    split: Split = Split()
    features: Features = Features()
    privacy: Privacy | None = Field(
        None, description="Personal data: what is found, treated, erased; absent, nothing is."
    )
    balance: Balance | None = Field(
        None, description="Weights of the training rows, so that groups or classes count alike."
    )

    @model_validator(mode="after")
    def _columns_fit(self) -> Data:
        if not self.header and not self.columns:
            raise ValueError("a file without a header needs `columns`, in the file's order")
        if self.split.validation + (0 if self.test else self.split.test) >= 1:
            raise ValueError("`split.validation` and `split.test` leave no rows to train on")
        given = self.columns.get(self.label)
        read = any(column.text == "tokens" for column in self.features.columns.values())
        kind = getattr(given, "kind", given)
        if kind in ("date", "image") or (kind == "text" and not read):
            raise ValueError(
                f"label {self.label!r}: a {kind} cannot be predicted, but a category can"
            )
        self._labels_fit()
        if self.written and self.balance:
            raise ValueError("`balance` weighs classes; answers that are texts have none")
        if self.privacy and self.privacy.method(self.label):
            raise ValueError(f"label {self.label!r} is what is predicted: it cannot be treated")
        for name in self.split.by:
            if self.privacy and self.privacy.method(name) in ("drop", "mask"):
                raise ValueError(f"`split.by` names {name!r}, which is not stored")
        if self.test and self.test.new:
            raise ValueError("`test.new`: a test set is not to change; only `source` has `new`")
        mark = self.source.new and self.source.new.column
        if mark and self.privacy and mark in self.privacy.named:
            raise ValueError(f"`source.new` would keep values of {mark!r}, which is personal data")
        if self.split.validation == 0:
            raise ValueError("`split.validation` must be above 0: early stopping needs it")
        return self

    def _labels_fit(self) -> None:
        for name, given in self.columns.items():
            if getattr(given, "kind", given) != "labels" or name == self.label:
                continue
            if getattr(given, "role", "feature") != "ignore":
                raise ValueError(
                    f"column {name!r}: `labels` can be predicted, not read; give it the role "
                    "`ignore`, or the kind `text`"
                )

    def column(self, name: str) -> ColumnSettings | None:
        """What the job says of a column; None if nothing."""
        given = self.columns.get(name)
        return ColumnSettings(kind=given) if isinstance(given, str) else given

    @property
    def written(self) -> bool:
        """Whether the label is a text, which only a language model can write, or, if the rows are
        `paired`, an embedding find."""
        given = self.columns.get(self.label)
        return getattr(given, "kind", given) == "text"

    @property
    def paired(self) -> bool:
        """Whether rows are pairs of texts, both read as tokens, of which one is to find the
        other, the label."""
        read = [name for name, each in self.features.columns.items() if each.text == "tokens"]
        return self.written and self.label in read and len(read) > 1
