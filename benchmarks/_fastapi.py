"""What one would write by hand with FastAPI: typed rows, a key, one model on one thread."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Any

import _rivals
import numpy as np

from ray_pipeline.bundle import opened
from ray_pipeline.schema import Column

TYPES = {"integer": int, "number": float, "boolean": bool, "category": str, "text": str}
Outputs = list[list[float]]


def app(bundle: str, key: str, by: str = "onnx") -> Any:
    """The app, whose rows are predicted by the bundle's graph in ONNX Runtime, or by the trained
    network in torch with `by="torch"`."""
    from fastapi import Depends, FastAPI, Header, HTTPException

    columns, answer = opened(bundle).manifest.schema.features, _rivals.answers_of(bundle)
    predict = _torch(bundle, columns) if by == "torch" else _onnx(bundle, columns)
    request_type = _request_type(columns)

    def checked(x_api_key: str | None = Header(None)) -> None:
        if x_api_key is None:
            raise HTTPException(401)
        if not hmac.compare_digest(x_api_key, key):
            raise HTTPException(403)

    async def asked(request: Any) -> dict[str, Any]:
        return answer(predict(request.rows))

    # Annotations are texts in this file, and FastAPI cannot look local names up.
    asked.__annotations__ = {"request": request_type, "return": dict[str, Any]}
    made = FastAPI()
    made.post("/model/predict", dependencies=[Depends(checked)])(asked)
    return made


def _request_type(columns: Sequence[Column]) -> Any:
    from pydantic import BaseModel, ConfigDict, Field, create_model

    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)

    fields: dict[str, Any] = {
        f"f{i}": (TYPES.get(column.kind, str) | None, Field(alias=column.name))
        for i, column in enumerate(columns)
    }
    row: Any = create_model("Row", __base__=Strict, **fields)
    rows = (list[row], Field(min_length=1, max_length=1000))
    return create_model("Request", __base__=Strict, rows=rows)


def _onnx(bundle: str, columns: Sequence[Column]) -> Callable[[Sequence[Any]], Outputs]:
    if {column.kind for column in columns} & {"text", "image", "date"}:
        by_graph = _rivals.by_onnx(bundle)
        return lambda rows: by_graph([row.model_dump(by_alias=True) for row in rows])
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(opened(bundle).model), options)

    def predict(rows: Sequence[Any]) -> Outputs:
        feeds = {}
        for i, column in enumerate(columns):
            values = [getattr(row, f"f{i}") for row in rows]
            if column.kind == "category":
                texts = [value.strip() if value else "" for value in values]
                feeds[column.name] = np.array(texts, dtype=object)
            else:
                feeds[column.name] = np.array(values, dtype=np.float64)
        outputs: Outputs = session.run(None, feeds)[0].tolist()
        return outputs

    return predict


def _torch(bundle: str, columns: Sequence[Column]) -> Callable[[Sequence[Any]], Outputs]:
    import torch

    torch.set_num_threads(1)
    by_network = _rivals.by_torch(bundle)
    return lambda rows: by_network([row.model_dump(by_alias=True) for row in rows])
