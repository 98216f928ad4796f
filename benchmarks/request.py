"""What does a request cost in a replica, by its parts, by its rows, and by the bundles beside it?

The endpoint's app is called as a server calls it, in one process, without one: microseconds of
processor time, medians over the rounds. What ours adds is what remains beside an app that reads the
body and answers with the same bytes, and one run of the model on arrays that are ready.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import psutil
from _asked import newest_bundle
from _common import finish

from ray_pipeline import bundle as bundles
from ray_pipeline.deploy.app import Endpoint
from ray_pipeline.deploy.asgi import ASGIApp, Response
from ray_pipeline.deploy.auth import Gate
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.keyring import described
from ray_pipeline.deploy.many import Kept, Loaded, Many
from ray_pipeline.deploy.predictions import Predictions, answered, plain_numbers, prediction_maker
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.job import Serve

KEY = "rp_benchmark"
HEADERS = [(b"x-api-key", KEY.encode()), (b"content-type", b"application/json")]
ROWS, BUNDLES = (1, 10, 100, 1000), (1, 4, 16)
SETTINGS = Serve(max_bytes=10_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", help="default: the newest of storage/income/bundles")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=500, help="of each part, in a round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    opened = bundles.opened(options.bundle or newest_bundle())
    row, costs = example_row(opened), Costs(options.rounds, options.calls)
    parts = by_part(opened, body_of(row, 1), costs)
    rows: list[dict[str, Any]] = [{"what": name, "us": cost} for name, cost in parts.items()]
    app, figures = endpoint(opened), dict(parts)
    for count in ROWS:
        cost = costs.of_requests(app, body_of(row, count), max(options.calls // count, 5))
        figures[f"{count} rows"] = cost
        rows.append({"what": f"a request of {count} rows", "us": cost, "us a row": cost / count})
    for count in BUNDLES:
        cost, grown = beside(opened, body_of(row, 1), count, costs)
        figures |= {f"{count} bundles": cost, f"{count} bundles MB": grown}
        rows.append({"what": f"one of {count} loaded bundles", "us": cost, "MB a bundle": grown})
    finish("request", rows, {}, figures, options.json, packages=("onnxruntime", "msgspec", "numpy"))


def body_of(row: dict[str, Any], count: int) -> bytes:
    return json.dumps({"rows": [row] * count}).encode()


def endpoint(opened: Any) -> Endpoint:
    return Endpoint(
        "model", Predictor(opened), SETTINGS, gate=gate(), pages={}, counters=Counters(),
        started=lambda: None, stopped=lambda: None,
    )  # fmt: skip


def gate() -> Gate:
    return Gate("model", [described("own", KEY)])


class Costs:
    """Microseconds of processor time of a call; the first round warms up."""

    def __init__(self, rounds: int, calls: int) -> None:
        self._rounds, self._calls = rounds, calls

    def of(self, call: Callable[[], object]) -> float:
        def called(count: int) -> float:
            begun = time.process_time()
            for _ in range(count):
                call()
            return (time.process_time() - begun) / count

        return self._median(lambda: called(self._calls))

    def of_requests(self, app: ASGIApp, body: bytes, count: int | None = None) -> float:
        return self._median(lambda: asyncio.run(asked(app, body, count or self._calls)))

    def _median(self, measured: Callable[[], float]) -> float:
        return 1e6 * statistics.median([measured() for _ in range(self._rounds + 1)][1:])


async def asked(app: ASGIApp, body: bytes, count: int) -> float:
    """Seconds of processor time for each of so many requests, one after the other."""
    scope = {"type": "http", "method": "POST", "path": "/model/predict", "headers": HEADERS}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200

    begun = time.process_time()
    for _ in range(count):
        await app(dict(scope), receive, send)
    return (time.process_time() - begun) / count


def by_part(opened: Any, body: bytes, costs: Costs) -> dict[str, float]:
    """What each part costs for this body, and what is left for all that is between them."""
    from ray_pipeline.deploy.asgi import encoded

    predictor, checking = Predictor(opened), gate()
    predictions = Predictions(predictor, SETTINGS, counters=Counters())
    protocol, make = predictions.protocol, prediction_maker(opened.manifest)
    decoded = protocol.rows(body)
    columns = protocol.columns(decoded)
    clean = predictor.cleaned(columns)
    outputs = plain_numbers(predictor.of_clean(clean))
    document = answered(asyncio.run(predictions.of(decoded)), opened.manifest.version)
    answer = encoded(document)

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await Response(200, answer).send(send)

    whole = costs.of_requests(endpoint(opened), body)
    parts = {
        "an app that answers the same bytes": costs.of_requests(bare, body),
        "a run of the model": costs.of(lambda: predictor.of_clean(clean)),
        "the key": costs.of(lambda: checking.admitted(HEADERS)),
        "JSON to checked rows": costs.of(lambda: protocol.rows(body)),
        "rows to arrays": costs.of(lambda: predictor.cleaned(protocol.columns(decoded))),
        "outputs to predictions": costs.of(lambda: [make(each) for each in outputs]),
        "predictions to JSON": costs.of(lambda: encoded(document)),
    }
    rest = whole - sum(parts.values())
    added = whole - sum(list(parts.values())[:2])
    return {**parts, "the rest": rest, "a request": whole, "of it, what ours adds": added}


def beside(opened: Any, body: bytes, count: int, costs: Costs) -> tuple[float, float]:
    """A request's cost for one of so many loaded bundles, and the megabytes that each takes."""
    names = ["model", *(f"other{number}" for number in range(1, count))]
    loaded = Loaded(lambda _name: endpoint(opened), count)

    async def nobody(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("a request is for none of them")

    kept = {name: Kept(gate(), {}) for name in names}
    app = Many(kept, loaded, nobody, lambda: None, lambda: None)
    before = psutil.Process().memory_info().rss

    async def load() -> None:
        for name in names:
            await loaded.endpoint(name)

    asyncio.run(load())
    grown = (psutil.Process().memory_info().rss - before) / count / 2**20
    return costs.of_requests(app, body), grown


if __name__ == "__main__":
    main()
