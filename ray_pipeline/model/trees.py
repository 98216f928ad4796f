"""Gradient-boosted trees as a network: tensors that PyTorch walks, one node in an ONNX graph.

A category is read as its rank: trees then split categories as they split numbers. Ranked by the
mean label, the best split of a column into two sets is among the K - 1 neighbouring ones (Fisher,
"On Grouping for Maximum Homogeneity", 1958); for more than two classes the ranks are those along
the first principal component of the class shares (Coppersmith et al., "Partitioning Nominal
Attributes in Decision Trees", 1999).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_pipeline.data.encoders.build import ML
from ray_pipeline.data.feature_graph import ML_OPSET
from ray_pipeline.job import Model
from ray_pipeline.model.inputs import Inputs

Record = dict[str, Any]
CHUNK = 4096
"""Rows that walk together: their places stay in the processor's cache."""
PRIOR = 10.0
"""Rows of the average category that each one is ranked with, as LightGBM's `cat_smooth`."""
KIND = "TreeEnsembleRegressor"


class Trees(nn.Module):
    """T trees of up to M nodes each, all of which start at node 0.

    Inner nodes send a row to `left` where its `feature` (the numbers, then the categories' ranks)
    is at most the `threshold`; a leaf is its own child. `value` is what a leaf adds to the logit
    `target` [T]. The tensors are empty until a state is loaded.
    """

    ranks: Tensor
    offsets: Tensor
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    target: Tensor

    def __init__(self, model: Model, inputs: Inputs) -> None:
        super().__init__()
        sizes = inputs.categories
        self.outputs = inputs.outputs
        offsets = torch.tensor([sum(sizes[:column]) for column in range(len(sizes))])
        self.register_buffer("offsets", offsets.long(), persistent=False)
        self.register_buffer("ranks", torch.zeros(sum(sizes)))
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(1, 1, dtype=torch.int64))
        for name in ("threshold", "value"):
            self.register_buffer(name, torch.zeros(1, 1))
        self.register_buffer("target", torch.zeros(1, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_shaped)  # type: ignore[no-untyped-call]

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Logits [N, K]."""
        columns = torch.cat([numbers, self.ranks[categories + self.offsets]], dim=1)
        if torch.onnx.is_in_onnx_export():
            return self._node(columns)
        parts = [self._walked(part) for part in torch.split(columns, CHUNK)]
        return torch.cat(parts) if parts else columns.new_zeros(0, self.outputs)

    def _walked(self, columns: Tensor) -> Tensor:
        trees, nodes = self.feature.shape
        first = torch.arange(trees, device=columns.device) * nodes
        feature, threshold = self.feature.flatten(), self.threshold.flatten()
        left, right = self.left.flatten(), self.right.flatten()
        place = torch.zeros(len(columns), trees, dtype=torch.int64, device=columns.device)
        while True:
            at = place + first
            below = columns.gather(1, feature[at]) <= threshold[at]
            further = torch.where(below, left[at], right[at])
            if torch.equal(further, place):
                break
            place = further
        logits = columns.new_zeros(len(columns), self.outputs)
        return logits.index_add_(1, self.target, self.value.flatten()[place + first])

    def _node(self, columns: Tensor) -> Tensor:
        """The same as one node of an ONNX graph that is being exported; `complete` plants the
        trees: the exporter would take a minute for a few hundred of them."""
        found: Tensor = torch.onnx.ops.symbolic(
            f"{ML}::{KIND}",
            [columns],
            attrs={"n_targets": self.outputs},
            dtype=torch.float32,
            shape=(columns.shape[0], self.outputs),
            version=ML_OPSET,
        )
        return found


def complete(graph: onnx.GraphProto, network: nn.Module) -> None:
    """Give the nodes that stand for trees in the exported `graph` of `network` what they lack."""
    grown = [module for module in network.modules() if isinstance(module, Trees)]
    nodes = [node for node in graph.node if node.op_type == KIND and node.domain == ML]
    for node, trees in zip(nodes, grown, strict=True):
        node.attribute.extend(
            onnx.helper.make_attribute(name, values) for name, values in _attributes(trees).items()
        )


def _attributes(trees: Trees) -> Record:
    """Those of `trees` as a node of an ONNX graph, besides the number of targets."""
    reached = _reached(trees.left, trees.right)
    leaf = trees.left == torch.arange(trees.left.shape[1])
    tree, node = torch.nonzero(reached, as_tuple=True)
    leaf_tree, leaf_node = torch.nonzero(leaf & reached, as_tuple=True)
    modes = ("BRANCH_LEQ", "LEAF")
    return {
        "nodes_treeids": tree.tolist(),
        "nodes_nodeids": node.tolist(),
        "nodes_featureids": trees.feature[tree, node].tolist(),
        "nodes_values": trees.threshold[tree, node].tolist(),
        "nodes_modes": [modes[is_leaf] for is_leaf in leaf[tree, node].tolist()],
        "nodes_truenodeids": trees.left[tree, node].tolist(),
        "nodes_falsenodeids": trees.right[tree, node].tolist(),
        "target_treeids": leaf_tree.tolist(),
        "target_nodeids": leaf_node.tolist(),
        "target_ids": trees.target[leaf_tree].tolist(),
        "target_weights": trees.value[leaf_tree, leaf_node].tolist(),
    }


def _shaped(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for the trees of a state that is about to be loaded, however many they are."""
    for name, buffer in module.named_buffers():
        if (found := state.get(prefix + name)) is not None and name != "ranks":
            setattr(module, name, buffer.new_zeros(found.shape))


def _reached(left: Tensor, right: Tensor) -> Tensor:
    """Which of the places [T, M] are nodes; the rest only make the trees equally long."""
    reached = torch.zeros_like(left, dtype=torch.int64)
    reached[:, 0] = 1
    reached.scatter_(1, left, 1).scatter_(1, right, 1)
    return reached.bool()


@dataclass
class _Node:
    feature: int = 0
    threshold: float = 0.0
    left: int = 0
    right: int = 0
    value: float = 0.0


def state_of(dumped: Record, ranks: NDArray[np.float32], outputs: int) -> dict[str, Tensor]:
    """The state of `Trees` that is LightGBM's model `dumped` (`Booster.dump_model()`).

    A threshold is a double, and what it is compared with is single: the largest single that is
    not above it sends every row the same way.
    """
    grown = [list(_nodes(tree["tree_structure"])) for tree in dumped["tree_info"]]
    longest = max((len(nodes) for nodes in grown), default=1)

    def matrix(name: str, dtype: type[np.generic]) -> NDArray[Any]:
        found = np.zeros((len(grown), longest), np.float64)
        if name in ("left", "right"):
            found[:] = np.arange(longest)
        for tree, nodes in enumerate(grown):
            found[tree, : len(nodes)] = [getattr(node, name) for node in nodes]
        return found.astype(dtype) if name != "threshold" else rounded_down(found)

    # One score speaks for the second of two classes; the first one's logit stays 0.
    classes = dumped["num_class"]
    targets = [1] * len(grown) if outputs == 2 and classes == 1 else _cycle(len(grown), classes)
    return {
        "ranks": torch.from_numpy(ranks),
        **{name: torch.from_numpy(matrix(name, np.int64)) for name in ("feature", "left", "right")},
        "threshold": torch.from_numpy(matrix("threshold", np.float32)),
        "value": torch.from_numpy(matrix("value", np.float32)),
        "target": torch.tensor(targets, dtype=torch.int64),
    }


def _cycle(count: int, classes: int) -> list[int]:
    return [index % classes for index in range(count)]


def _nodes(root: Record) -> Iterator[_Node]:
    """A tree's nodes, numbered breadth first; a leaf's children are itself."""
    queue: list[Record] = [root]
    for index, dumped in enumerate(queue):  # it grows as it is read
        if "split_feature" not in dumped:
            yield _Node(left=index, right=index, value=dumped["leaf_value"])
            continue
        queue += [dumped["left_child"], dumped["right_child"]]
        yield _Node(dumped["split_feature"], dumped["threshold"], len(queue) - 2, len(queue) - 1)


def rounded_down(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest single-precision numbers that are not above `values`."""
    near = values.astype(np.float32)
    below = np.nextafter(near, np.float32(-np.inf))
    rounded: NDArray[np.float32] = np.where(near > values, below, near)
    return rounded


def ranked(
    categories: NDArray[Any], label: NDArray[Any], sizes: Sequence[int], classes: int | None
) -> NDArray[np.float32]:
    """The rank of each index of each column, one column after the other [sum of `sizes`].

    `categories` [N, C] are the training rows' indices, `label` [N] their classes or values.
    """
    outcomes = np.eye(classes)[label] if classes else label[:, None].astype(float)
    mean = outcomes.mean(0)
    columns: list[NDArray[Any]] = []
    for column, size in enumerate(sizes):
        codes = categories[:, column]
        count = np.bincount(codes, minlength=size)
        sums = np.stack([np.bincount(codes, each, minlength=size) for each in outcomes.T], axis=1)
        shares = (sums + PRIOR * mean) / (count + PRIOR)[:, None]
        columns.append(np.argsort(np.argsort(_along(shares, count), kind="stable")))
    return np.concatenate(columns or [np.empty(0)]).astype(np.float32)


def _along(shares: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each row of `shares` [size, K], which stands for `count` others, along their first axis."""
    centred = shares - np.average(shares, axis=0, weights=count)
    if centred.shape[1] == 1:
        return centred[:, 0]
    _, axes = np.linalg.eigh((centred * count[:, None]).T @ centred)
    axis = axes[:, -1]
    # An eigenvector has no sign of its own.
    placed: NDArray[np.float64] = centred @ axis * np.sign(axis[np.abs(axis).argmax()])
    return placed
