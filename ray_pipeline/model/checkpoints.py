"""What lets a training go on where it was: complete on the disk, or not there at all."""

from __future__ import annotations

import io
import time
from typing import Any

import torch
from upath import UPath

from ray_pipeline import files

Record = dict[str, Any]
CHECKPOINT = "checkpoint.pt"
LOOK_S = 2.0
"""Seconds between looks for the notice that a machine is about to go."""


def save(folder: UPath, state: Record) -> None:
    """Replace the folder's checkpoint."""
    with files.replacing(folder / CHECKPOINT) as file:
        torch.save(state, file)


def loaded(folder: UPath) -> Record | None:
    """The folder's checkpoint, if there is one."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    stored = io.BytesIO(path.read_bytes())
    state: Record = torch.load(stored, map_location="cpu", weights_only=True)
    return state


class Notice:
    """Whether the cluster has told that a worker's machine will be taken away.

    Asking is a call among all workers, so they ask after the same number of steps: as many as
    rank 0 takes in `LOOK_S`.
    """

    def __init__(self) -> None:
        self.steps, self.every, self.since = 0, 1, time.monotonic()
        self.told = False

    def came(self) -> bool:
        """Whether it came since the last call; every worker calls after each step."""
        self.steps += 1
        if self.told or self.steps < self.every:
            return False
        from ray.train import get_preemption_info
        from ray.train.collective import broadcast_from_rank_zero

        passed = max(time.monotonic() - self.since, 1e-6)
        self.every = broadcast_from_rank_zero(max(1, int(self.steps * LOOK_S / passed)))
        self.steps, self.since = 0, time.monotonic()
        self.told = get_preemption_info() is not None
        return self.told
