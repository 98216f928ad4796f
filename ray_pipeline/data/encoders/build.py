"""An ONNX graph under construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

ML = "ai.onnx.ml"
RUNTIME = "com.microsoft"
"""ONNX Runtime's own operators."""
_PREFIX = "feature graph/"  # before every inner name: a column may be called anything


@dataclass
class Build:
    """Nodes and constants so far; each call adds a node and returns the name of its output."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def node(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        out = out or f"{_PREFIX}{len(self.nodes)}"
        name = f"{_PREFIX}{kind} {len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=name, **attributes))
        return out

    def constant(self, values: Any, dtype: Any = np.float64) -> str:
        name = f"{_PREFIX}constant {len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def columns(self, names: Sequence[str], out: str = "") -> str:
        """Tensors [N] side by side, [N, len(names)]."""
        ends = self.node("Concat", *names, axis=0)
        rows = self.node("Reshape", ends, self.constant([len(names), -1], np.int64))
        return self.node("Transpose", rows, perm=[1, 0], out=out)

    def beside(self, blocks: Sequence[str], out: str) -> None:
        """Tensors [N, W] side by side."""
        if len(blocks) == 1:
            self.node("Identity", blocks[0], out=out)
        else:
            self.node("Concat", *blocks, axis=1, out=out)

    def missing(self, values: str) -> str:
        """Which doubles are NaN or infinite."""
        return self.node("IsNaN", self.node("Sub", values, values))

    def cast(self, values: str, to: int) -> str:
        return self.node("Cast", values, to=to)
