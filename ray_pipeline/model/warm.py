"""Worker processes that have imported what trials need before there are any."""

from __future__ import annotations

import importlib

import ray

MOST = 16
"""Workers warmed at most; a search seldom runs more trials at a time."""


def start() -> None:
    """Let idle workers of the cluster import torch and Ray Tune, while this process does other
    work: about two seconds that a search would otherwise begin with.

    It costs nothing to call it without need, except that each worker then holds torch.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    imported = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(_import)
    for _ in range(min(MOST, int(resources.get("CPU", 1)))):
        imported.remote("ray_pipeline.model.trial")


def _import(module: str) -> None:
    importlib.import_module(module)
