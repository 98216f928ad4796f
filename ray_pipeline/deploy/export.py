"""From a trained network to a bundle: one ONNX graph that reads raw rows, checked against torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from ray_pipeline.model.feed import matrices
from ray_pipeline.schema import Schema

MAX_DIFFERENCE = 1e-3
MIN_AGREEMENT = 0.999
BATCH_ROWS = 65_536


@dataclass(frozen=True)
class _Validated:
    """Of N validation rows: true labels [N], the network's outputs and each form's ([N, K]
    probabilities, or [N] values), and the raw columns of the last rows, to measure with."""

    labels: NDArray[Any]
    truth: NDArray[Any]
    outputs: dict[str, NDArray[Any]]
    columns: Columns


def write(  # noqa: PLR0917 - a stage's inputs come by position
    trained: UPath,
    features: UPath,
    split: UPath,
    judged: UPath,
    schema: Schema,
    name: str,
    settings: Compress,
    lineage: dict[str, str],
    cleaning: dict[str, Any] | None = None,
    privacy: dict[str, Any] | None = None,
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
    forms = _forms(network, statistics, settings)
    predict = {form: runtime.predicting(content) for form, content in forms.items()}
    seen = _validated(split / "validation", schema, network, statistics, predict)
    parity = {form: _parity(seen, form, statistics) for form in forms}
    _refuse_if_apart(parity["fp32"])
    times = compress.latencies(predict, seen.columns)
    table = compress.chosen(
        [Candidate(form, len(forms[form]), *times[form], _score(seen, form)) for form in forms],
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
        cleaning=cleaning or {},
        privacy=privacy or {},
        model=json.loads((trained / "model.json").read_text()),
        metrics=json.loads((judged / "metrics.json").read_text()),
        parity={**parity[taken], "form": taken, "forms": parity},
        compression=table,
        lineage=lineage,
    )
    sizes = _written(out / "bundle", manifest, statistics, forms[taken])
    return {
        "rows_in": len(seen.labels),
        "rows_out": len(seen.labels),
        "version": manifest.version,
        "parity": manifest.parity,
        "compression": table,
        "bytes": sizes,
    }


def _written(
    out: UPath, manifest: Manifest, statistics: Statistics, model: bytes
) -> dict[str, int]:
    """Write the bundle, and return its files' sizes in bytes."""
    texts = {
        "statistics.json": statistics.model_dump_json(indent=1),
        "README.md": card.readme(manifest, statistics.rows, statistics.label.name),
        **card.mlflow_files(manifest),
    }
    content = {name: text.encode() for name, text in texts.items()}
    content[manifest.model_file] = model
    bundle.write(out, manifest, content)
    return {name: len(data) for name, data in content.items()}


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


def _validated(
    rows: UPath,
    schema: Schema,
    network: nn.Module,
    statistics: Statistics,
    predict: Mapping[str, Predict],
) -> _Validated:
    """What the network and each form say of every raw row in the folder `rows`."""
    transform = prepared.compiled_arrow(statistics)
    torch_outputs = graph.torch_outputs(network, statistics)
    labels, truth, columns = [], [], Columns()
    outputs: dict[str, list[NDArray[Any]]] = {form: [] for form in predict}
    for table in _tables(rows):
        ready = matrices(transform(table))
        labels.append(ready["label"])
        truth.append(torch_outputs(ready["numbers"], ready["categories"]))
        columns = runtime.columns_from_table(table, schema)
        for form, of_form in predict.items():
            outputs[form].append(_same_shape(of_form(columns), truth[-1]))
    return _Validated(
        np.concatenate(labels),
        np.concatenate(truth),
        {form: np.concatenate(parts) for form, parts in outputs.items()},
        columns,
    )


def _same_shape(found: NDArray[Any], truth: NDArray[Any]) -> NDArray[Any]:
    if found.shape != truth.shape:
        raise GateRefused(
            f"the ONNX graph puts out {found.shape}, the trained network {truth.shape}",
            where="export",
            expected="the same for any number of rows",
            hint="nothing was deployed; take shapes in forward() from tensors, not as numbers",
        )
    return found


def _parity(seen: _Validated, form: str, statistics: Statistics) -> dict[str, Any]:
    """Largest difference (of values: in standard deviations of the label), and label agreement."""
    found, truth = seen.outputs[form], seen.truth
    apart = np.abs(found.astype(float) - truth)
    if found.ndim == 1:
        return {
            "rows": len(found),
            "max_difference": float(apart.max()) / (statistics.label.deviation or 1.0),
            "label_agreement": None,
        }
    return {
        "rows": len(found),
        "max_difference": float(apart.max()),
        "label_agreement": float((found.argmax(1) == truth.argmax(1)).mean()),
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


def _score(seen: _Validated, form: str) -> float:
    """Accuracy, or R², against the true labels."""
    found, labels = seen.outputs[form], seen.labels
    if found.ndim == 2:
        return float((found.argmax(1) == labels).mean())
    spread = float(((labels - labels.mean()) ** 2).sum())
    return 1 - float(((labels - found) ** 2).sum()) / spread if spread else float("nan")


def _tables(rows: UPath) -> Iterator[pa.Table]:
    dataset = pads.dataset(rows.path, filesystem=rows.fs, format="parquet")
    for batch in dataset.to_batches(batch_size=BATCH_ROWS):
        yield pa.Table.from_batches([batch])
