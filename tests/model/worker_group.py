"""Processes that form a group, forked from one that has imported what is slow to import."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from ray_pipeline.model.environment import variables

IMPORTED = ["deepspeed", "ray_pipeline.model.loop", "ray_pipeline.model.zero"]


def by_workers(count: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns to rank 0 of `count` workers: tensors, numbers and containers.

    All call it, a thread each, and are a gloo group. `folder` is empty, and only for them.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
    with variables({"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}):
        start_processes(
            _worker, (count, str(folder), function, arguments), count, start_method="forkserver"
        )
    return torch.load(folder / "found", weights_only=True)


def _worker(rank: int, count: int, folder: str, function: Any, arguments: tuple[Any, ...]) -> None:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in places.items()})
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=count
    )
    gc.freeze()  # what was imported need not be looked through again
    found = function(*arguments)
    if rank == 0:
        torch.save(found, f"{folder}/found")
    dist.destroy_process_group()
