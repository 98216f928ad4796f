"""The statistics as an ONNX graph: raw rows in, a model's input out, as `features.compiled_arrow`.

Built for one row at a time as much as for a thousand: all number columns go through the same few
nodes. A value's knots are found by a decision tree per column (a binary search in one node; half
the time of comparing with all 256 knots for 1,000 rows), each text by a hash lookup. Arithmetic is
in double, in the order of `quantiles.scored`, and becomes float in the last node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ray_pipeline.data import quantiles
from ray_pipeline.data.statistics import (
    FIRST_VALUE,
    LARGEST_SCORE,
    MISSING,
    UNKNOWN,
    CategoryStatistics,
    NumberStatistics,
    Statistics,
)

OPSET, ML_OPSET, IR_VERSION = 20, 4, 10
ML = "ai.onnx.ml"
_PREFIX = "feature graph/"  # before every inner name: a column may be called anything


def onnx_graph(statistics: Statistics) -> ModelProto:
    """The feature graph.

    Inputs are the feature columns by name, [N] each: double for integers, numbers and booleans
    (NaN or an infinity is missing), string for categories ("" is missing). Outputs are `numbers`
    [N, number_width] float and `categories` [N, C] int64, without one whose width is 0; an output
    that a column shares its name with carries underscores after it.
    """
    build = _Build()
    columns = [column.name for column in statistics.numbers]
    columns += [column.name for column in statistics.categories]
    inputs = [_value(column.name, TensorProto.DOUBLE) for column in statistics.numbers]
    inputs += [_value(column.name, TensorProto.STRING) for column in statistics.categories]
    outputs = []
    if statistics.numbers:
        numbers = _free("numbers", columns)
        _numbers(build, statistics, numbers)
        outputs.append(_value(numbers, TensorProto.FLOAT, statistics.number_width))
    if statistics.categories:
        categories = _free("categories", columns)
        _categories(build, statistics, categories)
        outputs.append(_value(categories, TensorProto.INT64, len(statistics.categories)))
    graph = helper.make_graph(build.nodes, "features", inputs, outputs, build.constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML, ML_OPSET)]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ray_pipeline"
    )
    onnx.checker.check_model(model)
    return model


@dataclass
class _Build:
    """Nodes and constants so far; each call adds a node and returns the name of its output."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def node(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        out = out or f"{_PREFIX}{len(self.nodes)}"
        name = f"{_PREFIX}{kind} {len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=name, **attributes))
        return out

    def constant(self, values: Any, dtype: Any = np.float64) -> str:
        name = f"{_PREFIX}constant {len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name


def _value(name: str, kind: int, *shape: int) -> Any:
    return helper.make_tensor_value_info(name, kind, ["N", *shape])


