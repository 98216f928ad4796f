"""What Ray Serve runs: a replica of an endpoint, which opens the bundle and builds its own app."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import TYPE_CHECKING

from ray_pipeline import bundle
from ray_pipeline.deploy.app import Endpoint
from ray_pipeline.deploy.asgi import ASGIApp, Header, Response
from ray_pipeline.deploy.board import board
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.pages import pages
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.job import Serve

if TYPE_CHECKING:  # its client is an extra
    from ray_pipeline.deploy.online import Lookup

_REPORT_EVERY_S = 1.0


class Reporter:
    """Sends what a replica counted to the board, once a second while there is something new."""

    def __init__(self, name: str, counters: Counters) -> None:
        self._name, self._counters = name, counters
        self._board = board()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Report from now on, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._forever())

    def report(self) -> None:
        """Report now, if there is something new."""
        counts, in_flight = self._counters.taken(), self._counters.in_flight
        if counts["requests"] or in_flight:
            self._board.report.remote(self._name, str(os.getpid()), counts, in_flight)

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            self.report()


class Replica:
    """One process that answers for an endpoint.

    Args:
        name: the endpoint's.
        path: the bundle's folder or URI; every file of it is checked against its digest.
        settings: the job's `serve` section, as JSON.
        key_hash: sha256 of the API key, or None for no key. The key itself never comes here.
    """

    def __init__(self, name: str, path: str, settings: str, key_hash: str | None) -> None:
        serve = Serve.model_validate_json(settings)
        opened = bundle.opened(path)
        counters = Counters()
        reporter = Reporter(name, counters)
        self._endpoint = Endpoint(
            name,
            Predictor(opened, threads=1),
            serve,
            key_hash=key_hash,
            pages=pages(name, opened, serve),
            counters=counters,
            started=reporter.start,
            stopped=reporter.report,
            online=_lookup(serve),
        )
        # What was loaded stays: a full collection over it would stop requests for long.
        gc.collect()
        gc.freeze()

    def __serve_build_asgi_app__(self) -> ASGIApp:  # Ray Serve's hook
        return self._endpoint

    async def infer(self, body: bytes, headers: list[Header]) -> Response:
        """The Open Inference Protocol's `infer`, called through a handle by the front."""
        return await self._endpoint.infer(body, headers)


def _lookup(settings: Serve) -> Lookup | None:
    if settings.online is None:
        return None
    from ray_pipeline.deploy.online import Lookup

    return Lookup(settings.online)
