"""The board: one small actor that knows what was released, and adds up what replicas count."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NotRequired, TypedDict

from ray_pipeline.deploy import detached, shared, tally
from ray_pipeline.deploy.counters import Counts, add, no_counts
from ray_pipeline.deploy.split import Trial
from ray_pipeline.deploy.tally import Tally

_SILENT_AFTER_S = 10.0
_RELEASES = "releases"


class Made(TypedDict):
    """A version as it is put behind an endpoint, and by whom."""

    name: str
    version: str
    bundle: str
    digest: str
    """Of the bundle, the settings and the keyring: the same digest needs no new release."""
    since: str
    by: str
    why: str
    settings: str
    """The job's `serve` section, as JSON: going back brings these back, too."""


class Release(Made):
    """What was put behind an endpoint, and what others have to know to reach it."""

    url: str
    auth: str
    keyring: str | None
    """Whose keys open it; None for everybody."""
    metrics: str
    """`open`, or `key` where reading its figures takes one."""
    metadata: dict[str, Any]
    """What the Open Inference Protocol says of the model."""
    task: NotRequired[str]
    """The bundle's."""
    application: NotRequired[str]
    """The application that answers for it, if it has none of its own."""


class Told(NamedTuple):
    """What a replica hears when it reports."""

    sharing: int
    """How many replicas of its endpoint have reported of late."""
    trial: Trial | None
    """The new version that is tried beside its own, if there is one."""


@dataclass
class Trying:
    """A new version that is tried, as long as who tries it is heard of."""

    trial: Trial
    version: str
    until: float
    tallies: dict[str, Tally]
    wish: str = ""


class Board:
    """State of all endpoints of a cluster; counters go on through replicas' lives and releases."""

    def __init__(self) -> None:
        self._releases: dict[str, Release] = {}
        self._counts: dict[str, Counts] = {}
        self._in_flight: dict[tuple[str, str], tuple[int, float]] = {}
        self._trying: dict[str, Trying] = {}
        self._history: dict[str, list[Any]] = {}
        self._watched: dict[str, dict[str, Any]] = {}

    def report(
        self,
        name: str,
        replica: str,
        counts: Counts,
        in_flight: int,
        tallies: Mapping[str, Tally] | None = None,
    ) -> Told:
        """Add what a replica counted since its last report."""
        add(self._counts.setdefault(name, no_counts()), counts)
        self._in_flight[name, replica] = (in_flight, time.monotonic())
        tried = self._tried(name)
        if tried and tallies:
            for version, more in tallies.items():
                tally.add(tried.tallies[version], more)
        sharing = sum(owner == name for owner, _ in self._heard())
        return Told(sharing, tried.trial if tried else None)

    def begin(self, name: str, version: str, trial: Trial, lease_s: float) -> None:
        """Have replicas of `name` try a version, or try it otherwise; what was counted before is
        gone. Unless `follow` is called, it ends by itself after `lease_s`."""
        wish = tried.wish if (tried := self._tried(name)) else ""
        tallies = {"old": tally.nothing(), "new": tally.nothing()}
        until = time.monotonic() + lease_s
        self._trying[name] = Trying(trial, version, until, tallies, wish)

    def follow(self, name: str, lease_s: float) -> tuple[dict[str, Tally], str] | None:
        """What both versions have answered since `begin`, and what somebody else wishes: `promote`,
        `stop` or nothing. The trial goes on for `lease_s` from now; None if it has ended."""
        tried = self._tried(name)
        if tried is None:
            return None
        tried.until = time.monotonic() + lease_s
        return tried.tallies, tried.wish

    def end(self, name: str) -> None:
        """The old version answers everything again."""
        self._trying.pop(name, None)

    def wish(self, name: str, what: str) -> str | None:
        """Tell who tries a version of `name` to `promote` or to `stop`; the version, or None where
        none is tried."""
        tried = self._tried(name)
        if tried is None:
            return None
        tried.wish = what
        return tried.version

    def trials(self) -> dict[str, dict[str, Any]]:
        """What is tried, by endpoint name: version, percent of requests, answers and failures."""
        found = {name: tried for name in list(self._trying) if (tried := self._tried(name))}
        return {
            name: {
                "version": tried.version,
                "percent": round(100 * tried.trial["share"], 3),
                "copies": tried.trial["copies"],
                "answers": tried.tallies["new"]["answers"],
                "failures": sum(tried.tallies["new"]["failures"].values()),
            }
            for name, tried in found.items()
        }

    def _tried(self, name: str) -> Trying | None:
        """The trial that goes on, whose driver has been heard of lately."""
        tried = self._trying.get(name)
        if tried and tried.until < time.monotonic():
            del self._trying[name]
            return None
        return tried

    def watched(self, name: str, figures: dict[str, Any]) -> None:
        """Note what the latest look at an endpoint has found (watch/look.py)."""
        self._watched[name] = figures

    def released(self, release: Release) -> None:
        """Take down a release, in place of an earlier one of that name."""
        self._releases[release["name"]] = release

    def removed(self, name: str) -> None:
        """Take down that an endpoint was removed."""
        self._releases.pop(name, None)

    def keep(self, entry: Any) -> None:
        """Add an entry (history.py) to those of its endpoint."""
        self._history.setdefault(entry["name"], []).append(entry)

    def history(self, name: str) -> list[Any]:
        """The entries of an endpoint since the cluster was started."""
        return self._history.get(name, [])

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
                "watched": self._watched.get(name, {}),
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


class KeptBoard(Board):
    """A cluster's own board: what was released is kept with the head's state, since the actor is
    made again where the machine that it is on was lost."""

    def __init__(self) -> None:
        super().__init__()
        content = shared.get(_RELEASES)
        if content is not None:
            self._releases = json.loads(content)

    def released(self, release: Release) -> None:
        super().released(release)
        self._keep_releases()

    def removed(self, name: str) -> None:
        super().removed(name)
        self._keep_releases()

    def _keep_releases(self) -> None:
        shared.put(_RELEASES, json.dumps(self._releases).encode())


def board() -> Any:
    """The cluster's board, made if there is none yet. Calls wait while it is made again."""
    return detached.the_only(KeptBoard, "board", max_task_retries=-1)
