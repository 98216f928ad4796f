"""Does the endpoint stand twice the load that it can bear?

What it can answer in a second is measured first, by a client with 32 connections. Then twice as
many requests are sent, whether or not answers come. It must still answer half of what it can bear,
tell all others 429 with Retry-After, keep the 99th percentile of what it answers under the bound
that its queue promises, and not grow. Exits 1 otherwise.

The bound: at most `max_ongoing_requests + max_queued_requests` are in a replica, first come first
served, and done in that number divided by what is answered in a second. As under a steady load, the
slowest in a hundred may take three times what is usual. Refusing costs some of what it can bear,
and so does the client, which runs on the same cores.

`--times 0.5` is a steady load instead, of which nothing may be refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import statistics
import sys
from typing import Any

import _wrk
from _asked import MODELS, newest_bundle
from _common import finish
from _open_loop import MOST_CONNECTIONS, Seen, sent
from fuzz import MAX_GROWTH, memory, request
from serve import running

from ray_pipeline.deploy.ports import free_ports

WARM_S = 10
ONGOING, QUEUED = 16, 48
LEAST, TAIL = 0.5, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="cnn")
    parser.add_argument("--bundle", help="default: the newest of the model's job")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=float, default=2, help="what it can bear")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    _wrk.must_be_here()
    bundle = options.bundle or newest_bundle(MODELS[options.model].job)
    key, port = f"rp_{secrets.token_urlsafe(32)}", free_ports(1)[0]
    bodies = [json.dumps({"rows": [row]}) for row in MODELS[options.model].rows(bundle)]
    bounds = {"max_ongoing_requests": ONGOING, "max_queued_requests": QUEUED}
    with running("ours", bundle, port, key, bounds) as folder:
        told = _wrk.script(folder, bodies, key)
        url = f"http://127.0.0.1:{port}/model/predict"
        _wrk.load(url, told, 8, 2)
        bears = _wrk.load(url, told, 32, WARM_S)["requests/s"]
        print(f"it bears {bears:.0f} requests a second", file=sys.stderr)
        requests = [request(key, body.encode(), keep=True) for body in bodies]
        asyncio.run(sent(port, requests, options.times * bears, WARM_S))
        before = memory(str(folder))
        seen = asyncio.run(sent(port, requests, options.times * bears, options.seconds))
        growth = grown(before, memory(str(folder)))
    figures = told_of(seen, bears, options.times * bears, options.seconds, growth)
    finish("overload", [figures], {}, figures, options.json, packages=("ray", "uvicorn"))
    judge(seen, figures)


def grown(before: dict[str, int], after: dict[str, int]) -> int:
    """The most bytes that a process has more."""
    assert set(after) >= set(before), f"processes ended: {before} became {after}"
    return max(after[name] - size for name, size in before.items())


def told_of(seen: Seen, bears: float, sent: float, seconds: float, growth: int) -> dict[str, Any]:
    if not seen.statuses[200]:
        sys.exit("nothing was answered")
    cuts = statistics.quantiles(seen.accepted_ms, n=100)
    return {
        "bears/s": bears,
        "sent/s": sent,
        "answered/s": seen.statuses[200] / seconds,
        "refused/s": seen.statuses[429] / seconds,
        "p50 ms": cuts[49],
        "p99 ms": cuts[98],
        "p99/p50": cuts[98] / cuts[49],
        "bound ms": 1000 * TAIL * (ONGOING + QUEUED) * seconds / seen.statuses[200],
        "growth MB": growth / 2**20,
    }


def judge(seen: Seen, figures: dict[str, Any]) -> None:
    wrong = []
    expected = {200, 429} if figures["sent/s"] > figures["bears/s"] else {200}
    if set(seen.statuses) != expected or seen.lost:
        wrong.append(f"expected {expected}, found {dict(seen.statuses)}, {seen.lost} lost")
    if seen.unsent:
        wrong.append(f"{seen.unsent} were not sent: {MOST_CONNECTIONS} waited for an answer")
    if seen.untold:
        wrong.append(f"{seen.untold} refusals without Retry-After")
    if figures["answered/s"] < LEAST * min(figures["bears/s"], figures["sent/s"]):
        wrong.append("less than half of what it can bear was answered")
    if figures["p99 ms"] > figures["bound ms"]:
        wrong.append("the 99th percentile is above the bound")
    if figures["growth MB"] * 2**20 > MAX_GROWTH:
        wrong.append("memory grew")
    if wrong:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()
