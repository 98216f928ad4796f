"""An image as a few numbers, for models that read numbers."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from ray_pipeline.data.media.extras import library

_COLOURS = ("red", "green", "blue")


def columns(cells: int) -> list[str]:
    """The numbers' names: `red_1_1` is the mean red of the first row's first cell."""
    grid = product(range(1, cells + 1), range(1, cells + 1), _COLOURS)
    return [f"{colour}_{row}_{column}" for row, column, colour in grid] + ["edges"]


def thumbnail(image: Any, cells: int) -> dict[str, float]:
    """The mean red, green and blue, 0 to 1, of each cell, to 1/255, and `edges`.

    `edges` is the mean difference between neighbouring pixels in grey, both ways, 0 to 1: low in
    a blurred or coarsely compressed picture.
    """
    pillow = library("PIL.Image", "media")
    small = image.convert("RGB").resize((cells, cells), pillow.Resampling.BOX)
    means = np.asarray(small, np.float64).ravel() / 255
    return dict(zip(columns(cells), [*means.tolist(), _edges(image)], strict=True))


def _edges(image: Any) -> float:
    grey = np.asarray(image.convert("L"), np.int16)
    ways = [np.abs(np.diff(grey, axis=axis)) for axis in (0, 1)]
    return sum(float(way.mean()) for way in ways if way.size) / 2 / 255
