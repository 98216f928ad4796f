"""How fast does the endpoint answer, beside what one would write by hand and beside other servers?

The same model file, machine, threads and load tool (wrk), for a small model of tables, MiniLM and a
CNN. In each round every server is started alone, asked for predictions (all must agree), loaded,
and stopped; figures are medians over the rounds. `cpu ms` is the processor time of all of a
server's processes for a request, which other programs of the machine disturb little. A server whose
library is not installed is left out, and said to be.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import _bentoml
import _wrk
import psutil
from _asked import FORMS, MODELS, OURS, Row, newest_bundle
from _common import finish
from _servers import KINDS

from ray_pipeline import bundle as bundles
from ray_pipeline.deploy.ports import free_ports

CONNECTIONS = (1, 32, 256)
BESIDE = [kind for kind in KINDS if not kind.startswith("ours")]
LIBRARIES = {"litserve": "litserve", "mlflow": "mlflow", "bentoml": "bentoml"}
LONGEST_START = 180
"""Seconds after which a server that does not answer is ended: BentoML starts a worker that dies
again for ever."""
HERE = Path(__file__).parent

Figures = dict[str, float]


def main() -> None:
    options = _options()
    _wrk.must_be_here()
    os.environ[_bentoml.PYTHON] = options.bentoml
    kinds = [kind for kind in options.only if _is_installed(kind, options.bentoml)]
    rows: list[dict[str, Any]] = []
    figures: dict[str, dict[str, Figures]] = {}
    found: Figures = {}
    for model in options.models:
        bundle = options.bundle or newest_bundle(MODELS[model].job, options.storage)
        figures[model] = medians(model, bundle, kinds, options.rounds, options.seconds)
        rows += [
            {"model": model, "server": KINDS[kind], **taken}
            for kind, taken in figures[model].items()
        ]
        found |= ratios(figures[model], model)
    packages = ("ray", "fastapi", "uvicorn", "onnxruntime", "torch", "litserve", "mlflow")
    finish("serve", rows, found, figures, options.json, packages=(*packages, "msgspec"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--storage", type=Path, help="where the jobs' bundles are; the newest count"
    )
    parser.add_argument("--bundle", help="of one model, in the place of the newest")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of load, per measurement")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--bentoml", default=sys.executable, help="a Python that has BentoML (`make rivals`)"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.bundle and len(options.models) != 1:
        parser.error("--bundle needs --models with one name")
    return options


def _is_installed(kind: str, bentoml: str) -> bool:
    library = LIBRARIES.get(kind)
    if library is None:
        return True
    if kind == "bentoml":
        asked = subprocess.run([bentoml, "-c", "import bentoml"], capture_output=True, check=False)
        there = asked.returncode == 0
    else:
        there = importlib.util.find_spec(library) is not None
    if not there:
        print(f"left out: {KINDS[kind]}, for {library} is not installed", file=sys.stderr)
    return there


def medians(
    model: str, bundle: str, kinds: Sequence[str], rounds: int, seconds: int
) -> dict[str, Figures]:
    """The figures of each kind of server, which take turns."""
    asked, each = MODELS[model].rows(bundle), seconds * MODELS[model].patience
    taken: dict[str, list[Figures]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        for kind in kinds:
            print(f"{model}, round {number + 1}: {KINDS[kind]}", file=sys.stderr)
            taken[kind].append(measured(kind, bundle, asked, each))
            print(json.dumps(taken[kind][-1]), file=sys.stderr, flush=True)
    return {
        kind: {name: statistics.median(one[name] for one in found) for name in found[0]}
        for kind, found in taken.items()
    }


def ratios(figures: dict[str, Figures], model: str) -> Figures:
    """Requests a second of ours (one replica) over theirs, at 32 connections unless it says so;
    and their median latency at one connection, and processor time at 32, over ours."""
    found = {}
    for rival in BESIDE:
        if rival not in figures or "ours" not in figures:
            continue
        ours, theirs = figures["ours"], figures[rival]
        for connections in CONNECTIONS:
            suffix = "" if connections == 32 else f"/{connections}_connections"
            name = f"requests/s at {connections}"
            found[f"{model}/{rival}{suffix}"] = ours[name] / theirs[name]
        found[f"{model}/{rival}/p50"] = theirs["p50 ms at 1"] / ours["p50 ms at 1"]
        found[f"{model}/{rival}/cpu"] = theirs["cpu ms at 32"] / ours["cpu ms at 32"]
    return found


def measured(kind: str, bundle: str, asked: Sequence[Row], seconds: int) -> Figures:
    key, port = f"rp_{secrets.token_urlsafe(32)}", free_ports(1)[0]
    form = FORMS.get(kind, OURS)
    figures: Figures = {}
    with running(kind, bundle, port, key) as folder:
        url = f"http://127.0.0.1:{port}{form.path}"
        check(url, asked[:8], key, bundle, kind)
        told = _wrk.script(folder, [json.dumps({form.field: [row]}) for row in asked], key)
        _wrk.load(url, told, 8, 1)  # warm
        for connections in CONNECTIONS:
            begun = processor_seconds(folder)
            seen = _wrk.load(url, told, connections, seconds)
            seen["cpu ms"] = 1000 * (processor_seconds(folder) - begun) / seen.pop("requests")
            figures |= {f"{name} at {connections}": value for name, value in seen.items()}
    return figures


def processor_seconds(home: Path) -> float:
    """What all processes that were started for the server with that folder have used."""
    used = 0.0
    for process in processes(home):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            used += sum(process.cpu_times()[:2])
    return used


def processes(home: Path) -> Iterator[psutil.Process]:
    """Those that were started for the server with that folder."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("RAY_PIPELINE_HOME") == str(home):
                yield process


