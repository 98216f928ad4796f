"""What Ray Serve runs: a replica of an endpoint, which opens the bundle and builds its own app."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import ray
from ray.serve import get_app_handle

from ray_pipeline import bundle
from ray_pipeline.deploy import keyring, log_files, tally
from ray_pipeline.deploy.app import Endpoint
from ray_pipeline.deploy.asgi import ASGIApp, Header, Response
from ray_pipeline.deploy.auth import Gate
from ray_pipeline.deploy.board import Told, board
from ray_pipeline.deploy.counters import Counters, no_counts
from ray_pipeline.deploy.example import statistics
from ray_pipeline.deploy.grpc_calls import Calls
from ray_pipeline.deploy.guard import guard
from ray_pipeline.deploy.jobs import Jobs
from ray_pipeline.deploy.pages import pages
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.deploy.split import Answered, Split
from ray_pipeline.deploy.tokens import Tokens
from ray_pipeline.job import Serve

if TYPE_CHECKING:  # its client is an extra
    from ray_pipeline.deploy.online import Lookup

_LOGGER = logging.getLogger("ray.serve")
_EVERY_S = 1.0


class Upkeep:
    """What a replica does once a second beside answering: it sends what it counted to the board,
    if there is something new, and looks for keys that were added or revoked."""

    def __init__(
        self,
        name: str,
        counters: Counters,
        gate: Gate | None,
        keyring_id: str | None,
        digest: str,
    ) -> None:
        self._name, self._counters = name, counters
        self._gate, self._keyring = gate, keyring_id
        self._digest = digest
        self._board = board()
        self._splitting: tuple[Endpoint, Split] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, on the running event loop."""
        loop = asyncio.get_running_loop()
        # Apart: neither waits for what the other asks.
        self._tasks = [
            loop.create_task(self._each_second(do)) for do in (self._share, self._renewed)
        ]

    def split(self, endpoint: Endpoint, split: Split) -> None:
        """While a new version is tried, have `split` answer the endpoint's requests."""
        self._splitting = (endpoint, split)

    def report(self) -> Any:
        """Report now, if there is something new: a reference to what the board tells, or None."""
        counts, in_flight = self._counters.taken(), self._counters.in_flight
        split = self._splitting[1] if self._splitting else None
        tallies = split.taken() if split else None
        # While it splits requests it has to hear when that ends.
        if counts != no_counts() or in_flight or (split and split.is_on):
            return self._board.report.remote(
                self._name, str(os.getpid()), counts, in_flight, tallies
            )
        return None

    def stop(self) -> None:
        """Report for the last time."""
        self.report()

    def renew(self) -> None:
        """Let in the keys that are published now, and read the identity provider's when due."""
        if self._gate is None or self._keyring is None:
            return
        keys = keyring.published(self._keyring)
        if keys is not None:
            self._gate.replace(keys)
        if self._gate.tokens is not None:
            self._gate.tokens.refresh_if_due()

    async def _share(self) -> None:
        """Report, and learn how many replicas share the keys' rates and what is tried."""
        reported = self.report()
        if reported is None:
            return
        told: Told = await reported
        if self._gate is not None:
            self._gate.replicas = max(1, told.sharing)
        if self._splitting is not None:
            endpoint, split = self._splitting
            trial = told.trial if told.trial and told.trial["against"] == self._digest else None
            await split.follow(trial)
            endpoint.answering = split.answer if trial else endpoint.answered

    async def _renewed(self) -> None:
        await asyncio.to_thread(self.renew)

    async def _each_second(self, do: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await do()
            # A revoked key must not stay because the cluster did not answer once.
            except Exception as error:  # noqa: BLE001 - logged, and tried again
                _LOGGER.warning("upkeep of %s: %s", self._name, type(error).__name__)


class Replica(Calls):
    """One process that answers for an endpoint.

    Args:
        name: the endpoint's.
        path: the bundle's folder or URI; every file of it is checked against its digest.
        settings: the job's `serve` section, as JSON.
        keyring_id: whose published keys open it, or None for everybody. No key ever comes here,
            only hashes.
        digest: the release's.
    """

    def __init__(
        self, name: str, path: str, settings: str, keyring_id: str | None, digest: str
    ) -> None:
        serve = Serve.model_validate_json(settings)
        counters = Counters()
        gate = Gate(name, tokens=Tokens(serve.jwt) if serve.jwt else None) if keyring_id else None
        upkeep = Upkeep(name, counters, gate, keyring_id, digest)
        upkeep.renew()
        self._endpoint = endpoint(name, path, serve, gate=gate, counters=counters, upkeep=upkeep)
        opened = bundle.opened(path, verify=False)
        self._name, self._manifest = name, opened.manifest
        outcome = tally.outcomes_by(statistics(opened).label)
        self._split = Split(self._endpoint.predicted, outcome, get_app_handle)
        upkeep.split(self._endpoint, self._split)
        # What was loaded stays: a full collection over it would stop requests for long.
        gc.collect()
        gc.freeze()

    def __serve_build_asgi_app__(self) -> ASGIApp:  # Ray Serve's hook
        return self._endpoint

    async def answered(self, body: bytes, headers: list[Header]) -> Answered:
        """The answer to a request for predictions, called through a handle by the version that is
        live, which has let the caller in. Raises RequestError."""
        return await self._split.own(body, headers)

    async def infer(self, body: bytes, headers: list[Header]) -> Response:
        """The Open Inference Protocol's `infer`, called through a handle by the front."""
        return await self._endpoint.infer(body, headers)


def endpoint(
    name: str,
    path: str,
    settings: Serve,
    *,
    gate: Gate | None,
    counters: Counters,
    made: dict[str, Response] | None = None,
    upkeep: Upkeep | None = None,
) -> Endpoint:
    """The app of an endpoint, from the bundle at `path`.

    Args:
        made: its pages, if they were made before.
        upkeep: begins and ends with the app.

    Raises:
        BundleError: the bundle is not whole.
    """
    opened = bundle.opened(path)
    jobs = Jobs(name, path, settings) if settings.jobs else None

    def started() -> None:
        for part in (upkeep, jobs):
            if part is not None:
                part.start()

    return Endpoint(
        name,
        _predictor(opened, settings),
        settings,
        gate=gate,
        pages=made or pages(name, opened, settings),
        counters=counters,
        started=started,
        stopped=lambda: upkeep.stop() if upkeep else None,
        online=_lookup(settings),
        guard=guard(opened, settings.guard),
        jobs=jobs,
        log=log_files.folder(path, name) if settings.log else None,
    )


def _predictor(opened: bundle.Bundle, settings: Serve) -> Predictor:
    """The bundle's model, on the GPU that this replica has, if it has one."""
    # Asked outside of a cluster, Ray would start one.
    has_gpu = ray.is_initialized() and bool(ray.get_gpu_ids())
    predictor = Predictor(opened, threads=1, providers=settings.providers if has_gpu else None)
    for tried in predictor.by.refused:
        _LOGGER.warning("%s does not serve here: %s", tried.provider, tried.why)
    return predictor


def _lookup(settings: Serve) -> Lookup | None:
    if settings.online is None:
        return None
    from ray_pipeline.deploy.online import Lookup

    return Lookup(settings.online)
