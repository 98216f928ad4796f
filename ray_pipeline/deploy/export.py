"""From a trained network to a bundle: one ONNX graph that reads raw rows, checked against torch."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from torch import nn
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.bundle import Manifest
from ray_pipeline.data import feature_graph
from ray_pipeline.data import features as prepared
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.deploy import (
    card,
    distance,
    distance_fit,
    forms,
    graph,
    measure,
    parity,
    probe,
    reference,
    texts,
    vectors,
)
from ray_pipeline.deploy.forms import Forms
from ray_pipeline.errors import GateRefused
from ray_pipeline.job import Compress
from ray_pipeline.model import compress, train
from ray_pipeline.schema import Schema

MAX_DIFFERENCE = 1e-3
MIN_AGREEMENT = 0.999
_FORMS_NOTE = (
    "The deployed network in fewer bits, measured on this machine with one thread over the "
    "validation rows. A form is taken only where it is better by compress.objective, and within "
    "compress.max_drop."
)


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
    networks: list[dict[str, Any]] | None = None,
    *,
    out: UPath,
) -> dict[str, Any]:
    """Write the bundle of the network in `trained` to `out/bundle`.

    Its version is the digest at the end of `out`'s name. The record says how far the graph is
    from the network, which forms of it were measured, and which was taken. `networks` is the table
    that this network was chosen from, if it was: no form may lose more than `max_drop` against the
    first of them.

    Raises:
        GateRefused: the graph's outputs are not the network's.
        JobError: the network cannot be written as ONNX.
    """
    statistics, network = prepared.load(features), train.load(trained)
    made = _forms(network, statistics, settings, features)
    columns = texts.tokenized(statistics)
    predict = {form: texts.reading(run, columns) for form, run in made.predict.items()}
    seen = measure.validated(split / "validation", schema, network, statistics, predict)
    metrics = json.loads((judged / "metrics.json").read_text())
    thresholds = tuple(metrics["thresholds"].values()) if metrics.get("thresholds") else None
    compared = (seen.truth, statistics.label.deviation, thresholds)
    apart = {form: parity.parity(seen.outputs[form], *compared) for form in predict}
    _refuse_if_apart(apart["fp32"])
    table = compress.chosen(
        measure.candidates(made.content, seen, predict),
        settings.max_drop,
        settings.objective,
        reference=networks[0]["score"] if networks else None,
        failed=made.failed,
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
        thresholds=thresholds,
        metrics=metrics,
        parity={**apart[taken], "form": taken, "forms": apart},
        networks=networks or [],
        compression=table,
        lineage=lineage,
        base_model=", ".join(column.base for column in texts.tokenized(statistics)) or None,
    )
    model, more = made.content[taken], {}
    rows = split / "validation"
    if sample := vectors.fitted(model, rows, schema, statistics):
        more[vectors.FILE] = sample.model_dump_json()
    far = distance_fit.fitted(features, split, statistics)
    if far is not None:
        model = distance_fit.telling(model, statistics)
        more[distance.FILE] = far.model_dump_json()
    like = reference.fitted(rows, schema, statistics, seen.labels, seen.outputs[taken])
    more[reference.FILE] = like.model_dump_json()
    more[probe.FILE] = probe.written(statistics, schema, predict["fp32"])
    sizes = _written(out / "bundle", manifest, statistics, model, more)
    return {
        "rows_in": len(seen.labels),
        "rows_out": len(seen.labels),
        "version": manifest.version,
        "parity": manifest.parity,
        "compression": table,
        "findings": [compress.finding("Its forms", _FORMS_NOTE, table)],
        "bytes": sizes,
        **({"distance": far.model_dump(exclude={"mean", "whitening"})} if far else {}),
    }


def _written(
    out: UPath, manifest: Manifest, statistics: Statistics, model: bytes, more: dict[str, str]
) -> dict[str, int]:
    """Write the bundle, and return its files' sizes in bytes."""
    written = {
        **texts.files_of(statistics),
        **more,
        "README.md": card.readme(manifest, statistics.rows, statistics.label.name),
        **card.mlflow_files(manifest),
    }
    content = {name: text.encode() for name, text in written.items()}
    content[manifest.model_file] = model
    bundle.write(out, manifest, content)
    return {name: len(data) for name, data in content.items()}


def _forms(
    network: nn.Module, statistics: Statistics, settings: Compress, features: UPath
) -> Forms:
    """The whole graph in each form that may be deployed."""
    reading = feature_graph.onnx_graph(statistics)
    plain = graph.network_graph(network, statistics, graph.opset_of(reading))
    return forms.made(
        plain,
        settings,
        lambda: measure.calibration(features),
        lambda form: measure.whole(form, reading, statistics),
    )


def _refuse_if_apart(found: dict[str, Any]) -> None:
    difference, agreement = found["max_difference"], found["label_agreement"]
    if difference <= MAX_DIFFERENCE and (agreement is None or agreement >= MIN_AGREEMENT):
        return
    agreeing = "" if agreement is None else f" and {agreement:.2%} of labels agree"
    raise GateRefused(
        f"the ONNX graph differs from the trained network by up to {difference:.3g}{agreeing}, "
        f"over {found['rows']:,} validation rows",
        where="export",
        expected=f"at most {MAX_DIFFERENCE:g}, and {MIN_AGREEMENT:.1%}",
        hint="nothing was deployed; a network of your own may do something that depends on the "
        "batch (random numbers, or statistics over its rows)",
    )
