"""A trained embedding as a bundle: an ONNX graph from texts to vectors, and the encoder as a folder
that the Hugging Face libraries read, and features with `text: embedding`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.bundle import Manifest
from ray_pipeline.data import feature_graph, onnx_export
from ray_pipeline.data import features as prepared
from ray_pipeline.data.encoders import pairs
from ray_pipeline.data.encoders import tokens as tokenized
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.deploy import card, forms, graph, measure, probe, texts
from ray_pipeline.errors import GateRefused
from ray_pipeline.job import Compress
from ray_pipeline.model import compress, retrieval, train
from ray_pipeline.model.compress import Candidate, Predict
from ray_pipeline.model.embedding import Embedding
from ray_pipeline.model.quantize import Arrays
from ray_pipeline.model.retrieval_judgement import Search, by_question, embedding, searched
from ray_pipeline.schema import Schema

FOLDER = "encoder"
MAX_DIFFERENCE = 1e-3
COMPARED = 256
"""Texts whose vectors are compared with the network's."""
QUESTIONS = 1_024
"""Validation questions that the forms are measured on."""
_FORMS_NOTE = (
    "The deployed encoder in fewer bits, measured on this machine with one thread; the score is "
    "its MRR over validation questions among their passages. A form is taken only where it is "
    "better by compress.objective, and within compress.max_drop."
)


class _Vectors(nn.Module):
    def __init__(self, network: Embedding) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network.vectors(*inputs)


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
    """Write the bundle of the embedding in `trained` to `out/bundle`.

    Its graph takes a text, by the name of the questions' column, and puts out its vector: that of
    a question or of a passage. Its folder `encoder` has config.json, model.safetensors (LoRA's
    additions in the weights) and tokenizer.json. The record is as that of `export.write`; a form's
    score is its MRR over validation questions.

    Raises:
        GateRefused: the graph's vectors are not the network's.
        JobError: the network cannot be written as ONNX.
    """
    statistics, network = prepared.load(features), train.load(trained)
    assert isinstance(network, Embedding), "pairs are learned by an embedding"
    assert statistics.pairs is not None, "an embedding is trained on pairs"
    asked = pairs.asked(statistics)
    made = _forms(network, asked, settings, features)
    predict = {
        form: texts.reading(run, texts.tokenized(asked)) for form, run in made.predict.items()
    }
    sought = _few(searched(split, "validation", statistics))
    parity = _parity(network, statistics, predict, sought)
    _refuse_if_apart(parity["fp32"])
    candidates = _candidates(made, predict, sought, asked)
    table = compress.chosen(candidates, settings.max_drop, settings.objective, failed=made.failed)
    taken = next(row["name"] for row in table if row["chosen"])
    manifest = Manifest(
        name=name,
        version=out.name.rpartition("-")[2],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=statistics.task,
        schema=schema,
        classes=None,
        cleaning=cleaning or {},
        privacy=privacy or {},
        model=json.loads((trained / "model.json").read_text()),
        metrics=json.loads((judged / "metrics.json").read_text()),
        parity={**parity[taken], "form": taken, "forms": parity},
        compression=table,
        lineage=lineage,
        base_model=statistics.pairs.base,
    )
    sizes = _written(
        out / "bundle",
        manifest,
        asked,
        network,
        {
            manifest.model_file: made.content[taken],
            probe.FILE: probe.written(asked, schema, predict["fp32"]).encode(),
        },
    )
    return {
        "rows_in": len(sought.questions),
        "rows_out": len(sought.questions),
        "version": manifest.version,
        "parity": manifest.parity,
        "compression": table,
        "findings": [compress.finding("Its forms", _FORMS_NOTE, table)],
        "bytes": sizes,
    }


def vectors_graph(network: Embedding, opset: int) -> ModelProto:
    """`network` as ONNX: `tokens` [N, T] int64, -1 after a text's end → vectors [N, W]."""
    example = {"tokens": torch.zeros(2, 8, dtype=torch.int64)}
    return onnx_export.graph_of(_Vectors(network), example, opset)


