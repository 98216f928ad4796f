"""A chatbot's endpoint as an ASGI app: what a replica answers below `/NAME/`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from ray_pipeline.chat import protocol
from ray_pipeline.chat.answer import Piece
from ray_pipeline.chat.bot import Bot
from ray_pipeline.chat.feedback import Feedback
from ray_pipeline.chat.memory import Memory
from ray_pipeline.chat.protocol import Completion, Request
from ray_pipeline.chat.turns import Turns, Waiting
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
from ray_pipeline.errors import RequestError, UnavailableError
from ray_pipeline.job import Serve

Answer = Callable[[Scope, Receive], Awaitable[Response | Stream]]
_THREADS = 8
"""Answers that a replica works on at a time; more wait."""
_LOGGER = logging.getLogger("ray.serve")


class ChatEndpoint:
    """The ASGI app of a chatbot.

    Args:
        name: the first part of its paths.
        bot: answers.
        settings: the job's `serve` section.
        gate: whom it lets call; None lets everybody.
        pages: answers that never change, by path.
        counters: where requests are counted.
        feedback: keeps what is said of answers; None if nothing is to be said.
        memory: keeps what was asked; None if nothing is to be kept.
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
        feedback: Feedback | None = None,
        memory: Memory | None = None,
        started: Callable[[], None] = lambda: None,
        stopped: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._bot, self._settings = name, bot, settings
        self._gate, self._pages, self._counters = gate, pages, counters
        self._started, self._stopped = started, stopped
        self._turns = Turns(_THREADS)
        self._asked = f"/{name}/v1/chat/completions"
        self._feedback, self._memory = feedback, memory
        self._conversations = f"/{name}/conversations/"
        self._pages |= {f"/{name}/v1/models": json_response(protocol.models([name]))}

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
        except (RequestError, UnavailableError) as error:
            response = _refusal(error, self._asked)
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
        if route := self._route(path):
            only, answer = route
            return (
                await answer(scope, receive) if method == only else not_allowed(method, path, only)
            )
        if path == f"/{self._name}/health":
            return self._health(scope)
        page = self._pages.get(path)
        if page is None:
            raise not_found(path, ", ".join([self._asked, *self._pages]))
        return page if method in ("GET", "HEAD") else not_allowed(method, path, "GET, HEAD")

    def _route(self, path: str) -> tuple[str, Answer] | None:
        """The method that a path takes, and what answers."""
        if path == self._asked:
            return "POST", self._asking
        if self._feedback and path == f"/{self._name}/feedback":
            return "POST", self._told
        if self._memory and path.startswith(self._conversations):
            return "DELETE", self._erased
        return None

    async def _asking(self, scope: Scope, receive: Receive) -> Response | Stream:
        settings = self._settings
        body = await body_of(scope, receive, settings.max_bytes, settings.body_within_s)
        return await self.completed(body, scope["headers"])

    async def _told(self, scope: Scope, receive: Receive) -> Response:
        """What becomes of an opinion of an answer; it takes a key with the scope `feedback`."""
        assert self._gate, "whose opinion it is has to be known"
        assert self._feedback, "there is no such route without it"
        headers, settings = scope["headers"], self._settings
        told = self._gate.admitted(headers, "feedback")
        caller = self._gate.caller(headers)
        body = await body_of(scope, receive, settings.max_bytes, settings.body_within_s)
        groups = self._bot.groups_of(caller)
        response: Response = await asyncio.to_thread(self._feedback.answer, body, caller, groups)
        response.headers += told
        return response

    async def _erased(self, scope: Scope, receive: Receive) -> Response:
        """That the conversation in the path is erased, which the same key began."""
        assert self._gate, "whose conversation it is has to be known"
        assert self._memory, "there is no such route without it"
        told = self._gate.admitted(scope["headers"])
        identity = scope["path"].removeprefix(self._conversations)
        caller = self._gate.caller(scope["headers"])
        response = await asyncio.to_thread(self._memory.erased, caller, identity)
        response.headers += told
        return response

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
        caller = self._gate.caller(headers) if self._gate else ""
        groups = self._bot.groups_of(caller)
        completion = self._bot.completion(self._name)
        if self._memory and request.conversation is not None:
            given = protocol.conversation(request)
            identity, kept = await asyncio.to_thread(self._memory.taken_up, caller, given, question)
            completion.belongs_to(identity)
            before = before or kept
        pieces = self._turns.taken(partial(self._bot.pieces, question, groups, before))
        if request.stream:
            return Stream(self._streamed(request, question, completion, pieces, done), told)
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Piece):
                    completion.took(piece)
        # Counting tokens takes longer than the loop should be held, and waits behind no answers.
        whole = await asyncio.to_thread(completion.whole, question)
        response = Response(200, encoded(whole), rows=1)
        response.headers += told
        return response

    async def _streamed(
        self,
        request: Request,
        question: str,
        completion: Completion,
        pieces: AsyncGenerator[Piece | Waiting],
        done: Callable[[int], None],
    ) -> AsyncGenerator[bytes]:
        """Server-sent events, ended by `[DONE]`."""
        status = 499  # unless it comes to its end: the client went away
        try:
            yield _event(completion.chunk({"role": "assistant", "content": ""}))
            async with aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, Waiting):
                        yield piece.said()
                    elif text := completion.took(piece):
                        yield _event(completion.chunk({"content": text}))
            yield _event(completion.last())
            if request.stream_options and request.stream_options.include_usage:
                yield _event(await asyncio.to_thread(completion.used, question))
            yield b"data: [DONE]\n\n"
            status = 200
        except UnavailableError as error:
            refusal = _refusal(error, self._asked)
            status = refusal.status
            yield b"data: " + refusal.body + b"\n\n"
        except Exception as error:  # noqa: BLE001 - the boundary: logged, told without details
            status = 500
            yield b"data: " + failure_response(error, self._asked).body + b"\n\n"
        finally:
            done(status)


def _refusal(error: RequestError | UnavailableError, path: str) -> Response:
    """What a caller is told; where a server of ours is, is for the log alone."""
    if isinstance(error, UnavailableError):
        _LOGGER.error("%s", error)
        what = "the documents cannot be searched at the moment"
        error = RequestError(what, status=503, code="unavailable")
    return error_response(error, path=path)


def _event(document: Any) -> bytes:
    return b"data: " + encoded(document) + b"\n\n"
