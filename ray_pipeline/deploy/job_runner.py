"""What predicts jobs: one task each, in a process of its own that yields to all others.

One actor of the cluster starts them, and outlives replicas. It keeps nothing that the files do not
say: whoever looks at a job that is neither done nor known to the actor has it started again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.deploy import detached
from ray_pipeline.deploy.asgi import encoded
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.guard import guard
from ray_pipeline.deploy.job_folder import Folder, Job
from ray_pipeline.deploy.predictions import Predicted, Predictions, answered
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.errors import RequestError
from ray_pipeline.job import Serve

_LOGGER = logging.getLogger("ray.serve")


class Runner:
    """Runs the jobs of all endpoints, of each as many at a time as it may."""

    def __init__(self) -> None:
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, ray.ObjectRef[Any]] = {}
        self._cancelled: set[str] = set()
        self._turns: dict[tuple[str, int], asyncio.Semaphore] = {}

    async def ensure(self, folder: str, number: str, at_once: int, cpus: float) -> str:
        """Have the job predicted, if nobody does yet: whether it is `running` or `waiting`."""
        place = f"{folder}/{number}"
        if place not in self._jobs:
            turns = self._turns.setdefault((folder, at_once), asyncio.Semaphore(at_once))
            self._jobs[place] = asyncio.create_task(self._run(folder, number, turns, cpus))
        return "running" if place in self._running else "waiting"

    async def cancel(self, folder: str, number: str) -> None:
        """Stop the job, if it is not done."""
        place = f"{folder}/{number}"
        if place in self._running:
            self._cancelled.add(place)
            ray.cancel(self._running[place], force=True)
        elif place in self._jobs:
            self._jobs[place].cancel()

    async def _run(self, folder: str, number: str, turns: asyncio.Semaphore, cpus: float) -> None:
        place = f"{folder}/{number}"
        try:
            async with turns:
                # A process of its own for each: what it was given, loaded and niced ends with it.
                task = ray.remote(max_calls=1, max_retries=1, num_cpus=cpus)(predict)
                self._running[place] = task.remote(folder, number)
                await self._running[place]
        except RayError as error:
            if place not in self._cancelled:  # what is kept of a cancelled one is removed
                await asyncio.to_thread(_failed, Folder(folder), number, error)
        finally:
            self._cancelled.discard(place)
            self._running.pop(place, None)
            del self._jobs[place]


def runner() -> Any:
    """The cluster's runner, made if there is none yet."""
    # What it is asked may be asked twice.
    return detached.the_only(Runner, "jobs", max_task_retries=-1)


def predict(folder: str, number: str) -> None:
    """Predict a job's rows and keep the answer, or what is wrong with them."""
    os.nice(19)  # requests that somebody waits for go first
    kept = Folder(UPath(folder))
    job = kept.job(number)
    if job is None or kept.answer(number):
        return
    try:
        answer = {"status": "done", **asyncio.run(_answer(job, kept.rows(number)))}
    except RequestError as error:
        message = f"{error.what}; expected {error.expected}" if error.expected else error.what
        told = {"code": error.code, "message": message, "where": error.where}
        answer = {"status": "failed", "error": told}
    kept.finish(number, encoded(described(job) | answer))


def described(job: Job) -> dict[str, Any]:
    """What callers are told of a job besides its status."""
    return {"id": job.id, "created": job.created, "expires": job.expires}


async def _answer(job: Job, body: bytes) -> dict[str, Any]:
    settings = Serve.model_validate_json(job.settings)
    assert settings.jobs is not None, "a job was taken"
    opened = bundle.opened(job.bundle, verify=False)  # the replica that took it has verified it
    lookup = None
    if settings.online is not None:
        from ray_pipeline.deploy.online import Lookup

        lookup = Lookup(settings.online)
    predictions = Predictions(
        Predictor(opened),
        settings,
        counters=Counters(),
        online=lookup,
        guard=guard(opened, settings.guard),
        max_rows=settings.jobs.max_rows,
    )
    rows = await predictions.read(body, [(b"content-type", job.content_type.encode())])
    parts = [await predictions.of(part) for part in _parts(rows, settings.max_rows)]
    flags = [
        flag._replace(row=at * settings.max_rows + flag.row)
        for at, part in enumerate(parts)
        for flag in part.flags
    ]
    made = [prediction for part in parts for prediction in part.predictions]
    return answered(Predicted(made, flags), opened.manifest.version)


def _parts(rows: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _failed(kept: Folder, number: str, error: RayError) -> None:
    """The log has what happened under an id, without values of rows."""
    job = kept.job(number)
    if job is None or kept.answer(number):
        return
    fault = secrets.token_hex(6)
    _LOGGER.error("job %s failed, id %s: %s", number, fault, type(error).__name__)
    message = f"the server failed; its log says more under {fault}"
    told = {"code": "internal_error", "message": message, "where": ""}
    kept.finish(number, encoded(described(job) | {"status": "failed", "error": told}))
