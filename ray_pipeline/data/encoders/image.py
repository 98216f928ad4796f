"""Images: the mean and deviation of each channel, and pixels as a model reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_pipeline.data.media import images
from ray_pipeline.data.media.pixels import Pixels, Shape, stacked
from ray_pipeline.data.statistics import ImageStatistics
from ray_pipeline.errors import DataError
from ray_pipeline.job.features import ColumnFeatures

SAMPLE = 1000
"""Images of a file that are looked at, evenly spread: their pixels are many times that."""


class Colours(NamedTuple):
    """Of some images: how many are absent, and the count, sum [C] and sum of squares [C] of the
    pixels that were looked at."""

    missing: int
    pixels: int
    sums: NDArray[np.int64]
    squares: NDArray[np.int64]

    def merged(self, other: Colours) -> Colours:
        return Colours(
            self.missing + other.missing,
            self.pixels + other.pixels,
            self.sums + other.sums,
            self.squares + other.squares,
        )


def shape_of(settings: ColumnFeatures) -> Shape:
    return (*settings.size, settings.channels)


def colours(values: pa.ChunkedArray, shape: Shape) -> Colours:
    """The colours of at most SAMPLE of the encoded images. Raises DataError."""
    present = values.drop_null()
    step = max(1, -(-len(present) // SAMPLE))
    chosen = present.take(pa.array(range(0, len(present), step), pa.int64()))
    found = _pixels(chosen, shape, (0,) * shape[2]).reshape(-1, shape[2]).astype(np.int64)
    return Colours(values.null_count, len(found), found.sum(0), (found**2).sum(0))


def fitted(name: str, found: Colours, shape: Shape) -> ImageStatistics:
    """The column's statistics; a channel that is all of one colour has the deviation 1."""
    mean = found.sums / max(found.pixels, 1)
    variance = found.squares / max(found.pixels, 1) - mean**2
    deviation = [float(np.sqrt(each)) if each > 0 else 1.0 for each in variance]
    height, width, channels = shape
    return ImageStatistics(
        name=name,
        missing=found.missing,
        height=height,
        width=width,
        channels=channels,
        mean=tuple(mean.tolist()),
        deviation=tuple(deviation),
    )


def encoding(column: ImageStatistics) -> Callable[[pa.ChunkedArray], Pixels]:
    """A function from encoded images to pixels [N, H, W, C]; it raises DataError."""
    return lambda values: _pixels(values, column.shape, column.filler)


def _pixels(values: pa.ChunkedArray, shape: Shape, filler: tuple[int, ...]) -> Pixels:
    try:
        return stacked((value.as_py() for value in values), shape, filler)
    except images.Unreadable as error:
        raise DataError(
            str(error), where="an image column", hint="`ray-pipeline run` sets such rows aside"
        ) from None
