"""A torch module as an ONNX graph for any number of rows."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from ray_pipeline.errors import JobError

TEXTS = ("tokens", "types")
"""Inputs that are [N, T]."""


def graph_of(
    module: nn.Module, example: Mapping[str, Tensor], opset: int, where: str = "model.name"
) -> ModelProto:
    """`module`, whose forward(*inputs) takes those of `example`, as ONNX with one `output`.

    Each input is [N, …] for any N; TEXTS are [N, T] for any T of two or more. The job names the
    module at `where`.

    Raises:
        JobError: the module does something that has no ONNX counterpart.
    """
    # One object for all inputs: they share the number of rows.
    rows = torch.export.Dim("rows")
    shapes = {name: {0: rows} for name in example}
    length = torch.export.Dim("length", min=2)
    for name in TEXTS:
        if name in shapes:
            shapes[name][1] = length
    noisy = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = noisy.level
    try:
        noisy.setLevel(logging.ERROR)  # it warns of torchvision's absence, which is meant
        with warnings.catch_warnings(), _plain_attention(module):
            warnings.simplefilter("ignore")  # of torch about itself
            program = torch.onnx.export(
                module.eval(),
                tuple(example.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(example),
                output_names=["output"],
                dynamic_shapes=(tuple(shapes.values()),),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise JobError(
            f"the network cannot be written as ONNX: {str(error).strip().splitlines()[0]}",
            where=where,
            expected="a forward() of torch operations on tensors, for any number of rows",
            hint="`torch.onnx.export(..., report=True)` on the network says which operation it is",
        ) from error
    finally:
        noisy.setLevel(level)
    if program is None:
        raise AssertionError("torch.onnx.export(dynamo=True) returns a program")
    _check_any_rows(program.model_proto, where)
    return _bare(program.model_proto)


@contextmanager
def _plain_attention(module: nn.Module) -> Iterator[None]:
    """Attention of transformers' networks as products and a softmax: torch's own operation becomes
    these and 40 nodes more, for texts of no token, which there are none of here."""
    networks: list[Any] = [m for m in module.modules() if hasattr(m, "set_attn_implementation")]
    before = [network.config._attn_implementation for network in networks]  # it has no public name
    for network in networks:
        network.set_attn_implementation("eager")
    try:
        yield
    finally:
        for network, implementation in zip(networks, before, strict=True):
            network.set_attn_implementation(implementation)


def _check_any_rows(model: ModelProto, where: str) -> None:
    """Raises JobError if the graph is for the example's number of rows alone: where the tracing
    met a constant, the exporter says nothing and writes one."""
    for value in model.graph.input:
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise JobError(
                "the network can be written as ONNX for a fixed number of rows only",
                where=where,
                expected="a forward() of torch operations on tensors, for any number of rows",
                hint="`len(tensor)` is a constant to the exporter, `tensor.shape[0]` is none",
            )


def _bare(model: ModelProto) -> ModelProto:
    """`model` without the exporter's notes, which hold source lines and paths of this machine."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph: onnx.GraphProto = model.graph
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
