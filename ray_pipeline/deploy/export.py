"""From a trained network to a bundle: one ONNX graph that reads raw rows, checked against torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.bundle import Manifest
from ray_pipeline.data import feature_graph
from ray_pipeline.data import features as prepared
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.deploy import card, graph, runtime
from ray_pipeline.errors import BundleError, GateRefused
from ray_pipeline.job import Compress
from ray_pipeline.model import compress, train
from ray_pipeline.model.compress import Candidate, Columns, Predict
from ray_pipeline.model.predictions import BATCH_ROWS, Predictions, predicted
from ray_pipeline.schema import Schema

MAX_DIFFERENCE = 1e-3
MIN_AGREEMENT = 0.999


def write(  # noqa: PLR0917 - a stage's inputs come by position
    trained: UPath,
    features: UPath,
    split: UPath,
    judged: UPath,
    schema: Schema,
    name: str,
    settings: Compress,
    lineage: dict[str, str],
    *,
    out: UPath,
) -> dict[str, Any]:
    """Write the bundle of the network in `trained` to `out/bundle`.

    Its version is the digest at the end of `out`'s name. The record says how far the graph is
    from the network, which forms of it were measured, and which was taken.

    Raises:
        GateRefused: the graph's outputs are not the network's.
        JobError: the network cannot be written as ONNX.
    """
    statistics, network = prepared.load(features), train.load(trained)
    truth = predicted(network, statistics, split / "validation", ())
    forms = _forms(network, statistics, settings)
    predict = {form: runtime.predicting(content) for form, content in forms.items()}
    outputs, columns = _outputs(predict, split / "validation", schema)
    parity = {form: _parity(found, truth, statistics) for form, found in outputs.items()}
    _refuse_if_apart(parity["fp32"])
    times = compress.latencies(predict, columns)
    table = compress.chosen(
        [
            Candidate(form, len(forms[form]), *times[form], _score(outputs[form], truth))
            for form in forms
        ],
        settings.max_drop,
    )
    taken = next(row["name"] for row in table if row["chosen"])
    manifest = Manifest(
        name=name,
        version=out.name.rpartition("-")[2],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=statistics.task,
        schema=schema,
        classes=statistics.label.classes,
        model=json.loads((trained / "model.json").read_text()),
        metrics=json.loads((judged / "metrics.json").read_text()),
        parity={**parity[taken], "form": taken, "forms": parity},
        compression=table,
        lineage=lineage,
    )
    texts = {
        "statistics.json": (features / "statistics.json").read_text(),
        "README.md": card.readme(manifest, statistics.rows, statistics.label.name),
        **card.mlflow_files(manifest),
    }
    content = {name: text.encode() for name, text in texts.items()}
    content["model.onnx"] = forms[taken]
    bundle.write(out / "bundle", manifest, content)
    return {
        "rows_in": len(truth.labels),
        "rows_out": len(truth.labels),
        "version": manifest.version,
        "parity": manifest.parity,
        "compression": table,
        "bytes": {name: len(data) for name, data in content.items()},
    }


def published(stage: UPath, target: UPath) -> UPath:
    """`target`, holding the bundle that `write` put into the folder `stage`.

    What already stands there whole is left as it is: an endpoint may be reading it.
    """
    source = bundle.opened(stage / "bundle")
    try:
        if bundle.opened(target).manifest == source.manifest:
            return target
    except BundleError:  # nothing there yet, or half of it: it is written again
        target.mkdir(parents=True, exist_ok=True)
    content = {name: (source.path / name).read_bytes() for name in source.manifest.files}
    bundle.write(target, source.manifest, content)
    return target


def _forms(network: nn.Module, statistics: Statistics, settings: Compress) -> dict[str, bytes]:
    """The whole graph in each form that may be deployed, by name; the lossless one is first."""
    reading = feature_graph.onnx_graph(statistics)
    plain = graph.network_graph(network, statistics, graph.opset_of(reading))
    networks: dict[str, ModelProto] = {"fp32": plain}
    if settings.int8 == "auto":
        networks["int8"] = compress.quantized(plain)
    output = "value" if statistics.label.classes is None else "probabilities"
    return {
        name: graph.joined(reading, form, output).SerializeToString()
        for name, form in networks.items()
    }


def _outputs(
    predict: Mapping[str, Predict], rows: UPath, schema: Schema
) -> tuple[dict[str, NDArray[Any]], Columns]:
    """Each form's outputs for all raw rows, and the columns of some of them to measure with."""
    outputs: dict[str, list[NDArray[Any]]] = {name: [] for name in predict}
    columns: Columns = {}
    for table in _tables(rows):
        columns = runtime.columns_from_table(table, schema)
        for name, form in predict.items():
            outputs[name].append(form(columns))
    return {name: np.concatenate(parts) for name, parts in outputs.items()}, columns


def _parity(found: NDArray[Any], truth: Predictions, statistics: Statistics) -> dict[str, Any]:
    """Largest difference (of values: in standard deviations of the label), and label agreement."""
    apart = np.abs(found.astype(float) - truth.outputs) / (statistics.label.deviation or 1.0)
    agreement = (
        float((found.argmax(1) == truth.outputs.argmax(1)).mean()) if found.ndim == 2 else None
    )
    return {
        "rows": len(found),
        "max_difference": float(apart.max()),
        "label_agreement": agreement,
    }


def _refuse_if_apart(parity: dict[str, Any]) -> None:
    difference, agreement = parity["max_difference"], parity["label_agreement"]
    if difference <= MAX_DIFFERENCE and (agreement is None or agreement >= MIN_AGREEMENT):
        return
    agreeing = "" if agreement is None else f" and {agreement:.2%} of labels agree"
    raise GateRefused(
        f"the ONNX graph differs from the trained network by up to {difference:.3g}{agreeing}, "
        f"over {parity['rows']:,} validation rows",
        where="export",
        expected=f"at most {MAX_DIFFERENCE:g}, and {MIN_AGREEMENT:.1%}",
        hint="nothing was deployed; a network of your own may do something that depends on the "
        "batch (random numbers, or statistics over its rows)",
    )


def _score(found: NDArray[Any], truth: Predictions) -> float:
    """Accuracy, or R², against the true labels."""
    if found.ndim == 2:
        return float((found.argmax(1) == truth.labels).mean())
    spread = ((truth.labels - truth.labels.mean()) ** 2).sum()
    return float(1 - ((truth.labels - found) ** 2).sum() / spread) if spread else float("nan")


def _tables(rows: UPath) -> Iterator[pa.Table]:
    """The rows in the order in which `predicted` reads them."""
    dataset = pads.dataset(rows.path, filesystem=rows.fs, format="parquet")
    for batch in dataset.to_batches(batch_size=BATCH_ROWS):
        yield pa.Table.from_batches([batch])
