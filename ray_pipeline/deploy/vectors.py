"""Vectors of whole rows, by which texts and images are compared that have no columns to compare.

A row's vector is what the last layer of the bundle's own graph reads, which is all that its model
makes of a text or an image. Wide ones are projected onto WIDTH random directions, which keeps the
distances between them about as they are (Johnson and Lindenstrauss 1984) and depends on no row. A
bundle keeps those of some validation rows.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto
from pydantic import BaseModel, ConfigDict
from upath import UPath

from ray_pipeline.bundle import Bundle
from ray_pipeline.data.statistics import Statistics, TokenStatistics
from ray_pipeline.deploy import runtime, texts
from ray_pipeline.deploy.halves import Columns
from ray_pipeline.schema import Schema

FILE = "vectors.json"
ROWS, WIDTH = 512, 64
"""Validation rows whose vectors are kept, and the most numbers of each: 85 kB of a bundle."""
_LARGEST = 6e4
"""Larger numbers are none of a float16."""
_LAYERS = frozenset(
    {"Gemm", "QGemm", "MatMul", "MatMulInteger", "MatMulNBits", "QLinearMatMul"}
    | {"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"}
)
_SAME = frozenset({"Cast", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})
"""Nodes that put out what they read, in other bits."""

Vectors = NDArray[np.float32]
Reading = Callable[[Columns], Vectors]


class Sample(BaseModel):
    """The vectors of some validation rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int
    """Numbers of each."""
    float16: str
    """All of them, row by row, little-endian, in base64."""

    @property
    def vectors(self) -> Vectors:
        """[N, width]."""
        numbers = np.frombuffer(base64.b64decode(self.float16), "<f2")
        return numbers.reshape(-1, self.width).astype(np.float32)


def fitted(model: bytes, rows: UPath, schema: Schema, statistics: Statistics) -> Sample | None:
    """The sample of the raw rows in the folder `rows`, ROWS that are spread evenly over them; None
    where a model reads neither texts nor images, or ends in no layer."""
    tokenized = texts.tokenized(statistics)
    wide = statistics.texts or statistics.image or tokenized
    vectors_of = reading(model, tokenized) if wide else None
    if vectors_of is None:
        return None
    dataset = pads.dataset(rows.path, filesystem=rows.fs, format="parquet")
    count = dataset.count_rows()
    places = np.unique(np.linspace(0, count - 1, min(count, ROWS)).astype(int))
    features = [column.name for column in schema.features]
    table = dataset.take(pa.array(places), columns=features)
    found = vectors_of(runtime.columns_from_table(table, schema, statistics.image))
    content = base64.b64encode(found.astype("<f2").tobytes()).decode()
    return Sample(width=found.shape[1], float16=content)


def known(opened: Bundle) -> Vectors | None:
    """The vectors [N, D] that a bundle keeps; None of one that keeps none."""
    if FILE not in opened.manifest.files:
        return None
    text = (opened.path / FILE).read_text(encoding="utf-8")
    return Sample.model_validate_json(text).vectors


def reading_of(opened: Bundle) -> Reading | None:
    """As `reading`, of a bundle."""
    return reading(opened.model.read_bytes(), texts.columns_of(opened))


def reading(model: bytes, tokenized: Sequence[TokenStatistics]) -> Reading | None:
    """A function from raw columns of N rows, clean, to their vectors [N, at most WIDTH]; None where
    the graph `model` ends in no layer. `tokenized` are the columns that it is given as tokens."""
    before = hidden(model)
    if before is None:
        return None
    run = texts.reading(runtime.predicting(before), tokenized)

    def vectors(columns: Columns) -> Vectors:
        made = run(columns)
        # Of a layer that is given many vectors of a row, their mean.
        found = projected(made.reshape(len(made), -1, made.shape[-1]).mean(axis=1))
        # As those that a bundle keeps: they must differ by nothing else, not by their rounding.
        return found.clip(-_LARGEST, _LARGEST).astype(np.float16).astype(np.float32)

    return vectors


def hidden(model: bytes) -> bytes | None:
    """The graph that puts out what the last layer of `model` reads; None where there is no layer
    between its rows and its first output."""
    whole: ModelProto = onnx.load_from_string(model)
    makers = {name: node for node in whole.graph.node for name in node.output}
    last = next((node for node in _back(whole, makers) if node.op_type in _LAYERS), None)
    if last is None:
        return None
    name = last.input[0]
    while name in makers and makers[name].op_type in _SAME:
        name = makers[name].input[0]
    del whole.graph.output[:]
    whole.graph.output.append(onnx.ValueInfoProto(name=name))  # its type is inferred
    content: bytes = whole.SerializeToString()
    return content


def projected(vectors: NDArray[np.floating]) -> Vectors:
    """Vectors [N, D] on WIDTH directions that are always the same; as they are if they have no more
    numbers."""
    width = vectors.shape[1]
    if width <= WIDTH:
        return vectors.astype(np.float32)
    # The one generator whose numbers are promised to be the same in all versions of numpy.
    directions = np.random.RandomState(0).standard_normal((width, WIDTH)) / WIDTH**0.5
    found: Vectors = (vectors @ directions.astype(np.float32)).astype(np.float32)
    return found


def _back(whole: ModelProto, makers: dict[str, NodeProto]) -> Iterator[NodeProto]:
    """The nodes that make the first output, the nearest to it first."""
    waiting, seen = [whole.graph.output[0].name], set[str]()
    while waiting:
        name = waiting.pop(0)
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        yield node
        waiting += node.input
