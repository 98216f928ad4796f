"""How a run goes on as JSON, one object a line, for what collects logs: `RAY_PIPELINE_LOG=json`.

{"time": "2026-11-28T10:00:00.000+00:00", "run": "20261128-…", "stage": "clean", "what": "ended",
 "seconds": 1.2, "cached": false, "rows_in": 400, …}
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any, Self, TextIO

from ray_pipeline import runs
from ray_pipeline.runs import Stage

VARIABLE = "RAY_PIPELINE_LOG"


class Journal:
    """A line when a stage begins, for each event of it, and when it ends."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stderr
        self._run: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.flush()

    def started(self, stage: str) -> None:
        # Events may come from other threads, which do not see what is set in this one.
        self._run = runs.current.get()
        self._write(stage, "started")

    def event(self, stage: str, event: dict[str, Any]) -> None:
        self._write(stage, "event", **event)

    def ended(self, stage: Stage) -> None:
        summary = {key: value for key, value in stage.summary().items() if value is not None}
        summary.pop("name")
        self._write(stage.name, "ended", digest=stage.digest or None, **summary)

    def note(self, stage: str, text: str) -> None:
        """Say something about a stage."""
        self._write(stage, "note", text=text)

    def _write(self, stage: str, what: str, **more: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "run": self._run, "stage": stage, "what": what, **more}
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()
