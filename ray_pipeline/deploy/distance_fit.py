"""What a bundle says of the distance of its training rows (distance.py), and its graph with it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray
from onnx import ModelProto
from upath import UPath

from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.matrices import matrices
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.deploy import measure
from ray_pipeline.deploy.distance import Distance, distances

FALSE_ALARMS = 0.01
_MOST_ROWS = 10_000
_MOST_NUMBERS = 256  # the matrix is this squared: as text, at most 1.5 MB of a bundle


def fitted(features: UPath, split: UPath, statistics: Statistics) -> Distance | None:
    """What is known of the rows whose prepared ones are in `features` and whose raw ones in
    `split`. None where a model reads no numbers or too many, or where the validation rows are too
    few for a bound.
    """
    if not 0 < statistics.number_width <= _MOST_NUMBERS:
        return None
    train = [part["numbers"] for part in measure.calibration(features)]
    mean, whitening = _shape(np.concatenate(train).astype(np.float64))

    def of(name: str) -> NDArray[np.float64]:
        parts = [distances(part, mean, whitening) for part in _numbers(split / name, statistics)]
        return np.concatenate(parts)[:_MOST_ROWS] if parts else np.empty(0)

    held, tested = of("validation"), of("test")
    place = math.ceil((len(held) + 1) * (1 - FALSE_ALARMS))
    if place > len(held):
        return None
    bound = float(np.sort(held)[place - 1])
    return Distance(
        mean=tuple(mean.tolist()),
        whitening=tuple(map(tuple, whitening.tolist())),
        bound=bound,
        false_alarms=FALSE_ALARMS,
        validation_rows=len(held),
        test_rows=len(tested),
        test_false_alarms=float((tested > bound).mean()) if len(tested) else None,
    )


def telling(model: bytes, statistics: Statistics) -> bytes:
    """The graph with `numbers`, which its features are, as a second output."""
    whole: ModelProto = onnx.load_from_string(model)
    made = {name for node in whole.graph.node for name in node.output}
    name = "numbers"
    while name not in made:  # with underscores after it where a column is called so
        name += "_"
    shape: list[str | int | None] = ["rows", statistics.number_width]
    value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
    whole.graph.output.append(value)
    onnx.checker.check_model(whole)
    content: bytes = whole.SerializeToString()
    return content


def _shape(numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean [D] of numbers [N, D], and the matrix [D, D] that makes them alike everywhere."""
    from sklearn.covariance import ledoit_wolf  # shrunk, for N need not be much larger than D

    covariance, _ = ledoit_wolf(numbers)
    width = numbers.shape[1]
    steady = covariance + 1e-6 * max(np.trace(covariance) / width, 1e-12) * np.eye(width)
    return numbers.mean(axis=0), np.linalg.inv(np.linalg.cholesky(steady)).T


def _numbers(rows: UPath, statistics: Statistics) -> Iterator[NDArray[np.float32]]:
    """The numbers of the first raw rows in a folder, in parts; none if there is no folder."""
    if not rows.exists():
        return
    transform, seen = compiled_arrow(statistics), 0
    dataset = pads.dataset(rows.path, filesystem=rows.fs, format="parquet")
    for batch in dataset.to_batches(batch_size=1_000, batch_readahead=1, fragment_readahead=1):
        if batch.num_rows:
            yield matrices(transform(pa.Table.from_batches([batch])))["numbers"]
        seen += batch.num_rows
        if seen >= _MOST_ROWS:
            return
