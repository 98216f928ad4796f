"""The job file's settings: typed, frozen, checked when they are made.

A field's description is its documentation: `ray-pipeline schema` prints them as JSON Schema, and
editors show them. Reading the YAML and saying where in it an error stands is `jobfile.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from ray_pipeline.schema import Kind, Role

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """A section of the job file: unknown keys are errors, and nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def without(self, *sections: str) -> Self:
        """The same settings with `sections` at their defaults: for what does not read them."""
        defaults = {
            name: type(self).model_fields[name].get_default(call_default_factory=True)
            for name in sections
        }
        return self.model_copy(update=defaults)


class ColumnSettings(Settings):
    kind: Kind = Field(description="What the values are.")
    role: Role = Field("feature", description="`ignore` keeps a column out of the model.")


def _column_form(value: Any) -> str:
    return "text" if isinstance(value, str) else "mapping"


ColumnEntry = Annotated[
    Annotated[Kind, Tag("text")] | Annotated[ColumnSettings, Tag("mapping")],
    Discriminator(_column_form),
]


class Clean(Settings):
    duplicates: Literal["drop", "keep"] = Field(
        "drop",
        description="Rows equal in every column: keep the first, or all. Rows of a separate test "
        "file are never dropped; training rows that also stand in it are.",
    )
    replace: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="Other spellings of a value, by column: {column: {found: wanted}}.",
    )
    max_quarantined: float = Field(
        0.1, gt=0, le=1, description="Refuse to go on if more than this share of rows is unusable."
    )


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


class Features(Settings):
    numbers: Literal["quantile", "standard"] = Field(
        "quantile",
        description="`quantile` maps each number to a normal distribution by its rank; `standard` "
        "subtracts the mean and divides by the standard deviation.",
    )
    max_categories: int = Field(
        1000, ge=1, description="Most frequent values kept per column; the rest are `unknown`."
    )
    min_count: int = Field(2, ge=1, description="Values seen less often in training are `unknown`.")


class Data(Settings):
    source: str = Field(
        description="File, folder or glob, relative to the job file, or any fsspec URI."
    )
    test: str | None = Field(None, description="A separate test file; replaces `split.test`.")
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet"] = Field(
        "auto", description="`auto` goes by the file's extension, else CSV."
    )
    header: bool = Field(True, description="Whether CSV files begin with the columns' names.")
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    missing: tuple[str, ...] = Field(
        (), description="Texts that mean `no value`, besides the empty one."
    )
    label: str = Field(description="The column to predict.")
    columns: dict[str, ColumnEntry] = Field(
        default_factory=dict,
        description="Kinds by column name, in file order where there is no header; columns not "
        "named here are inferred.",
    )
    clean: Clean = Clean()
    split: Split = Split()
    features: Features = Features()

    @model_validator(mode="after")
    def _columns_fit(self) -> Data:
        if not self.header and not self.columns:
            raise ValueError("a file without a header needs `columns`, in the file's order")
        if not self.header and self.label not in self.columns:
            raise ValueError(f"label {self.label!r} is not among `columns`")
        if self.split.validation + (0 if self.test else self.split.test) >= 1:
            raise ValueError("`split.validation` and `split.test` leave no rows to train on")
        if self.split.validation == 0:
            raise ValueError("`split.validation` must be above 0: early stopping needs it")
        return self


class Model(Settings):
    name: str = Field(
        "mlp", description="`mlp`, `resnet`, or your own as module:function.", examples=["resnet"]
    )
    width: int = Field(128, ge=1, description="Units in a hidden layer.")
    depth: int = Field(2, ge=1, le=64, description="Hidden layers, or residual blocks.")
    dropout: Fraction = 0.2
    embedding: int = Field(
        8, ge=1, description="Length of the vector that stands for a category or a number."
    )
    frequencies: int = Field(
        16,
        ge=0,
        description="Sines and cosines that a number is given to the network as, besides itself: "
        "they let it see fine steps; 0 for none.",
    )
    frequency_scale: float = Field(
        4.0, gt=0, description="Standard deviation of the frequencies at the start of training."
    )


class Train(Settings):
    strategy: Literal["auto", "ddp", "zero1", "zero2", "zero3"] = Field(
        "auto",
        description="How workers share the work: plain data parallel, or a DeepSpeed ZeRO stage.",
    )
    workers: int | Literal["auto"] = Field(
        "auto",
        description="Training processes. `auto`: one per GPU, or one inside the driver where the "
        "cluster has no GPU; 0 asks for the latter.",
    )
    cpus: float = Field(1, gt=0, description="CPUs for a worker.")
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(512, ge=1, description="Rows per step, over all workers.")
    learning_rate: float = Field(
        2e-3, gt=0, description="Highest rate: reached after a tenth of the steps, then falls to 0."
    )
    weight_decay: float = Field(1e-4, ge=0)
    clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    patience: int = Field(
        4, ge=1, description="Stop after this many epochs without a lower validation loss."
    )
    feed: Literal["auto", "memory", "stream"] = Field(
        "auto",
        description="`memory` shares the prepared rows through Ray's object store; `stream` reads "
        "them again each epoch; `auto` streams what exceeds a quarter of that store.",
    )
    seed: int = 0

    @field_validator("workers")
    @classmethod
    def _not_negative(cls, workers: int | str) -> int | str:
        if isinstance(workers, int) and workers < 0:
            raise ValueError("must be 0 or more, or auto")
        return workers


