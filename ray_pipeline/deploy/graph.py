"""One ONNX graph out of two: the feature nodes, and the trained network behind them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, compose, helper
from torch import Tensor, nn

from ray_pipeline.data.statistics import LabelStatistics, Statistics
from ray_pipeline.errors import JobError

PREFIX = "model/"


class _Predicting(nn.Module):
    """The network with what a caller wants at its end: probabilities [N, K], or values [N]."""

    def __init__(self, network: nn.Module, label: LabelStatistics) -> None:
        super().__init__()
        self.network, self.label = network, label

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        logits: Tensor = self.network(numbers, categories)
        if self.label.classes is None:
            return logits[:, 0] * (self.label.deviation or 1.0) + self.label.mean
        return logits.softmax(dim=1)


def network_graph(network: nn.Module, statistics: Statistics, opset: int) -> ModelProto:
    """`network` as ONNX: `numbers` [N, F] float, `categories` [N, C] int64 → one output.

    Raises:
        JobError: the network does something that has no ONNX counterpart.
    """
    example = (
        torch.zeros(2, statistics.number_width),
        torch.zeros(2, len(statistics.category_sizes), dtype=torch.int64),
    )
    # One object for both inputs: they share the number of rows.
    rows = torch.export.Dim("rows")
    noisy = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = noisy.level
    try:
        noisy.setLevel(logging.ERROR)  # it warns of torchvision's absence, which is meant
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            program = torch.onnx.export(
                _Predicting(network, statistics.label).eval(),
                example,
                dynamo=True,
                opset_version=opset,
                input_names=["numbers", "categories"],
                output_names=["output"],
                dynamic_shapes=({0: rows}, {0: rows}),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise JobError(
            f"the network cannot be written as ONNX: {str(error).strip().splitlines()[0]}",
            where="model.name",
            expected="a forward() of torch operations on tensors, for any number of rows",
            hint="`torch.onnx.export(..., report=True)` on the network says which operation it is",
        ) from error
    finally:
        noisy.setLevel(level)
    if program is None:
        raise AssertionError("torch.onnx.export(dynamo=True) returns a program")
    return _bare(program.model_proto)


def torch_outputs(
    network: nn.Module, statistics: Statistics
) -> Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]:
    """A function from prepared rows to what torch makes of them; `network_graph` must agree."""
    predicting = _Predicting(network, statistics.label).eval()

    def outputs(numbers: NDArray[Any], categories: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            found: NDArray[Any] = predicting(
                torch.from_numpy(numbers.astype(np.float32)),
                torch.from_numpy(categories.astype(np.int64)),
            ).numpy()
        return found

    return outputs


def joined(features: ModelProto, network: ModelProto, output: str) -> ModelProto:
    """`features` with `network` behind it: raw columns in, one `output`.

    The network's own names get a prefix, so that a column may be called anything. A column that
    has the name of the output costs the output an underscore; callers take it by position.
    """
    behind = compose.add_prefix(network, PREFIX)
    behind.ir_version = features.ir_version = max(behind.ir_version, features.ir_version)
    last = behind.graph.output[0].name
    given = {_kind(value): value.name for value in features.graph.output}
    wanted = {_kind(value): value.name for value in behind.graph.input}
    for kind in wanted.keys() - given.keys():
        _widen_by_nothing(behind, wanted[kind], kind)
    whole: ModelProto = compose.merge_models(
        features,
        behind,
        io_map=[(given[kind], name) for kind, name in wanted.items() if kind in given],
        outputs=[last],
    )
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


def _kind(value: ValueInfoProto) -> int:
    """What tells numbers (float) from categories (int64), whatever they are called."""
    return int(value.type.tensor_type.elem_type)


def _widen_by_nothing(network: ModelProto, absent: str, kind: int) -> None:
    """Make the input `absent`, of a kind that no column has, from the other: [N, 0]."""
    graph = network.graph
    inputs = [value for value in graph.input if value.name != absent]
    del graph.input[:]
    graph.input.extend(inputs)
    zero, one, none = f"{absent} zero", f"{absent} one", f"{absent} none"
    for name, number in ((zero, 0), (one, 1)):
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [number]))
    sliced = helper.make_node("Slice", [inputs[0].name, zero, zero, one], [none])
    graph.node.insert(0, sliced)
    graph.node.insert(1, helper.make_node("Cast", [none], [absent], to=kind))


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators that `model` is written in."""
    return int(
        next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    )


def _bare(model: ModelProto) -> ModelProto:
    """`model` without the exporter's notes, which hold source lines and paths of this machine."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    for noted in (
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.initializer,
        *graph.value_info,
    ):
        del noted.metadata_props[:]
        noted.doc_string = ""
    return model
