"""ONNX Runtime's execution providers: how they are called, set up and asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from ray_pipeline.data import onnx_session
from ray_pipeline.errors import ClusterError

NAMES = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
BEHIND = {"tensorrt": ("cuda", "cpu"), "cuda": ("cpu",), "cpu": ()}
"""What takes the nodes that a provider has no kernel for."""
CALIBRATION = "calibration.flatbuffers"
PIXELS = 1 << 22
"""Pixels of images that go through a graph at a time: of each it holds many times as much."""
LOADING_ERRORS = (
    *(errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf),
    *(errors.NotImplemented, errors.RuntimeException, errors.EPFail, errors.NoSuchFile),
    RuntimeError,
)
"""ONNX Runtime's errors have no base of their own; a provider that is set up wrongly raises
RuntimeError."""

Options = dict[str, Any]


@dataclass(frozen=True)
class Profile:
    """The shapes that an engine is made for: of each input, by name, its dimensions for the
    fewest rows, for those it is tuned for, and for the most."""

    least: Mapping[str, Sequence[int]]
    usual: Mapping[str, Sequence[int]]
    most: Mapping[str, Sequence[int]]

    @property
    def rows(self) -> int:
        """The most rows that go through the engine at a time."""
        return next(iter(self.most.values()))[0]


def tensorrt_options(
    profile: Profile,
    precision: Literal["fp32", "fp16", "int8"],
    work: Path,
    context: Path,
) -> Options:
    """What builds an engine as the session opens, and writes it into the model at `context`.

    With all shapes given, the engine is built once and for all of them. In fp16, the sums of layer
    norms stay in 32 bits, which is where 16 overflow. `work` holds the caches; in int8 it must
    hold the table of ranges that `calibrate.table` writes.
    https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
    """
    ranges = {
        "trt_int8_enable": True,
        "trt_int8_calibration_table_name": CALIBRATION,
        "trt_int8_use_native_calibration_table": False,
    }
    return {
        "trt_fp16_enable": precision != "fp32",
        "trt_layer_norm_fp32_fallback": precision != "fp32",
        **(ranges if precision == "int8" else {}),
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(work),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(work),
        "trt_dump_ep_context_model": True,
        "trt_ep_context_file_path": str(context),
        # The engine stands in the model itself: one file of the bundle, with one digest.
        "trt_ep_context_embed_mode": 1,
        "trt_profile_min_shapes": shapes(profile.least),
        "trt_profile_opt_shapes": shapes(profile.usual),
        "trt_profile_max_shapes": shapes(profile.most),
    }


def shapes(dimensions: Mapping[str, Sequence[int]]) -> str:
    """Shapes as the provider reads them: `numbers:8x14,categories:8x9`."""
    return ",".join(f"{name}:{'x'.join(map(str, sizes))}" for name, sizes in dimensions.items())


def session(
    model: str | bytes,
    threads: int = 1,
    provider: str = "cpu",
    options: Options | None = None,
    optimize: bool = True,
) -> onnxruntime.InferenceSession:
    """A session for a model file or its content, that `provider` runs as far as it can.

    Without `optimize` the graph is taken as it is, as that of a built engine must be.

    Raises:
        ClusterError: this machine, or this build of ONNX Runtime, does not have the provider.
        One of LOADING_ERRORS: the model cannot be loaded.
    """
    wanted = NAMES[provider]
    if wanted not in onnxruntime.get_available_providers():
        raise _absent(provider, f"ONNX Runtime {onnxruntime.__version__} was built without it")
    settings = onnx_session.settings(threads)
    if not optimize:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    behind = [NAMES[name] for name in BEHIND[provider]]
    opened = onnxruntime.InferenceSession(
        model,
        settings,
        providers=[(wanted, options or {}), *behind],
        disabled_optimizers=onnx_session.SLOWER_ON_CPU if provider == "cpu" else (),
        enable_fallback=0,
    )
    # Where its libraries are missing, a provider is left out with a line in the log.
    if wanted not in opened.get_providers():
        raise _absent(provider, "its libraries could not be loaded")
    return opened


def _absent(provider: str, why: str) -> ClusterError:
    return ClusterError(
        f"the provider {provider} is not here: {why}",
        where="serve.providers",
        expected="onnxruntime-gpu in the place of onnxruntime, CUDA and cuDNN, and for tensorrt "
        "its libraries",
    )
