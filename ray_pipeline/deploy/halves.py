"""A model as two graphs: one that reads raw rows, which needs texts and runs on CPUs, and the
network behind it, which is all arithmetic and may be given to another processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]
Predict = Callable[[Columns], NDArray[Any]]


@dataclass(frozen=True)
class Halves:
    """`reading` takes columns and puts out `numbers` and `categories`; it is None where a network
    reads nothing but texts or images. `network` takes those and, of the columns in `raw`, `tokens`
    [N, T] and the `image` [N, H, W, C] as they are. Both are serialised."""

    reading: bytes | None
    network: bytes
    raw: dict[str, str]


def predicting(
    reading: onnxruntime.InferenceSession | None,
    network: onnxruntime.InferenceSession,
    raw: Mapping[str, str],
    most: int,
) -> Predict:
    """A function from raw columns [N] to the outputs of both graphs, `most` rows at a time."""
    columns = [value.name for value in reading.get_inputs()] if reading else []
    # An output that a column shares its name with has underscores after it.
    made = [value.name.rstrip("_") for value in reading.get_outputs()] if reading else []
    wanted = {value.name for value in network.get_inputs()}

    def part(given: Columns) -> NDArray[Any]:
        feeds = {name: given[column] for name, column in raw.items()}
        if reading is not None:
            outputs = reading.run(None, {name: given[name] for name in columns})
            feeds |= dict(zip(made, outputs, strict=True))
        kept = {name: values for name, values in feeds.items() if name in wanted}
        output: NDArray[Any] = network.run(None, kept)[0]
        return output

    def predict(given: Columns) -> NDArray[Any]:
        rows = len(next(iter(given.values())))
        parts = [
            part({name: values[start : start + most] for name, values in given.items()})
            for start in range(0, max(rows, 1), most)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return predict
