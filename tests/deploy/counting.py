"""A client that counts: every request and what became of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Counted:
    """What became of requests; `failures` are all that were not answered with a prediction."""

    versions: list[tuple[float, str]] = field(default_factory=list)
    """When each answer came (monotonic seconds), and which version gave it."""
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def since(self, moment: float) -> Counter[str]:
        return Counter(version for when, version in self.versions if when > moment)


PAUSE_S = 0.03
"""After each request of a connection: without it the client takes the cores from what it asks."""


@contextmanager
def load(site: Any, rows: list[dict[str, Any]], connections: int = 3) -> Iterator[Counted]:
    """Requests with one row each, one after the other on each connection, until the block ends."""
    stop, counted = threading.Event(), Counted()

    def asking(first: int) -> None:
        headers = {"X-API-Key": site.key}
        at = first
        with httpx.Client(headers=headers, timeout=60) as client:
            while not stop.wait(PAUSE_S):
                at, begun = at + 1, time.monotonic()
                body = {"rows": [rows[at % len(rows)]]}
                try:
                    answer = client.post(f"{site.url}/model/predict", json=body)
                except httpx.HTTPError as error:
                    counted.failures.append(repr(error))
                    continue
                ended = time.monotonic()
                counted.seconds.append(ended - begun)
                if answer.status_code == 200:
                    counted.versions.append((ended, answer.json()["version"]))
                else:
                    counted.failures.append(f"{answer.status_code} {answer.text[:200]}")

    threads = [threading.Thread(target=asking, args=(number * 7,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    try:
        yield counted
    finally:
        stop.set()
        for thread in threads:
            thread.join()
