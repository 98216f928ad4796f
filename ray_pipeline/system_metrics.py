"""How busy this machine is, as MLflow's own monitors have it: processors, memory, disks, network,
and GPUs where NVIDIA's or AMD's library is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ray_pipeline.every import Every

if TYPE_CHECKING:
    from mlflow.entities import Metric

EVERY_S = 10.0
_MOST = 1000
"""Looks that wait to be told: of a long stage every second one goes when there are more."""


class Look(NamedTuple):
    """What was seen at a moment, in milliseconds since 1970; `step` counts the looks."""

    step: int
    at: int
    figures: Mapping[str, float]


class Looks(Every):
    """Looks at this machine every `every_s` seconds until the block ends."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        super().__init__(every_s, self._look, "system metrics")
        self._monitors = _monitors()
        self._untold: list[Look] = []
        self._looks = 0
        self._lock = threading.Lock()

    def metrics(self) -> list[Metric]:
        """What is not told yet, under MLflow's names: `system/cpu_utilization_percentage`, …"""
        from mlflow.entities import Metric

        with self._lock:
            looks = self._untold
        return [
            Metric(f"system/{name}", float(figure), one.at, one.step)
            for one in looks
            for name, figure in one.figures.items()
        ]

    def told(self, metrics: Sequence[Metric]) -> None:
        """Keep none of what is in `metrics` any longer."""
        newest = max((one.step for one in metrics), default=-1)
        with self._lock:
            self._untold = [one for one in self._untold if one.step > newest]

    def _look(self) -> None:
        figures: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            figures |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        with self._lock:
            kept = self._untold[1::2] if len(self._untold) >= _MOST else self._untold
            self._untold = [*kept, Look(self._looks, int(1000 * time.time()), figures)]
            self._looks += 1


def _monitors() -> list[Any]:
    """MLflow's, which have no types, of what this machine has."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    always: list[Any] = [CPUMonitor, DiskMonitor, NetworkMonitor]
    found = [monitor() for monitor in always]
    for of_gpus in (GPUMonitor, ROCMMonitor):
        try:
            found.append(of_gpus())
        except (ImportError, RuntimeError):  # no such library, or no such GPU
            continue
    return found
