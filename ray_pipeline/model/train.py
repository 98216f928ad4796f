"""The model, trained in full: in this process, or in worker processes of Ray Train."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pyarrow.fs as pafs
import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from safetensors.torch import load as tensors
from safetensors.torch import save as tensor_bytes
from torch import nn
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.data.matrices import row_bytes
from ray_pipeline.errors import PipelineError, TrainingError
from ray_pipeline.files import LOCAL
from ray_pipeline.job import Elastic, Model, Train
from ray_pipeline.model import boosting, checkpoints, loop, mixup, worker, zoo
from ray_pipeline.model.environment import threads, variables
from ray_pipeline.model.feed import dataset
from ray_pipeline.model.losses import Teacher

Record = dict[str, Any]
Progress = Callable[[Record], None]
Workers = int | tuple[int, int]
RESTARTS = 3
"""Times that lost workers are replaced; each goes on from the last checkpoint. Machines that were
told to go are not counted."""
RESIZE_S = 60.0
"""Room for more elastic workers is looked for this often; they begin from the last checkpoint."""
PROMPT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
"""Ray Train looks after its workers this often; its own 2 seconds are added to start and end."""
ELASTIC = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}
"""Elastic workers begin where there is room for them. When a machine was lost, the room is known
wrongly for up to 20 seconds; Ray Train's own patience would be a minute."""
MEMORY_SHARE = 0.25
"""Share of the object store that rows may take before they are streamed."""


def write(
    features: UPath,
    model: Model,
    train: Train,
    out: UPath,
    *,
    work: UPath,
    progress: Progress,
    log_dir: UPath | None = None,
    begin: Callable[[nn.Module], None] | None = None,
    teacher: Teacher | None = None,
) -> Record:
    """Train on the prepared rows in `features`; keep the weights of the best epoch.

    Writes `model.safetensors`, `model.json` and `history.json` (one entry an epoch) below `out`.
    Checkpoints live in `work`, which all workers must reach: a call that was interrupted goes on
    from the last whole epoch, and ends with the same numbers. `log_dir` is for TensorBoard.
    `begin` changes the fresh network before it learns; a `teacher` is learned from as well.

    Raises:
        TrainingError: the loss is not finite, or workers failed again and again.
        JobError: there is no such model, or rows that cannot be mixed are to be.
    """
    begun = time.monotonic()
    statistics = prepared.load(features)
    mixup.check(train, model, loop.inputs(statistics), statistics.task)
    workers = _workers(train)
    kind = _feed(features, train)
    with _reporting(progress, in_process=workers == 0) as report:
        setup = worker.Setup(
            model=model,
            train=train,
            statistics=statistics,
            features=features,
            feed=kind,
            data=_data(features, kind, shared=workers != 0),
            work=work,
            log_dir=log_dir,
            report=report,
            begin=begin,
            teacher=teacher,
        )
        result = _fitted(setup, workers)
    seconds = round(time.monotonic() - begun, 3)
    return {**_written(setup, out), **result, "feed": kind, "seconds": seconds}


def load(trained: UPath) -> nn.Module:
    """The trained network, on the CPU, ready to predict."""
    described = json.loads((trained / "model.json").read_text())
    network = zoo.build(
        Model.model_validate(described["model"]), zoo.Inputs.model_validate(described["inputs"])
    )
    network.load_state_dict(tensors((trained / "model.safetensors").read_bytes()))
    return zoo.plain(network).eval()


def matrices(features: UPath) -> dict[str, Any]:
    """The prepared training and validation rows as arrays."""
    return {side: prepared.read_matrix(features / side) for side in ("train", "validation")}


def _written(setup: worker.Setup, out: UPath) -> Record:
    state = checkpoints.loaded(setup.work)
    assert state is not None, "training ended without a checkpoint"
    history = state["history"]
    best = history[loop.best_epoch(history)]
    (out / "model.safetensors").write_bytes(tensor_bytes(state["best"]))
    described = {
        "model": setup.model.model_dump(mode="json"),
        "inputs": loop.inputs(setup.statistics).model_dump(mode="json"),
    }
    (out / "model.json").write_text(json.dumps(described, indent=1))
    (out / "history.json").write_text(json.dumps(history, indent=1))
    return {
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "score": best["score"],
        "validation_loss": best["validation_loss"],
    }


