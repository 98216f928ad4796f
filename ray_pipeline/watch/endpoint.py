"""What the watch asks of an endpoint on the cluster that this process is connected to."""

from __future__ import annotations

from typing import Any

import ray

from ray_pipeline.deploy import changes, registry, release
from ray_pipeline.deploy.board import board
from ray_pipeline.deploy.history import Entry
from ray_pipeline.job import Serve


class Live:
    """An endpoint by its name; `storage` is where its releases are kept."""

    def __init__(self, name: str, storage: str) -> None:
        self._name, self._storage = name, storage

    def live(self) -> str | None:
        """The bundle that it has now."""
        return release.live(self._name)

    def history(self) -> list[Entry]:
        """Its releases and those that were refused, oldest first."""
        return changes.released(self._name, self._storage)

    def deploy(self, path: str, settings: Serve, why: str) -> None:
        """Release a bundle, tried first where `serve.release` says how. Raises GateRefused."""
        release.deploy(path, self._name, settings, why=why)
        registry.told(self.history()[-1])

    def rollback(self, why: str) -> None:
        """Put back what was live before."""
        changes.rollback(self._name, self._storage, why=why)
        registry.told(self.history()[-1])

    def told(self, figures: dict[str, Any]) -> None:
        """Have `/metrics` show what a look has found."""
        ray.get(board().watched.remote(self._name, figures))
