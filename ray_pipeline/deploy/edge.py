"""What stands between a replica's HTTP server and Ray Serve's own handling of a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.middleware import Middleware

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_NO_WATCH = (b"x-request-disconnect-disabled", b"?1")


def middlewares() -> list[Middleware]:
    """For `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`: applied around every replica."""
    return [Middleware(Edge)]


class Edge:
    """Spares Serve the watch for clients that leave.

    Serve runs two more tasks for each request to notice a client that hangs up, so that a long
    answer can be given up; a prediction is done sooner than that pays.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], _NO_WATCH]
        await self._app(scope, receive, send)
