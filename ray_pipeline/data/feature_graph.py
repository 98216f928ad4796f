"""The statistics as an ONNX graph: raw rows in, a model's input out, as `compiled.compiled_arrow`.

Built for one row at a time as much as for a thousand: columns that are alike go through the same
few nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

from ray_pipeline.data.encoders import category, date, number, sentences, target, text
from ray_pipeline.data.encoders.build import ML, RUNTIME, Build
from ray_pipeline.data.statistics import Statistics

OPSET, ML_OPSET, RUNTIME_OPSET, IR_VERSION = 20, 4, 1, 10


def onnx_graph(statistics: Statistics) -> ModelProto:
    """The feature graph.

    Inputs are the feature columns by name, [N] each: double for integers, numbers, booleans and
    dates in seconds (NaN or an infinity is missing), string for categories and texts ("" is
    missing). Outputs are `numbers` [N, number_width] float and `categories` [N, C] int64, without
    one whose width is 0; an output that a column shares its name with carries underscores after
    it.
    """
    build = Build()
    doubles = [column.name for column in statistics.numbers]
    doubles += [column.name for column in statistics.dates]
    strings = [column.name for column in statistics.categories]
    strings += [column.name for column in statistics.texts]
    tokens = [column.name for column in statistics.sentences]
    inputs = [_value(name, TensorProto.DOUBLE) for name in doubles]
    inputs += [_value(name, TensorProto.STRING) for name in strings]
    inputs += [_value(name, TensorProto.INT64, f"T {name}") for name in tokens]
    taken = doubles + strings + tokens
    outputs = []
    if statistics.number_width:
        numbers = _free("numbers", taken)
        build.beside(_numbers(build, statistics), numbers)
        outputs.append(_value(numbers, TensorProto.FLOAT, statistics.number_width))
    if statistics.category_sizes:
        categories = _free("categories", taken)
        build.columns(_categories(build, statistics), categories)
        outputs.append(_value(categories, TensorProto.INT64, len(statistics.category_sizes)))
    graph = helper.make_graph(build.nodes, "features", inputs, outputs, build.constants)
    model = helper.make_model(
        graph, opset_imports=_opsets(build), ir_version=IR_VERSION, producer_name="ray_pipeline"
    )
    onnx.checker.check_model(model)
    return model


def _opsets(build: Build) -> list[Any]:
    """The operator sets in use: a graph without ONNX Runtime's own runs elsewhere too."""
    used = {node.domain for node in build.nodes}
    known = {ML: ML_OPSET, RUNTIME: RUNTIME_OPSET}
    own = [helper.make_opsetid(name, known[name]) for name in known if name in used]
    return [helper.make_opsetid("", OPSET), *own]


def _value(name: str, kind: int, *shape: int | str) -> Any:
    return helper.make_tensor_value_info(name, kind, ["N", *shape])


def _free(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _numbers(build: Build, statistics: Statistics) -> list[str]:
    """The blocks of `numbers`, each [N, W] float, in the order that Statistics gives."""
    missing = statistics.missing
    blocks = [number.scaled_node(build, statistics.scaled)] if statistics.scaled else []
    for cyclic in (True, False):
        if dated := statistics.dated(cyclic):
            blocks.append(date.encoded_node(build, dated, cyclic))
    for column in statistics.encoded("onehot"):
        blocks.append(category.onehot_node(build, column, missing))
    for column in statistics.encoded("target"):
        blocks.append(target.encoded_node(build, column, missing))
    for written in statistics.texts:
        if written.terms:
            blocks.append(text.encoded_node(build, written))
    for meant in statistics.sentences:
        blocks.append(sentences.encoded_node(build, meant))
    return blocks


def _categories(build: Build, statistics: Statistics) -> list[str]:
    """The columns of `categories`, each [N] int64, in the order that Statistics gives."""
    indexed = [
        category.coded_node(build, column, statistics.missing) for column in statistics.indexed
    ]
    return indexed + [number.binned_node(build, column) for column in statistics.binned]
