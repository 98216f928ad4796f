"""One endpoint as an ASGI app: what a replica answers below `/NAME/`.

It all runs on the replica's event loop. Requests that were decoded in the same turn of the loop
share one run of the model, which costs little more for eight rows than for one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.bundle import Manifest
from ray_pipeline.data.steps import serving
from ray_pipeline.deploy import auth, bodies, inference, label_lists, pictures
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
    not_allowed,
    not_found,
    not_http,
    too_large,
)
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.guard import Flag, Guard
from ray_pipeline.deploy.protocol import Protocol, Rows
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.errors import RequestError
from ray_pipeline.job import Serve

if TYPE_CHECKING:  # its client is an extra
    from ray_pipeline.deploy.online import Lookup

Prediction = dict[str, Any]
Answering = Callable[[bytes, list[Header]], Awaitable[Response]]
Read = TypeVar("Read")


class Batcher:
    """Runs a function once for all rows that arrive in one turn of the event loop.

    Args:
        run: rows to one result for each.
        max_rows: rows in a run; more wait for the next, so that no run blocks the loop for long.
    """

    def __init__(self, run: Callable[[Rows], list[Any]], max_rows: int) -> None:
        self._run, self._max_rows = run, max_rows
        self._waiting: list[tuple[Rows, asyncio.Future[list[Any]]]] = []

    async def results(self, rows: Rows) -> list[Any]:
        """The results for `rows`, in their order."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((rows, future))
        return await future

    def _flush(self) -> None:
        batch, count = [self._waiting.pop(0)], 0
        count = len(batch[0][0])
        while self._waiting and count + len(self._waiting[0][0]) <= self._max_rows:
            batch.append(self._waiting.pop(0))
            count += len(batch[-1][0])
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        try:
            results = self._run([row for rows, _ in batch for row in rows])
        except Exception as error:  # noqa: BLE001 - each request's own handler reports it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        start = 0
        for rows, future in batch:
            if not future.done():  # a client that left has cancelled its request
                future.set_result(results[start : start + len(rows)])
            start += len(rows)


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
    ) -> None:
        manifest = predictor.manifest
        self._settings, self._gate, self._guard = settings, gate, guard
        self._protocol = Protocol(
            manifest.schema,
            settings.max_rows,
            serving.readers(manifest.cleaning, manifest.schema),
            pictures.image_of(manifest),
        )
        self._bare = bodies.reading(manifest.schema)
        self._batcher = Batcher(self._outputs, settings.max_rows)
        self._predictor, self._manifest = predictor, manifest
        self._prediction = prediction_maker(manifest, settings.round)
        self._predict_path, self._pages, self._counters = f"/{name}/predict", pages, counters
        self._started, self._stopped = started, stopped
        self._online = online
        self.answering: Answering = self.answered
        """Answers requests for predictions; a trial of a new version puts itself there."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await not_http(receive, send, self._started, self._stopped)
        return await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        counters = self._counters
        counters.in_flight += 1
        try:
            try:
                response = await self._response(scope, receive)
            except RequestError as error:
                response = error_response(error)
            except ConnectionError:
                return
            except Exception as error:  # noqa: BLE001 - the boundary: logged, told without details
                response = failure_response(error, scope["path"])
            await response.send(send, head=scope["method"] == "HEAD")
            if scope["path"] == self._predict_path:
                counters.done(response.status, time.perf_counter() - started, response.rows)
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
        self._counters.done(response.status, time.perf_counter() - started, response.rows)
        return response

    async def _inferred(self, body: bytes, headers: list[Header]) -> Response:
        told = self._gate.admitted(headers) if self._gate else ()
        if len(body) > self._settings.max_bytes:
            raise too_large(self._settings.max_bytes)
        request = await self._read(
            lambda: inference.request(body, headers, self._protocol, self._manifest)
        )
        predictions, flags = await self._predictions(request.rows)
        flagged = len({flag.row for flag in flags})
        response = inference.answer(request, predictions, self._manifest, flagged)
        response.headers += told
        return response

    async def _response(self, scope: Scope, receive: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        if path == self._predict_path:
            if method != "POST":
                return not_allowed(method, path, "POST")
            told = self._gate.admitted(scope["headers"]) if self._gate else ()
            settings = self._settings
            body = await body_of(scope, receive, settings.max_bytes, settings.body_within_s)
            response = await self.answering(body, scope["headers"])
            if told:
                response.headers += told
            return response
        page = self._pages.get(path)
        if page is None:
            raise not_found(path, ", ".join([self._predict_path, *self._pages]))
        if method not in ("GET", "HEAD"):
            return not_allowed(method, path, "GET, HEAD")
        return page

    async def answered(self, body: bytes, headers: list[Header]) -> Response:
        """The answer to a request for predictions. Raises RequestError."""
        return (await self.predicted(body, headers))[0]

    async def predicted(
        self, body: bytes, headers: list[Header]
    ) -> tuple[Response, list[Prediction]]:
        """The answer to a request for predictions, and those. Raises RequestError."""
        rows = await self._rows(body, headers)
        predictions, flags = await self._predictions(rows)
        answer = {"predictions": predictions, "version": self._manifest.version}
        if flags:
            answer["warnings"] = [
                {"where": f"rows[{flag.row}].{flag.column}", "message": flag.why} for flag in flags
            ]
        return Response(200, encoded(answer), rows=len(rows)), predictions

    async def _predictions(self, rows: Rows) -> tuple[list[Prediction], list[Flag]]:
        """The prediction for each row, and the flags of those unlike the training rows.

        Raises:
            RequestError: 422 where there are such, and they are refused.
        """
        results = await self._batcher.results(rows)
        flags = [
            flag._replace(row=index) for index, (_, found) in enumerate(results) for flag in found
        ]
        if flags:
            self._counters.flagged(flags)
            if self._settings.guard == "refuse":
                raise RequestError(
                    flags[0].why,
                    status=422,
                    code="unlike_training",
                    where=f"rows[{flags[0].row}].{flags[0].column}",
                )
        return [self._prediction(output) for output, _ in results], flags

    async def _rows(self, body: bytes, headers: auth.Headers) -> Rows:
        row = self._bare(body, headers) if self._bare else None
        if row is None and self._online is None:
            return await self._read(lambda: self._protocol.rows(body))
        documents = self._protocol.documents(body) if row is None else [row]
        if self._online is not None:
            documents = await self._online.filled(documents)
        return await self._read(lambda: self._protocol.checked(documents))

    async def _read(self, read: Callable[[], Read]) -> Read:
        """`read()`; in a thread where there are images, which take a while to decode."""
        return read() if self._protocol.image is None else await asyncio.to_thread(read)

    def _outputs(self, rows: Rows) -> list[tuple[Any, Sequence[Flag]]]:
        """For each row the model's output, and its flags."""
        columns = self._predictor.cleaned(self._protocol.columns(rows))
        outputs = plain_numbers(self._predictor.of_clean(columns))
        found = self._guard.flags(columns) if self._guard else ()
        if not found:
            return [(output, ()) for output in outputs]
        by_row: dict[int, list[Flag]] = {}
        for flag in found:
            by_row.setdefault(flag.row, []).append(flag)
        return [(output, by_row.get(row, ())) for row, output in enumerate(outputs)]


