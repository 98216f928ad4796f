"""A trained model's outputs for raw rows, in bulk, beside their labels and groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import torch
from numpy.typing import NDArray
from torch import nn
from upath import UPath

from ray_pipeline.data import cells
from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.label_sets import named
from ray_pipeline.data.matrices import Matrices, matrices
from ray_pipeline.data.matrices import labels as labels_of
from ray_pipeline.data.statistics import LabelStatistics, Statistics
from ray_pipeline.model import batches
from ray_pipeline.model.multilabel import Thresholds, decided

Answers = Callable[[pa.Table], NDArray[np.float64]]
"""From raw, typed rows to the outputs of `model_outputs`."""

BATCH_ROWS = 65_536
MAX_GROUP_VALUES = 50
OTHER_VALUES = "(other)"


@dataclass(frozen=True)
class Predictions:
    """The rows of one split: true labels [N] (class indices, or values) or [N, K] (0 and 1, where
    a row may have several), the model's outputs ([N, K] probabilities, or [N] values), and the
    group columns as texts."""

    labels: NDArray[Any]
    outputs: NDArray[np.float64]
    groups: pa.Table


def row_count(folder: UPath) -> int:
    """Rows in the parquet files of a folder; 0 where it does not exist."""
    return _dataset(folder).count_rows() if folder.exists() else 0


def predicted(
    model: nn.Module, statistics: Statistics, rows: UPath, groups: Sequence[str]
) -> Predictions:
    """The model's outputs for the raw rows in the parquet files of the folder `rows`, in order."""
    transform = compiled_arrow(statistics)
    labels, outputs, kept = [], [], []
    for batch in _dataset(rows).to_batches(batch_size=BATCH_ROWS):
        raw = pa.Table.from_batches([batch])
        ready = transform(raw)
        labels.append(labels_of(ready))
        outputs.append(_outputs_of(model, statistics.label, ready))
        kept.append(pa.table({name: cells.texts(raw[name]) for name in groups}))
    return Predictions(np.concatenate(labels), np.concatenate(outputs), pa.concat_tables(kept))


def answering(model: nn.Module, statistics: Statistics) -> Answers:
    """A function from raw rows, with or without their labels, to the model's outputs."""
    transform = compiled_arrow(statistics)

    def answers(rows: pa.Table) -> NDArray[np.float64]:
        unlabelled = rows.select([n for n in rows.column_names if n != statistics.label.name])
        return _outputs_of(model, statistics.label, transform(unlabelled))

    return answers


def _outputs_of(model: nn.Module, label: LabelStatistics, ready: pa.Table) -> NDArray[np.float64]:
    return model_outputs(model, label, matrices(ready))


def model_outputs(
    model: nn.Module, label: LabelStatistics, prepared: Matrices
) -> NDArray[np.float64]:
    """Probabilities [N, K] for prepared rows, or values [N] in the label's unit.

    A regression is trained on labels less their mean, over their deviation: that is undone here.
    """
    inputs = batches.tensors(prepared)
    count = len(next(iter(inputs.values())))
    outputs = np.empty(count if label.classes is None else (count, len(label.classes)))
    with torch.inference_mode():
        for places, part in batches.chunks(inputs):
            logits = model(**part).double()
            if label.classes is None:
                outputs[places] = logits[:, 0] * (label.deviation or 1.0) + label.mean
            else:
                several = label.separator is not None
                outputs[places] = logits.sigmoid() if several else logits.softmax(1)
    return outputs


def coded(texts: pa.ChunkedArray) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Codes [N] into the values of a group column, most frequent first; the rarest share one."""
    encoded = texts.combine_chunks().dictionary_encode()
    codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    ranked = np.argsort(-np.bincount(codes, minlength=len(names)), kind="stable")
    place = np.empty(len(names), dtype=np.int64)
    place[ranked] = np.arange(len(names))
    ordered = tuple(names[index] for index in ranked)
    if len(ordered) > MAX_GROUP_VALUES:
        ordered = (*ordered[: MAX_GROUP_VALUES - 1], OTHER_VALUES)
    return np.minimum(place[codes], len(ordered) - 1), ordered


def table(
    predictions: Predictions, classes: tuple[str, ...] | None, thresholds: Thresholds | None = None
) -> pa.Table:
    """Columns `label`, `predicted`, `probability_<class>` for each class, `group_<column>`; with
    `thresholds` the first two are lists."""
    outputs = predictions.outputs
    columns: dict[str, Any] = {"label": predictions.labels, "predicted": outputs}
    if classes is not None and thresholds is not None:
        lists = pa.list_(pa.string())
        columns["label"] = pa.array(named(predictions.labels, classes), lists)
        columns["predicted"] = pa.array(named(decided(outputs, thresholds), classes), lists)
    elif classes is not None:
        names = pa.array(classes)
        columns["label"] = names.take(pa.array(predictions.labels))
        columns["predicted"] = names.take(pa.array(outputs.argmax(1)))
    if classes is not None:
        columns |= {f"probability_{name}": outputs[:, k] for k, name in enumerate(classes)}
    groups = predictions.groups
    columns |= {f"group_{name}": groups[name] for name in groups.column_names}
    return pa.table(columns)


def _dataset(rows: UPath) -> pads.Dataset:
    return pads.dataset(rows.path, filesystem=rows.fs, format="parquet")
