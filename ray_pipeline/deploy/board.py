"""The board: one small actor that knows what was released, and adds up what replicas count."""

from __future__ import annotations

import time
from typing import Any, TypedDict

import ray

from ray_pipeline.deploy.counters import Counts, add, no_counts

_NAME, _NAMESPACE = "board", "ray_pipeline"
_SILENT_AFTER_S = 10.0


class Release(TypedDict):
    """What was put behind an endpoint."""

    name: str
    version: str
    bundle: str
    digest: str
    """Of the bundle, the settings and the keyring: the same digest needs no new release."""
    since: str
    url: str
    auth: str
    keyring: str | None
    """Whose keys open it; None for everybody."""
    metrics: str
    """`open`, or `key` where reading its figures takes one."""
    metadata: dict[str, Any]
    """What the Open Inference Protocol says of the model."""


class Board:
    """State of all endpoints of a cluster; counters go on through replicas' lives and releases."""

    def __init__(self) -> None:
        self._releases: dict[str, Release] = {}
        self._counts: dict[str, Counts] = {}
        self._in_flight: dict[tuple[str, str], tuple[int, float]] = {}

    def report(self, name: str, replica: str, counts: Counts, in_flight: int) -> int:
        """Add what a replica counted since its last report; how many replicas have reported of
        late is returned."""
        add(self._counts.setdefault(name, no_counts()), counts)
        self._in_flight[name, replica] = (in_flight, time.monotonic())
        return sum(owner == name for owner, _ in self._heard())

    def released(self, release: Release) -> None:
        """Take down a release, in place of an earlier one of that name."""
        self._releases[release["name"]] = release

    def releases(self) -> dict[str, Release]:
        """The latest release by endpoint name."""
        return self._releases

    def figures(self) -> dict[str, dict[str, Any]]:
        """Counts, requests in flight and version, by endpoint name."""
        heard = self._heard()
        return {
            name: {
                "version": release["version"],
                "counts": self._counts.get(name, no_counts()),
                "in_flight": sum(
                    value for (owner, _), (value, _) in heard.items() if owner == name
                ),
            }
            for name, release in self._releases.items()
        }

    def _heard(self) -> dict[tuple[str, str], tuple[int, float]]:
        """Requests in flight by endpoint and replica, without replicas that fell silent."""
        now = time.monotonic()
        self._in_flight = {
            key: value for key, value in self._in_flight.items() if now - value[1] < _SILENT_AFTER_S
        }
        return self._in_flight


def board() -> Any:
    """The cluster's board, made if there is none yet."""
    return (
        ray.remote(Board)
        .options(
            name=_NAME,
            namespace=_NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
        )
        .remote()
    )
