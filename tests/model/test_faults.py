"""Training that is disturbed ends as one that is not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

import prepared_rows
import pytest
import ray.train
import torch
from torch import nn
from upath import UPath

from ray_pipeline.job import Model, Train
from ray_pipeline.model import checkpoints, train

MODEL = Model(width=16, dropout=0.0, frequencies=4)
SETTINGS = Train(feed="memory", epochs=2, batch_size=8, learning_rate=2e-3)
SAME = 1e-4
"""What sums in another order make of a validation loss in some hundred steps."""
ROOM = 3.0
"""CPUs of a worker: one finds room on a machine of the tests' cluster, two do not."""


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return prepared_rows.written(UPath(tmp_path_factory.mktemp("rows") / "f"), rows=1600)


@pytest.fixture(scope="module")
def undisturbed(features, tmp_path_factory, ray_cluster):
    """What one process makes of the rows."""
    out = UPath(tmp_path_factory.mktemp("out"))
    return trained(features, SETTINGS.model_copy(update={"workers": 0}), out)


def trained(features, settings, out, **options):
    (out / "work").mkdir()
    options = {"progress": lambda event: None, **options}
    return train.write(features, MODEL, settings, out, work=out / "work", **options)


def when_written(
    work: UPath, epochs: int, steps: int, act: Callable[[], None]
) -> Callable[[nn.Module], None]:
    """A beginning that has each worker call `act` before a step, while the last checkpoint is the
    one of so many whole epochs, and steps of the next."""

    def before_a_step(network: nn.Module, inputs: object) -> None:
        state = checkpoints.loaded(work)
        if state is not None and (len(state["history"]), state["step"]) == (epochs, steps):
            act()

    def begin(network: nn.Module) -> None:
        network.register_forward_pre_hook(before_a_step)

    return begin


def test_a_worker_that_is_killed_in_an_epoch_is_replaced(features, undisturbed, tmp_path):
    settings = SETTINGS.model_copy(update={"workers": 2, "checkpoint_every": 50})
    killed = tmp_path / "killed"

    def kill() -> None:
        if ray.train.get_context().get_world_rank() == 1 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    events: list[dict[str, object]] = []
    begin = when_written(UPath(tmp_path / "work"), 1, 50, kill)
    record = trained(features, settings, UPath(tmp_path), progress=events.append, begin=begin)
    assert killed.exists()
    assert record["workers"] == 2
    assert [event["epoch"] for event in events] == [1, 2]
    assert (record["resumed_after"], record["resumed_step"]) == (1, 50)
    assert record["validation_loss"] == pytest.approx(undisturbed["validation_loss"], abs=SAME)
    assert record["score"] == pytest.approx(undisturbed["score"], abs=0.002)


@pytest.fixture
def machines(ray_cluster):
    """Two machines by their id, each with room for one worker, as there is on the first."""
    beside = {node.node_id: node for node in (ray_cluster.add_node(num_cpus=ROOM) for _ in "ab")}
    yield beside
    for node in beside.values():
        ray_cluster.remove_node(node)


def test_a_machine_that_is_lost_is_done_without(
    features, undisturbed, tmp_path, ray_cluster, machines
):
    """A worker waits at a checkpoint until it is gone: nothing depends on who is faster."""
    waiting, lost, ended = tmp_path / "waiting", tmp_path / "lost", threading.Event()

    def wait() -> None:
        waiting.touch()
        while not lost.exists():
            time.sleep(0.01)

    waits = when_written(UPath(tmp_path / "work"), 1, 50, wait)

    def begin(network: nn.Module) -> None:
        (tmp_path / ray.get_runtime_context().get_node_id()).touch()
        waits(network)

    def lose() -> None:
        """Take away a machine that a worker is on, as a power cut would."""
        try:
            # The other worker may be a step ahead, and waits for this one's gradients.
            while not waiting.exists():
                if ended.wait(0.01):
                    return
            used = [id_ for id_ in machines if (tmp_path / id_).exists()]
            ray_cluster.remove_node(machines.pop(used[0]), allow_graceful=False)
        finally:
            lost.touch()

    losing = threading.Thread(target=lose)
    losing.start()
    try:
        changed = {"workers": 2, "cpus": ROOM, "checkpoint_every": 50}
        settings = SETTINGS.model_copy(update=changed)
        record = trained(features, settings, UPath(tmp_path), begin=begin)
    finally:
        ended.set()
        losing.join()
    assert len(machines) == 1
    assert record["workers"] == 2
    # From where it was, or later, if Ray lost it once more while it was finding out.
    assert (record["resumed_after"], record["resumed_step"]) >= (1, 50)
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
