"""How graphs are run by ONNX Runtime, in bulk as at the endpoint."""

from __future__ import annotations

import onnxruntime

SLOWER_ON_CPU = ("SkipLayerNormFusion",)
"""What ONNX Runtime does to a graph that costs time there: of 60 tokens 384 wide, a sum and a layer
norm take 12 µs, and 104 µs as the one node that it makes of them (version 1.32)."""


def settings(threads: int) -> onnxruntime.SessionOptions:
    """Of a session that computes with so many threads."""
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = threads
    made.inter_op_num_threads = 1
    made.log_severity_level = 3
    # A waiting thread would otherwise spin, and take its core from other replicas.
    made.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return made
