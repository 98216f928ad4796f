"""Endpoints of many bundles in one process, of which a few are loaded at a time.

A request loads the bundle that it is for, in the place of the one that was asked longest ago.
Others are answered meanwhile. What an endpoint needs besides its model (who may call, what was
counted, its pages) is small, and stays.
"""

from __future__ import annotations

import asyncio
import gc
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ray_pipeline.deploy.app import Endpoint
from ray_pipeline.deploy.asgi import (
    ASGIApp,
    Header,
    Receive,
    Response,
    Scope,
    Send,
    error_response,
    failure_response,
    not_http,
)
from ray_pipeline.deploy.auth import Gate, Headers
from ray_pipeline.errors import RequestError


class Loaded:
    """The endpoints that are in memory.

    Args:
        load: makes an endpoint, in a thread.
        most: how many there are at most; those that still answer a request do not count.
    """

    def __init__(self, load: Callable[[str], Endpoint], most: int) -> None:
        self._load, self._most = load, most
        self._endpoints: OrderedDict[str, Endpoint] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Endpoint]] = {}
        self._turn = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """Whose they are, that which was asked longest ago first."""
        return list(self._endpoints)

    async def endpoint(self, name: str) -> Endpoint:
        """The endpoint, loaded first if need be; requests that come meanwhile wait for the same."""
        found = self._endpoints.get(name)
        if found is not None:
            self._endpoints.move_to_end(name)
            return found
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._loaded(name))
        # A client that leaves takes the others' endpoint not with it.
        return await asyncio.shield(self._loading[name])

    async def _loaded(self, name: str) -> Endpoint:
        try:
            async with self._turn:  # two at once would both need room
                while len(self._endpoints) >= self._most:
                    self._endpoints.popitem(last=False)
                    gc.collect()  # an endpoint refers to itself, by its routes
                endpoint = await asyncio.to_thread(self._load, name)
                self._endpoints[name] = endpoint
                return endpoint
        finally:
            del self._loading[name]


@dataclass(frozen=True)
class Kept:
    """What is kept of an endpoint that is not loaded."""

    gate: Gate | None
    pages: Mapping[str, Response]


class Many:
    """The ASGI app that answers for all of them.

    Args:
        kept: by the endpoint's name.
        loaded: the endpoints that are in memory.
        other: answers what is below none of the names.
        started: called on the event loop before the first request.
        stopped: called after the last.
    """

    def __init__(
        self,
        kept: Mapping[str, Kept],
        loaded: Loaded,
        other: ASGIApp,
        started: Callable[[], None],
        stopped: Callable[[], None],
    ) -> None:
        self._kept, self._loaded, self._other = kept, loaded, other
        self._started, self._stopped = started, stopped

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await not_http(receive, send, self._started, self._stopped)
        name = scope["path"].split("/", 2)[1]
        kept = self._kept.get(name)
        if kept is None:
            return await self._other(scope, receive, send)
        head = scope["method"] == "HEAD"
        page = kept.pages.get(scope["path"])
        if page is not None and (head or scope["method"] == "GET"):
            return await page.send(send, head)
        try:
            endpoint = await self._endpoint(name, scope["headers"])
        except RequestError as error:
            answer = error_response(error, path=scope["path"])
        except Exception as error:  # noqa: BLE001 - the boundary: logged, told without details
            answer = failure_response(error, scope["path"])
        else:
            return await endpoint(scope, receive, send)
        return await answer.send(send, head)

    async def infer(self, name: str, body: bytes, headers: list[Header]) -> Response:
        """The Open Inference Protocol's `infer`. Raises RequestError."""
        endpoint = await self._endpoint(name, headers)
        return await endpoint.infer(body, headers)

    async def _endpoint(self, name: str, headers: Headers) -> Endpoint:
        """The endpoint; only those who may call it have it loaded. Raises RequestError."""
        gate = self._kept[name].gate
        if gate is not None and name not in self._loaded.names:
            gate.check(headers)
        return await self._loaded.endpoint(name)
