"""What the page shows, read from the cluster and the storage; every function here may block."""

from __future__ import annotations

import json
from typing import Any

import ray
from ray.exceptions import RayError
from upath import UPath

from ray_pipeline import audit
from ray_pipeline.deploy import application, changes, registry, release
from ray_pipeline.deploy.board import board
from ray_pipeline.errors import ClusterError
from ray_pipeline.watch.decisions import Decision, Decisions

Endpoint = dict[str, Any]


class State:
    """Of the endpoints on the cluster that this process is connected to, if it is to one.

    Args:
        storage: where runs and releases are kept.
    """

    def __init__(self, storage: str) -> None:
        self.storage = storage

    def figures(self) -> dict[str, dict[str, Any]]:
        """What each endpoint has counted, by name; none where nothing serves.

        Raises:
            ClusterError: the cluster does not answer.
        """
        if not ray.is_initialized():
            return {}
        try:
            found: dict[str, dict[str, Any]] = (
                ray.get(board().figures.remote()) if application.serve_port() else {}
            )
        except (RayError, ConnectionError) as error:
            raise ClusterError(
                f"the cluster does not answer: {type(error).__name__}",
                hint="`ray-pipeline endpoints` says whether it runs; start `ui` again then",
            ) from error
        return found

    def endpoints(self) -> list[Endpoint]:
        """`release.endpoints()`, each with its bundle, counts, and what the watch has last seen.

        Raises:
            ClusterError: the cluster does not answer.
        """
        figures = self.figures()
        if not figures:
            return []
        releases = ray.get(board().releases.remote())
        return [
            {
                **one,
                "bundle": releases[one["name"]]["bundle"],
                "task": releases[one["name"]].get("task"),
                **figures[one["name"]],
            }
            for one in release.endpoints()
            if one["name"] in figures
        ]

    def history(self, name: str) -> list[Any]:
        """What was released under that name, newest first."""
        return changes.released(name, self.storage)[::-1] if ray.is_initialized() else []

    def decisions(self, endpoint: Endpoint) -> list[Decision]:
        """What `watch` has decided about an endpoint, newest first."""
        found = _watched(endpoint)
        return found.all()[::-1] if found else []

    def look(self, endpoint: Endpoint) -> Decision | None:
        """The latest look of `watch`, if it was at the version that is live."""
        found = _watched(endpoint)
        seen = found.latest() if found else None
        of = (seen or {}).get("live", {}).get("version")
        return seen if of == endpoint["version"] else None

    def all_decisions(self, most: int) -> list[Decision]:
        """The newest of all jobs of the storage, each with its `job`."""
        files = UPath(self.storage).glob("*/watch/decisions/*.json")
        newest = sorted(files, key=lambda path: str(path.name), reverse=True)[:most]
        return [
            {**json.loads(path.read_text()), "job": path.parent.parent.parent.name}
            for path in newest
        ]

    def rolled_back(self, name: str, version: str | None, why: str) -> str:
        """Put back what was live before or `version`, or end a trial; what came of it.

        Raises:
            PipelineError: as `changes.rollback`.
        """
        back = changes.rollback(name, self.storage, version, why)
        if "stopped" in back:
            return f"version {back['stopped']} is no longer tried"
        registry.told(changes.released(name, self.storage)[-1])
        return f"version {back['version']} is live again, instead of {back['from']}"

    def promoted(self, name: str) -> str:
        """Let the version that is tried take over; what came of it. Raises UsageError."""
        return f"version {changes.promote(name)} takes over"


def _watched(endpoint: Endpoint) -> Decisions | None:
    """The decisions about an endpoint that bears its job's name, and whose bundle lies there."""
    root = UPath(audit.storage_of(endpoint["bundle"])) / endpoint["name"]
    return Decisions(root) if UPath(endpoint["bundle"]).parent.parent.name == root.name else None
