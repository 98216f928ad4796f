"""A stage that has said nothing for long is told of, with what to look at: it may wait for a CPU or
GPU that no node has, or for a node that is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from ray_pipeline.every import Every
from ray_pipeline.runs import Stage, Watcher

AFTER_S = 300.0


class Speaker(Watcher, Protocol):
    """A watcher that also says what nobody has told it."""

    def note(self, stage: str, text: str) -> None: ...


class Noticing(Every):
    """A watcher that hands on what it is told, and speaks up when it is told nothing.

    Args:
        after_s: seconds of silence; it speaks up again after twice as many, and so on.
        look: what is to be seen just now.
    """

    def __init__(
        self, inner: Speaker, after_s: float = AFTER_S, look: Callable[[], str] | None = None
    ) -> None:
        super().__init__(after_s / 10, self._notice, "stuck")
        self._inner, self._after_s, self._look = inner, after_s, look or seen
        self._stage: str | None = None
        self._heard, self._due_s = time.monotonic(), after_s

    def started(self, stage: str) -> None:
        self._hear(stage)
        self._inner.started(stage)

    def event(self, stage: str, event: dict[str, Any]) -> None:
        self._hear(stage)
        self._inner.event(stage, event)

    def ended(self, stage: Stage) -> None:
        self._hear(None)
        self._inner.ended(stage)

    def _hear(self, stage: str | None) -> None:
        self._stage, self._heard, self._due_s = stage, time.monotonic(), self._after_s

    def _notice(self) -> None:
        silent_s, stage = time.monotonic() - self._heard, self._stage
        if stage is not None and silent_s >= self._due_s:
            self._due_s *= 2
            self._inner.note(stage, f"nothing heard for {silent_s:.0f} s; {self._look()}")


def seen() -> str:
    """What the cluster has free, which nodes are gone, and where to look further."""
    import ray

    if not ray.is_initialized():
        return "no cluster is connected"
    try:
        total, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
        gone = sum(not node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - Ray raises many kinds; which one is told
        return f"the cluster does not answer ({type(error).__name__})"
    counted = [name for name in ("CPU", "GPU") if name in total]
    parts = [f"{free.get(name, 0):g} of {total[name]:g} {name} free" for name in counted]
    parts += [f"{gone} nodes gone"] if gone else []
    return (
        f"{', '.join(parts)}: `ray status` tells what waits for which resources, "
        "`ray stack` what the processes of a node do"
    )
