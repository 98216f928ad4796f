"""A job's prepared rows, and the training of a network on them as one would write it by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _common import start_ray

READ_AT_ONCE = 256
"""Validation rows that are read at one time: texts and images take room."""


def prepared_rows(job: Path, folder: str) -> str:
    """The job's rows, cleaned, split and prepared below `folder`; where the last of these are."""
    import ray
    from upath import UPath

    from ray_pipeline import jobfile
    from ray_pipeline.data import clean, collect, features, split

    start_ray()
    data = jobfile.read(job).data
    schema = collect.schema(data)
    folders = [UPath(folder) / name for name in ("clean", "split", "features")]
    for each in folders:
        each.mkdir()
    clean.write(data, schema, folders[0])
    split.write(folders[0], data, schema, folders[1])
    features.write(folders[1], data, schema, folders[2])
    ray.shutdown()
    return str(folders[2])


def sides(features: str) -> dict[str, dict[str, Any]]:
    """The prepared rows of training and validation as tensors by name."""
    import torch
    from upath import UPath

    from ray_pipeline.data import features as prepared

    return {
        side: {
            name: torch.from_numpy(values)
            for name, values in prepared.read_matrix(UPath(features) / side).items()
        }
        for side in ("train", "validation")
    }


def epochs_of(
    model: Any, train: Any, described: Any, rows: Any, checkpoint: Path | None = None
) -> Iterator[tuple[float, float]]:
    """Validation loss and score after each epoch of a plain PyTorch loop that trains a classifier
    of these settings: rows by index from memory, texts padded to the longest of their batch.

    What a restart would need is saved in `checkpoint`, if given, after each epoch.
    """
    import torch

    from ray_pipeline.model import loop, schedule, zoo

    torch.manual_seed(train.seed)
    network = zoo.build(model, loop.inputs(described))
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
    )
    steps = train.epochs * (len(rows["train"]["label"]) // train.batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: schedule.rate_factor(train, step, steps)
    )
    for _ in range(train.epochs):
        _train_one_epoch(network, optimizer, rate, rows["train"], train)
        found = _judged(network, rows["validation"])
        if checkpoint is not None:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, checkpoint)
        yield found


def _train_one_epoch(network: Any, optimizer: Any, schedule: Any, rows: Any, train: Any) -> None:
    import torch

    network.train()
    order = torch.randperm(len(rows["label"]))
    for step in range(len(order) // train.batch_size):
        index = order[step * train.batch_size : (step + 1) * train.batch_size]
        inputs, label = _batch(rows, index)
        loss = torch.nn.functional.cross_entropy(network(**inputs), label)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), train.clip)
        optimizer.step()
        schedule.step()


def _batch(rows: Any, index: Any) -> tuple[dict[str, Any], Any]:
    inputs = {name: values[index] for name, values in rows.items() if name != "label"}
    if "tokens" in inputs:
        longest = (inputs["tokens"] >= 0).sum(1).max()
        inputs["tokens"] = inputs["tokens"][:, :longest]
    return inputs, rows["label"][index]


def _judged(network: Any, rows: Any) -> tuple[float, float]:
    import torch

    network.eval()
    count = len(rows["label"])
    size = READ_AT_ONCE if rows.keys() & {"tokens", "image"} else count
    with torch.no_grad():
        found = [network(**_batch(rows, part)[0]) for part in torch.arange(count).split(size)]
    logits = torch.cat(found)
    loss = torch.nn.functional.cross_entropy(logits, rows["label"])
    return loss.item(), (logits.argmax(1) == rows["label"]).double().mean().item()
