"""The bundle's graph behind BentoML. Its workers import the service by name, hence this file.

Without its access log, metrics and tracing, on the event loop, and with the garbage collector
frozen once the model is loaded, which is a good deal faster than as it comes.
"""

import contextlib
import gc
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
from _common import is_ready

BUNDLE, KEY, PYTHON = "BENCHMARK_BUNDLE", "BENCHMARK_KEY", "BENCHMARK_BENTOML_PYTHON"


def serve(bundle: str, port: int, key: str, until_told: Callable[[], None]) -> None:
    """Serve until told; `key` opens it. BentoML is run by the interpreter that PYTHON names."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            BUNDLE: bundle,
            KEY: key,
            "BENTOML_HOME": home,
            "BENTOML_DO_NOT_TRACK": "True",
        }
        command = [os.environ[PYTHON], "-m", "bentoml", "serve", "_bentoml:Model"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parent)
        try:
            while not is_ready(port, key, "/readyz"):
                assert process.poll() is None, "BentoML ended"
                time.sleep(0.05)
            until_told()
        finally:
            children = psutil.Process().children(recursive=True)
            for each in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait()


if BUNDLE in os.environ:  # in its own processes
    import _rivals
    import bentoml

    @bentoml.service(
        workers=1,
        metrics={"enabled": False},
        tracing={"sample_rate": 0.0},
        logging={"access": {"enabled": False}},
        traffic={"timeout": 600, "max_concurrency": 1000},
    )
    class Model:
        """One worker that predicts request by request, with a check of the columns' names."""

        def __init__(self) -> None:
            bundle = os.environ[BUNDLE]
            self.by_graph = _rivals.by_onnx(bundle)
            self.names, self.answer = _rivals.names_of(bundle), _rivals.answers_of(bundle)
            gc.collect()
            gc.freeze()

        @bentoml.api(route="/model/predict")
        async def predict(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
            if any(row.keys() - self.names for row in rows):
                raise bentoml.exceptions.BentoMLException(
                    "unknown column", error_code=HTTPStatus.UNPROCESSABLE_ENTITY
                )
            return self.answer(self.by_graph(rows))

    Model.add_asgi_middleware(_rivals.Keyed, key=os.environ[KEY])
