"""What the request log costs: the processor time of a request with it and without, in turns.

The endpoint's app is called in this process, as its server calls it, by --at-once callers; counted
is the time of all threads, that of the log's writer among them, so that what else the machine does
changes little. A server around it and a proxy in front would make the log's share smaller.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from typing import Any

from _common import finish
from serve import newest_bundle
from upath import UPath

from ray_pipeline import bundle as bundles
from ray_pipeline.deploy.app import Endpoint
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.job import Log, Serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", help="default: the newest of storage/income/bundles")
    parser.add_argument("--requests", type=int, default=3000, help="in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    opened = bundles.opened(options.bundle or newest_bundle())
    logs = {"no log": None, "a tenth": Log(sample=0.1, every_s=1), "all": Log(sample=1, every_s=1)}
    taken: dict[str, list[float]] = {name: [] for name in logs}
    for number in range(options.rounds + 1):
        for name, log in logs.items():
            seconds = asyncio.run(asked(opened, log, options.requests, options.at_once))
            if number:  # the first warms up
                taken[name].append(seconds)
    found = {name: 1e6 * statistics.median(each) for name, each in taken.items()}
    rows = [{"request log": name, "us a request": f"{value:.1f}"} for name, value in found.items()]
    ratios = {f"watch/{name}": found["no log"] / found[name] for name in ("a tenth", "all")}
    finish("watch", rows, ratios, found, options.json, packages=("onnxruntime", "pyarrow"))


async def asked(opened: Any, log: Log | None, requests: int, at_once: int) -> float:
    """Seconds of processor time for each of so many requests of a row, till the log has them."""
    body = json.dumps({"rows": [example_row(opened)]}).encode()
    scope = {"type": "http", "method": "POST", "path": "/model/predict", "headers": []}
    counters = Counters()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200

    with tempfile.TemporaryDirectory() as folder:
        app = Endpoint(
            "model", Predictor(opened), Serve(auth="none", log=log), gate=None, pages={},
            counters=counters, started=lambda: None, stopped=lambda: None,
            log=UPath(folder) if log else None,
        )  # fmt: skip
        app._begin()

        async def caller() -> None:
            for _ in range(requests // at_once):
                await app(dict(scope), receive, send)

        begun = time.process_time()
        await asyncio.gather(*(caller() for _ in range(at_once)))
        app._end()
        return (time.process_time() - begun) / requests


if __name__ == "__main__":
    main()
