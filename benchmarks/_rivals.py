"""Servers that predict with the same model by other means, with a key and a check of the rows."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ray_pipeline.bundle import opened

Predict = Callable[[list[dict[str, Any]]], list[list[float]]]


class Keyed:
    """An ASGI app that is open to who has the key."""

    def __init__(self, app: Any, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"x-api-key", b"")
            if not hmac.compare_digest(given, self._key):
                status = 403 if given else 401
                await send({"type": "http.response.start", "status": status, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
        await self._app(scope, receive, send)


def by_onnx(bundle: str) -> Predict:
    """Rows to probabilities by the bundle's own graph, on one thread."""
    from ray_pipeline.deploy import pictures
    from ray_pipeline.deploy.protocol import Protocol
    from ray_pipeline.deploy.runtime import Predictor

    found = opened(bundle)
    image = pictures.image_of(found.manifest)
    protocol = Protocol(found.manifest.schema, 1000, image=image)
    predictor = Predictor(found)
    return lambda rows: predictor.predict(protocol.columns(protocol.checked(rows))).tolist()


def by_torch(bundle: str) -> Predict:
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
    images = [column.name for column in manifest.schema.features if column.kind == "image"]

    def predict(rows: list[dict[str, Any]]) -> list[list[float]]:
        files = [{name: base64.b64decode(row[name]) for name in images} for row in rows]
        whole = [{**row, **content, **label} for row, content in zip(rows, files, strict=True)]
        table = pa.Table.from_pylist(whole, schema=schema)
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
