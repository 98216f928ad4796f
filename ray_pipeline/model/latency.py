"""How long a network takes for one row, measured where it is asked."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from ray_pipeline.model.feed import Feed

ROWS, WARM_UP = 30, 5


@torch.no_grad()
def one_row_ms(network: nn.Module, feed: Feed) -> float:
    """The median of ROWS passes of single validation rows through `network`, in milliseconds.

    It is PyTorch's time in this process and with its threads: good for comparing networks; the
    endpoint's is another.
    """
    training = network.training
    network.eval()
    rows = next(feed.validation())
    taken = []
    for turn in range(WARM_UP + ROWS):
        place = turn % len(rows.label)
        one = {name: part[place : place + 1] for name, part in rows.inputs.items()}
        begun = time.perf_counter()
        network(**one)
        if feed.place.device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    network.train(training)
    return 1000 * statistics.median(taken[WARM_UP:])
