"""The servers that serve.py compares: `python _servers.py KIND BUNDLE PORT KEY`.

Each prints `ready` once it answers, and ends when its standard input does.
"""

from __future__ import annotations

import hmac
import sys
import threading
from typing import Any

import _rivals
import numpy as np

KINDS = {
    "ours": "this project, one replica",
    "ours_2": "this project, two replicas",
    "serve_default": "Ray Serve + FastAPI, room for 100 requests",
    "serve_bare": "Ray Serve + FastAPI, every default",
    "fastapi_onnx": "FastAPI + uvicorn + ONNX Runtime",
    "fastapi_torch": "FastAPI + uvicorn + torch",
    "litserve": "LitServe + ONNX Runtime",
    "raw_asgi": "our ASGI app + uvicorn, no Ray",
}


def main() -> None:
    kind, bundle, port, key = sys.argv[1:]
    {
        "ours": lambda: ours(bundle, int(port), key, replicas=1),
        "ours_2": lambda: ours(bundle, int(port), key, replicas=2),
        "serve_default": lambda: serve_default(bundle, int(port), key, max_ongoing_requests=100),
        "serve_bare": lambda: serve_default(bundle, int(port), key),
        "fastapi_onnx": lambda: uvicorn_server(fastapi_app(bundle, key), int(port)),
        "fastapi_torch": lambda: uvicorn_server(_rivals.fastapi_torch(bundle, key), int(port)),
        "litserve": lambda: litserve(bundle, int(port), key),
        "raw_asgi": lambda: uvicorn_server(raw_asgi_app(bundle, key), int(port)),
    }[kind]()


def until_told() -> None:
    print("ready", flush=True)
    sys.stdin.read()


def ours(bundle: str, port: int, key: str, replicas: int) -> None:
    from ray_pipeline import cluster, files
    from ray_pipeline.deploy import release
    from ray_pipeline.job import Replicas, Serve
    from ray_pipeline.job.routes import Jobs

    files.write_private(files.state_folder() / "key", key)
    try:
        cluster.connect()
        count = Replicas(min=replicas, max=replicas)
        settings = Serve(port=port, replicas=count, jobs=Jobs(folder=str(files.state_folder())))
        release.deploy(bundle, "model", settings)
        until_told()
    finally:
        cluster.down()


def litserve(bundle: str, port: int, key: str) -> None:
    import _litserve  # its library is an extra

    _litserve.serve(bundle, port, key, until_told)


def fastapi_app(bundle: str, key: str) -> Any:
    """What one would write by hand: typed rows, a key, one ONNX Runtime session."""
    import onnxruntime
    from fastapi import Depends, FastAPI, Header, HTTPException
    from pydantic import BaseModel, ConfigDict, Field, create_model

    from ray_pipeline.bundle import opened

    found = opened(bundle)
    manifest, columns = found.manifest, found.manifest.schema.features
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(found.model), options)
    classes, version = manifest.classes or (), manifest.version
    types = {"integer": int, "number": float, "boolean": bool, "category": str}

    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)

    fields: dict[str, Any] = {
        f"f{i}": (types[column.kind] | None, Field(alias=column.name))
        for i, column in enumerate(columns)
    }
    row_type: Any = create_model("Row", __base__=Strict, **fields)
    request_type: Any = create_model(
        "Request", __base__=Strict, rows=(list[row_type], Field(min_length=1, max_length=1000))
    )

    def checked(x_api_key: str | None = Header(None)) -> None:
        if x_api_key is None:
            raise HTTPException(401)
        if not hmac.compare_digest(x_api_key, key):
            raise HTTPException(403)

    app = FastAPI()

    async def predict(request: request_type) -> dict[str, Any]:
        feeds = {}
        for i, column in enumerate(columns):
            values = [getattr(row, f"f{i}") for row in request.rows]
            if column.kind == "category":
                texts = [value.strip() if value else "" for value in values]
                feeds[column.name] = np.array(texts, dtype=object)
            else:
                feeds[column.name] = np.array(values, dtype=np.float64)
        predictions = []
        for probabilities in session.run(None, feeds)[0].tolist():
            best = max(range(len(classes)), key=probabilities.__getitem__)
            predictions.append(
                {
                    "label": classes[best],
                    "probability": probabilities[best],
                    "probabilities": dict(zip(classes, probabilities, strict=True)),
                }
            )
        return {"predictions": predictions, "version": version}

    # Annotations are texts in this file, and FastAPI cannot look local names up.
    predict.__annotations__ = {"request": request_type, "return": dict[str, Any]}
    app.post("/model/predict", dependencies=[Depends(checked)])(predict)
    return app


def raw_asgi_app(bundle: str, key: str) -> Any:
    from ray_pipeline.bundle import opened
    from ray_pipeline.deploy.app import Endpoint
    from ray_pipeline.deploy.auth import Gate
    from ray_pipeline.deploy.counters import Counters
    from ray_pipeline.deploy.keyring import described
    from ray_pipeline.deploy.runtime import Predictor
    from ray_pipeline.job import Serve

    return Endpoint(
        "model",
        Predictor(opened(bundle)),
        Serve(),
        gate=Gate("model", [described("own", key)]),
        pages={},
        counters=Counters(),
        started=lambda: None,
        stopped=lambda: None,
    )


def uvicorn_server(app: Any, port: int) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            threading.Thread(target=self.until_told, daemon=True).start()

        def until_told(self) -> None:
            until_told()
            self.should_exit = True

    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
    Server(config).run()


def serve_default(bundle: str, port: int, key: str, **options: Any) -> None:
    """Ray Serve in its default environment.

    With every default it lets a replica have 5 requests at a time, and beyond that its router
    waits ever longer between tries: 32 connections get a tenth of what 8 get. The ratio is taken
    with that one bound raised, so that it does not flatter us.
    """
    import ray
    from ray import serve

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"port": port})

        def build() -> Any:
            return fastapi_app(bundle, key)

        deployment = serve.deployment(**options)(serve.ingress(build)())
        serve.run(deployment.bind(), route_prefix="/")
        until_told()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
