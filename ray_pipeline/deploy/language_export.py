"""A trained language model as a bundle that servers of such models and transformers can read."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.bundle import Manifest
from ray_pipeline.data import features as prepared
from ray_pipeline.data.encoders import chat, pretrained
from ray_pipeline.data.matrices import PADDING, Matrices
from ray_pipeline.data.statistics import ChatStatistics
from ray_pipeline.deploy import card, gguf_check, gguf_file
from ray_pipeline.errors import GateRefused
from ray_pipeline.model import batches, train
from ray_pipeline.model.language_judgement import token_sums
from ray_pipeline.schema import Schema

FOLDER = "model"
ONE_FILE = "model.gguf"
COMPARED_ROWS = 64
MAX_DIFFERENCE = 1e-3
"""Largest difference of a row's mean loss that is rounding."""


def write(  # noqa: PLR0917 - a stage's inputs come by position
    trained: UPath,
    features: UPath,
    split: UPath,
    judged: UPath,
    schema: Schema,
    name: str,
    lineage: dict[str, str],
    *,
    out: UPath,
) -> dict[str, Any]:
    """Write the bundle of the language model in `trained` to `out/bundle`.

    Its folder `model` has config.json, model.safetensors (LoRA's additions in the weights) and the
    tokenizer; `model.gguf` is the same in 8 bits for llama.cpp, where it can be made. The record
    says how far what transformers and llama.cpp read is from the network, or why llama.cpp has no
    file.

    Raises:
        GateRefused: what was written foretells answers in another way than the network.
    """
    statistics, network = prepared.load(features), train.load(trained)
    assert statistics.chat is not None
    held_out = _first(prepared.read_matrix(features / "validation"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / FOLDER
        _save(network, statistics.chat, folder)
        parity = _parity(network, folder, held_out)
        _refuse_if_apart(parity)
        one_file = Path(scratch) / ONE_FILE
        parity["gguf"] = _in_one_file(network, folder, one_file, held_out)
        content = {f"{FOLDER}/{path.name}": path.read_bytes() for path in folder.iterdir()}
        if not (left_out := parity["gguf"].get("left_out")):
            content[ONE_FILE] = one_file.read_bytes()
    manifest = Manifest(
        name=name,
        version=out.name.rpartition("-")[2],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task="generation",
        schema=schema,
        classes=None,
        model_file=f"{FOLDER}/model.safetensors",
        model=json.loads((trained / "model.json").read_text()),
        metrics=json.loads((judged / "metrics.json").read_text()),
        parity=parity,
        lineage=lineage,
        base_model=statistics.chat.base,
    )
    content["README.md"] = card.readme(manifest, statistics.rows, statistics.label.name).encode()
    bundle.write(out / "bundle", manifest, content)
    return {
        "rows_in": len(held_out["label"]),
        "rows_out": len(held_out["label"]),
        "version": manifest.version,
        "parity": parity,
        "headline": f"no {ONE_FILE}: {left_out}" if left_out else f"with {ONE_FILE}",
        "bytes": {file: len(data) for file, data in content.items()},
    }


def converters() -> dict[str, str | None]:
    """The versions of the packages that write GGUF files and read them; None if not installed."""
    return {package: _version(package) for package in ("gguf", "xllamacpp")}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _in_one_file(network: Any, folder: Path, path: Path, rows: Matrices) -> dict[str, Any]:
    """Write the model in `folder` to `path` for llama.cpp: how far what that reads is from the
    network, or why it is `left_out` of the bundle."""
    absent = [package for package, found in converters().items() if found is None]
    if absent:
        needed = f"{' and '.join(absent)} not installed"
        return {"left_out": f"{needed}: pip install 'ray-pipeline[gguf]', and run it again"}
    config = network.backbone.config
    tokenizer = chat.tokenizer_of(str(folder))
    if reason := gguf_file.unfit(config, tokenizer):
        return {"left_out": reason}
    gguf_file.written(folder, config, tokenizer, path)
    return gguf_check.compared(path, network, tokenizer, rows)


def _save(network: nn.Module, column: ChatStatistics, folder: Path) -> None:
    """Write the network and its tokenizer as transformers reads them, the weights in one file."""
    backbone: Any = network.backbone
    backbone.save_pretrained(folder, max_shard_size=1 << 50)
    chat.tokenizer_of(column.base).save_pretrained(folder)


def _first(rows: Matrices) -> Matrices:
    return {name: values[:COMPARED_ROWS] for name, values in rows.items()}


def _parity(network: nn.Module, folder: Path, rows: Matrices) -> dict[str, Any]:
    """How far the loss that transformers itself finds with what is in `folder` is from ours."""
    stored = pretrained.causal(str(folder)).eval()
    inputs = batches.tensors(rows)
    ours = token_sums(network, rows)
    theirs = [
        _loss(stored, tokens[tokens != PADDING], targets[tokens != PADDING])
        for tokens, targets in zip(inputs["tokens"], inputs["targets"], strict=True)
    ]
    differences = [
        abs(float(row[0] / row[2]) - loss) for row, loss in zip(ours, theirs, strict=True) if row[2]
    ]
    return {"rows": len(differences), "max_difference": max(differences, default=0.0)}


def _loss(network: nn.Module, tokens: torch.Tensor, targets: torch.Tensor) -> float:
    """The mean loss of one text's targets [T], as transformers defines it."""
    labels = targets.masked_fill(targets == PADDING, -100)
    with torch.inference_mode():
        return float(network(input_ids=tokens[None], labels=labels[None]).loss)


def _refuse_if_apart(parity: dict[str, Any]) -> None:
    if parity["max_difference"] <= MAX_DIFFERENCE:
        return
    raise GateRefused(
        f"what was exported differs from the trained network by {parity['max_difference']:.3g} in "
        f"an answer's mean loss, over {parity['rows']:,} validation rows",
        where="export",
        expected=f"at most {MAX_DIFFERENCE:g}",
        hint="no bundle was written; look whether this version of transformers can read the base",
    )
