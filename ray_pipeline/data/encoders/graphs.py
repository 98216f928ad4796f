"""Pretrained models as ONNX: written once for each machine, into the user's cache, and opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from upath import UPath

from ray_pipeline import files
from ray_pipeline.data.encoders import tokens

OPSET = 20
CPU = ("CPUExecutionProvider",)


def cached(kind: str, base: str, exported: Callable[[str], bytes]) -> UPath:
    """The file of the model `base` as ONNX, made by `exported` if it is not among those of its
    `kind` in the cache."""
    cache = UPath(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    path = cache / "ray_pipeline" / kind / f"{tokens.digest_of(base)}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, exported(base))
    return path


def session(graph: Path | UPath, threads: int = 1, providers: Sequence[str] = CPU) -> Any:
    """ONNX Runtime's session of a graph, on the first of its `providers` that can."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(graph), options, providers=list(providers))
