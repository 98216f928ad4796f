"""How columns become what a model reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ray_pipeline.job.base import Settings

Part = Literal["minute", "hour", "weekday", "day", "month", "day_of_year"]


Side = Annotated[int, Field(ge=1, le=1024)]


class Constant(Settings):
    constant: float = Field(allow_inf_nan=False)


class ColumnFeatures(Settings):
    """How one column is encoded; what is not said here goes by its kind."""

    scale: Literal["quantile", "standard", "log", "bins"] | None = Field(
        None,
        description="Of a number. `log` standardises sign(x) log(1 + |x|); `bins` makes a category "
        "of it, with as many rows in each; the rest as `features.numbers`, the default.",
    )
    bins: int = Field(10, ge=2, le=256, description="Bins of `scale: bins`.")
    missing: Literal["median", "mean", "mode"] | Constant = Field(
        "median", description="What stands for an absent number, or {constant: x}."
    )
    encode: Literal["index", "onehot", "hash", "target"] = Field(
        "index",
        description="Of a category. `index` and `hash` give the network an index to learn a vector "
        "for, of the value or of its hash; `target` is the label's mean where the value occurs.",
    )
    buckets: int = Field(64, ge=2, le=1_000_000, description="Different hashes of `encode: hash`.")
    smoothing: float = Field(
        20.0, ge=0, description="Rows of the overall mean that `encode: target` mixes in."
    )
    parts: tuple[Part, ...] = Field(
        ("hour", "weekday", "month", "day_of_year"), description="Of a date, in UTC."
    )
    cyclic: bool = Field(
        True, description="Whether a part is a sine and a cosine, so that December meets January."
    )
    trend: bool = Field(True, description="Whether a date is also a number, for what grows.")
    text: Literal["tfidf", "embedding", "tokens"] = Field(
        "tfidf",
        description="Of a text. `tfidf`: how often it has each term, rare ones counting more; "
        "`embedding`: the vector that a sentence encoder makes of it; `tokens` are what the models "
        "`encoder`, `language` and `embedding` read.",
    )
    encoder: str | None = Field(
        None,
        description="Of `embedding` and `tokens`: a folder or a hub's id, with config.json, "
        "model.safetensors and tokenizer.json.",
    )
    longest: int = Field(128, ge=2, le=8192, description="Most tokens that are kept of a text.")
    terms: int = Field(1000, ge=1, le=50_000, description="Most frequent terms kept of a text.")
    ngrams: int = Field(1, ge=1, le=3, description="Words that a term may have.")
    size: tuple[Side, Side] = Field(
        (64, 64), description="Of an image: the height and width in pixels that all are given."
    )
    channels: Literal[1, 3] = Field(3, description="Of an image: 1 for grey, 3 for colours.")

    @model_validator(mode="after")
    def _one_kind(self) -> ColumnFeatures:
        kinds = {kind for kind, keys in KEYS.items() if self.model_fields_set & keys}
        if len(kinds) > 1:
            raise ValueError(f"settings of a {' and of a '.join(sorted(kinds))} in one column")
        if "bins" in self.model_fields_set and self.scale != "bins":
            raise ValueError("`bins` needs `scale: bins`")
        if "buckets" in self.model_fields_set and self.encode != "hash":
            raise ValueError("`buckets` needs `encode: hash`")
        if "smoothing" in self.model_fields_set and self.encode != "target":
            raise ValueError("`smoothing` needs `encode: target`")
        if (self.text == "tfidf") != (self.encoder is None):
            raise ValueError("`text: tokens` or `embedding` and `encoder` go together")
        if not self.parts and not self.trend:
            raise ValueError("a date without `parts` and without `trend` is nothing")
        return self


KEYS = {
    "number": {"scale", "bins", "missing"},
    "category": {"encode", "buckets", "smoothing"},
    "date": {"parts", "cyclic", "trend"},
    "text": {"text", "terms", "ngrams", "encoder", "longest"},
    "image": {"size", "channels"},
}
"""The settings that a kind of column has; integers and booleans are numbers."""


class Features(Settings):
    numbers: Literal["quantile", "standard"] = Field(
        "quantile",
        description="`quantile` maps each number to a normal distribution by its rank; `standard` "
        "subtracts the mean and divides by the standard deviation.",
    )
    max_categories: int = Field(
        1000, ge=1, description="Most frequent values kept per column; the rest are `unknown`."
    )
    min_count: int = Field(
        2, ge=1, description="Values and terms seen less often in training are `unknown`."
    )
    columns: dict[str, ColumnFeatures] = Field(
        default_factory=dict,
        description="Encodings by column name, for those that differ from their kind's.",
        examples=[{"distance": {"scale": "log"}, "destination": {"encode": "target"}}],
    )

    def of(self, name: str) -> ColumnFeatures:
        """The settings of one column."""
        return self.columns.get(name, ColumnFeatures())
