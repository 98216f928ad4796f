"""What the request log costs, with it and without in turns.

With --http: three real endpoints that differ in their log, one replica each behind Serve's HAProxy,
under load from wrk one after the other, again and again; requests a second, p50, and the processor
time of the replica for a request, that of the log's writer in it. Other programs change requests a
second much and processor time little.

Without: the endpoint's app is called in this process, as its server calls it, by --at-once callers;
counted is the time of all threads. A server around it and a proxy in front make the share smaller.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _asked import newest_bundle
from _common import finish
from _wrk import load, script
from upath import UPath

from ray_pipeline import bundle as bundles
from ray_pipeline.deploy.app import Endpoint
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.job import Log, Replicas, Serve

LOGS = {"no log": None, "a tenth": Log(sample=0.1), "all": Log(sample=1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", help="default: the newest of storage/income/bundles")
    parser.add_argument("--requests", type=int, default=20_000, help="in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--http", action="store_true", help="through a real endpoint")
    parser.add_argument("--seconds", type=int, default=2, help="of load, with --http")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = options.bundle or newest_bundle()
    if options.http:
        found = through_http(bundle, options.rounds, options.seconds)
        rows = [{"request log": name, **one} for name, one in found.items()]
        ratios = {
            f"watch/{name}/{what}": found[name][figure] / found["no log"][figure]
            if what == "requests"
            else found["no log"][figure] / found[name][figure]
            for name in ("a tenth", "all")
            for what, figure in (("requests", "requests/s"), ("cpu", "replica us"))
        }
        packages = ("ray", "onnxruntime", "pyarrow")
        return finish("watch", rows, ratios, found, options.json, packages=packages)
    taken: dict[str, list[float]] = {name: [] for name in LOGS}
    opened = bundles.opened(bundle)
    for number in range(options.rounds + 1):
        for name, log in LOGS.items():
            seconds = asyncio.run(asked(opened, log, options.requests, options.at_once))
            if number:  # the first warms up
                taken[name].append(seconds)
    found_us = {name: 1e6 * statistics.median(each) for name, each in taken.items()}
    rows = [{"request log": name, "us a request": f"{us:.1f}"} for name, us in found_us.items()]
    ratios = {f"watch/{name}": found_us["no log"] / found_us[name] for name in ("a tenth", "all")}
    return finish(
        "watch", rows, ratios, found_us, options.json, packages=("onnxruntime", "pyarrow")
    )


def through_http(bundle: str, rounds: int, seconds: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds of requests a second and p50 in ms, and the processor time in us that
    each replica has had for a request, from the first to some seconds after the last."""
    from ray_pipeline import cluster
    from ray_pipeline.deploy import auth, release
    from ray_pipeline.deploy.ports import free_ports

    taken: dict[str, list[dict[str, float]]] = {name: [] for name in LOGS}
    body = json.dumps({"rows": [example_row(bundles.opened(bundle))]})
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAY_PIPELINE_HOME"] = folder
        told, port = script(Path(folder), [body], auth.key()), free_ports(1)[0]
        urls = {name: f"http://127.0.0.1:{port}/{_path(name)}/predict" for name in LOGS}
        try:
            cluster.connect()
            for name, log in LOGS.items():
                settings = Serve(port=port, replicas=Replicas(min=1, max=1), cpus=0.2, log=log)
                release.deploy(bundle, _path(name), settings)
                load(urls[name], told, 8, 2)  # warm
            before = {name: busy_s(name) for name in LOGS}
            for _ in range(rounds):
                for name in LOGS:
                    taken[name].append(load(urls[name], told, 32, seconds))
            time.sleep(2 * Log().every_s)  # what waits is written
            used = {name: busy_s(name) - before[name] for name in LOGS}
        finally:
            cluster.down()
    return {
        name: {
            "requests/s": statistics.median(one["requests/s"] for one in each),
            "p50 ms": statistics.median(one["p50 ms"] for one in each),
            "replica us": 1e6 * used[name] / sum(one["requests/s"] * seconds for one in each),
        }
        for name, each in taken.items()
    }


def _path(name: str) -> str:
    return name.replace(" ", "_")


def busy_s(name: str) -> float:
    """The processor time that the replica of an endpoint has had."""
    from ray_pipeline import cluster

    members = cluster.processes(cluster.record() or {})
    (replica,) = (p for p in members if p.name().startswith(f"ray::ServeReplica:{_path(name)}:"))
    times = replica.cpu_times()
    return float(times.user + times.system)


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
