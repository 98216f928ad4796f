"""The endpoint's app behind a real HTTP server, as a replica runs it, without Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy.app import Endpoint
from ray_pipeline.deploy.asgi import ASGIApp
from ray_pipeline.deploy.auth import Gate
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.edge import Edge
from ray_pipeline.deploy.guard import guard
from ray_pipeline.deploy.keyring import Key, described
from ray_pipeline.deploy.pages import pages
from ray_pipeline.deploy.ports import free_ports
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.job import Serve

KEY = "rp_test"


def endpoint(bundle: Bundle, settings: Serve, keys: Sequence[Key] = (), **more: Any) -> Endpoint:
    """The app of the endpoint `model`; `more` replaces what it is made of."""
    parts = {
        "gate": Gate("model", [described("own", KEY), *keys]) if settings.auth == "key" else None,
        "pages": pages("model", bundle, settings),
        "counters": Counters(),
        "started": lambda: None,
        "stopped": lambda: None,
        "guard": guard(bundle, settings.guard),
    }
    return Endpoint("model", Predictor(bundle), settings, **{**parts, **more})


@contextmanager
def running(app: ASGIApp) -> Iterator[int]:
    """The port of this machine where `app` answers."""
    (port,) = free_ports(1)
    config = uvicorn.Config(Edge(app), port=port, log_level="error", loop="uvloop")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield port
    finally:
        server.should_exit = True
        thread.join()
