"""Training that is disturbed ends as one that is not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import prepared_rows
import pytest
import torch
from upath import UPath

from ray_pipeline.job import Model, Train
from ray_pipeline.model import checkpoints, train

MODEL = Model(width=16, dropout=0.0, frequencies=4)
SETTINGS = Train(feed="memory", epochs=2, batch_size=8, learning_rate=2e-3)
SAME = 1e-4
"""What sums in another order make of a validation loss in some hundred steps."""


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return prepared_rows.written(UPath(tmp_path_factory.mktemp("rows") / "f"), rows=4000)


@pytest.fixture(scope="module")
def undisturbed(features, tmp_path_factory, ray_cluster):
    """What one process makes of the rows."""
    return trained(features, SETTINGS.model_copy(update={"workers": 0}), tmp_path_factory)


def trained(features, settings, factory):
    out = UPath(factory.mktemp("out"))
    (out / "work").mkdir()
    return train.write(features, MODEL, settings, out, work=out / "work", progress=lambda e: None)


def killed_in_its_second_epoch(work: Path) -> None:
    """SIGKILL to a worker of this process's cluster, when it is in the midst of an epoch."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        state = checkpoints.loaded(UPath(work))
        if state is not None and len(state["history"]) == 1 and state["step"] > 0:
            os.kill(workers_of_this_process()[-1], signal.SIGKILL)
            return
        time.sleep(0.005)


def workers_of_this_process() -> list[int]:
    """The training processes below the raylet that this process started."""
    parents, named = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            if b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                named.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return [pid for pid in named if parents.get(parents[pid]) == os.getpid()]


def test_a_worker_that_is_killed_in_an_epoch_is_replaced(features, undisturbed, tmp_path):
    settings = SETTINGS.model_copy(update={"workers": 2, "checkpoint_every": 50})
    out, work = UPath(tmp_path), tmp_path / "work"
    work.mkdir()
    killer = threading.Thread(target=killed_in_its_second_epoch, args=[work])
    killer.start()
    events: list[dict[str, object]] = []
    record = train.write(features, MODEL, settings, out, work=UPath(work), progress=events.append)
    killer.join()
    assert record["workers"] == 2
    assert [event["epoch"] for event in events] == [1, 2]
    assert record["resumed_after"] == 1
    assert record["resumed_step"] > 0
    assert record["resumed_step"] % 50 == 0
    assert record["validation_loss"] == pytest.approx(undisturbed["validation_loss"], abs=SAME)
    assert record["score"] == pytest.approx(undisturbed["score"], abs=0.002)


def test_a_training_that_stops_in_an_epoch_goes_on_there_to_the_bit(
    features, tmp_path_factory, ray_cluster
):

    kept = checkpoints.save
    settings = SETTINGS.model_copy(update={"workers": 0, "checkpoint_every": 70})
    model = MODEL.model_copy(update={"dropout": 0.3})

    def record_of(stop_at: int | None):
        out = UPath(tmp_path_factory.mktemp("out"))
        (out / "work").mkdir()

        def save(folder, state):
            kept(folder, state)
            if len(state["history"]) == 1 and state["step"] == stop_at:
                raise KeyboardInterrupt

        def write():
            return train.write(
                features, model, settings, out, work=out / "work", progress=lambda e: None
            )

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints, "save", save)
            if stop_at is not None:
                with pytest.raises(KeyboardInterrupt):
                    write()
        return write(), train.load(out).state_dict()

    whole, weights = record_of(None)
    stopped, again = record_of(140)
    assert (stopped["resumed_after"], stopped["resumed_step"]) == (1, 140)
    assert stopped["validation_loss"] == whole["validation_loss"]
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def saved_again_and_again(folder: str, first: int) -> None:
    for number in range(first, first + 1000):
        parts = [torch.full((3000,), number) for _ in range(200)]  # one would start threads
        checkpoints.save(UPath(folder), {"parts": parts, "number": number})


def test_a_checkpoint_is_whole_or_not_there_whenever_its_writer_is_killed(tmp_path):
    context = multiprocessing.get_context("fork")
    seen = set()
    for first, wait in enumerate((0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3)):
        arguments = [str(tmp_path), 1000 * first]
        writer = context.Process(target=saved_again_and_again, args=arguments)
        writer.start()
        time.sleep(wait)
        writer.kill()
        writer.join()
        state = checkpoints.loaded(UPath(tmp_path))
        if state is not None:
            assert all(part.eq(state["number"]).all() for part in state["parts"])
            seen.add(state["number"])
    assert len(seen) > 1
