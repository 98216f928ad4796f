"""The servers that serve.py and chat_serve.py compare.

`python _servers.py KIND BUNDLE PORT KEY SETTINGS`: SETTINGS are of an endpoint of ours, in JSON.
Each prints `ready` once it answers, and ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import _fastapi

KINDS = {
    "ours": "this project, one replica",
    "ours_2": "this project, two replicas",
    "serve_default": "Ray Serve + FastAPI, room for 100 requests",
    "serve_bare": "Ray Serve + FastAPI, every default",
    "fastapi_onnx": "FastAPI + uvicorn + ONNX Runtime",
    "fastapi_torch": "FastAPI + uvicorn + torch",
    "bentoml": "BentoML + ONNX Runtime",
    "litserve": "LitServe + ONNX Runtime",
    "mlflow": "MLflow's scoring server + ONNX Runtime",
    "raw_asgi": "our ASGI app + uvicorn, no Ray",
}


def main() -> None:
    kind, bundle, port, key, settings = sys.argv[1:]
    {
        "ours": lambda: ours(bundle, int(port), key, 1, settings),
        "ours_2": lambda: ours(bundle, int(port), key, 2, settings),
        "serve_default": lambda: serve_default(bundle, int(port), key, max_ongoing_requests=100),
        "serve_bare": lambda: serve_default(bundle, int(port), key),
        "fastapi_onnx": lambda: uvicorn_server(_fastapi.app(bundle, key), int(port)),
        "fastapi_torch": lambda: uvicorn_server(_fastapi.app(bundle, key, "torch"), int(port)),
        "bentoml": lambda: bentoml(bundle, int(port), key),
        "litserve": lambda: litserve(bundle, int(port), key),
        "mlflow": lambda: uvicorn_server(mlflow_app(bundle, key), int(port)),
        "raw_asgi": lambda: uvicorn_server(raw_asgi_app(bundle, key), int(port)),
        "langchain": lambda: uvicorn_server(langchain_app(bundle, key), int(port)),
    }[kind]()


def until_told() -> None:
    print("ready", flush=True)
    sys.stdin.read()


def ours(bundle: str, port: int, key: str, replicas: int, settings: str) -> None:
    from ray_pipeline import cluster, files
    from ray_pipeline.deploy import release
    from ray_pipeline.job import Replicas, Serve
    from ray_pipeline.job.routes import Jobs

    files.write_private(files.state_folder() / "key", key)
    try:
        cluster.connect()
        count = Replicas(min=replicas, max=replicas)
        jobs = Jobs(folder=str(files.state_folder()))
        serve = Serve(port=port, replicas=count, jobs=jobs, **json.loads(settings))
        release.deploy(bundle, "model", serve)
        until_told()
    finally:
        cluster.down()


def litserve(bundle: str, port: int, key: str) -> None:
    import _litserve  # its library is an extra

    _litserve.serve(bundle, port, key, until_told)


def bentoml(bundle: str, port: int, key: str) -> None:
    import _bentoml

    _bentoml.serve(bundle, port, key, until_told)


def mlflow_app(bundle: str, key: str) -> Any:
    import _mlflow

    return _mlflow.app(bundle, key)


def langchain_app(bundle: str, key: str) -> Any:
    import _langchain  # chat_serve.py's; its libraries are an extra

    return _langchain.app(bundle, key)


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
    # Before Serve is imported, which reads it; it does not change how fast requests are answered.
    os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"
    import ray
    from ray import serve

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"port": port})

        def build() -> Any:
            return _fastapi.app(bundle, key)

        deployment = serve.deployment(**options)(serve.ingress(build)())
        serve.run(deployment.bind(), route_prefix="/")
        until_told()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