class Range(Settings):
    """One dimension of a search: exactly one of the four."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of choice, uniform, log_uniform, integer")
        for bounds in (self.uniform, self.log_uniform, self.integer):
            if bounds is not None and bounds[0] >= bounds[1]:
                raise ValueError("the first bound must be below the second")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError("log_uniform needs bounds above 0")
        return self


class Tune(Settings):
    trials: int = Field(16, ge=1, description="Settings tried.")
    epochs: int = Field(8, ge=1, description="Epochs of the trials that are let run to the end.")
    parallel: int | None = Field(
        None, ge=1, description="Trials at a time; as many as fit the cluster if not given."
    )
    cpus: float = Field(1, gt=0, description="CPUs for a trial; may be a fraction.")
    gpus: float = Field(0, ge=0, description="GPUs for a trial; may be a fraction.")
    seed: int = 0
    space: dict[str, Range] = Field(
        min_length=1,
        description="What is searched, by key: `model.…` or `train.…`.",
        examples=[{"train.learning_rate": {"log_uniform": [1e-4, 1e-2]}}],
    )

    @field_validator("space")
    @classmethod
    def _known_keys(cls, space: dict[str, Range]) -> dict[str, Range]:
        known = [f"model.{key}" for key in Model.model_fields]
        known += [f"train.{key}" for key in ("batch_size", "learning_rate", "weight_decay", "clip")]
        for key in space:
            if key not in known:
                raise ValueError(f"{key!r} cannot be searched; these can: {', '.join(known)}")
        return space


class Bound(Settings):
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _some_bound(self) -> Bound:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self


class Evaluate(Settings):
    groups: tuple[str, ...] = Field(
        (), description="Columns whose values are compared as groups of people, say sex."
    )
    positive: str | None = Field(
        None,
        description="For two classes, the one that precision, recall and F1 speak of; the rarer "
        "one if not given.",
    )
    bootstrap: int = Field(1000, ge=0, description="Resamples behind each interval; 0 for none.")
    gates: dict[str, Bound] = Field(
        default_factory=dict,
        description="Bounds on test metrics; outside them nothing is deployed (exit 3).",
        examples=[{"accuracy": {"min": 0.85}}],
    )


class Compress(Settings):
    int8: Literal["auto", "never"] = Field(
        "auto", description="Quantize when it is faster here and within `max_drop`."
    )
    max_drop: float = Field(
        0.005, ge=0, description="Largest loss of validation accuracy (or R²) allowed."
    )


class Replicas(Settings):
    min: int = Field(1, ge=0)
    max: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError("min is above max")
        return self


class Serve(Settings):
    port: int = Field(8000, ge=1, le=65535)
    host: str = Field(
        "127.0.0.1",
        description="The address to listen on; 0.0.0.0 lets other machines in, and is needed on a "
        "cluster of several.",
    )
    auth: Literal["key", "none"] = Field("key", description="Who may call: holders of the key.")
    replicas: Replicas = Replicas()
    cpus: float = Field(0.5, gt=0, description="CPUs reserved for a replica.")
    target_ongoing_requests: float = Field(
        8,
        gt=0,
        description="Requests in flight per replica that autoscaling aims at; a replica of a small "
        "model that is busy all the time has about 15.",
    )
    max_ongoing_requests: int = Field(
        64, ge=1, description="Requests a replica takes at a time; more wait in the queue."
    )
    max_queued_requests: int = Field(
        1024, ge=1, description="Requests that may wait; more are told 503 or 429 at once."
    )
    upscale_delay_s: float = Field(3, ge=0)
    downscale_delay_s: float = Field(60, ge=0)
    max_rows: int = Field(1000, ge=1, description="Rows in a request.")
    max_bytes: int = Field(1_000_000, ge=1000, description="Bytes in a request's body.")


class Job(Settings):
    """A job: from raw data to an answering endpoint."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$", description="Names the endpoint too.")
    storage: str = Field(
        "storage", description="Where all that the job makes is kept: a path or an fsspec URI."
    )
    data: Data
    model: Model = Model()
    train: Train = Train()
    tune: Tune | None = None
    evaluate: Evaluate = Evaluate()
    compress: Compress = Compress()
    serve: Serve = Serve()

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name in {"v1", "v2", "metrics", "healthz"}:
            raise ValueError(f"{name!r} is a path of the server's own; choose another name")
        return name
