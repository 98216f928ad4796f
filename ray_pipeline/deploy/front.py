"""What the server answers outside the endpoints' own paths: health, metrics, models, a list.

Needs no key, except `infer`, which passes the caller's key on to the endpoint, and the metrics of
endpoints whose job says so.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
from ray import serve
from ray.serve._private.common import ReplicaState
from ray.serve.exceptions import BackPressureError

from ray_pipeline import __version__
from ray_pipeline.deploy import keyring
from ray_pipeline.deploy.asgi import (
    ASGIApp,
    Header,
    Receive,
    Response,
    Scope,
    Send,
    Stream,
    body_of,
    error_response,
    failure_response,
    json_response,
    not_allowed,
    not_found,
    not_http,
    text_response,
)
from ray_pipeline.deploy.auth import Gate, Headers
from ray_pipeline.deploy.board import Release, board
from ray_pipeline.deploy.edge import refused
from ray_pipeline.deploy.exposition import exposition
from ray_pipeline.deploy.inference import CHAT
from ray_pipeline.deploy.tensors import BINARY
from ray_pipeline.errors import RequestError

Infer = Callable[[bytes, list[Header]], Awaitable[Response]]

_MAX_BYTES = 64_000_000  # the endpoint itself has the bound that the job sets
_KNOWN = (
    "/, /metrics, /v1/models, /v1/chat/completions, /v2, /v2/health/live, /v2/health/ready, "
    "/v2/models/NAME, /NAME/"
)
_CHAT = "/v1/chat/completions"
_READS = ("GET", "HEAD")
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def running_replicas() -> dict[str, tuple[str, int]]:
    """Status and replicas that run, by application; blocks for some milliseconds."""
    return {
        name: (
            str(application.status.value),
            sum(
                deployment.replica_states.get(ReplicaState.RUNNING, 0)
                for deployment in application.deployments.values()
            ),
        )
        for name, application in serve.status().applications.items()
    }


def application_of(release: Release) -> str:
    """The application that answers for an endpoint: one of its own, or one of many."""
    return release.get("application", release["name"])


class Front:
    """The ASGI app at `/`.

    Args:
        here: endpoints in this very process: what answers the Open Inference Protocol for them.
    """

    def __init__(self, here: Mapping[str, Infer] | None = None) -> None:
        self._here = here or {}
        self._board = board()
        self._handles: dict[str, Any] = {}
        self._answers: dict[str, Callable[[Headers], Awaitable[Response]]] = {
            "/": self._listed,
            "/metrics": self._metrics,
            "/v2": self._server,
            "/v1/models": self._models,
            "/v2/health/live": self._live,
            "/v2/health/ready": self._all_ready,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await not_http(receive, send)
        try:
            response = await self._response(scope, receive)
        except RequestError as error:
            response = error_response(error, path=scope["path"])
        except BackPressureError as error:
            wait = max(1, math.ceil(error.retry_after_s or 1))
            full = refused(429, ((b"retry-after", b"%d" % wait),))
            response = error_response(full, path=scope["path"])
        except ConnectionError:
            return None
        except Exception as error:  # noqa: BLE001 - the boundary: logged, told without details
            response = failure_response(error, scope["path"])
        return await response.send(send, head=scope["method"] == "HEAD")

    async def _response(self, scope: Scope, receive: Receive) -> Response | Stream:
        path, method = scope["path"], scope["method"]
        parts = path.strip("/").split("/")
        if parts[:2] == ["v2", "models"] and len(parts) > 2:
            return await self._model(parts[2], "/".join(parts[3:]), scope, receive)
        if path == _CHAT:
            return (
                await self._completed(scope, receive)
                if method == "POST"
                else not_allowed(method, path, "POST")
            )
        answer = self._answers.get(path.rstrip("/") or "/")
        if answer is None:
            raise not_found(path, _KNOWN)
        return (
            await answer(scope["headers"])
            if method in _READS
            else not_allowed(method, path, "GET, HEAD")
        )

    async def _model(self, name: str, what: str, scope: Scope, receive: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        release = await self._release(name)
        version = f"versions/{release['version']}"
        what = what.removeprefix(version).removeprefix("/")
        if what not in ("", "ready", "infer"):
            raise not_found(path, _KNOWN)
        if what == "infer":
            if release["metadata"]["platform"] == CHAT:
                raise not_found(path, f"{_CHAT} with the model {name}")
            if method != "POST":
                return not_allowed(method, path, "POST")
            return await self._inferred(name, scope, receive)
        if method not in _READS:
            return not_allowed(method, path, "GET, HEAD")
        return await self._ready({name: release}) if what else json_response(release["metadata"])

    async def _server(self, _: Headers) -> Response:
        about = {"name": "ray_pipeline", "version": __version__, "extensions": [BINARY]}
        return json_response(about)

    async def _live(self, _: Headers) -> Response:
        return json_response({"live": True})

    async def _all_ready(self, _: Headers) -> Response:
        return await self._ready(await self._releases())

    async def _listed(self, _: Headers) -> Response:
        releases, running = await self._releases(), await asyncio.to_thread(running_replicas)
        trials = await self._board.trials.remote()
        return json_response(
            {
                "endpoints": [
                    {
                        "name": name,
                        "version": release["version"],
                        "status": running.get(application_of(release), ("GONE", 0))[0],
                        **_places(name, release),
                        **({"trial": trials[name]} if name in trials else {}),
                    }
                    for name, release in releases.items()
                ]
            }
        )

    async def _metrics(self, headers: Headers) -> Response:
        releases, figures = await self._releases(), await self._board.figures.remote()
        shown = await self._readable(releases, headers)
        running = await asyncio.to_thread(running_replicas)
        for name, figure in figures.items():
            at = application_of(releases[name]) if name in releases else name
            figure["replicas"] = running.get(at, ("GONE", 0))[1]
        kept = {name: figure for name, figure in figures.items() if name in shown}
        return text_response(exposition(kept), _PROMETHEUS)

    async def _readable(self, releases: dict[str, Release], headers: Headers) -> set[str]:
        """The endpoints whose figures the caller may read.

        Raises:
            RequestError: 401 or 403, where there are some and these are none of them.
        """
        shown, refused = set(), None
        for name, release in releases.items():
            try:
                if release["metrics"] == "key" and release["keyring"]:
                    keys = await asyncio.to_thread(keyring.published, release["keyring"])
                    Gate(name, keys or ()).admitted(headers, "metrics")
                shown.add(name)
            except RequestError as error:
                refused = error
        if refused and not shown:
            raise refused
        return shown

    async def _ready(self, releases: dict[str, Release]) -> Response:
        running = await asyncio.to_thread(running_replicas)
        waiting = [
            name
            for name, release in releases.items()
            if running.get(application_of(release), ("GONE", 0))[0] != "RUNNING"
        ]
        if waiting:
            raise RequestError(
                f"not ready: {', '.join(waiting)}", status=503, code="not_ready", where=waiting[0]
            )
        return json_response({"ready": True})

    async def _models(self, _: Headers) -> Response:
        """The chatbots, as OpenAI's protocol lists models."""
        listed = [
            {"id": name, "object": "model", "created": 0, "owned_by": "ray_pipeline"}
            for name, release in (await self._releases()).items()
            if release["metadata"]["platform"] == CHAT
        ]
        return json_response({"object": "list", "data": listed})

    async def _completed(self, scope: Scope, receive: Receive) -> Response | Stream:
        """The answer of the chatbot that the body names; its own replica looks at all else."""
        body = await body_of(scope, receive, _MAX_BYTES)
        name = _model_in(body)
        release = await self._release(name)
        if release["metadata"]["platform"] != CHAT:
            raise not_found(_CHAT, f"/{name}/predict, for {name} predicts rows")
        handle = (await self._handle(name)).options(stream=True)
        parts = handle.completed.remote(body, list(scope["headers"]))
        head: Response = await anext(parts)
        return head if head.body else Stream(_rest(parts), head.headers)

    async def _handle(self, name: str) -> Any:
        if name not in self._handles:
            self._handles[name] = await asyncio.to_thread(serve.get_app_handle, name)
        return self._handles[name]

    async def _inferred(self, name: str, scope: Scope, receive: Receive) -> Response:
        body = await body_of(scope, receive, _MAX_BYTES)
        if name in self._here:
            return await self._here[name](body, list(scope["headers"]))
        handle = await self._handle(name)
        answer: Response = await handle.infer.remote(body, list(scope["headers"]))
        return answer

    async def _releases(self) -> dict[str, Release]:
        releases: dict[str, Release] = await self._board.releases.remote()
        return releases

    async def _release(self, name: str) -> Release:
        releases = await self._releases()
        if name not in releases:
            raise RequestError(
                f"no model is called {name}",
                status=404,
                code="not_found",
                where=name,
                expected=", ".join(releases) or "a model that is deployed",
            )
        return releases[name]


async def _rest(parts: Any) -> AsyncGenerator[bytes]:
    """What a replica streams; it is told where nobody takes it any more."""
    try:
        async for part in parts:
            yield part
    finally:
        parts.cancel()


class _Named(msgspec.Struct):
    model: str


_named = msgspec.json.Decoder(_Named).decode


def _model_in(body: bytes) -> str:
    """The model that a request names. Raises RequestError."""
    try:
        return str(_named(body).model)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(
            "the body names no model", status=400, code="no_model", where="model"
        ) from error


def _places(name: str, release: Release) -> dict[str, str]:
    if release["metadata"]["platform"] == CHAT:
        return {"chat": f"/{name}/v1/chat/completions", "page": f"/{name}/"}
    return {"predict": f"/{name}/predict", "page": f"/{name}/", "docs": f"/{name}/docs"}


class FrontReplica:
    """The replica that Ray Serve runs for it."""

    def __init__(self) -> None:
        self._front = Front()

    def __serve_build_asgi_app__(self) -> ASGIApp:  # Ray Serve's hook
        return self._front
