"""How fast does the endpoint answer, beside what one would write by hand?

The same model file, machine and load tool (wrk). In each round every server is started alone,
asked for a prediction (all must agree), loaded, and stopped; figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _common import finish
from _servers import KINDS

from ray_pipeline import bundle as bundles
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.ports import free_ports

CONNECTIONS = (1, 32, 256)
RIVALS = ("serve_default", "fastapi_onnx", "fastapi_torch", "litserve", "raw_asgi")
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", help="default: the newest of storage/income/bundles")
    parser.add_argument("--model", default="tabular", help="what the bundle is, in ratios' names")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of load, per measurement")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("the load tool is missing: apt-get install wrk")
    bundle = options.bundle or newest_bundle()
    taken: dict[str, list[dict[str, float]]] = {kind: [] for kind in options.only}
    for number in range(options.rounds):
        for kind in options.only:
            print(f"round {number + 1}: {KINDS[kind]}", file=sys.stderr)
            taken[kind].append(measured(kind, bundle, options.seconds))
    medians = {
        kind: {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        for kind, rounds in taken.items()
    }
    rows = [{"server": KINDS[kind], **figures} for kind, figures in medians.items()]
    packages = ("ray", "fastapi", "uvicorn", "onnxruntime", "torch", "litserve", "msgspec")
    finish("serve", rows, ratios(medians, options.model), medians, options.json, packages=packages)


def ratios(medians: dict[str, dict[str, float]], model: str) -> dict[str, float]:
    """Requests a second of ours (one replica) over theirs, at 32 connections unless it says so."""
    found = {}
    for rival in RIVALS:
        if rival not in medians or "ours" not in medians:
            continue
        for connections in CONNECTIONS:
            suffix = "" if connections == 32 else f"/{connections}_connections"
            name = f"requests/s at {connections}"
            found[f"{model}/{rival}{suffix}"] = medians["ours"][name] / medians[rival][name]
    return found


def newest_bundle() -> str:
    found = sorted(
        (HERE.parent / "storage/income/bundles").glob("*/manifest.json"),
        key=lambda path: path.stat().st_mtime,
    )
    if not found:
        sys.exit("no bundle: run `ray-pipeline run jobs/income.yaml` first, or give --bundle")
    return str(found[-1].parent)


def measured(kind: str, bundle: str, seconds: int) -> dict[str, float]:
    key, port = f"rp_{secrets.token_urlsafe(32)}", free_ports(1)[0]
    body = json.dumps({"rows": [example_row(bundles.opened(bundle))]})
    figures: dict[str, float] = {}
    with running(kind, bundle, port, key) as folder:
        url = f"http://127.0.0.1:{port}/model/predict"
        check(url, body, key, bundle, kind)
        script = folder / "post.lua"
        script.write_text(
            f'wrk.method = "POST"\nwrk.headers["X-API-Key"] = "{key}"\n'
            f'wrk.headers["Content-Type"] = "application/json"\nwrk.body = [==[{body}]==]\n'
        )
        load(url, script, 8, 1)  # warm
        for connections in CONNECTIONS:
            for name, value in load(url, script, connections, seconds).items():
                figures[f"{name} at {connections}"] = value
    return figures


@contextmanager
def running(kind: str, bundle: str, port: int, key: str) -> Iterator[Path]:
    """A server of that kind while the block runs, with a folder for its files."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "disabled",
            "RAY_PIPELINE_HOME": folder,
        }
        log = Path(folder) / "log"
        with log.open("w") as errors:
            server = subprocess.Popen(
                [sys.executable, HERE / "_servers.py", kind, bundle, str(port), key],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        assert server.stdin
        assert server.stdout
        try:
            while (line := server.stdout.readline()) and line.strip() != "ready":
                pass
            if not line:
                sys.exit(f"{KINDS[kind]} did not start:\n{log.read_text()[-2000:]}")
            yield Path(folder)
        finally:
            server.stdin.close()
            server.wait(60)


def check(url: str, body: str, key: str, bundle: str, kind: str) -> None:
    """Stop unless the server predicts what the model does, and refuses what it should.

    The network in torch is as far from the deployed form as the bundle says.
    """
    from ray_pipeline.deploy.protocol import Protocol
    from ray_pipeline.deploy.runtime import Predictor

    opened = bundles.opened(bundle)
    rows = Protocol(opened.manifest.schema, 10)
    expected = Predictor(opened).predict(rows.columns(rows.rows(body.encode())))[0]
    status, answer = post(url, body, key)
    assert status == 200, status
    found = list(answer["predictions"][0]["probabilities"].values())
    apart = 2 * opened.manifest.parity["max_difference"] if kind == "fastapi_torch" else 0
    furthest = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    assert furthest < 1e-5 + apart, (found, expected)
    assert post(url, body, "")[0] in (401, 403)
    assert post(url, body, "wrong")[0] in (401, 403)
    assert post(url, '{"rows": [{"nothing": 1}]}', key)[0] == 422


def post(url: str, body: str, key: str) -> tuple[int, Any]:
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None


def load(url: str, script: Path, connections: int, seconds: int) -> dict[str, float]:
    """Requests a second, and the median and 99th percentile of latency in milliseconds."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += ["--timeout", "60s", "-s", script, url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in text, text
    assert "Socket errors" not in text, text
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert rate, text
    median, late = latency(text, 50), latency(text, 99)
    return {
        "requests/s": float(rate[1]),
        "p50 ms": median,
        "p99 ms": late,
        "p99/p50": late / median,
    }


def latency(text: str, percentile: int) -> float:
    found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", text)
    assert found, text
    return round(float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]], 3)


if __name__ == "__main__":
    main()
