"""Which form of a model is taken, and what 8-bit weights do to it."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ray_pipeline.model import compress
from ray_pipeline.model.compress import Candidate

FP32 = Candidate("fp32", 4000, row_us=100, batch_us=1000, score=0.85)


def network(width: int = 64) -> onnx.ModelProto:
    """x [N, width] → Gemm → Relu → Gemm → [N, 2]."""
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.normal(size=(width, width)).astype(np.float32) / width**0.5,
        "b": rng.normal(size=width).astype(np.float32),
        "c": rng.normal(size=(width, 2)).astype(np.float32) / width**0.5,
        "d": rng.normal(size=2).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "a", "b"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "c", "d"], ["y"]),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_8_bit_weights_are_smaller_and_close():
    plain = network()
    smaller = compress.quantized(plain)
    onnx.checker.check_model(smaller)
    assert smaller.ByteSize() < 0.5 * plain.ByteSize()
    rows = {"x": np.random.default_rng(1).normal(size=(200, 64)).astype(np.float32)}
    expected = ReferenceEvaluator(plain).run(None, rows)[0]
    found = ReferenceEvaluator(smaller).run(None, rows)[0]
    assert 0 < np.abs(found - expected).max() < 0.05 * np.ptp(expected)


def test_weights_keep_a_bit_free():
    """So that 16-bit sums of two products cannot overflow on processors without VNNI."""
    weights = [
        numpy_helper.to_array(value)
        for value in compress.quantized(network()).graph.initializer
        if value.data_type == TensorProto.INT8 and len(value.dims) == 2
    ]
    assert len(weights) == 2
    assert all(value.min() >= -64 and value.max() <= 64 for value in weights)


def test_the_original_is_left_as_it_was():
    plain = network()
    before = plain.SerializeToString()
    compress.quantized(plain)
    assert plain.SerializeToString() == before


def taken(*forms: Candidate, max_drop: float = 0.005) -> tuple[str, dict[str, str]]:
    table = compress.chosen([FP32, *forms], max_drop)
    assert [row["name"] for row in table] == ["fp32", *(form.name for form in forms)]
    assert sum(row["chosen"] for row in table) == 1
    why = {row["name"]: row["why"] for row in table}
    assert all(why.values())
    return next(row["name"] for row in table if row["chosen"]), why


def test_faster_and_within_bounds_is_taken():
    name, why = taken(Candidate("int8", 1000, 50, 500, 0.848))
    assert name == "int8"
    assert why["int8"] == "2.00 times as fast as fp32, loses 0.0020 of at most 0.005"
    assert why["fp32"] == "int8 is 2.00 times as fast"


@pytest.mark.parametrize(
    ("form", "why"),
    [
        (Candidate("int8", 1000, 50, 500, 0.8449), "loses 0.0051, more than 0.005"),
        (Candidate("int8", 1000, 50, 500, float("nan")), "loses nan, more than 0.005"),
        (Candidate("int8", 1000, 99, 990, 0.85), "1.01 times as fast as fp32: not worth a loss"),
        (Candidate("int8", 1000, 200, 2000, 0.9), "0.50 times as fast as fp32: not worth a loss"),
        (Candidate("int8", 1000, 200, 500, 0.85), "0.50 times as fast as fp32: not worth a loss"),
        (Candidate("int8", 1000, 97, 500, 0.85), "1.03 times as fast as fp32: not worth a loss"),
    ],
)
def test_otherwise_the_lossless_form_is_taken(form, why):
    assert taken(form) == ("fp32", {"fp32": "no faster form is within bounds", "int8": why})


def test_a_loss_of_exactly_the_bound_is_allowed():
    name, _ = taken(Candidate("int8", 1000, 50, 500, 0.75), max_drop=0.85 - 0.75)
    assert name == "int8"


def test_the_fastest_of_several_is_taken():
    name, why = taken(
        Candidate("int8", 1000, 50, 500, 0.85), Candidate("int4", 500, 25, 250, 0.846)
    )
    assert name == "int4"
    assert why["int8"] == "int4 is faster"


def test_alone_the_lossless_form_is_taken():
    assert taken()[0] == "fp32"


def test_latencies_are_those_of_one_row_and_of_a_batch():
    sizes: dict[str, set[int]] = {"slow": set(), "quick": set()}

    def form(name, microseconds_a_row):
        def predict(columns):
            rows = len(columns["x"])
            assert len(columns["text"]) == rows
            sizes[name].add(rows)
            until = time.perf_counter() + microseconds_a_row * rows / 1e6
            while time.perf_counter() < until:
                pass
            return np.zeros(rows)

        return predict

    columns = {"x": np.arange(10.0), "text": np.array(["a"] * 10, dtype=object)}
    found = compress.latencies({"slow": form("slow", 40), "quick": form("quick", 20)}, columns, 0.1)
    assert sizes == {"slow": {1, 256}, "quick": {1, 256}}
    assert 40 <= found["slow"][0] < 80
    assert 40 * 256 <= found["slow"][1] < 80 * 256
    assert found["quick"][0] < found["slow"][0]
    assert found["quick"][1] < found["slow"][1]
