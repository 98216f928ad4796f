"""Servers that predict with the same model by other means, with a key and a check of the rows."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ray_pipeline.bundle import opened

Predict = Callable[[list[dict[str, Any]]], list[list[float]]]


def fastapi_torch(bundle: str, key: str) -> Any:
    """The trained network in torch behind FastAPI, on one thread, its rows prepared by Arrow."""
    import torch
    from fastapi import FastAPI, Header, HTTPException, Request

    torch.set_num_threads(1)
    predict, names, answer = _by_torch(bundle), names_of(bundle), answers_of(bundle)
    app = FastAPI()

    async def asked(request: Request, x_api_key: str | None = Header(None)) -> dict[str, Any]:
        if x_api_key is None:
            raise HTTPException(401)
        if not hmac.compare_digest(x_api_key, key):
            raise HTTPException(403)
        rows = (await request.json())["rows"]
        if any(row.keys() - names for row in rows):
            raise HTTPException(422)
        return answer(predict(rows))

    # Annotations are texts in this file, and FastAPI cannot look local names up.
    asked.__annotations__ = {"request": Request, "x_api_key": str | None, "return": dict[str, Any]}
    app.post("/model/predict")(asked)
    return app


def by_onnx(bundle: str) -> Predict:
    """Rows to probabilities by the bundle's own graph, on one thread."""
    from ray_pipeline.deploy.protocol import Protocol
    from ray_pipeline.deploy.runtime import Predictor

    found = opened(bundle)
    protocol, predictor = Protocol(found.manifest.schema, 1000), Predictor(found)
    return lambda rows: predictor.predict(protocol.columns(protocol.checked(rows))).tolist()


def _by_torch(bundle: str) -> Predict:
    """The same by the network that was trained, from the stages of the run that made the bundle."""
    from upath import UPath

    from ray_pipeline.data import features as prepared
    from ray_pipeline.data.compiled import compiled_arrow
    from ray_pipeline.deploy import graph
    from ray_pipeline.model import train
    from ray_pipeline.model.feed import matrices

    manifest = opened(bundle).manifest
    stages = UPath(Path(bundle).resolve().parents[1] / "stages")
    made = {name: stages / f"{name}-{manifest.lineage[name]}" for name in ("features", "train")}
    statistics = prepared.load(made["features"])
    outputs = graph.torch_outputs(train.load(made["train"]), statistics)
    transform, schema = compiled_arrow(statistics), manifest.schema.arrow()
    label = {manifest.schema.label.name: (manifest.classes or (0.0,))[0]}

    def predict(rows: list[dict[str, Any]]) -> list[list[float]]:
        table = pa.Table.from_pylist([{**row, **label} for row in rows], schema=schema)
        return np.asarray(outputs(matrices(transform(table)))).tolist()

    return predict


def names_of(bundle: str) -> set[str]:
    return {*opened(bundle).manifest.schema.names}


def answers_of(bundle: str) -> Callable[[list[list[float]]], dict[str, Any]]:
    """From probabilities to the answer that our endpoint gives."""
    manifest = opened(bundle).manifest
    classes = manifest.classes or ()

    def answer(outputs: list[list[float]]) -> dict[str, Any]:
        predictions = [
            {
                "label": classes[int(np.argmax(row))],
                "probability": max(row),
                "probabilities": dict(zip(classes, row, strict=True)),
            }
            for row in outputs
        ]
        return {"predictions": predictions, "version": manifest.version}

    return answer
