"""For each question of the training pairs a passage that is wrong and looks right.

As dense retrievers are trained since Karpukhin et al. (2020), https://arxiv.org/abs/2004.04906;
sought once, with the network as it is before training.

Shape letters: Q questions, D different passages, W a vector's width, T tokens.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.data import parts
from ray_pipeline.data.matrices import matrices
from ray_pipeline.job import Model
from ray_pipeline.model import batches, loop, zoo
from ray_pipeline.model.contrastive import marks
from ray_pipeline.model.embedding import Embedding
from ray_pipeline.model.train import Record

BELOW = 0.95
"""A passage whose similarity is nearer than this share to that of a question's own may well answer
it, too, and is left out: de Souza Moreira et al. (2024), https://arxiv.org/abs/2407.15831."""
SCORES = 1 << 24
"""Similarities that are held at a time."""

Floats = NDArray[np.float32]


def write(features: UPath, model: Model, *, out: UPath) -> Record:
    """The prepared rows in `features` again, those of training with a column `negative`.

    In this process: one pass of the network over the training texts, then every question is
    compared with every passage.

    Raises:
        JobError: there is no such network.
    """
    statistics = prepared.load(features)
    network = zoo.build(model, loop.inputs(statistics)).eval()
    assert isinstance(network, Embedding), "only an embedding has a contrastive loss"
    files = parts.existing_files(features / "train")
    tables = [parts.read(path) for path in files]
    whole = pa.concat_tables(tables)
    chosen, alike = nearest_wrong(network, matrices(whole))
    wrong = whole.append_column("negative", whole["passage"].take(pa.array(chosen)))
    start = 0
    for path, table in zip(files, tables, strict=True):
        parts.written(wrong.slice(start, len(table)), out / "train" / path.name)
        start += len(table)
    for path in parts.existing_files(features / "validation"):
        parts.written(parts.read(path), out / "validation" / path.name)
    (out / prepared.STATISTICS).write_text(statistics.model_dump_json(indent=1))
    held_out = sum(parts.row_count(path) for path in parts.existing_files(features / "validation"))
    return {
        "rows_in": len(whole) + held_out,
        "rows_out": len(whole) + held_out,
        "rows_quarantined": 0,
        "similarity": {"own": float(alike[0].mean()), "wrong": float(alike[1].mean())},
    }


def nearest_wrong(
    network: Embedding, rows: dict[str, NDArray[np.int32]]
) -> tuple[NDArray[np.int64], tuple[Floats, Floats]]:
    """The rows [Q] whose passages are taken, and the similarities [Q] of each question with its own
    passage and with that one.

    Taken is the nearest of those that are less than BELOW times as similar as the own one; where
    there is none, the farthest. With one passage alone, it is itself, which the loss leaves out.
    """
    own_marks = marks(torch.from_numpy(np.array(rows["passage"]))).numpy()
    _, first, place = np.unique(own_marks, return_index=True, return_inverse=True)
    questions = _vectors(network, rows["question"])
    passages = _vectors(network, rows["passage"][first])
    chosen = np.empty(len(questions), np.int64)
    own, wrong = np.empty(len(questions), np.float32), np.empty(len(questions), np.float32)
    step = max(1, SCORES // len(first))
    for start in range(0, len(questions), step):
        part = slice(start, start + step)
        scores = questions[part] @ passages.T
        index = np.arange(len(scores))
        own[part] = scores[index, place[part]]
        allowed = np.where(scores < BELOW * own[part, None], scores, -np.inf)
        allowed[index, place[part]] = -np.inf
        farthest = np.where(np.isfinite(allowed).any(1), allowed.argmax(1), scores.argmin(1))
        wrong[part] = scores[index, farthest]
        chosen[part] = first[farthest]
    return chosen, (own, wrong)


def _vectors(network: Embedding, tokens: NDArray[np.int32]) -> Floats:
    """The vectors [N, W] of texts as tokens [N, T]."""
    found: list[Floats] = []
    order: list[NDArray[np.int64]] = []
    with torch.inference_mode():
        for places, part in batches.chunks(batches.tensors({"tokens": tokens})):
            assert isinstance(places, torch.Tensor), "texts come in the order of their lengths"
            order.append(places.numpy())
            found.append(network.vectors(part["tokens"]).numpy())
    vectors = np.concatenate(found)
    vectors[np.concatenate(order)] = vectors.copy()
    return vectors