def _forms(
    network: Embedding, asked: Statistics, settings: Compress, features: UPath
) -> forms.Forms:
    reading = feature_graph.onnx_graph(asked)
    plain = vectors_graph(network, graph.opset_of(reading))

    def whole(form: ModelProto) -> bytes:
        content: bytes = graph.joined(reading, form, "vector", asked.raw).SerializeToString()
        return content

    return forms.made(plain, settings, lambda: _calibration(features), whole)


def _calibration(features: UPath) -> Iterator[Arrays]:
    """The tokens of some training questions and passages."""
    for part in measure.calibration(features):
        for name in ("question", "passage"):
            yield {"tokens": part[name].astype(np.int64)}


def _few(sought: Search) -> Search:
    """A search with at most QUESTIONS questions, among their own passages alone."""
    kept = sought.answers[:QUESTIONS]
    places = {place: at for at, place in enumerate(sorted({p for each in kept for p in each}))}
    return replace(
        sought,
        questions=sought.questions[:QUESTIONS],
        answers=[[places[place] for place in each] for each in kept],
        passages=[sought.passages[place] for place in places],
    )


def _parity(
    network: Embedding, statistics: Statistics, predict: dict[str, Predict], sought: Search
) -> dict[str, dict[str, Any]]:
    """How far each form's vectors are from the network's, in the worst of their numbers."""
    compared = [*sought.questions[: COMPARED // 2], *sought.passages[: COMPARED // 2]]
    column = pairs.asked(statistics).tokens
    assert column is not None, "questions are read as tokens"
    truth = embedding(network, statistics)(compared)
    found = {form: run({column.name: _array(compared)}) for form, run in predict.items()}
    return {
        form: {
            "rows": len(compared),
            "max_difference": float(np.abs(vectors - truth).max()),
            "label_agreement": None,
        }
        for form, vectors in found.items()
    }


def _refuse_if_apart(parity: dict[str, Any]) -> None:
    if parity["max_difference"] <= MAX_DIFFERENCE:
        return
    raise GateRefused(
        f"the ONNX graph differs from the trained network by up to {parity['max_difference']:.3g} "
        f"in a vector's numbers, over {parity['rows']:,} validation texts",
        where="export",
        expected=f"at most {MAX_DIFFERENCE:g}",
        hint="nothing was deployed; look whether this version of torch can write the base as ONNX",
    )


def _candidates(
    made: forms.Forms, predict: dict[str, Predict], sought: Search, asked: Statistics
) -> list[Candidate]:
    """Each form with its size, its times, and its MRR over the questions of `sought`."""
    assert asked.tokens is not None, "questions are read as tokens"
    name = asked.tokens.name
    times = compress.latencies(predict, {name: _array(sought.questions[: compress.BATCH])})
    found = []
    for form, run in predict.items():
        figures = by_question(sought, lambda given, run=run: run({name: _array(given)}))  # type: ignore[misc]
        score = figures[:, retrieval.names().index("mrr")]
        found.append(
            compress.measured(form, made.content[form], times[form], *compress.mean_scored(score))
        )
    return found


def _array(given: Any) -> NDArray[Any]:
    return np.array(given, object)


def _written(
    out: UPath,
    manifest: Manifest,
    asked: Statistics,
    network: Embedding,
    model: dict[str, bytes],
) -> dict[str, int]:
    """Write the bundle with the files of its `model`, and return all files' sizes in bytes."""
    assert asked.tokens is not None, "questions are read as tokens"
    written = {
        **texts.files_of(asked),
        "README.md": card.readme(manifest, asked.rows, asked.label.name),
        **card.mlflow_files(manifest),
        f"{FOLDER}/{tokenized.FILE}": asked.tokens.tokenizer,
    }
    content = model | {file: text.encode() for file, text in written.items()}
    with tempfile.TemporaryDirectory() as scratch:
        network.backbone.save_pretrained(scratch, max_shard_size=1 << 50)
        content |= {f"{FOLDER}/{file.name}": file.read_bytes() for file in Path(scratch).iterdir()}
    bundle.write(out, manifest, content)
    return {file: len(data) for file, data in content.items()}