def _fitted(setup: worker.Setup, workers: Workers) -> Record:
    train = setup.train
    grown = setup.model.name == "trees"
    trainer = _trainer_class(grown)(
        boosting.work if grown else worker.work,
        train_loop_config={"setup": setup},
        scaling_config=_scaling(train, workers),
        run_config=RunConfig(
            name=f"train-{uuid.uuid4().hex[:8]}",
            storage_path=setup.work.path,
            storage_filesystem=arrow_filesystem(setup.work),
            failure_config=FailureConfig(max_failures=RESTARTS),
        ),
    )
    elastic = ELASTIC if isinstance(workers, tuple) else {}
    try:
        with variables(PROMPT | elastic), threads(max(1, int(train.cpus))):
            fitted: Any = trainer.fit()
    except PipelineError:
        raise
    except Exception as error:
        raise TrainingError(
            f"training failed: {loop.error_line(str(error)) or repr(error)}", where="train"
        ) from error
    result: Record = fitted.return_value
    if "error" in result:
        raise result["error"]
    return result


def _trainer_class(grown: bool) -> Any:
    if not grown:
        return TorchTrainer
    from ray.train.lightgbm import LightGBMTrainer

    return LightGBMTrainer


def _scaling(train: Train, workers: Workers) -> ScalingConfig:
    if workers == 0:
        return ScalingConfig(num_workers=0)
    fewest = workers[0] if isinstance(workers, tuple) else workers
    gpus = _cluster("GPU") >= fewest
    resources = {"CPU": train.cpus, **({"GPU": 1.0} if gpus else {})}
    settings: dict[str, Any] = {  # of Ray Train's own class, which Ray's types hide behind another
        "num_workers": workers,
        "elastic_resize_monitor_interval_s": RESIZE_S,
    }
    return ScalingConfig(use_gpu=gpus, resources_per_worker=resources, **settings)


def _workers(train: Train) -> Workers:
    """Worker processes, or the fewest and most of them; 0 is this process.

    A ZeRO stage needs a process group, so at least one.
    """
    if isinstance(train.workers, Elastic):
        return train.workers.min, train.workers.max
    wanted = int(_cluster("GPU")) if train.workers == "auto" else train.workers
    return max(wanted, 1) if train.strategy.startswith("zero") else wanted


def _feed(features: UPath, train: Train) -> Literal["memory", "stream"]:
    if train.feed != "auto":
        return train.feed
    rows = dataset(features / "train")
    bytes_ = row_bytes(rows.schema) * rows.count_rows()
    return "stream" if bytes_ > MEMORY_SHARE * _cluster("object_store_memory") else "memory"


def _data(features: UPath, kind: str, shared: bool) -> Any:
    """The rows themselves, or a reference to them for other processes; None to stream."""
    if kind == "stream":
        return None
    return ray.put(matrices(features)) if shared else matrices(features)


def _cluster(resource: str) -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get(resource, 0.0)


@contextmanager
def _reporting(progress: Progress, in_process: bool) -> Iterator[Progress]:
    """A function that workers call with events, to have `progress` called in this process."""
    if in_process:
        yield progress
        return
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    events = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def hand_over() -> None:
        while (event := events.get()) is not None:
            progress(event)

    thread = threading.Thread(target=hand_over, daemon=True)
    thread.start()
    try:
        yield events.put
    finally:
        events.put(None)
        thread.join()
        events.shutdown()


def arrow_filesystem(path: UPath) -> pafs.FileSystem:
    """`path`'s file system for Arrow and Ray."""
    if path.protocol in LOCAL:
        return pafs.LocalFileSystem()
    return pafs.PyFileSystem(pafs.FSSpecHandler(path.fs))
