"""What a training will take, before it is begun: memory by strategy, time, and money."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.job import Elastic, Job, Model, Train
from ray_pipeline.model import loop, memory, strategy, zoo
from ray_pipeline.model.environment import threads
from ray_pipeline.model.feed import Rows
from ray_pipeline.model.losses import part_loss, parts
from ray_pipeline.model.space import AUTO

MEASURED_STEPS = 3
MEASURED_ROWS = 256
"""Most rows of a measured step; a longer one is said to take as much more as it has more rows."""
TRAFFIC = {"ddp": 2, "zero1": 2, "zero2": 2, "zero3": 3}
"""Numbers that a worker sends for each parameter in a step: section 7 of Rajbhandari et al.,
"ZeRO" (2020), https://arxiv.org/abs/1910.02054."""


@dataclass(frozen=True)
class Option:
    """One strategy: a worker's memory, whether it fits, and the bytes it sends in a step."""

    strategy: str
    memory: memory.Memory
    fits: bool
    traffic: int


@dataclass(frozen=True)
class Plan:
    """The options, and the cheapest of those that fit; None where none does.

    `step_s` was measured on this machine with a worker's rows and without the other workers;
    `hours` are those of all workers together, `cost` is in the currency of the job's price.
    """

    shape: memory.Shape
    workers: int
    share: int
    available: int
    device: str
    options: tuple[Option, ...]
    chosen: str | None
    step_s: float
    steps: int
    hours: float
    cost: float | None


def planned(model: Model, train: Train, statistics: Statistics, rows: int) -> Plan:
    """The plan for `rows` training rows with these features, if all epochs are trained.

    The device, and the memory of a worker on it, are this machine's.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workers = worker_count(train)
    share = max(1, min(train.batch_size, rows) // workers)
    steps = train.epochs * max(1, rows // (share * workers))
    torch.manual_seed(train.seed)
    network = zoo.build(model, loop.inputs(statistics))
    shape = memory.shape(network, partial(_loss, network, statistics))
    available = memory.available(device, workers)
    options = tuple(
        Option(
            name,
            found := memory.needed(shape, train, name, workers, share),
            found.total <= available,
            TRAFFIC[name] * memory.FLOAT * shape.trained if workers > 1 else 0,
        )
        for name in (memory.STRATEGIES if train.strategy == "auto" else (train.strategy,))
    )
    chosen = next((option.strategy for option in options if option.fits), None)
    with threads(max(1, int(train.cpus))):
        step_s = measured_step_s(network, train, statistics, share, device)
    hours = steps * step_s * workers / 3600
    cost = None if train.price_per_hour is None else hours * train.price_per_hour
    return Plan(
        shape,
        workers,
        share,
        available,
        device.type,
        options,
        chosen,
        step_s,
        steps,
        hours,
        cost,
    )


def worker_count(train: Train) -> int:
    """Workers that a plan is for; the fewest of an elastic number, which need the most memory."""
    if isinstance(train.workers, Elastic):
        return train.workers.min
    wanted = torch.cuda.device_count() if train.workers == "auto" else train.workers
    return max(1, wanted)


def measured_step_s(
    network: nn.Module, train: Train, statistics: Statistics, share: int, device: torch.device
) -> float:
    """Seconds of a step of `share` rows on one worker: the median of a few, after a first one."""
    rows = min(share, MEASURED_ROWS)
    settings = train.model_copy(update={"accumulate": min(train.accumulate, rows)})
    engine = strategy.prepared(network, settings, "ddp", device, rows)
    batch = like(statistics, rows).to(device)
    seconds = []
    for _ in range(MEASURED_STEPS + 1):
        begun = time.perf_counter()
        engine.step(parts(batch, settings.accumulate), part_loss(batch, statistics)).item()
        seconds.append(time.perf_counter() - begun)
    return sorted(seconds[1:])[MEASURED_STEPS // 2] * share / rows


def like(statistics: Statistics, count: int) -> Rows:
    """`count` made-up rows of the shapes that these features have; texts are as long as may be."""
    written, pairs = statistics.chat or statistics.pairs or statistics.tokens, statistics.pairs
    longest = 0 if written is None else written.longest
    passage = 0 if pairs is None else pairs.passage_longest
    pixels = () if statistics.image is None else statistics.image.shape
    whole, byte = torch.int64, torch.uint8
    made = {
        "numbers": torch.zeros(count, statistics.number_width),
        "categories": torch.zeros(count, len(statistics.category_sizes), dtype=whole),
        "tokens": torch.ones(count, longest, dtype=whole),
        "targets": torch.ones(count, longest, dtype=whole),
        "question": torch.ones(count, longest, dtype=whole),
        "passage": torch.ones(count, passage, dtype=whole),
        "image": torch.zeros(count, *pixels, dtype=byte),
    }
    inputs = {name: made[name] for name in statistics.inputs}
    kind = whole if statistics.task == "classification" else torch.float32
    several = (statistics.outputs,) if statistics.task == "multilabel" else ()
    return Rows(inputs, torch.zeros(count, *several, dtype=byte if several else kind))


def _loss(network: nn.Module, statistics: Statistics, count: int) -> Tensor:
    batch = like(statistics, count)
    return part_loss(batch, statistics)(network, batch)


def of(job: Job) -> Plan | None:
    """The plan of a job whose rows an earlier run prepared; None if none did, or another version
    of the program, or if it is not a network of the job's choice that is trained."""
    if job.model.name in ("trees", AUTO):
        return None
    found = UPath(job.storage, job.name, "stages").glob("features-*/stage.json")
    latest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    if latest is None:
        return None
    try:
        statistics = prepared.load(latest.parent)
    except ValidationError:  # they are written anew by the next run
        return None
    return planned(job.model, job.train, statistics, statistics.rows)


def record(plan: Plan) -> dict[str, Any]:
    """The plan as JSON."""
    options = [{**asdict(option), "total": option.memory.total} for option in plan.options]
    return {**asdict(plan), "options": options}


def lines(plan: Plan) -> list[str]:
    """The plan as text: a line for each strategy, and what the chosen one takes."""
    head = (
        f"training plan: {plan.shape.parameters:,} parameters, {plan.workers} × {plan.device} with "
        f"{_size(plan.available)} to use, {plan.share} rows a worker"
    )
    columns = ("weights", "gradients", "optimizer", "activations", "total", "offloaded", "sent")
    table = [f"  {'':<8}" + "".join(f"{name:>12}" for name in columns)]
    for option in plan.options:
        held = option.memory
        sizes = (held.weights, held.gradients, held.optimizer, held.activations, held.total)
        cells = "".join(f"{_size(size):>12}" for size in (*sizes, held.host, option.traffic))
        mark = "chosen" if option.strategy == plan.chosen else "" if option.fits else "does not fit"
        table.append(f"  {option.strategy:<8}{cells}  {mark}".rstrip())
    price = "" if plan.cost is None else f", cost {plan.cost:,.2f}"
    last = (
        f"  {plan.steps:,} steps of {1000 * plan.step_s:.1f} ms as measured here: "
        f"{plan.hours:.3g} worker hours{price}"
    )
    return [head, *table, last]


def _size(count: float) -> str:
    """Bytes for people."""
    if count < 1:
        return "0"
    power = min(4, int(math.log(count, 1000)))
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
