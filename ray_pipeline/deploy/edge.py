"""What stands between a replica's HTTP server and Ray Serve's own handling of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.middleware import Middleware
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from ray_pipeline.deploy.asgi import (
    ASGIApp,
    Header,
    Message,
    Receive,
    Response,
    Scope,
    Send,
    error_response,
    not_http,
)
from ray_pipeline.errors import RequestError

_NO_WATCH = (b"x-request-disconnect-disabled", b"?1")
_PLAIN = b"text/plain"
_LONG = "/chat/completions"
"""How a path ends whose answers take long enough to be given up when the client leaves."""
MAX_HEADERS = 100
_KINDS = {
    408: ("timeout", "the request took too long"),
    429: ("busy", "too many requests are waiting; try again after the seconds in Retry-After"),
    503: ("unavailable", "the endpoint is not ready, or ending"),
}


def middlewares() -> list[Middleware]:
    """For `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`: applied around every replica."""
    return [Middleware(Edge)]


class Edge:
    """Makes Serve's own refusals JSON, and spares it the watch for clients that leave.

    Serve runs two more tasks for each request to notice a client that hangs up, so that a long
    answer can be given up; a prediction is done sooner than that pays, a chat's answer is not.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await not_http(receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = whole(send)
        if wrong := _wrong_headers(scope["headers"]):
            answer = error_response(wrong, path=scope["path"])
            await answer.send(send, head=scope["method"] == "HEAD")
            return
        if not scope["path"].endswith(_LONG):
            scope["headers"] = [*scope["headers"], _NO_WATCH]
        refused = False

        async def rewritten(message: Message) -> None:
            nonlocal refused
            if refused:
                return
            if message["type"] == "http.response.start" and message["status"] in _KINDS:
                headers = list(message["headers"])
                if any(value.startswith(_PLAIN) for _, value in headers):
                    refused = True
                    await _refusal(message["status"], headers, scope["path"]).send(send)
                    return
            await send(message)

        await self._app(scope, receive, rewritten)


def whole(send: Send) -> Send:
    """`send`, by which headers go with the begin of the body: of an answer that has begun no other
    can be given, should this process be killed between the two."""
    begun: Message | None = None

    async def sent(message: Message) -> None:
        nonlocal begun
        if message["type"] == "http.response.start":
            begun = message
            return
        if begun is None:
            await send(message)
            return
        first, begun = begun, None
        with written_at_once(send):
            await send(first)
            await send(message)

    return sent


@contextmanager
def written_at_once(send: Send) -> Iterator[None]:
    """While it lasts, what uvicorn's `send` writes to its connection is held back, then written at
    once: a client whose server dies between two writes has half an answer. It also saves a system
    call, and those who read the answer a wake-up. Another server's `send` is left as it is.
    """
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        yield
        return
    held = _Held(cycle.transport)
    cycle.transport = held  # type: ignore[assignment]
    try:
        yield
    finally:
        cycle.transport = held.transport
        held.flush()


class _Held:
    """A transport that keeps what is written to it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport, self._parts = transport, list[bytes]()

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def flush(self) -> None:
        if self._parts:
            self.transport.write(b"".join(self._parts))
            self._parts.clear()

    def close(self) -> None:
        self.flush()
        self.transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


def _wrong_headers(headers: list[Header]) -> RequestError | None:
    """What is wrong with a request's headers: Serve decodes some, and would fail."""
    if len(headers) > MAX_HEADERS:
        what = f"{len(headers)} headers; expected at most {MAX_HEADERS}"
        return RequestError(what, status=431, code="too_many_headers", where="headers")
    for name, value in headers:
        if not (name.isascii() and value.isascii()):
            return RequestError(
                "a header is not ASCII", status=400, code="bad_header", where="headers"
            )
    return None


def refused(status: int, headers: tuple[Header, ...] = ()) -> RequestError:
    """What is told in the place of Serve's own refusal: 408, 429 or 503."""
    code, what = _KINDS[status]
    return RequestError(what, status=status, code=code, headers=headers)


def _refusal(status: int, headers: list[Header], path: str) -> Response:
    kept = tuple(h for h in headers if h[0].lower() in (b"retry-after", b"x-request-id"))
    return error_response(refused(status, kept), path=path)
