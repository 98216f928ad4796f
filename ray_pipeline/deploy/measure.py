"""What the forms of a network say of the validation rows, how fast, and how far from torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn
from upath import UPath

from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.matrices import INPUTS
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.deploy import graph, runtime, texts
from ray_pipeline.errors import GateRefused
from ray_pipeline.model import compress
from ray_pipeline.model.compress import Candidate, Columns, Predict
from ray_pipeline.model.feed import matrices, row_groups
from ray_pipeline.model.multilabel import best_thresholds
from ray_pipeline.schema import Schema

BATCH_ROWS = 65_536
BATCH_BYTES = 64 << 20
"""What a batch may take once its columns are numbers: a row of texts may be 12 kB wide."""
CALIBRATION_ROWS, CALIBRATION_BATCH = 2_048, 128


@dataclass(frozen=True)
class Validated:
    """Of N validation rows: true labels [N], or [N, K] where a row may have several, the network's
    outputs and each form's ([N, K] probabilities, or [N] values), and raw columns of some rows, to
    measure with."""

    labels: NDArray[Any]
    truth: NDArray[Any]
    outputs: dict[str, NDArray[Any]]
    columns: Columns


def whole(network: ModelProto, reading: ModelProto, statistics: Statistics) -> bytes:
    """`network` as ONNX behind the graph that reads raw rows, serialised."""
    output = "value" if statistics.label.classes is None else "probabilities"
    content: bytes = graph.joined(reading, network, output, statistics.raw).SerializeToString()
    return content


def predictors(forms: Mapping[str, bytes], statistics: Statistics) -> dict[str, Predict]:
    """A function from raw columns to outputs for each serialised form."""
    return {
        form: texts.reading(runtime.predicting(content), texts.tokenized(statistics))
        for form, content in forms.items()
    }


def validated(
    rows: UPath,
    schema: Schema,
    network: nn.Module,
    statistics: Statistics,
    predict: Mapping[str, Predict],
) -> Validated:
    """What `network` and each form of it say of every raw row in the folder `rows`.

    Raises:
        GateRefused: a form does not put out as many values as the network.
    """
    transform = compiled_arrow(statistics)
    torch_outputs = graph.torch_outputs(network, statistics)
    labels, truth, columns = [], [], Columns()
    outputs: dict[str, list[NDArray[Any]]] = {form: [] for form in predict}
    for table in _tables(rows, _rows_at_once(statistics)):
        ready = matrices(transform(table))
        labels.append(ready["label"])
        truth.append(torch_outputs(ready))
        raw = runtime.columns_from_table(table, schema, statistics.image)
        columns = columns or {name: column[: compress.BATCH] for name, column in raw.items()}
        for form, of_form in predict.items():
            outputs[form].append(_same_shape(of_form(raw), truth[-1]))
    return Validated(
        np.concatenate(labels),
        np.concatenate(truth),
        {form: np.concatenate(parts) for form, parts in outputs.items()},
        columns,
    )


def first(
    rows: UPath, schema: Schema, network: nn.Module, statistics: Statistics
) -> tuple[Columns, NDArray[Any]]:
    """Raw columns of the first rows in the folder `rows`, at most as many as are measured with, and
    what `network` says of them."""
    table = next(_tables(rows, min(compress.BATCH, _rows_at_once(statistics))))
    truth = graph.torch_outputs(network, statistics)(matrices(compiled_arrow(statistics)(table)))
    return runtime.columns_from_table(table, schema, statistics.image), truth


def candidates(
    forms: Mapping[str, bytes], seen: Validated, predict: Mapping[str, Predict]
) -> list[Candidate]:
    """Each form with its size, times and score, in order.

    Where a row may have several labels, each begins where the network's outputs for these rows have
    it best: a threshold that some never reach would call all forms alike.
    """
    several = seen.labels.ndim == 2
    thresholds = best_thresholds(seen.labels, seen.truth) if several else ()
    times = compress.latencies(predict, seen.columns)
    return [
        compress.candidate(name, model, times[name], seen.outputs[name], seen.labels, thresholds)
        for name, model in forms.items()
    ]


def calibration(features: UPath) -> Iterator[dict[str, NDArray[Any]]]:
    """What a network reads of some 2,000 prepared training rows, 128 at a time.

    They come from row groups that are spread over the files, and no more than those is read.
    """
    groups = row_groups(features / "train")
    wanted = CALIBRATION_ROWS // CALIBRATION_BATCH
    spread = np.linspace(0, len(groups) - 1, min(wanted, len(groups))).astype(int)
    for index in spread:
        group = matrices(groups[index].head(CALIBRATION_ROWS // len(spread)))
        for start in range(0, len(group["label"]), CALIBRATION_BATCH):
            part = slice(start, start + CALIBRATION_BATCH)
            inputs = {name: group[name][part] for name in INPUTS if name in group}
            for name in {"categories", "tokens"} & inputs.keys():
                inputs[name] = inputs[name].astype(np.int64)
            yield inputs


def _same_shape(found: NDArray[Any], truth: NDArray[Any]) -> NDArray[Any]:
    if found.shape != truth.shape:
        raise GateRefused(
            f"the ONNX graph puts out {found.shape}, the trained network {truth.shape}",
            where="export",
            expected="the same for any number of rows",
            hint="nothing was deployed; take shapes in forward() from tensors, not as numbers",
        )
    return found


def _rows_at_once(statistics: Statistics) -> int:
    width = 4 * statistics.number_width + 8 * len(statistics.category_sizes)
    if statistics.tokens is not None:
        width += 4 * statistics.tokens.longest
    width += math.prod(statistics.image.shape) if statistics.image else 0
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(width, 1)))


def _tables(rows: UPath, size: int) -> Iterator[pa.Table]:
    dataset = pads.dataset(rows.path, filesystem=rows.fs, format="parquet")
    for batch in dataset.to_batches(batch_size=size, batch_readahead=1, fragment_readahead=1):
        yield pa.Table.from_batches([batch])
