"""Showing how a run goes on, on stderr: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from ray_pipeline.journal import VARIABLE, Journal
from ray_pipeline.runs import Stage

Event = dict[str, Any]


class Lines:
    """One line when a stage ends, and at most one every `every` seconds while it works."""

    def __init__(self, every: float = 5.0) -> None:
        self._begun = self._last = time.monotonic()
        self._every = every

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        sys.stderr.flush()

    def started(self, stage: str) -> None:
        self._last = time.monotonic()

    def event(self, stage: str, event: Event) -> None:
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._print(f"{stage:<9} {described(event)}")

    def ended(self, stage: Stage) -> None:
        self._print(f"{stage.name:<9} {outcome(stage)}")

    def note(self, stage: str, text: str) -> None:
        """Say something about a stage."""
        self._print(f"{stage:<9} {text}")

    def _print(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begun:6.1f}s] {text}", file=sys.stderr, flush=True)  # noqa: T201


class Bars:
    """A live row for each stage: spinner, name, bar, what it is doing, elapsed time."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.fields[stage]:<9}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, stage: str) -> None:
        self._tasks[stage] = self._progress.add_task("", stage=stage, total=None)

    def event(self, stage: str, event: Event) -> None:
        done, total = counted(event)
        self._progress.update(
            self._tasks[stage], description=described(event), completed=done, total=total
        )

    def ended(self, stage: Stage) -> None:
        self._progress.update(
            self._tasks[stage.name], description=outcome(stage), completed=1, total=1
        )

    def note(self, stage: str, text: str) -> None:
        """Say something about a stage."""
        self._progress.console.print(f"{stage}: {text}")


def watcher() -> Bars | Lines | Journal:
    """Bars where a person watches a terminal, lines where a file or a pipe does; JSON by wish."""
    if os.environ.get(VARIABLE) == "json":
        return Journal()
    return Bars() if sys.stderr.isatty() else Lines()


def counted(event: Event) -> tuple[float | None, float | None]:
    """How far and out of how much, where an event says so: trials, epochs or rows."""
    for unit in ("trial", "epoch", "row"):
        if unit in event:
            return event[unit], event.get(f"{unit}s")
    return None, None


def described(event: Event) -> str:
    """An event as a phrase: `epoch 3/20, train_loss 0.3121, score 0.8571`."""
    parts = []
    for unit in ("trial", "epoch", "row"):
        if unit in event:
            parts.append(f"{unit} {event[unit]:,}/{event.get(f'{unit}s', '?'):,}")
    skipped = {"trial", "trials", "epoch", "epochs", "row", "rows"}
    for key, value in event.items():
        if key not in skipped and value is not None:
            parts.append(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(parts)


def outcome(stage: Stage) -> str:
    """What a finished stage did: rows, quarantine, its own headline, seconds or `cached`."""
    record = stage.record
    parts = [f"{record[key]:,} rows {word}" for key, word in _ROWS.items() if record.get(key)]
    if headline := record.get("headline"):
        parts.append(str(headline))
    parts.append("cached" if stage.cached else f"{stage.seconds:.1f} s")
    return ", ".join(parts)


_ROWS = {"rows_in": "in", "rows_out": "out", "rows_quarantined": "quarantined"}
