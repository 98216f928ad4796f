"""One endpoint as an ASGI app: what a replica answers below `/NAME/`.

It all runs on the replica's event loop. Requests that were decoded in the same turn of the loop
share one run of the model, which costs little more for eight rows than for one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from upath import UPath

from ray_pipeline.deploy import auth, inference
from ray_pipeline.deploy.asgi import (
    Header,
    Receive,
    Response,
    Scope,
    Send,
    body_of,
    encoded,
    error_response,
    failure_response,
    json_response,
    not_allowed,
    not_found,
    not_http,
    too_large,
)
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.feedback import Feedback
from ray_pipeline.deploy.guard import Guard
from ray_pipeline.deploy.jobs import Jobs
from ray_pipeline.deploy.predictions import Prediction, Predictions, answered
from ray_pipeline.deploy.protocol import Rows
from ray_pipeline.deploy.request_log import RequestLog
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.deploy.tracing import traced
from ray_pipeline.errors import RequestError
from ray_pipeline.job import Serve

if TYPE_CHECKING:  # its client is an extra; GraphQL's types are made when they are asked for
    from ray_pipeline.deploy.graphql import Api
    from ray_pipeline.deploy.online import Lookup

Answering = Callable[[bytes, list[Header]], Awaitable[Response]]
Route = Callable[[Scope, Receive], Awaitable[Response]]


class Endpoint:
    """The ASGI app of an endpoint.

    Args:
        name: the first part of its paths.
        predictor: the model.
        settings: the job's `serve` section.
        gate: whom it lets call; None lets everybody.
        pages: answers that never change, by path.
        counters: where requests are counted.
        started: called on the event loop before the first request.
        stopped: called after the last.
        online: reads the features that rows lack.
        guard: finds rows unlike the training rows; None for `serve.guard: off`.
        jobs: takes jobs of many rows; None without `serve.jobs`.
        log: where a sample of the requests is kept (`log_files.folder`); None if none is.
    """

    def __init__(
        self,
        name: str,
        predictor: Predictor,
        settings: Serve,
        *,
        gate: auth.Gate | None,
        pages: dict[str, Response],
        counters: Counters,
        started: Callable[[], None],
        stopped: Callable[[], None],
        online: Lookup | None = None,
        guard: Guard | None = None,
        jobs: Jobs | None = None,
        log: UPath | None = None,
    ) -> None:
        self._settings, self._gate, self._jobs = settings, gate, jobs
        self._manifest = predictor.manifest
        self._predictions = Predictions(
            predictor, settings, counters=counters, online=online, guard=guard
        )
        self._read = traced("read", self._predictions.read)
        self._predict = traced("predict", self._predictions.of)
        self._log = self._opened_log(log, counters)
        self._graphql: Api | None = None
        self._name, self._pages, self._counters = name, pages, counters
        self._started, self._stopped = started, stopped
        self._posts: dict[str, Route] = {f"/{name}/predict": self._asked}
        if settings.graphql:
            self._posts[f"/{name}/graphql"] = self._queried
        if jobs:
            self._posts[f"/{name}/jobs"] = self._submitted
        if self._log and gate and settings.log:
            every = settings.log.every_s
            self._feedback = Feedback(self._log, self._manifest, settings.max_rows, every)
            self._posts[f"/{name}/feedback"] = self._told
        self.answering: Answering = self.answered
        """Answers requests for predictions; a trial of a new version puts itself there."""
        self._jobs_below, self._health_path = f"/{name}/jobs/", f"/{name}/health"

    def _opened_log(self, folder: UPath | None, counters: Counters) -> RequestLog | None:
        settings = self._settings.log
        if folder is None or settings is None:
            return None
        columns = self._predictions.columns
        return RequestLog(folder, settings, self._manifest, columns, counters)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await not_http(receive, send, self._begin, self._end)
        return await self._answer(scope, receive, send)

    def _begin(self) -> None:
        self._started()
        if self._log:
            self._log.start()

    def _end(self) -> None:
        if self._log:
            self._log.stop()
        self._stopped()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        path, counters = scope["path"], self._counters
        counters.in_flight += 1
        try:
            try:
                response = await self._response(scope, receive)
            except RequestError as error:
                response = error_response(error, path=path)
            except ConnectionError:
                return
            except Exception as error:  # noqa: BLE001 - the boundary: logged, told without details
                response = failure_response(error, path)
            await response.send(send, head=scope["method"] == "HEAD")
            if path in self._posts:
                self._done(response, started)
        finally:
            counters.in_flight -= 1

    async def infer(self, body: bytes, headers: list[Header]) -> Response:
        """The answer to a request in the Open Inference Protocol, which the front passes on."""
        started = time.perf_counter()
        try:
            response = await self._inferred(body, headers)
        except RequestError as error:
            response = error_response(error, path=inference.PATH)
        except Exception as error:  # noqa: BLE001 - the boundary: logged, told without details
            response = failure_response(error, inference.PATH)
        self._done(response, started)
        return response

    def _done(self, response: Response, started: float) -> None:
        """Count an answer that is ready."""
        now = time.perf_counter()
        if response.predicted:
            self._counters.staged("write", now - response.predicted)
        self._counters.done(response.status, now - started, response.rows)

    async def _inferred(self, body: bytes, headers: list[Header]) -> Response:
        told = self._gate.admitted(headers) if self._gate else ()
        if len(body) > self._settings.max_bytes:
            raise too_large(self._settings.max_bytes)
        predictions = self._predictions
        begun = time.perf_counter()
        request = await predictions.decoded(
            lambda: inference.request(body, headers, predictions.protocol, self._manifest)
        )
        self._counters.staged("read", time.perf_counter() - begun)
        predicted = await self._predict(request.rows)
        ready = time.perf_counter()
        self._logged(request.rows, predicted.predictions, body)
        flagged = len({flag.row for flag in predicted.flags})
        response = inference.answer(request, predicted.predictions, self._manifest, flagged)
        response.predicted = ready
        response.headers += told
        return response

    async def _response(self, scope: Scope, receive: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        post = self._posts.get(path)
        if post is not None:
            return (
                await post(scope, receive)
                if method == "POST"
                else not_allowed(method, path, "POST")
            )
        if self._jobs and path.startswith(self._jobs_below):
            return await self._job(path.removeprefix(self._jobs_below), scope)
        if path == self._health_path:
            return self._health(scope)
        page = self._pages.get(path)
        if page is None:
            raise not_found(path, ", ".join([*self._posts, self._health_path, *self._pages]))
        return page if method in ("GET", "HEAD") else not_allowed(method, path, "GET, HEAD")

    async def _asked(self, scope: Scope, receive: Receive) -> Response:
        begun = time.perf_counter()
        told = self._gate.admitted(scope["headers"]) if self._gate else ()
        body = await self._body(scope, receive)
        self._counters.staged("body", time.perf_counter() - begun)
        response = await self.answering(body, scope["headers"])
        if told:
            response.headers += told
        return response

    async def answered(self, body: bytes, headers: list[Header]) -> Response:
        """The answer to a request for predictions. Raises RequestError."""
        return (await self.predicted(body, headers))[0]

    async def predicted(
        self, body: bytes, headers: list[Header]
    ) -> tuple[Response, list[Prediction]]:
        """The answer to a request for predictions, and those. Raises RequestError."""
        begun = time.perf_counter()
        rows = await self._read(body, headers)
        self._counters.staged("read", time.perf_counter() - begun)
        predicted = await self._predict(rows)
        ready = time.perf_counter()
        number = self._logged(rows, predicted.predictions, body)
        answer = encoded(answered(predicted, self._manifest.version, number))
        return Response(200, answer, rows=len(rows), predicted=ready), predicted.predictions

    def _logged(self, rows: Rows, predictions: list[Prediction], body: bytes) -> str | None:
        return self._log.offered(rows, predictions, len(body)) if self._log else None

    async def _told(self, scope: Scope, receive: Receive) -> Response:
        headers = scope["headers"]
        assert self._gate is not None, "there is no route without"
        told = self._gate.admitted(headers, "feedback")
        body = await self._body(scope, receive)
        response = self._feedback.answer(body, self._gate.caller(headers))
        response.headers += told
        return response

    async def _queried(self, scope: Scope, receive: Receive) -> Response:
        told = self._gate.admitted(scope["headers"]) if self._gate else ()
        body = await self._body(scope, receive)
        if self._graphql is None:  # a third of a second, which only those who ask for it pay
            self._graphql = await asyncio.to_thread(self._api)
        response = await self._graphql.answer(body, scope["headers"])
        response.headers += told
        return response

    def _api(self) -> Api:
        from ray_pipeline.deploy.graphql import Api

        assert self._settings.graphql is not None, "there is no route without"
        return Api(self._predictions, self._settings.graphql)

    async def _submitted(self, scope: Scope, receive: Receive) -> Response:
        assert self._jobs is not None, "there is no route without"
        headers = scope["headers"]
        told = self._gate.admitted(headers) if self._gate else ()
        owner = self._gate.caller(headers) if self._gate else ""
        response = await self._jobs.submitted(owner, scope, receive)
        response.headers += told
        return response

    async def _job(self, number: str, scope: Scope) -> Response:
        assert self._jobs is not None, "there is no route without"
        method, path, headers = scope["method"], scope["path"], scope["headers"]
        if method not in ("GET", "HEAD", "DELETE"):
            return not_allowed(method, path, "GET, HEAD, DELETE")
        told = self._gate.admitted(headers) if self._gate else ()
        owner = self._gate.caller(headers) if self._gate else ""
        answer = self._jobs.deleted if method == "DELETE" else self._jobs.found
        response = await answer(owner, number)
        response.headers += told
        return response

    def _health(self, scope: Scope) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            return not_allowed(scope["method"], scope["path"], "GET, HEAD")
        if self._gate and self._settings.metrics == "key":
            self._gate.admitted(scope["headers"], "metrics")
        about = {"name": self._name, "version": self._manifest.version}
        return json_response({**about, **self._counters.recent()})

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        settings = self._settings
        return await body_of(scope, receive, settings.max_bytes, settings.body_within_s)
