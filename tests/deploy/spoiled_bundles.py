"""Versions of a small bundle that go wrong in one way each, as a bad release would."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from upath import UPath

from ray_pipeline import bundle as bundles
from ray_pipeline.bundle import Bundle

OLD_AGE = 50
"""Above this, `failing` fails; the example row is younger."""


def version(
    made: Bundle,
    folder: Path,
    name: str,
    nodes: Any = None,
    graph_file: str = "model.onnx",
    **changes: Any,
) -> Bundle:
    """The bundle as another version; `nodes` makes nodes from the graph's output to a new one."""
    folder.mkdir()
    files = {file: (made.path / file).read_bytes() for file in made.manifest.files}
    if nodes is not None:
        graph = onnx.load_from_string(files[graph_file])
        old, new = graph.graph.output[0].name, f"{graph.graph.output[0].name}_of_{name}"
        added, constants = nodes(old, new)
        graph.graph.node.extend(added)
        graph.graph.initializer.extend(
            numpy_helper.from_array(value, key) for key, value in constants.items()
        )
        kind = graph.graph.output[0].type
        graph.graph.output[0].CopyFrom(onnx.ValueInfoProto(name=new, type=kind))
        files[graph_file] = graph.SerializeToString()
    changes |= {"version": name, "files": {}, "digest": "0" * 64}
    bundles.write(UPath(folder), dataclasses.replace(made.manifest, **changes), files)
    return bundles.opened(folder)


def turned(old: str, new: str) -> tuple[list[Any], dict[str, Any]]:
    """Says the other class of two."""
    return [helper.make_node("Sub", ["one", old], [new])], {"one": np.float32(1)}


def failing(old: str, new: str) -> tuple[list[Any], dict[str, Any]]:
    """Raises for a row that is older than OLD_AGE: it asks for the second of one."""
    nodes = [
        helper.make_node("Greater", ["age", "old_age"], ["is_old"]),
        helper.make_node("Cast", ["is_old"], ["places"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["places"], ["place"], keepdims=0),
        helper.make_node("Gather", ["only_one", "place"], ["zero"]),
        helper.make_node("Add", [old, "zero"], [new]),
    ]
    return nodes, {"old_age": np.float64(OLD_AGE), "only_one": np.zeros(1, np.float32)}


def slow(old: str, new: str, side: int = 900) -> tuple[list[Any], dict[str, Any]]:
    """Takes some tens of milliseconds: it multiplies what does not matter."""
    shape = [side, side]
    nodes = [helper.make_node("RandomNormal", [], ["noise"], shape=shape)]
    nodes += [helper.make_node("MatMul", ["noise", "noise"], ["product"])]
    nodes += [
        helper.make_node("ReduceMax", ["product"], ["largest"], keepdims=0),
        helper.make_node("Min", ["largest", "tiny"], ["smallest"]),
        helper.make_node("Max", ["smallest", "tiny"], ["added"]),
        helper.make_node("Add", [old, "added"], [new]),
    ]
    return nodes, {"tiny": np.float32(0)}
