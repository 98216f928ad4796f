"""A network's graph in fewer bits: each form that was asked for, or why it is not to be had."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from onnx import ModelProto, checker, shape_inference

from ray_pipeline.deploy import runtime
from ray_pipeline.deploy.providers import LOADING_ERRORS
from ray_pipeline.job import Compress
from ray_pipeline.model import quantize
from ray_pipeline.model.compress import Predict
from ray_pipeline.model.quantize import Arrays

_FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError),
    *(TypeError, ValueError, checker.ValidationError, shape_inference.InferenceError),
    *LOADING_ERRORS,
)
"""What the quantizers raise of a network that they were not made for, and what loading raises."""

Whole = Callable[[ModelProto], bytes]
"""From a network's graph to the whole one, which reads raw rows, serialised."""


@dataclass(frozen=True)
class Forms:
    """By name, the whole graph of each form, the lossless one first; what it predicts of the
    columns that it reads; and of the forms that there are not, the reason."""

    content: dict[str, bytes]
    predict: dict[str, Predict]
    failed: dict[str, str]


def made(
    network: ModelProto,
    wanted: Compress,
    calibration: Callable[[], Iterable[Arrays]],
    whole: Whole,
) -> Forms:
    """`network` as it is, `fp32`, and in each form that is `wanted`.

    A form that a library cannot make of this network, or that ONNX Runtime does not load, is no
    reason to stop: another is deployed.
    """
    makers: dict[str, Callable[[], ModelProto]] = {
        "int8": lambda: quantize.dynamic_int8(network),
        "int8_static": lambda: quantize.static_int8(network, calibration()),
        "int4": lambda: quantize.int4(network),
        "fp16": lambda: quantize.fp16(network),
    }
    content = {"fp32": whole(network)}
    predict = {"fp32": runtime.predicting(content["fp32"])}
    failed = {}
    for name, make in makers.items():
        if getattr(wanted, name) != "auto":
            continue
        try:
            form = whole(make())
            predict[name] = runtime.predicting(form)
        except _FAILURES as error:
            lines = str(error).strip().splitlines()
            failed[name] = f"cannot be had: {lines[0] if lines else type(error).__name__}"
        else:
            content[name] = form
    return Forms(content, predict, failed)
