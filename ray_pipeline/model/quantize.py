"""The same network in fewer bits: ONNX in, ONNX out, nothing trained."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto

Arrays = Mapping[str, NDArray[Any]]
"""What a network reads, by its inputs' names."""

PRODUCTS = ("MatMul", "Gemm", "Conv")
BLOCK = 32
"""Weights that share a scale in the 4-bit form."""


def dynamic_int8(network: ModelProto) -> ModelProto:
    """`network` with 8-bit weights in its matrix products; inputs are scaled as they come.

    The scale is that of a whole batch: a row's outputs may differ by a rounding step with its
    neighbours.

    Weights use 7 of the 8 bits, per output channel: with all 8, processors without VNNI overflow
    in 16-bit sums, and the score measured here would not hold there.
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    return _rewritten(
        quantize_dynamic,
        network,
        op_types_to_quantize=["MatMul", "Gemm"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )


def static_int8(network: ModelProto, calibration: Iterable[Arrays]) -> ModelProto:
    """`network` with 8-bit weights and activations in its matrix products and convolutions.

    An activation's scale is fixed: its range over the `calibration` batches, which are fed one at
    a time. So a row's outputs do not depend on its neighbours, and no range is sought when it
    predicts; values beyond those seen are clipped. Weights as in `dynamic_int8`.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            self.batches = iter(calibration)

        def get_next(self) -> Arrays | None:
            return next(self.batches, None)

    return _rewritten(
        quantize_static,
        network,
        calibration_data_reader=Reader(),
        op_types_to_quantize=list(PRODUCTS),
        activation_type=QuantType.QUInt8,
        # Logits of 8 bits would make steps in the probabilities, and cut off the surest of them.
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )


def fp16(network: ModelProto) -> ModelProto:
    """`network` in 16-bit floats, with inputs and output as they were.

    What follows the last product stays in 32 bits: a value in the label's unit may exceed 65,504.

    ONNX Runtime's CPU kernels compute most operations in 32 bits, with casts around them: this
    form is for its size, and for processors that have the arithmetic. For bfloat16 they have no
    kernels at all.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    plain = copy.deepcopy(network)
    for index, node in enumerate(plain.graph.node):
        node.name = f"{node.op_type}_{index}"
    last = max(
        (i for i, node in enumerate(plain.graph.node) if node.op_type in PRODUCTS), default=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that round to 0 or to 65,504: it is measured
        smaller = ONNXModel(
            convert_float_to_float16(
                plain,
                keep_io_types=True,
                node_block_list=[node.name for node in plain.graph.node[last + 1 :]],
            )
        )
    smaller.topological_sort()  # the casts were put at the end
    _drop_detours(smaller.model.graph)
    del smaller.model.graph.value_info[:]  # types of what was in 32 bits
    return _proto(smaller)


def _drop_detours(graph: GraphProto) -> None:
    """Take out the casts to 16 bits and back that were put between nodes left in 32."""
    made = {name: node for node in graph.node for name in node.output}
    ends = {value.name for value in graph.output}
    instead: dict[str, str] = {}
    for back in list(graph.node):
        detour = made.get(back.input[0]) if _is_put_in(back) else None
        if detour is not None and _is_put_in(detour):
            source, end = detour.input[0], back.output[0]
            graph.node.remove(back)
            if end in ends:
                made[source].output[0] = end
                instead[source] = end
            else:
                instead[end] = source
    for node in graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]


def _is_put_in(node: NodeProto) -> bool:
    return node.op_type == "Cast" and "_cast" in node.name


def int4(network: ModelProto) -> ModelProto:
    """`network` with the weights of its matrix products in 4 bits, each 32 of them with a scale.

    Activations stay 32-bit floats in the file; the kernel multiplies in 8 bits.
    """
    with _logging_as_it_was():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
        from onnxruntime.quantization.onnx_model import ONNXModel

        products = ONNXModel(copy.deepcopy(network))
        products.replace_gemm_with_matmul()
        quantizer = MatMulNBitsQuantizer(
            products.model, bits=4, block_size=BLOCK, is_symmetric=True, accuracy_level=4
        )
        quantizer.process()
    return _proto(quantizer.model)


def _rewritten(quantize: Callable[..., None], network: ModelProto, **settings: Any) -> ModelProto:
    """What a function of onnxruntime.quantization, which writes files, makes of `network`."""
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    prepared = onnx.shape_inference.infer_shapes(network)
    add_pre_process_metadata(prepared)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "smaller.onnx"
        quantize(prepared, path, **settings)
        smaller = onnx.load(path)
    del smaller.metadata_props[:]
    return smaller


def _proto(model: Any) -> ModelProto:
    proto: ModelProto = model.model
    return proto


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """onnxruntime's 4-bit module sets up the root logger when it is imported, and tells a lot."""
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)
