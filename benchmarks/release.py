"""How many requests fail while versions change, processes die and load steps up?

A client asks without pause on several connections and counts. Each event happens once on a cluster
of this machine; `--picture FILE` draws replicas and latency over the load step as an HTML page.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from _asked import newest_bundle
from _common import finish
from _machine import another_machine

from ray_pipeline import bundle as bundles
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.ports import free_ports

NAME = "model"
STYLE = """<!doctype html><title>Load step</title><style>svg{width:720px;font:11px sans-serif}
polyline{fill:none;stroke:#1668b0;stroke-width:1.5}.second{stroke:#c2410c}.grid{stroke:#ddd}
.base,.mark{stroke:#888}</style>"""


@dataclass
class Load:
    """What a client has seen: when each answer came and how long it took, and what failed."""

    answers: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", help="default: the newest of storage/income/bundles")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--picture", type=Path, help="an .html file to draw")
    parser.add_argument("--only", nargs="+", choices=EVENTS, default=list(EVENTS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"RAY_PIPELINE_HOME": home, "RAY_AUTH_MODE": "disabled"}
        site = Site(options.bundle or newest_bundle(), Path(home), options.connections)
        try:
            for name in options.only:
                print(name, file=sys.stderr)
                figures[name] = site.seen(EVENTS[name])
                rows.append({"event": name, **figures[name]})
        finally:
            site.down()
    if options.picture and site.replicas:
        options.picture.write_text(STYLE + str(picture(site)))
    finish("release", rows, {}, figures, options.json, packages=("ray", "onnxruntime"))


class Site:
    """An endpoint with two versions of one model, and a client that counts."""

    def __init__(self, bundle: str, home: Path, connections: int) -> None:
        from ray_pipeline import cluster
        from ray_pipeline.deploy import auth

        self.cluster, self.connections, self.home = cluster, connections, home
        self.port, self.key = free_ports(1)[0], auth.key()
        self.bundle = bundles.opened(bundle)
        self.body = json.dumps({"rows": [example_row(self.bundle)]})
        self.number = 1000
        self.loaded = Load()
        self.replicas: list[tuple[float, float]] = []
        """Seconds of the load step, and how many ran then."""
        self.latencies: list[tuple[float, float]] = []
        """Seconds of the load step, and milliseconds that an answer took."""
        cluster.up(cpus=8)
        cluster.connect()

    def down(self) -> None:
        import ray

        ray.shutdown()
        self.cluster.down()

    def deploy(self, **settings: Any) -> None:
        """Another release: the same bundle with another setting is one."""
        from ray_pipeline.deploy import release
        from ray_pipeline.job import Serve

        self.number += 1
        chosen = {
            "port": self.port,
            "host": "0.0.0.0",
            "cpus": 0.2,
            "max_rows": self.number,
            **settings,
        }
        release.deploy(self.bundle.path, NAME, Serve.model_validate(chosen))

    def seen(self, event: Callable[[Site], float | None]) -> dict[str, Any]:
        """What the client counted during an event; the event says how long it took, if it knows."""
        begun = time.monotonic()
        taken = event(self)
        seconds = sorted(took for _, took in self.loaded.answers)
        return {
            "requests": len(seconds) + len(self.loaded.failures),
            "failed": len(self.loaded.failures),
            "why": "; ".join(sorted(set(self.loaded.failures))[:2]),
            "p50 ms": 1000 * statistics.median(seconds),
            "p99 ms": 1000 * seconds[int(0.99 * len(seconds))],
            "longest ms": 1000 * seconds[-1],
            "event s": time.monotonic() - begun if taken is None else taken,
        }

    @contextmanager
    def load(self, connections: int | None = None) -> Iterator[Load]:
        stop, self.loaded = threading.Event(), Load()
        threads = [
            threading.Thread(target=self._asking, args=(stop, self.loaded))
            for _ in range(connections or self.connections)
        ]
        for thread in threads:
            thread.start()
        try:
            time.sleep(1)
            yield self.loaded
            time.sleep(1)
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _asking(self, stop: threading.Event, loaded: Load) -> None:
        headers = {"X-API-Key": self.key, "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not stop.is_set():
            begun = time.monotonic()
            try:
                connection.request("POST", f"/{NAME}/predict", self.body, headers)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                loaded.failures.append(type(error).__name__)
                connection.close()
                continue
            if answer.status == 200:
                loaded.answers.append((time.monotonic(), time.monotonic() - begun))
            else:
                loaded.failures.append(f"{answer.status} {content[:60].decode()}")

    def kill_a_replica(self) -> None:
        members = self.cluster.processes(self.cluster.record())
        found = [p for p in members if f"ServeReplica:{NAME}:" in " ".join(p.cmdline())]
        found[0].send_signal(signal.SIGKILL)

    def running(self) -> int:
        """How many replicas run, by GET /metrics."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/metrics")
        for line in connection.getresponse().read().decode().splitlines():
            if line.startswith("ray_pipeline_replicas{"):
                return int(float(line.split()[-1]))
        return 0

    def until(self, condition: Callable[[], bool], seconds: float = 90) -> float:
        """Seconds until the condition held."""
        begun = time.monotonic()
        while not condition():
            if time.monotonic() > begun + seconds:
                sys.exit(f"it did not come about in {seconds} s; {self.running()} replicas")
            time.sleep(0.2)
        return time.monotonic() - begun


def quiet(site: Site) -> float:
    site.deploy()
    with site.load():
        time.sleep(5)
    return 5.0


def released(site: Site) -> None:
    with site.load():
        site.deploy()
        time.sleep(7)  # the old replica ends


def tried(site: Site) -> None:
    gates = {"max_p99_ratio": None}
    with site.load():
        site.deploy(release={"steps": [10, 50, 100], "hold_s": 4, **gates})
        time.sleep(7)


def rolled_back(site: Site) -> None:
    from ray_pipeline.deploy import changes

    for _ in range(2):
        site.deploy()
    with site.load():
        changes.rollback(NAME, "storage")
        time.sleep(7)


def one_killed(site: Site, of: int, watched_s: float) -> None:
    site.deploy(replicas={"min": of, "max": of})
    time.sleep(6)  # the old replica ends
    with site.load():
        site.kill_a_replica()
        time.sleep(watched_s)


def machine_lost(site: Site) -> None:
    with another_machine(site.home, site.cluster.record()) as machine:
        site.deploy(replicas={"min": 4, "max": 4})
        time.sleep(6)
        with site.load():
            machine.kill()
            time.sleep(15)


def from_zero(site: Site) -> float:
    site.deploy(replicas={"min": 0, "max": 2}, downscale_delay_s=1)
    site.until(lambda: site.running() == 0)
    with site.load(2):
        return site.until(lambda: bool(site.loaded.answers))


def load_step(site: Site) -> float:
    """One connection, then many: seconds until there are more replicas, and both over time."""
    site.deploy(replicas={"min": 1, "max": 4}, target_ongoing_requests=2, downscale_delay_s=5)
    begun, stop = time.monotonic(), threading.Event()

    def watched() -> None:
        while not stop.is_set():
            site.replicas.append((time.monotonic() - begun, site.running()))
            time.sleep(0.5)

    watching = threading.Thread(target=watched)
    watching.start()
    with site.load(1):
        time.sleep(4)
    quiet_answers = site.loaded.answers
    with site.load(16):
        taken = site.until(lambda: site.running() > 1)
        time.sleep(15)
    site.loaded.answers += quiet_answers
    site.until(lambda: site.running() == 1)
    stop.set()
    watching.join()
    site.latencies = [(at - begun, 1000 * took) for at, took in sorted(site.loaded.answers)]
    return taken


EVENTS: dict[str, Callable[[Site], float | None]] = {
    "nothing happens": quiet,
    "a release in place": released,
    "a release by steps": tried,
    "a rollback": rolled_back,
    "one of two replicas killed": partial(one_killed, of=2, watched_s=8),
    "the only replica killed": partial(one_killed, of=1, watched_s=12),
    "a machine lost": machine_lost,
    "from no replica": from_zero,
    "a load step": load_step,
}


def picture(site: Site) -> str:
    from ray_pipeline.charts import Line, curves

    seconds: dict[int, list[float]] = {}
    for at, took in site.latencies:
        seconds.setdefault(int(at), []).append(took)
    late = [(at, sorted(all_)[int(0.99 * len(all_))]) for at, all_ in sorted(seconds.items())]
    return curves([Line("replicas", site.replicas)], "seconds", "replicas") + curves(
        [Line("p99", late, "second")], "seconds", "ms"
    )


if __name__ == "__main__":
    main()
