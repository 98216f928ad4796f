"""The little of HTTP that the endpoints need, on bare ASGI: bodies, answers, errors."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import secrets
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from ray_pipeline.errors import RequestError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

_LOGGER = logging.getLogger("ray.serve")
_JSON = (b"content-type", b"application/json")
PLAIN_HEADERS: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
)
_UNREAD = (408, 413, 415)
"""Errors after which what is left of the body is not wanted."""
encoded: Callable[[Any], bytes] = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Response:
    """An answer, whole. For the metrics, `rows` is how many rows it predicts, and `predicted` when
    it had them, by `time.perf_counter`; 0 if it has none."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = (_JSON, *PLAIN_HEADERS)
    rows: int = 0
    predicted: float = 0.0

    async def send(self, send: Send, head: bool = False) -> None:
        length = (b"content-length", b"%d" % len(self.body))
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": [*self.headers, length],
            }
        )
        await send({"type": "http.response.body", "body": b"" if head else self.body})


_EVENTS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # to proxies that would hold it back until it is whole
    *PLAIN_HEADERS,
)


class Stream:
    """An answer in parts, as they come: server-sent events."""

    status = 200

    def __init__(self, parts: AsyncGenerator[bytes], extra: tuple[Header, ...] = ()) -> None:
        self.parts, self.extra = parts, extra

    async def send(self, send: Send, head: bool = False) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": [*_EVENTS, *self.extra],
            }
        )
        async with aclosing(self.parts) as parts:  # also where the client leaves
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def json_response(document: Any, status: int = 200) -> Response:
    """`document` as JSON."""
    return Response(status, encoded(document))


def text_response(text: str, content_type: str = "text/plain; charset=utf-8") -> Response:
    """A text, by default plain."""
    headers = ((b"content-type", content_type.encode()), *PLAIN_HEADERS)
    return Response(200, text.encode(), headers)


def page_response(html: str, status: int = 200, forms: bool = False) -> Response:
    """A page that may run its own scripts and styles, talk to its own server, and nothing else;
    with `forms` it may send some there."""
    sent = "'self'" if forms else "'none'"
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
        f"form-action {sent}; frame-ancestors 'none'; script-src {_hashes(html, 'script')}; "
        f"style-src {_hashes(html, 'style')}"
    )
    headers = (
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
        *PLAIN_HEADERS,
    )
    return Response(status, html.encode(), headers)


def error_response(error: RequestError, extra: tuple[Header, ...] = (), path: str = "") -> Response:
    """`{"error": {"code", "message", "where"}}` under the error's status.

    Under a `path` of the Open Inference Protocol, `{"error": message, "code", "where"}`: its
    clients take a text. Under one of GraphQL, `{"errors": [{"message", "extensions": {"code",
    "where"}}]}`.
    """
    message = f"{error.what}; expected {error.expected}" if error.expected else error.what
    content = _told(error.code, message, error.where, path)
    headers: list[Header] = [_JSON, *PLAIN_HEADERS, *error.headers, *extra]
    if error.status in _UNREAD:
        headers.append((b"connection", b"close"))
    return Response(error.status, content, tuple(headers))


def _told(code: str, message: str, where: str, path: str) -> bytes:
    if path.startswith("/v2/"):
        text = f"{where}: {message}" if where else message
        return encoded({"error": text, "code": code, "where": where})
    if path.endswith("/graphql"):
        extensions = {"code": code, "where": where}
        return encoded({"errors": [{"message": message, "extensions": extensions}]})
    return encoded({"error": {"code": code, "message": message, "where": where}})


def failure_response(error: Exception, path: str) -> Response:
    """The 500 for a fault of ours: the log has it under the id that the caller is told.

    The log says where it came from, and not what: messages of errors quote values, which are the
    caller's.
    """
    number = secrets.token_hex(6)
    places = [f"{at.filename}:{at.lineno} {at.name}" for at in _places(error)]
    _LOGGER.error(
        "%s failed, id %s: %s\n  %s", path, number, type(error).__name__, "\n  ".join(places)
    )
    message = f"the server failed; its log says more under {number}"
    return Response(500, _told("internal_error", message, "", path))


def _places(error: BaseException) -> list[traceback.FrameSummary]:
    """Where an error and those that led to it were raised, the first of them first."""
    before = error.__cause__ or error.__context__
    earlier = _places(before) if before else []
    return [*earlier, *traceback.extract_tb(error.__traceback__)]


def not_found(path: str, known: str) -> RequestError:
    """The 404 for a path that nothing answers."""
    return RequestError(
        f"nothing is at {path}", status=404, code="not_found", where=path, expected=known
    )


def not_allowed(method: str, path: str, allowed: str) -> Response:
    """The 405 for a path that answers to other methods."""
    error = RequestError(
        f"{method} is not for {path}",
        status=405,
        code="method_not_allowed",
        where=path,
        expected=allowed,
    )
    return error_response(error, ((b"allow", allowed.encode()),), path)


async def body_of(scope: Scope, receive: Receive, max_bytes: int, within_s: float = 30.0) -> bytes:
    """The request's body.

    Raises:
        RequestError: 413 where it is larger than `max_bytes`: at once if the request says so,
            else as soon as that much has come; 408 where it has not come `within_s`; 415 where it
            is compressed, for a few kilobytes can be gigabytes.
        ConnectionError: the client went away.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and (len(value) > 15 or int(value) > max_bytes):
            raise too_large(max_bytes)
        if name == b"content-encoding" and value.lower() != b"identity":
            raise RequestError(
                "compressed bodies are not read",
                status=415,
                code="compressed",
                where="Content-Encoding",
                headers=((b"accept-encoding", b"identity"),),
            )
    task, late = asyncio.current_task(), False
    assert task is not None, "a server runs each request in a task"

    def give_up() -> None:
        nonlocal late
        late = True
        task.cancel()

    # asyncio.timeout does the same at three times the cost, which each request would pay.
    timer = asyncio.get_running_loop().call_later(within_s, give_up)
    try:
        return await _received(receive, max_bytes)
    except asyncio.CancelledError:
        if not late:
            raise
        task.uncancel()
        what = f"the body did not come within {within_s:g} seconds"
        raise RequestError(what, status=408, code="slow_body", where="body") from None
    finally:
        timer.cancel()


async def _received(receive: Receive, max_bytes: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = [body]
        size = len(body)
        while message.get("more_body") and size <= max_bytes:
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        body = b"".join(parts)
    if message["type"] == "http.disconnect":
        raise ConnectionError("the client went away")
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    return body


async def not_http(
    receive: Receive,
    send: Send,
    started: Callable[[], None] = lambda: None,
    stopped: Callable[[], None] = lambda: None,
) -> None:
    """The app's part in what is no request: its server's start and stop, and web sockets, of
    which there are none."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            started()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            stopped()
            await send({"type": "lifespan.shutdown.complete"})
            return
        else:
            if message["type"] == "websocket.connect":
                await send({"type": "websocket.close", "code": 1000})
            return


def too_large(max_bytes: int) -> RequestError:
    """The 413 for a body of more bytes than it may have."""
    return RequestError(
        f"the body is larger than {max_bytes} bytes", status=413, code="too_large", where="body"
    )


def _hashes(html: str, tag: str) -> str:
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in contents)
    return " ".join(f"'sha256-{digest.decode()}'" for digest in digests) or "'none'"