def killed(home: Path) -> None:
    """A server that does not come up, and its workers, which it may start for ever."""
    while left := list(processes(home)):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)


@contextmanager
def running(
    kind: str, bundle: str, port: int, key: str, settings: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """A server of that kind while the block runs, with a folder for its files.

    `settings` are more of an endpoint of ours, in the words of a job's `serve` section."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "disabled",
            "RAY_PIPELINE_HOME": folder,
        }
        log, more = Path(folder) / "log", json.dumps(settings or {})
        with log.open("w") as errors:
            server = subprocess.Popen(
                [sys.executable, HERE / "_servers.py", kind, bundle, str(port), key, more],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        assert server.stdin
        assert server.stdout
        late = threading.Timer(LONGEST_START, killed, [Path(folder)])
        late.start()
        try:
            while (line := server.stdout.readline()) and line.strip() != "ready":
                pass
            late.cancel()
            if not line:
                sys.exit(f"{KINDS.get(kind, kind)} did not start:\n{log.read_text()[-2000:]}")
            yield Path(folder)
        finally:
            late.cancel()
            server.stdin.close()
            server.wait(60)


def check(url: str, asked: Sequence[Row], key: str, bundle: str, kind: str) -> None:
    """Stop unless the server predicts what the model does, and refuses what it should.

    The network in torch is as far from the deployed form as the bundle says.
    """
    import _rivals

    form, parity = FORMS.get(kind, OURS), bundles.opened(bundle).manifest.parity
    apart = 2 * parity["max_difference"] if kind == "fastapi_torch" else 0
    by_graph = _rivals.by_onnx(bundle)
    for row in asked:
        status, answer = post(url, json.dumps({form.field: [row]}), key)
        assert status == 200, status
        found = list(answer["predictions"][0]["probabilities"].values())
        expected = by_graph([row])[0]
        furthest = max(abs(a - b) for a, b in zip(found, expected, strict=True))
        assert furthest < 1e-5 + apart, (kind, found, expected)
    body = json.dumps({form.field: list(asked[:1])})
    assert post(url, body, "")[0] in (401, 403)
    assert post(url, body, "wrong")[0] in (401, 403)
    assert post(url, json.dumps({form.field: [{"nothing": 1}]}), key)[0] == form.refuses


def post(url: str, body: str, key: str) -> tuple[int, Any]:
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None


if __name__ == "__main__":
    main()
