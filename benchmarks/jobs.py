"""Does a job of many rows slow down the requests that somebody waits for?

One connection asks for a prediction again and again, first alone and then while a job of --rows
rows is predicted, in turns; the same endpoint, machine and client. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import secrets
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from _asked import newest_bundle
from _common import finish
from serve import running

from ray_pipeline import bundle as bundles
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.ports import free_ports


class Client:
    """One connection that is kept."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"X-API-Key": key, "Content-Type": "application/json"}

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", help="default: the newest of storage/income/bundles")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="alone, per round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = options.bundle or newest_bundle()
    row = example_row(bundles.opened(bundle))
    key, port = f"rp_{secrets.token_urlsafe(32)}", free_ports(1)[0]
    job = json.dumps({"rows": [row] * options.rows})
    with running("ours", bundle, port, key):
        taken = [measured(port, key, row, job, options.seconds) for _ in range(options.rounds)]
    found = {name: statistics.median(one[name] for one in taken) for name in taken[0]}
    rows = [
        {"": when, "p50 ms": found[f"{when} p50"], "p99 ms": found[f"{when} p99"]}
        for when in ("alone", "beside a job")
    ]
    ratios = {f"jobs/{q}": found[f"alone {q}"] / found[f"beside a job {q}"] for q in ("p50", "p99")}
    packages = ("ray", "uvicorn", "onnxruntime", "msgspec")
    finish("jobs", rows, ratios, found, options.json, packages=packages)


def measured(
    port: int, key: str, row: dict[str, Any], job: str, seconds: float
) -> dict[str, float]:
    client, other = Client(port, key), Client(port, key)
    body = json.dumps({"rows": [row]})
    ends = time.monotonic() + seconds
    alone = asked(client, body, lambda: time.monotonic() < ends)
    begun = time.monotonic()
    status, sent = other.ask("POST", "/model/jobs", job)
    if status != 202:
        sys.exit(f"the job is answered with {status}: {sent}")
    place = f"/model/jobs/{sent['id']}"
    looked = [begun]

    def goes_on() -> bool:
        if time.monotonic() - looked[0] < 0.2:
            return True
        looked[0] = time.monotonic()
        return not done(other, place)

    beside = asked(client, body, goes_on)
    took = time.monotonic() - begun
    assert other.ask("DELETE", place)[0] == 200
    return {
        **quantiles("alone", alone),
        **quantiles("beside a job", beside),
        "seconds of the job": took,
    }


def done(client: Client, place: str) -> bool:
    status = client.ask("GET", place)[1]["status"]
    assert status != "failed"
    return bool(status == "done")


def asked(client: Client, body: str, goes_on: Callable[[], bool]) -> list[float]:
    """How long each request took, in milliseconds."""
    found = []
    while goes_on():
        begun = time.perf_counter()
        status, _ = client.ask("POST", "/model/predict", body)
        found.append(1000 * (time.perf_counter() - begun))
        assert status == 200
    return found


def quantiles(when: str, latencies: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(latencies, n=100)
    return {f"{when} p50": cuts[49], f"{when} p99": cuts[98]}


if __name__ == "__main__":
    main()
