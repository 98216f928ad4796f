"""A network in fewer bits, against its own numbers and ONNX's reference."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ray_pipeline.deploy import runtime
from ray_pipeline.model import quantize

WIDTH = 64


def network(scale: float = 1.0) -> onnx.ModelProto:
    """x [N, 64] → Gemm → Relu → Gemm → times and plus `scale` → [N, 2]."""
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5,
        "b": rng.normal(size=WIDTH).astype(np.float32),
        "c": rng.normal(size=(WIDTH, 2)).astype(np.float32) / WIDTH**0.5,
        "d": rng.normal(size=2).astype(np.float32),
        "s": np.float32(scale),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "a", "b"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "c", "d"], ["z"]),
            helper.make_node("Mul", ["z", "s"], ["v"]),
            helper.make_node("Add", ["v", "s"], ["y"]),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def rows(count: int = 200, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def static(plain: onnx.ModelProto) -> onnx.ModelProto:
    return quantize.static_int8(plain, ({"x": rows(128, seed)} for seed in range(2, 6)))


def weights(model: onnx.ModelProto, kind: int = TensorProto.INT8) -> list[np.ndarray]:
    return [
        numpy_helper.to_array(value)
        for value in model.graph.initializer
        if value.data_type == kind and len(value.dims) == 2
    ]


EIGHT_BITS = pytest.mark.parametrize("smaller", [quantize.dynamic_int8, static])


@EIGHT_BITS
def test_8_bit_weights_are_smaller_and_close(smaller):
    plain = network()
    found = smaller(plain)
    onnx.checker.check_model(found, full_check=True)
    assert found.ByteSize() < 0.5 * plain.ByteSize()
    x = {"x": rows()}
    expected = ReferenceEvaluator(plain).run(None, x)[0]
    by_reference = ReferenceEvaluator(found).run(None, x)[0]
    assert 0 < np.abs(by_reference - expected).max() < 0.1 * np.ptp(expected)
    by_runtime = runtime.predicting(found.SerializeToString())(x)
    assert np.abs(by_runtime - by_reference).max() < 0.02 * np.ptp(expected)


@EIGHT_BITS
def test_weights_keep_a_bit_free(smaller):
    """So that 16-bit sums of two products cannot overflow on processors without VNNI."""
    found = weights(smaller(network()))
    assert len(found) == 2
    assert all(value.min() >= -64 and value.max() <= 64 for value in found)


def test_on_fixed_scales_a_row_does_not_depend_on_its_neighbours():
    predict = runtime.predicting(static(network()).SerializeToString())
    x = rows()
    alone = np.concatenate([predict({"x": row[None]}) for row in x])
    np.testing.assert_array_equal(predict({"x": x}), alone)


def test_scales_are_those_of_the_calibration_rows():
    """A value that none of them comes near is cut off at the largest that they had."""
    predict = runtime.predicting(static(network()).SerializeToString())
    largest = max(rows(128, seed).max() for seed in range(2, 6))
    huge, cut = np.zeros((1, WIDTH), np.float32), np.zeros((1, WIDTH), np.float32)
    huge[0, 0], cut[0, 0] = 1000, 1.01 * largest
    np.testing.assert_array_equal(predict({"x": huge}), predict({"x": cut}))


def test_4_bit_weights_are_those_of_blocks_with_a_scale():
    """round(w / scale) of 32 weights, where the scale takes their largest to -8."""
    plain = network()
    found = quantize.int4(plain)
    expected = []
    for name in ("a", "c"):
        blocks = numpy_helper.to_array(_initializer(plain, name)).reshape(2, 32, -1)
        largest = np.take_along_axis(blocks, abs(blocks).argmax(1)[:, None], 1)
        scale = largest / -8
        rounded = np.clip(np.round(blocks / scale), -8, 7) * scale
        expected.append(rounded.reshape(WIDTH, -1))
    a, c = expected
    b, d = (numpy_helper.to_array(_initializer(plain, name)) for name in ("b", "d"))
    by_hand = np.maximum(rows() @ a + b, 0) @ c + d + 1
    by_runtime = runtime.predicting(found.SerializeToString())({"x": rows()})
    assert np.abs(by_runtime - by_hand).max() < 0.03 * np.ptp(by_hand)  # it multiplies in 8 bits
    assert found.ByteSize() < 0.25 * plain.ByteSize()


def _initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(value for value in model.graph.initializer if value.name == name)


def test_4_bits_leave_logging_alone():
    root = logging.getLogger()
    before = list(root.handlers), root.level, logging.root.manager.disable
    quantize.int4(network())
    assert (list(root.handlers), root.level, logging.root.manager.disable) == before


def test_16_bit_floats_take_and_give_32():
    plain = network(scale=1e6)  # 16 bits end at 65,504
    found = quantize.fp16(plain)
    onnx.checker.check_model(found, full_check=True)
    assert found.ByteSize() < 0.6 * plain.ByteSize()
    assert len(weights(found, TensorProto.FLOAT16)) == 2
    expected = runtime.predicting(plain.SerializeToString())({"x": rows()})
    by_runtime = runtime.predicting(found.SerializeToString())({"x": rows()})
    assert by_runtime.dtype == np.float32
    assert 0 < np.abs(by_runtime - expected).max() < 0.005 * np.ptp(expected)


@pytest.mark.parametrize("smaller", [quantize.dynamic_int8, static, quantize.int4, quantize.fp16])
def test_the_original_is_left_as_it_was(smaller):
    plain = network()
    before = plain.SerializeToString()
    smaller(plain)
    assert plain.SerializeToString() == before
