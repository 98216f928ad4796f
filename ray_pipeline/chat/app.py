"""A chatbot's endpoint as an ASGI app: what a replica answers below `/NAME/`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from threading import Event
from typing import Any

from ray_pipeline.chat import protocol
from ray_pipeline.chat.answer import Piece
from ray_pipeline.chat.bot import Bot
from ray_pipeline.chat.protocol import Completion, Request
from ray_pipeline.deploy.asgi import (
    Header,
    Receive,
    Response,
    Scope,
    Send,
    Stream,
    body_of,
    encoded,
    error_response,
    failure_response,
    json_response,
    not_allowed,
    not_found,
    not_http,
)
from ray_pipeline.deploy.auth import Gate
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.errors import RequestError
from ray_pipeline.job import Serve

_THREADS = 8
"""Answers that a replica works on at a time; more wait."""


class ChatEndpoint:
    """The ASGI app of a chatbot.

    Args:
        name: the first part of its paths.
        bot: answers.
        settings: the job's `serve` section.
        gate: whom it lets call; None lets everybody.
        pages: answers that never change, by path.
        counters: where requests are counted.
        started: called on the event loop before the first request.
        stopped: called after the last.
    """

    def __init__(
        self,
        name: str,
        bot: Bot,
        settings: Serve,
        *,
        gate: Gate | None,
        pages: dict[str, Response],
        counters: Counters,
        started: Callable[[], None] = lambda: None,
        stopped: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._bot, self._settings = name, bot, settings
        self._gate, self._pages, self._counters = gate, pages, counters
        self._started, self._stopped = started, stopped
        self._threads = ThreadPoolExecutor(_THREADS, "answer")
        self._asked = f"/{name}/v1/chat/completions"
        self._pages |= {
            f"/{name}/v1/models": json_response(protocol.models([name])),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await not_http(receive, send, self._started, self._stopped)
        try:
            response = await self._response(scope, receive)
        except RequestError as error:
            response = error_response(error, path=scope["path"])
        except ConnectionError:
            return None
        return await response.send(send, head=scope["method"] == "HEAD")

    async def completed(self, body: bytes, headers: list[Header]) -> Response | Stream:
        """The answer to a request for a completion; what goes wrong is an answer, too."""
        began, counters = time.perf_counter(), self._counters

        def done(status: int) -> None:
            counters.in_flight -= 1
            counters.done(status, time.perf_counter() - began, int(status == 200))

        counters.in_flight += 1
        response: Response | Stream
        try:
            response = await self._completed(body, headers, done)
        except RequestError as error:
            response = error_response(error, path=self._asked)
        except asyncio.CancelledError:
            done(499)
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: logged, told without details
            response = failure_response(error, self._asked)
        if isinstance(response, Response):
            done(response.status)
        return response

    async def _response(self, scope: Scope, receive: Receive) -> Response | Stream:
        path, method = scope["path"], scope["method"]
        if path == self._asked:
            if method != "POST":
                return not_allowed(method, path, "POST")
            settings = self._settings
            body = await body_of(scope, receive, settings.max_bytes, settings.body_within_s)
            return await self.completed(body, scope["headers"])
        if path == f"/{self._name}/health":
            return self._health(scope)
        page = self._pages.get(path)
        if page is None:
            raise not_found(path, ", ".join([self._asked, *self._pages]))
        return page if method in ("GET", "HEAD") else not_allowed(method, path, "GET, HEAD")

    def _health(self, scope: Scope) -> Response:
        if self._gate and self._settings.metrics == "key":
            self._gate.admitted(scope["headers"], "metrics")
        about = {"name": self._name, "version": self._bot.manifest.version}
        return json_response({**about, **self._counters.recent()})

    async def _completed(
        self, body: bytes, headers: list[Header], done: Callable[[int], None]
    ) -> Response | Stream:
        told = self._gate.admitted(headers) if self._gate else ()
        request = protocol.read(body)
        if request.model not in ("", self._name):
            raise RequestError(
                f"no model is called {request.model}",
                status=404,
                code="model_not_found",
                where="model",
                expected=self._name,
            )
        *before, question = protocol.questions(request)
        groups = self._bot.groups_of(self._gate.caller(headers) if self._gate else "")
        completion = self._bot.completion(self._name)
        pieces = self._pieces(question, groups, before)
        if request.stream:
            return Stream(self._streamed(request, question, completion, pieces, done), told)
        async with aclosing(pieces):
            async for piece in pieces:
                completion.took(piece)
        # Counting tokens takes longer than the loop should be held.
        whole = await self._in_thread(completion.whole, question)
        response = Response(200, encoded(whole), rows=1)
        response.headers += told
        return response

    async def _streamed(
        self,
        request: Request,
        question: str,
        completion: Completion,
        pieces: AsyncGenerator[Piece],
        done: Callable[[int], None],
    ) -> AsyncGenerator[bytes]:
        """Server-sent events, ended by `[DONE]`."""
        status = 499  # unless it comes to its end: the client went away
        try:
            yield _event(completion.chunk({"role": "assistant", "content": ""}))
            async with aclosing(pieces):
                async for piece in pieces:
                    if text := completion.took(piece):
                        yield _event(completion.chunk({"content": text}))
            yield _event(completion.last())
            if request.stream_options and request.stream_options.include_usage:
                yield _event(await self._in_thread(completion.used, question))
            yield b"data: [DONE]\n\n"
            status = 200
        except Exception as error:  # noqa: BLE001 - the boundary: logged, told without details
            status = 500
            yield b"data: " + failure_response(error, self._asked).body + b"\n\n"
        finally:
            done(status)

    async def _pieces(
        self, question: str, groups: frozenset[str], before: list[str]
    ) -> AsyncGenerator[Piece]:
        """The bot's pieces, made in a thread; it ends soon after nobody takes them any more."""
        loop, came, left = asyncio.get_running_loop(), asyncio.Queue[Any](), Event()

        def work() -> None:
            try:
                for piece in self._bot.pieces(question, groups, before):
                    loop.call_soon_threadsafe(came.put_nowait, piece)
                    if left.is_set():
                        break
                loop.call_soon_threadsafe(came.put_nowait, None)
            except Exception as error:  # noqa: BLE001 - raised again on the loop
                loop.call_soon_threadsafe(came.put_nowait, error)

        self._threads.submit(work)
        try:
            while (piece := await came.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            left.set()

    async def _in_thread(self, work: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)


def _event(document: Any) -> bytes:
    return b"data: " + encoded(document) + b"\n\n"
