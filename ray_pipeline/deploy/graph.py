"""One ONNX graph out of two: the feature nodes, and the trained network behind them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, compose, helper
from torch import Tensor, nn

from ray_pipeline.data import onnx_export
from ray_pipeline.data.matrices import Matrices
from ray_pipeline.data.statistics import LabelStatistics, Statistics
from ray_pipeline.deploy.halves import Halves
from ray_pipeline.model import batches, trees

PREFIX = "model/"


class _Predicting(nn.Module):
    """The network with what a caller wants at its end: probabilities [N, K], or values [N]."""

    def __init__(self, network: nn.Module, label: LabelStatistics, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.label, self.names = network, label, names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(**dict(zip(self.names, inputs, strict=True)))
        if self.label.classes is None:
            return logits[:, 0] * (self.label.deviation or 1.0) + self.label.mean
        if self.label.separator is not None:
            return logits.sigmoid()
        return logits.softmax(dim=1)


def network_graph(network: nn.Module, statistics: Statistics, opset: int) -> ModelProto:
    """`network` as ONNX, for any number of rows: those of `numbers` [N, F] float, `categories`
    [N, C] int64, `tokens` [N, T] int64 and `image` [N, H, W, C] uint8 that `statistics` has → one
    output.

    Raises:
        JobError: the network does something that has no ONNX counterpart.
    """
    names = statistics.inputs
    example = _example(statistics)
    inputs = {name: example[name] for name in names}
    model = onnx_export.graph_of(_Predicting(network, statistics.label, names), inputs, opset)
    trees.complete(model.graph, network)
    return model


def torch_outputs(network: nn.Module, statistics: Statistics) -> Callable[[Matrices], NDArray[Any]]:
    """A function from prepared rows to what torch makes of them; `network_graph` must agree."""
    predicting = _Predicting(network, statistics.label, statistics.inputs).eval()

    def outputs(prepared: Matrices) -> NDArray[Any]:
        inputs = batches.tensors(prepared)
        with torch.inference_mode():
            found = [
                (places, predicting(*(part[name] for name in statistics.inputs)))
                for places, part in batches.chunks(inputs)
            ]
        count = len(next(iter(inputs.values())))
        whole = np.empty((count, *found[0][1].shape[1:]), np.float32)
        for places, part in found:
            whole[places] = part
        return whole

    return outputs


def _example(statistics: Statistics) -> dict[str, Tensor]:
    """Two rows of whatever a network may read."""
    example = {
        "numbers": torch.zeros(2, statistics.number_width),
        "categories": torch.zeros(2, len(statistics.category_sizes), dtype=torch.int64),
        "tokens": torch.zeros(2, 8, dtype=torch.int64),
    }
    if statistics.image is not None:
        example["image"] = torch.zeros(2, *statistics.image.shape, dtype=torch.uint8)
    return example


def joined(
    features: ModelProto, network: ModelProto, output: str, raw: Mapping[str, str] | None = None
) -> ModelProto:
    """`features` with `network` behind it: raw columns in, one `output`.

    `raw` are the network's inputs that no feature makes, each with the column that is given to it.

    The network's own names get a prefix, so that a column may be called anything. A column that
    has the name of the output costs the output an underscore; callers take it by position.
    """
    behind = compose.add_prefix(network, PREFIX)
    behind.ir_version = features.ir_version = max(behind.ir_version, features.ir_version)
    last = behind.graph.output[0].name
    # An output that a column shares its name with has underscores after it.
    given = {value.name.rstrip("_"): value.name for value in features.graph.output}
    wanted = {value.name.removeprefix(PREFIX): value for value in behind.graph.input}
    if given:
        for name in ({"numbers", "categories"} & wanted.keys()) - given.keys():
            _widen_by_nothing(behind, wanted[name])
    whole: ModelProto = behind
    if given:
        pairs = [(given[name], wanted[name].name) for name in wanted if name in given]
        whole = compose.merge_models(features, behind, io_map=pairs, outputs=[last])
    _rename_inputs(whole, {PREFIX + name: column for name, column in (raw or {}).items()})
    taken = {value.name for value in whole.graph.input}
    taken |= {name for node in whole.graph.node for name in (*node.input, *node.output)}
    while output in taken:
        output += "_"
    # Loading takes it out again; renaming would not do where the output is a constant.
    whole.graph.node.append(helper.make_node("Identity", [last], [output]))
    whole.graph.output[0].name = output
    whole.graph.name = "features_and_model"
    onnx.checker.check_model(whole, full_check=True)
    return whole


def apart(features: ModelProto, network: ModelProto, raw: Mapping[str, str]) -> Halves:
    """The two graphs that `joined` makes one of. Each keeps its own names."""
    behind = copy.deepcopy(network)
    given = {value.name.rstrip("_") for value in features.graph.output}
    wanted = {value.name: value for value in behind.graph.input}
    if given:
        for name in ({"numbers", "categories"} & wanted.keys()) - given:
            _widen_by_nothing(behind, wanted[name])
    reading = features.SerializeToString() if given else None
    return Halves(reading, behind.SerializeToString(), dict(raw))


def _rename_inputs(model: ModelProto, names: Mapping[str, str]) -> None:
    for value in model.graph.input:
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _widen_by_nothing(network: ModelProto, value: ValueInfoProto) -> None:
    """Make an input that no column is made into from another: [N, 0]."""
    graph, absent, kind = network.graph, value.name, int(value.type.tensor_type.elem_type)
    inputs = [value for value in graph.input if value.name != absent]
    del graph.input[:]
    graph.input.extend(inputs)
    zero, one, none = f"{absent} zero", f"{absent} one", f"{absent} none"
    for name, number in ((zero, 0), (one, 1)):
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [number]))
    table = next(value for value in inputs if value.name.endswith(("numbers", "categories")))
    sliced = helper.make_node("Slice", [table.name, zero, zero, one], [none])
    graph.node.insert(0, sliced)
    graph.node.insert(1, helper.make_node("Cast", [none], [absent], to=kind))


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators that `model` is written in."""
    return int(
        next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    )
