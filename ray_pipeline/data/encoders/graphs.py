"""Pretrained models as ONNX: written once for each machine, into the user's cache, and opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from upath import UPath

from ray_pipeline import files
from ray_pipeline.data import onnx_session
from ray_pipeline.data.encoders import tokens

OPSET = 20
CPU = ("CPUExecutionProvider",)
FORM = 2
"""How graphs are written: raised with every change, after which those in caches are made again."""


def cached(kind: str, base: str, exported: Callable[[str], bytes]) -> UPath:
    """The file of the model `base` as ONNX, made by `exported` if it is not among those of its
    `kind` in the cache."""
    cache = UPath(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    path = cache / "ray_pipeline" / kind / f"{tokens.content_digest(base)}-{FORM}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, exported(base))
    return path


def session(graph: Path | UPath, threads: int = 1, providers: Sequence[str] = CPU) -> Any:
    """ONNX Runtime's session of a graph, on the first of its `providers` that can."""
    import onnxruntime

    on_cpu = providers[0] in CPU
    return onnxruntime.InferenceSession(
        str(graph),
        onnx_session.settings(threads),
        providers=list(providers),
        disabled_optimizers=onnx_session.SLOWER_ON_CPU if on_cpu else (),
    )
