"""Smaller, faster forms of a trained network, and which of them earns its place here."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

Columns = dict[str, NDArray[Any]]
Predict = Callable[[Columns], NDArray[Any]]

BATCH = 256
MIN_GAIN = 1.3
"""How many times faster a lossy form must be: less than this may be the noise of a busy machine,
and is not worth predictions that differ with their neighbours in a batch."""


@dataclass(frozen=True)
class Candidate:
    """A form of the model and what was measured of it on this machine."""

    name: str
    bytes: int
    row_us: float
    """Median microseconds for one row, and for a batch of 256."""
    batch_us: float
    score: float
    """Validation accuracy, or R²."""


def quantized(network: ModelProto) -> ModelProto:
    """`network` with 8-bit weights in its matrix products; inputs are scaled as they come.

    The scale is that of a whole batch: a row's outputs may differ by a rounding step with its
    neighbours.

    Weights use 7 of the 8 bits, per output channel: with all 8, processors without VNNI overflow
    in 16-bit sums, and the score measured here would not hold there.
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    prepared = onnx.shape_inference.infer_shapes(network)
    add_pre_process_metadata(prepared)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            prepared,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        smaller = onnx.load(path)
    del smaller.metadata_props[:]
    return smaller


def latencies(
    forms: Mapping[str, Predict], columns: Columns, seconds: float = 0.5
) -> dict[str, tuple[float, float]]:
    """Median microseconds of each form for one row and for 256, over `seconds` in all for each.

    The forms take turns, so that whatever else the machine does meets them alike.
    """
    row = {name: column[:1] for name, column in columns.items()}
    batch = {name: np.resize(column, BATCH) for name, column in columns.items()}
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in forms}
    for predict in forms.values():
        predict(row), predict(batch)
    end = time.perf_counter() + seconds * len(forms)
    while time.perf_counter() < end:
        for name, predict in forms.items():
            times[name][0].extend(_microseconds(predict, row) for _ in range(20))
            times[name][1].append(_microseconds(predict, batch))
    return {
        name: (statistics.median(rows), statistics.median(batches))
        for name, (rows, batches) in times.items()
    }


def chosen(candidates: list[Candidate], max_drop: float) -> list[dict[str, Any]]:
    """The table of candidates, each with `chosen` and `why`. The first is the lossless one.

    A form is as much faster as it is at the worse of two, one row and a batch. The fastest of those
    that lose at most `max_drop` of the first one's score is chosen, if it gains MIN_GAIN at least.
    """
    first = candidates[0]
    verdicts = {form.name: _verdict(form, first, max_drop) for form in candidates[1:]}
    fit = [form for form in candidates[1:] if verdicts[form.name] == ""]
    best = max(fit, key=lambda form: _gain(form, first), default=first)
    rows = []
    for form in candidates:
        faster = f"{_gain(form, first):.2f} times as fast as {first.name}"
        drop = f"loses {max(first.score - form.score, 0):.4f} of at most {max_drop:g}"
        if form is best:
            why = f"{faster}, {drop}" if form is not first else "no faster form is within bounds"
        elif form is first:
            why = f"{best.name} is {_gain(best, first):.2f} times as fast"
        else:
            why = verdicts[form.name] or f"{best.name} is faster"
        rows.append({**asdict(form), "chosen": form is best, "why": why})
    return rows


def _verdict(form: Candidate, first: Candidate, max_drop: float) -> str:
    """Why `form` cannot take the place of `first`; empty if it can."""
    drop = first.score - form.score
    if not drop <= max_drop:  # a score that is NaN is no score
        return f"loses {drop:.4f}, more than {max_drop:g}"
    gain = _gain(form, first)
    return "" if gain >= MIN_GAIN else f"{gain:.2f} times as fast as {first.name}: not worth a loss"


def _gain(form: Candidate, first: Candidate) -> float:
    return min(first.row_us / form.row_us, first.batch_us / form.batch_us)


def _microseconds(predict: Predict, columns: Columns) -> float:
    begun = time.perf_counter()
    predict(columns)
    return (time.perf_counter() - begun) * 1e6
