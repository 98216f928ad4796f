"""Rows that a bundle carries with what its model says of them: by them any machine checks itself.

They are made of the training statistics, and are nobody's: each column runs through its range and
its values by a stride of its own. They have the form of a request.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.bundle import Bundle, Manifest
from ray_pipeline.data import dates
from ray_pipeline.data.encoders import tokens
from ray_pipeline.data.media import pixels
from ray_pipeline.data.statistics import ImageStatistics, NumberStatistics, Statistics
from ray_pipeline.deploy import pictures
from ray_pipeline.deploy.halves import Columns, Predict
from ray_pipeline.deploy.protocol import Protocol
from ray_pipeline.schema import Column, Schema

FILE = "probe.json"
COUNT, WORDS, BLOCKS = 16, 8, 4
_GOLDEN = (math.sqrt(5) - 1) / 2
_EVERY = 7
"""One row in so many has no value in a column; another one in each."""


@dataclass(frozen=True)
class Probe:
    """Columns [N] as a Predictor's `of_clean` takes them, the outputs [N, K] or [N] that belong to
    them, and the label's standard deviation (1 for classes)."""

    columns: Columns
    outputs: NDArray[Any]
    deviation: float


def written(statistics: Statistics, schema: Schema, predict: Predict) -> str:
    """The text of `probe.json`; `predict` is the trained network's graph, in 32 bits."""
    rows = rows_of(statistics, schema)
    outputs = predict(_columns(rows, schema, statistics.image))
    deviation = statistics.label.deviation if outputs.ndim == 1 else 1.0
    return json.dumps({"rows": rows, "outputs": outputs.tolist(), "deviation": deviation})


def of(bundle: Bundle) -> Probe:
    """The probe of a bundle that has one."""
    found = json.loads((bundle.path / FILE).read_text(encoding="utf-8"))
    manifest: Manifest = bundle.manifest
    columns = _columns(found["rows"], manifest.schema, pictures.image_of(manifest))
    return Probe(columns, np.array(found["outputs"], np.float32), found["deviation"])


def rows_of(statistics: Statistics, schema: Schema, count: int = COUNT) -> list[dict[str, Any]]:
    """Rows as a request has them, the same for the same statistics."""
    values = {
        column.name: _values(column, statistics, count, place)
        for place, column in enumerate(schema.features)
    }
    return [{name: values[name][index] for name in values} for index in range(count)]


def _columns(rows: Sequence[Any], schema: Schema, image: ImageStatistics | None) -> Columns:
    protocol = Protocol(schema, len(rows), image=image)
    return protocol.columns(protocol.checked(rows))


def _values(column: Column, statistics: Statistics, count: int, place: int) -> list[Any]:
    """`count` values of a column, which is the `place`th."""
    shares = [(_GOLDEN * (index + 1) * (place + 1)) % 1.0 for index in range(count)]
    made = [_value(column, statistics, share) for share in shares]
    return [None if (index + place) % _EVERY == _EVERY - 1 else v for index, v in enumerate(made)]


def _value(column: Column, statistics: Statistics, share: float) -> Any:
    """The value that stands at `share` (0 to 1) of what the column had in training."""
    name = column.name
    numbers: dict[str, NumberStatistics] = {c.name: c for c in statistics.numbers}
    numbers |= {c.name: c.seconds for c in statistics.dates}
    if column.kind == "category":
        known = next(c.values for c in statistics.categories if c.name == name)
        return known[int(share * len(known))] if known else None
    if column.kind == "text":
        return _text(name, statistics, share)
    if column.kind == "image":
        assert statistics.image is not None, "a model reads each image column that its schema has"
        return _picture(statistics.image, share)
    figures = numbers[name]
    value = figures.minimum + share * (figures.maximum - figures.minimum)
    if column.kind == "date":
        return dates.shown(value)
    if column.kind == "boolean":
        return share >= 0.5
    return round(value) if column.kind == "integer" else value


def _text(name: str, statistics: Statistics, share: float) -> str | None:
    terms = next((c.terms for c in statistics.texts if c.name == name), ())
    read = [c for c in (*statistics.sentences, statistics.tokens) if c and c.name == name]
    if not terms and read:
        terms = tuple(tokens.vocabulary(read[0]))
    if not terms:
        return None
    start, words = int(share * len(terms)), 1 + int(share * WORDS)
    return " ".join(str(terms[(start + step) % len(terms)]) for step in range(words))


def _picture(image: ImageStatistics, share: float) -> str:
    """Squares of different colours, as a PNG in base64."""
    height, width, channels = image.shape
    steps = np.arange(BLOCKS * BLOCKS * channels).reshape(BLOCKS, BLOCKS, channels)
    colours = ((steps * _GOLDEN + share) % 1.0 * 255).astype(np.uint8)
    rows = np.arange(height) * BLOCKS // height
    columns = np.arange(width) * BLOCKS // width
    return base64.b64encode(pixels.png(colours[rows][:, columns])).decode()
