"""What a population ends with: its best member, which is trained already."""

from __future__ import annotations

import json
from typing import Any

from safetensors.torch import load as tensors
from safetensors.torch import save as tensor_bytes
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.job import Model, Train
from ray_pipeline.model import checkpoints, loop
from ray_pipeline.model.objectives import LOSS

Record = dict[str, Any]
WEIGHTS, HISTORY = "model.safetensors", "history.json"


def keep(member: Record, states: UPath, out: UPath) -> None:
    """Write the weights of the member's best epoch below `out`, and its epochs, of which those
    before an exchange were another's."""
    state = checkpoints.loaded(states / member["weights"])
    assert state is not None, "a member ended without a state"
    (out / WEIGHTS).write_bytes(tensor_bytes(state["best"]))
    finite = [epoch for epoch in member["history"] if epoch[LOSS] is not None]
    (out / HISTORY).write_text(json.dumps(finite, indent=1))


def write(features: UPath, searched: UPath, model: Model, train: Train, out: UPath) -> Record:
    """The best member that `tune.write` kept in `searched`, laid out as by `train.write`: nothing
    is trained again. `model` and `train` have the settings that the member ended with."""
    history = json.loads((searched / HISTORY).read_text())
    weights = (searched / WEIGHTS).read_bytes()
    inputs = loop.inputs(prepared.load(features))
    described = {"model": model.model_dump(mode="json"), "inputs": inputs.model_dump(mode="json")}
    (out / WEIGHTS).write_bytes(weights)
    (out / "model.json").write_text(json.dumps(described, indent=1))
    (out / HISTORY).write_text(json.dumps(history, indent=1))
    best = history[loop.best_epoch(history)]
    return {
        "strategy": "population",
        "batch_size": train.batch_size,
        "parameters": sum(tensor.numel() for tensor in tensors(weights).values()),
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "score": best["score"],
        "validation_loss": best[LOSS],
        "seconds": round(sum(epoch["seconds"] for epoch in history), 3),
    }
