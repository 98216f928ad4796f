"""What a bundle's model was made for: how its columns, labels and predictions were distributed.

Counted on the validation rows, which are like those that it learned from and which it has not
learned: predictions of rows that a model knows are surer than others. A number is kept as how many
rows are at or below some of its quantiles, a category as how often each value is; both tell exactly
where another sample differs, and hold no row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from upath import UPath

from ray_pipeline.bundle import Bundle
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.data.summary import as_doubles
from ray_pipeline.model.metrics import Floats
from ray_pipeline.schema import TEXTS, Column, Schema

FILE = "reference.json"
KNOTS, VALUES = 100, 200
"""Quantiles of a number, and values of a category, that are kept."""
_ROWS = 100_000
_OFTEN = 20
"""Of a column whose values the model does not know, those that occur so often are kept."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Numbers(_Frozen):
    """A number (a date in seconds, a text's length): rows with a value and without, rising
    `knots`, and how many rows are at or below each."""

    rows: int
    missing: int
    knots: tuple[float, ...]
    below: tuple[int, ...]


class Values(_Frozen):
    """A category: rows with a value and without, and how many have each of `values`; the others
    have a value that is not among them."""

    rows: int
    missing: int
    values: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def rest(self) -> int:
        return self.rows - sum(self.counts)


class Losses(_Frozen):
    """How wrong predictions were: 1 for each wrong class, or by how much a value was off."""

    rows: int
    mean: float
    deviation: float


Distribution = Numbers | Values


class Reference(_Frozen):
    """What other rows are compared with; `predicted`, `labels` and `losses` are absent where a row
    has several labels, or a vector is predicted."""

    rows: int
    columns: dict[str, Distribution]
    predicted: Distribution | None = None
    labels: Distribution | None = None
    losses: Losses | None = None


def fitted(
    rows: UPath, schema: Schema, statistics: Statistics, labels: NDArray[Any], outputs: Floats
) -> Reference:
    """The reference of the rows in the folder `rows`, of which the first have these labels (as
    the model counts classes) and outputs."""
    dataset = pads.dataset(rows.path, filesystem=rows.fs, format="parquet")
    features = [column for column in schema.features if column.kind != "image"]
    table = dataset.head(_ROWS, columns=[column.name for column in features])
    known = {column.name: column.values for column in statistics.categories}
    columns = {c.name: _of_column(table[c.name], c, known) for c in features}
    found = Reference(rows=len(table), columns=columns)
    if statistics.task not in ("classification", "regression"):
        return found
    classes = statistics.label.classes
    truth, said = labels[:_ROWS], outputs[:_ROWS]
    told: Distribution
    true: Distribution
    if classes is None:
        losses = np.abs(said.astype(float) - truth)
        told, true = numbers(said.astype(float)), numbers(truth.astype(float))
    else:
        best = said.argmax(1)
        losses = (best != truth).astype(float)
        told, true = (_counted(codes, classes) for codes in (best, truth))
    return found.model_copy(update={"predicted": told, "labels": true, "losses": losses_of(losses)})


def known(opened: Bundle) -> Reference | None:
    """What a bundle says of it; None of one that says nothing."""
    if FILE not in opened.manifest.files:
        return None
    text = (opened.path / FILE).read_text(encoding="utf-8")
    return Reference.model_validate_json(text)


def numbers(values: NDArray[np.float64]) -> Numbers:
    """The distribution of numbers [N], of which NaN and infinities are missing."""
    ordered = np.sort(values[np.isfinite(values)])
    knots = np.unique(ordered)
    if len(knots) > KNOTS:
        places = np.linspace(0, len(ordered) - 1, KNOTS).astype(int)
        knots = np.unique(ordered[places])
    below = np.searchsorted(ordered, knots, side="right")
    return Numbers(
        rows=len(ordered),
        missing=len(values) - len(ordered),
        knots=tuple(knots.tolist()),
        below=tuple(below.tolist()),
    )


def values(texts: pa.ChunkedArray, vocabulary: tuple[str, ...] = ()) -> Values:
    """The distribution of texts, of which null is missing; of the first values of the
    `vocabulary`, or without one of those that occur often."""
    counted = pc.value_counts(texts.drop_null())
    often: Mapping[str, int] = dict(
        zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    )
    if not vocabulary:
        ranked = sorted(often.items(), key=lambda pair: (-pair[1], pair[0]))
        vocabulary = tuple(value for value, count in ranked if count >= _OFTEN)
    kept = vocabulary[:VALUES]
    return Values(
        rows=len(texts) - texts.null_count,
        missing=texts.null_count,
        values=kept,
        counts=tuple(often.get(value, 0) for value in kept),
    )


def losses_of(losses: Floats) -> Losses:
    """Their mean and deviation."""
    return Losses(rows=len(losses), mean=float(losses.mean()), deviation=float(losses.std()))


def _of_column(
    found: pa.ChunkedArray, column: Column, known: Mapping[str, tuple[str, ...]]
) -> Distribution:
    if column.kind == "text":
        return numbers(as_doubles(pc.utf8_length(found)))
    if column.kind in TEXTS:
        texts = found.cast(pa.string())
        return values(pc.if_else(pc.equal(texts, ""), None, texts), known.get(column.name, ()))
    return numbers(as_doubles(found))


def _counted(codes: NDArray[np.int64], classes: tuple[str, ...]) -> Values:
    counts = np.bincount(codes, minlength=len(classes))
    return Values(rows=len(codes), missing=0, values=classes, counts=tuple(counts.tolist()))
