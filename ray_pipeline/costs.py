"""What a run had of the cluster's machines: node-hours by type, how much of them idle, the price.

Ray says which nodes there are and what of them is reserved; it is asked every few seconds. A
machine that other runs use too counts in full in each of them: somebody pays for all of it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

from upath import UPath

from ray_pipeline import files
from ray_pipeline.every import Every
from ray_pipeline.job import Job
from ray_pipeline.runs import digest_of

_LOGGER = logging.getLogger(__name__)
EVERY_S = 5.0
_GROUP, _MARKET = "ray.io/node-group", "ray.io/market-type"


class Node(NamedTuple):
    """A machine at one moment; `busy` is the reserved share of its GPUs or, if it has none, of its
    CPUs."""

    type: str
    busy: float


Look = Callable[[], list[Node]]


class Meter(Every):
    """Looks at the cluster until the block ends.

    Args:
        look: the nodes that there are now.
        every_s: seconds between looks.
    """

    def __init__(self, look: Look | None = None, every_s: float = EVERY_S) -> None:
        super().__init__(every_s, self._count, "costs")
        self._used: dict[str, dict[str, Any]] = {}
        self._look = look or nodes
        self._seen: list[Node] = []
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._count()
        return super().__enter__()

    def told(
        self, prices: Mapping[str, float], before: Iterable[Mapping[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """By type of node: `nodes` (the most at once), `hours`, `busy_hours`, `idle` (the share of
        the hours), and `cost`, None for a type that has no price.

        `before` is what was told of an earlier part of the same run, and is added.
        """
        self._count()
        with self._lock:
            found = {name: {**used} for name, used in self._used.items()}
        for one in before:
            used = found.setdefault(one["type"], _nothing(one["type"]))
            used["nodes"] = max(used["nodes"], one["nodes"])
            used["hours"] += one["hours"]
            used["busy_hours"] += one["busy_hours"]
        for name, used in found.items():
            used["idle"] = 1 - used["busy_hours"] / used["hours"] if used["hours"] else 1.0
            used["cost"] = used["hours"] * prices[name] if name in prices else None
        return [found[name] for name in sorted(found)]

    def _count(self) -> None:
        """Add the time since the last look to the nodes that were seen then, and look again."""
        with self._lock:
            now = time.monotonic()
            hours, self._at = (now - self._at) / 3600, now
            for node in self._seen:
                used = self._used[node.type]
                used["hours"] += hours
                used["busy_hours"] += hours * node.busy
            self._seen = self._look()
            for name in {node.type for node in self._seen}:
                used = self._used.setdefault(name, _nothing(name))
                used["nodes"] = max(used["nodes"], sum(n.type == name for n in self._seen))


def _nothing(name: str) -> dict[str, Any]:
    return {"type": name, "nodes": 0, "hours": 0.0, "busy_hours": 0.0}


def nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to; none if it is to no cluster, or
    to one that does not answer: what a run cost is not what it ends by."""
    import ray
    from ray._private.state import available_resources_per_node  # no public way to each node's

    if not ray.is_initialized():
        return []
    try:
        free = available_resources_per_node()  # type: ignore[no-untyped-call]
        found = ray.nodes()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - Ray raises many kinds
        _LOGGER.warning("the cluster does not say which nodes it has: %s", type(error).__name__)
        return []
    return [_node(one, free.get(one["NodeID"], {})) for one in found if one["Alive"]]


def _node(node: Mapping[str, Any], free: Mapping[str, float]) -> Node:
    total, labels = node["Resources"], node.get("Labels") or {}
    kind = "GPU" if total.get("GPU") else "CPU"
    busy = 1 - free.get(kind, 0) / total[kind] if total.get(kind) else 0.0
    sized = [f"{total[name]:g} {name}" for name in ("CPU", "GPU") if total.get(name)]
    name = labels.get(_GROUP) or ", ".join(sized) or "0 CPU"
    spot = " (spot)" if labels.get(_MARKET, "").lower() == "spot" and "spot" not in name else ""
    return Node(name + spot, busy)


def keep_plan(job: Job, hours: float) -> None:
    """Remember how many worker-hours training was planned to take, for the next run's report."""
    plan = {"training": digest_of([job.model, job.train]), "hours": hours}
    files.write_whole(_plan_file(job), json.dumps(plan).encode())


def planned_hours(job: Job) -> float | None:
    """What `keep_plan` remembered of the same training; None if it did not."""
    path = _plan_file(job)
    plan = json.loads(path.read_text()) if path.exists() else {}
    return plan["hours"] if plan.get("training") == digest_of([job.model, job.train]) else None


def _plan_file(job: Job) -> UPath:
    return UPath(job.storage) / job.name / "plan.json"


def finding(used: Iterable[Mapping[str, Any]], training: Mapping[str, float]) -> dict[str, Any]:
    """The report's section; `training` has the worker-hours `planned` and `used`, or nothing."""
    tables: list[dict[str, Any]] = [
        {
            "columns": ["node type", "at once", "node-hours", "idle", "cost"],
            "rows": [
                [one["type"], one["nodes"], one["hours"], f"{one['idle']:.0%}", one["cost"]]
                for one in used
            ],
        }
    ]
    if training:
        tables.append(
            {
                "caption": "Training beside what `ray-pipeline validate` had planned",
                "columns": ["", "planned", "used"],
                "rows": [["worker-hours", training["planned"], training["used"]]],
            }
        )
    return {
        "title": "What it took",
        "note": "idle: not reserved by any task, actor or replica; prices are the job's",
        "place": "served",
        "tables": tables,
    }
