"""The bundle's graph behind LitServe. Its workers are handed the class by name, hence this file."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import _rivals
import litserve as ls
import psutil
from _common import is_ready
from fastapi import HTTPException

Rows = list[dict[str, Any]]


class Model(ls.LitAPI):
    """One worker that predicts request by request, with a check of the columns' names."""

    def __init__(self, bundle: str) -> None:
        super().__init__(api_path="/model/predict")
        self.bundle = bundle

    def setup(self, device: str) -> None:
        self.by_graph = _rivals.by_onnx(self.bundle)
        self.names = _rivals.names_of(self.bundle)
        self.answer = _rivals.answers_of(self.bundle)

    # An annotation, which is a text in this file, would make the body a query's parameter.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        rows: Rows = request["rows"]
        if any(row.keys() - self.names for row in rows):
            raise HTTPException(422)
        return rows

    def predict(self, x: Rows) -> list[list[float]]:
        return self.by_graph(x)

    def encode_response(self, output: list[list[float]]) -> dict[str, Any]:
        return self.answer(output)


def serve(bundle: str, port: int, key: str, until_told: Callable[[], None]) -> None:
    """Serve until told; `key` opens it."""
    # LitServe reads the key when it is imported, and in the processes that it starts.
    os.environ["LIT_SERVER_API_KEY"] = key
    ls.server.LIT_SERVER_API_KEY = key

    def ended() -> None:
        while not is_ready(port, key, "/health"):  # its workers, too
            time.sleep(0.05)
        until_told()
        # Its manager, workers and server are processes of their own, and end with nobody.
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(0)

    threading.Thread(target=ended, daemon=True).start()
    server = ls.LitServer(Model(bundle), accelerator="cpu", devices=1)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")
