"""Which network is deployed: the trained one, or a smaller one that was trained after it."""

from __future__ import annotations

import json
from typing import Any

from upath import UPath

from ray_pipeline.data import feature_graph
from ray_pipeline.data import features as prepared
from ray_pipeline.deploy import graph, measure
from ray_pipeline.job import Compress
from ray_pipeline.model import compress, train
from ray_pipeline.schema import Schema

_NOTE = (
    "The trained network and the smaller ones trained after it, in 32 bits, measured on this "
    "machine with one thread over the validation rows. What is judged and deployed is the best by "
    "compress.objective of those within compress.max_drop."
)


def write(  # noqa: PLR0917 - a stage's inputs come by position
    trained: UPath,
    pruned: UPath | None,
    student: UPath | None,
    features: UPath,
    split: UPath,
    schema: Schema,
    settings: Compress,
    *,
    out: UPath,
) -> dict[str, Any]:
    """Measure the networks in these folders, and say which is `chosen`: its folder's name here.

    Writes `networks.json`, the table; the record holds it as `networks`.
    """
    statistics = prepared.load(features)
    given = {"trained": trained, "pruned": pruned, "student": student}
    networks = {name: train.load(folder) for name, folder in given.items() if folder is not None}
    reading = feature_graph.onnx_graph(statistics)
    opset = graph.opset_of(reading)
    forms = {
        name: measure.whole(graph.network_graph(network, statistics, opset), reading, statistics)
        for name, network in networks.items()
    }
    predict = measure.predictors(forms, statistics)
    rows = split / "validation"
    seen = measure.validated(rows, schema, networks["trained"], statistics, predict)
    measured = measure.candidates(forms, seen, predict)
    table = compress.chosen(measured, settings.max_drop, settings.objective)
    (out / "networks.json").write_text(json.dumps(table, indent=1))
    return {
        "rows_in": len(seen.labels),
        "rows_out": len(seen.labels),
        "networks": table,
        "chosen": next(row["name"] for row in table if row["chosen"]),
        "findings": [compress.finding("Smaller networks", _NOTE, table)],
    }