def prediction_maker(manifest: Manifest, digits: int | None = None) -> Callable[[Any], Prediction]:
    """A function from a model's output for a row to the prediction that callers get.

    Probabilities have at most `digits` decimals and values as many significant digits; the label
    is that of the model's own output.
    """
    classes = manifest.classes
    if classes is not None and manifest.thresholds is not None:
        return label_lists.predicting(classes, manifest.thresholds, digits)
    if manifest.task == "retrieval":
        if digits is None:
            return lambda vector: {"vector": vector}
        return lambda vector: {"vector": [round(number, digits) for number in vector]}
    if classes is None:
        return lambda value: {"value": value if digits is None else float(f"{value:.{digits}g}")}

    def classified(probabilities: list[float]) -> Prediction:
        best = max(probabilities)
        label = classes[probabilities.index(best)]
        if digits is not None:
            best = round(best, digits)
            probabilities = [round(share, digits) for share in probabilities]
        return {
            "label": label,
            "probability": best,
            "probabilities": dict(zip(classes, probabilities, strict=True)),
        }

    return classified


def plain_numbers(output: NDArray[np.float32]) -> list[Any]:
    """Python numbers without the digits that float32 does not hold.

    Probabilities and vectors [N, K] are rounded to 7 decimals; values [N] have the fewest digits
    that read back as the same float32.
    """
    if output.ndim == 2:
        rounded: list[list[float]] = np.round(output.astype(np.float64), 7).tolist()
        return rounded
    return [float(str(value)) for value in output]
