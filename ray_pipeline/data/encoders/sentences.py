"""Texts as a pretrained sentence encoder's vectors: the mean over a text's tokens, of length 1.

The encoder runs in ONNX Runtime, in bulk as at the endpoint, where the same graph is a part of the
bundle's. It is written as ONNX once for each machine, into the user's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data.encoders import graphs, tokens
from ray_pipeline.data.encoders.build import Build
from ray_pipeline.data.statistics import SentenceStatistics
from ray_pipeline.job.features import ColumnFeatures

VECTOR = "vector of "
"""What stands before a column's name in that of its vectors, where they were made before."""

Vectors = NDArray[np.float32]


def fitted(name: str, settings: ColumnFeatures, where: str = tokens.ENCODER) -> SentenceStatistics:
    """The encoder of a column, which the job names at `where`. Raises JobError: it cannot be
    loaded."""
    column = tokens.fitted(name, settings, where)
    graph = onnx.load(str(graph_of(column.base, where)), load_external_data=False).graph
    output = graph.output[0]
    width = output.type.tensor_type.shape.dim[1].dim_value
    return SentenceStatistics(**column.model_dump(), width=width)


def graph_of(base: str, where: str = tokens.ENCODER) -> UPath:
    """The file of the encoder as ONNX, made if it is not in the cache: `tokens` [N, T] int64, -1
    after a text's end → [N, width] float. Raises JobError."""
    return graphs.cached("encoders", base, partial(_exported, where=where))


def _exported(base: str, where: str) -> bytes:
    import torch
    from torch import Tensor, nn

    from ray_pipeline.data import onnx_export
    from ray_pipeline.data.encoders import pretrained

    class Sentences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = pretrained.backbone(base, where)

        def forward(self, *inputs: Tensor) -> Tensor:
            return nn.functional.normalize(pretrained.pooled_mean(self.backbone, *inputs), dim=1)

    example = {"tokens": torch.zeros(2, 8, dtype=torch.int64)}
    content: bytes = onnx_export.graph_of(Sentences(), example, graphs.OPSET).SerializeToString()
    return content


def embedding(
    column: SentenceStatistics,
    threads: int = 1,
    graph: Path | None = None,
    providers: Sequence[str] = graphs.CPU,
) -> Callable[[Any], Vectors]:
    """A function from texts [N] to their vectors [N, width], of length 1; by the encoder in the
    file `graph`, if it is not to be that of the cache, and the first of ONNX Runtime's `providers`
    that can."""
    loaded = graphs.session(graph or graph_of(column.base), threads, providers)

    def run(columns: dict[str, NDArray[Any]]) -> Vectors:
        vectors: Vectors = loaded.run(None, {"tokens": columns[column.name]})[0]
        return vectors

    read = tokens.reading(run, [column])
    return lambda texts: read({column.name: texts})


def encoding(column: SentenceStatistics) -> Callable[[pa.Table], Vectors]:
    """A function from rows to the vectors [N, width] of the column's texts: those that the rows
    hold already, or made here."""
    embed: list[Callable[[Any], Vectors]] = []

    def encoded(rows: pa.Table) -> Vectors:
        if VECTOR + column.name in rows.column_names:
            made = rows[VECTOR + column.name].combine_chunks().flatten()
            return np.asarray(made).reshape(len(rows), column.width)
        if not embed:
            embed.append(embedding(column))
        return embed[0](texts_of(rows[column.name]))

    return encoded


def texts_of(values: pa.ChunkedArray) -> list[str]:
    """The texts as a request's: without white space around them, empty where there is none."""
    texts: list[str] = pc.utf8_trim_whitespace(
        pc.fill_null(values.cast(pa.string()), "")
    ).to_pylist()
    return texts


def encoded_node(build: Build, column: SentenceStatistics) -> str:
    """The vectors [N, width] float of a column that is given as tokens [N, T] int64."""
    encoder = onnx.load(str(graph_of(column.base)))
    onnx.compose.add_prefix(encoder, f"sentences/{column.name}/", inplace=True)
    given = encoder.graph.input[0].name
    for node in encoder.graph.node:
        node.input[:] = [column.name if name == given else name for name in node.input]
    build.nodes.extend(encoder.graph.node)
    build.constants.extend(encoder.graph.initializer)
    output: str = encoder.graph.output[0].name
    return output
