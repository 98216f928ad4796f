"""Bundles of networks with fresh weights that read texts or images, and rows for them."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
from PIL import Image
from small_bundles import Exported, exported_of
from upath import UPath

from ray_pipeline.data.statistics import (
    ImageStatistics,
    LabelStatistics,
    Statistics,
    TextStatistics,
)
from ray_pipeline.job import Model
from ray_pipeline.schema import Column, Schema

FOOD = [f"{taste}{food}" for taste in ("sweet", "sour", "salty") for food in "abcdefghijklmnop"]
TOOLS = [f"{kind}{tool}" for kind in ("steel", "brass", "cheap") for tool in "abcdefghijklmnop"]
LABEL = LabelStatistics(name="what", classes=("a", "b"), counts=(300, 300))
IMAGE = ImageStatistics(
    name="photo", missing=0, height=8, width=6, channels=1, mean=(90.0,), deviation=(60.0,)
)


def reviews(rng: np.random.Generator, count: int, about: list[str] = FOOD) -> list[str]:
    """Texts of 12 words; of whatever they are about, they are equally long."""
    return [" ".join(rng.choice(about, 12)) for _ in range(count)]


def photos(rng: np.random.Generator, count: int, inverted: bool = False) -> list[bytes]:
    """Dark pictures with a bright spot."""
    found = rng.integers(0, 60, (count, 8, 6), np.uint8)
    for picture in found:
        row, column = rng.integers(0, 5), rng.integers(0, 4)
        picture[row : row + 3, column : column + 2] = 250
    return [_png(255 - picture if inverted else picture) for picture in found]


def of_texts(root: UPath, rows: int = 600) -> Exported:
    """A network that reads which words a text has, of those about food and about tools."""
    words = (*FOOD, *TOOLS)
    text = TextStatistics(
        name="review", missing=0, rows=rows, terms=words, documents=(rows // 5,) * len(words)
    )
    statistics = Statistics(rows=rows, numbers=(), categories=(), texts=(text,), label=LABEL)
    schema = _schema(Column(name="review", kind="text"))
    made = reviews(np.random.default_rng(0), rows)
    return _exported(root, statistics, schema, made, Model(width=32, depth=1))


def of_images(root: UPath, rows: int = 600) -> Exported:
    """A network that reads pictures."""
    statistics = Statistics(rows=rows, numbers=(), categories=(), image=IMAGE, label=LABEL)
    schema = _schema(Column(name="photo", kind="image"))
    made = photos(np.random.default_rng(0), rows)
    return _exported(root, statistics, schema, made, Model(name="cnn", width=16, depth=1))


def _schema(column: Column) -> Schema:
    return Schema(columns=(column, Column(name="what", kind="category", role="label")))


def _exported(
    root: UPath, statistics: Statistics, schema: Schema, values: list, model: Model
) -> Exported:
    labels = np.random.default_rng(1).choice(["a", "b"], len(values)).tolist()
    rows = pa.table({schema.names[0]: values, "what": labels}, schema=schema.arrow())
    return exported_of(root, schema, statistics, rows, model)


def _png(pixels: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()