def _free(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _columns(build: _Build, names: Sequence[str], out: str = "") -> str:
    """Tensors [N] side by side, [N, len(names)]."""
    ends = build.node("Concat", *names, axis=0)
    rows = build.node("Reshape", ends, build.constant([len(names), -1], np.int64))
    return build.node("Transpose", rows, perm=[1, 0], out=out)


def _numbers(build: _Build, statistics: Statistics, out: str) -> None:
    columns = statistics.numbers
    values = _columns(build, [column.name for column in columns])
    apart = build.node("Sub", values, values)  # 0, or NaN for NaN and the infinities
    missing = build.node("IsNaN", apart)
    medians = build.constant([column.median for column in columns])
    whole = build.node("Where", missing, medians, values)
    scaled = (_scored if statistics.method == "quantile" else _standardised)(build, columns, whole)
    flags = [index for index, column in enumerate(columns) if column.missing]
    if not flags:
        build.node("Cast", scaled, to=TensorProto.FLOAT, out=out)
        return
    flagged = build.node("Gather", missing, build.constant(flags, np.int64), axis=1)
    singles = [build.node("Cast", part, to=TensorProto.FLOAT) for part in (scaled, flagged)]
    build.node("Concat", *singles, axis=1, out=out)


def _standardised(build: _Build, columns: Sequence[NumberStatistics], values: str) -> str:
    means = build.constant([column.mean for column in columns])
    deviations = build.constant([column.deviation or 1.0 for column in columns])
    scores = build.node("Div", build.node("Sub", values, means), deviations)
    bounds = [build.constant(bound) for bound in (-LARGEST_SCORE, LARGEST_SCORE)]
    return build.node("Clip", scores, *bounds)


def _scored(build: _Build, columns: Sequence[NumberStatistics], values: str) -> str:
    knots = [np.array(column.knots) for column in columns]
    targets = [np.array(column.targets) for column in columns]
    rise = [quantiles.slopes(*pair) for pair in zip(knots, targets, strict=True)]
    inside = build.node("Max", values, build.constant([column[0] for column in knots]))
    found = build.node("TreeEnsembleRegressor", inside, domain=ML, **_search(knots))
    segment = build.node("Cast", found, to=TensorProto.INT64)
    knot, target, slope = (
        build.node("Gather", build.constant(np.concatenate(table)), segment)
        for table in (knots, targets, rise)
    )
    risen = build.node("Mul", build.node("Sub", inside, knot), slope)
    return build.node("Add", target, risen)


def _search(knots: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    """A tree per column that finds the last knot not above a value, counted over all columns.

    The count comes out as a float, exact up to 2^24.
    """
    offsets = np.cumsum([0, *(len(column) for column in knots)])
    branches: list[tuple[int, int, int, float, str, int, int]] = []
    leaves: list[tuple[int, int, int, float]] = []
    for index, column in enumerate(knots):
        tree = _Tree(index, column)
        tree.grow(0, len(column) - 1)
        branches += tree.nodes
        leaves += [(index, node, index, float(offsets[index] + at)) for node, at in tree.leaves]
    tree_ids, ids, features, values, modes, true, false = map(list, zip(*branches, strict=True))
    leaf_trees, leaf_ids, targets, weights = map(list, zip(*leaves, strict=True))
    return {
        "n_targets": len(knots),
        "nodes_treeids": tree_ids,
        "nodes_nodeids": ids,
        "nodes_featureids": features,
        "nodes_values_as_tensor": _doubles("values", values),
        "nodes_modes": modes,
        "nodes_truenodeids": true,
        "nodes_falsenodeids": false,
        "target_treeids": leaf_trees,
        "target_nodeids": leaf_ids,
        "target_ids": targets,
        "target_weights_as_tensor": _doubles("weights", weights),
    }


def _doubles(name: str, values: Sequence[Any]) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.float64), name)


@dataclass
class _Tree:
    """Nodes (tree, id, column, knot, mode, id if below it, id if not) and leaves (id, place)."""

    column: int
    knots: NDArray[np.float64]
    nodes: list[tuple[int, int, int, float, str, int, int]] = field(default_factory=list)
    leaves: list[tuple[int, int]] = field(default_factory=list)

    def grow(self, low: int, high: int) -> int:
        """The id of the node that finds a place in [low, high]; its children come after it."""
        node = len(self.nodes)
        if low == high:
            self.nodes.append((self.column, node, self.column, 0.0, "LEAF", 0, 0))
            self.leaves.append((node, low))
            return node
        middle = (low + high + 1) // 2
        knot = float(self.knots[middle])
        self.nodes.append((self.column, node, self.column, knot, "BRANCH_LT", 0, 0))
        below, above = self.grow(low, middle - 1), self.grow(middle, high)
        self.nodes[node] = (self.column, node, self.column, knot, "BRANCH_LT", below, above)
        return node


def _categories(build: _Build, statistics: Statistics, out: str) -> None:
    coded = [_coded(build, column, statistics.missing) for column in statistics.categories]
    _columns(build, coded, out)


def _coded(build: _Build, column: CategoryStatistics, missing: Sequence[str]) -> str:
    nothing = sorted({"", *missing})
    codes = range(FIRST_VALUE, FIRST_VALUE + len(column.values))
    return build.node(
        "LabelEncoder",
        column.name,
        domain=ML,
        keys_strings=[*nothing, *column.values],
        values_int64s=[*[MISSING] * len(nothing), *codes],
        default_int64=UNKNOWN,
    )
