"""`/NAME/jobs`: many rows are sent at once, and their predictions fetched when they are ready.

A replica only keeps what it is sent and sends what it finds (job_folder.py); other processes
predict (job_runner.py), so that the requests that people wait for are answered as before.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from upath import UPath

from ray_pipeline import audit
from ray_pipeline.deploy import job_runner
from ray_pipeline.deploy.asgi import (
    PLAIN_HEADERS,
    Receive,
    Response,
    Scope,
    Send,
    body_of,
    json_response,
    not_found,
)
from ray_pipeline.deploy.job_folder import Folder, Job, new_id
from ray_pipeline.errors import RequestError
from ray_pipeline.job import Serve

_LOGGER = logging.getLogger("ray.serve")
_UPLOADS = 4  # a replica's memory holds no more bodies of jobs at a time
_SWEEP_S = 30.0
_PIECE = 1 << 18
_ID = re.compile(r"[0-9a-f]{32}")


class Jobs:
    """Takes jobs of one endpoint and tells how they are.

    Args:
        name: the endpoint's.
        bundle: the path of its bundle.
        settings: the job file's `serve` section, with `jobs`.
    """

    def __init__(self, name: str, bundle: str, settings: Serve) -> None:
        assert settings.jobs is not None, "made for endpoints that take jobs"
        self._name, self._bundle, self._settings = name, bundle, settings
        self._jobs = settings.jobs
        root = settings.jobs.folder or _beside(bundle)
        self._folder = Folder(UPath(root) / name)
        self._runner = job_runner.runner()
        self._uploads = 0
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to remove what has expired, on the running event loop."""
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def submitted(self, owner: str, scope: Scope, receive: Receive) -> Response:
        """202 for a job that is kept, with its `Location`.

        Raises:
            RequestError: 413 too many bytes; 429 too many jobs.
        """
        if self._uploads >= _UPLOADS:
            raise _busy("too many jobs are being sent", 1)
        self._uploads += 1
        try:
            if await asyncio.to_thread(self._folder.count) >= self._jobs.max_jobs:
                await asyncio.to_thread(self._folder.sweep, self._settings.body_within_s)
                await asyncio.to_thread(self._check_count)
            limits = self._jobs.max_bytes, self._settings.body_within_s
            body = await body_of(scope, receive, *limits)
            job = self._job(owner, scope)
            await asyncio.to_thread(self._folder.add, job, body)
        finally:
            self._uploads -= 1
        status = await self._ensured(job)
        location = f"/{self._name}/jobs/{job.id}"
        response = json_response(job_runner.described(job) | {"status": status}, 202)
        response.headers += ((b"location", location.encode()),)
        return response

    async def found(self, owner: str, number: str) -> Response:
        """How a job is, with its predictions or what was wrong. Raises RequestError: 404."""
        job = await self._of(owner, number)
        answer = await asyncio.to_thread(self._folder.answer, number)
        if answer is not None:
            return await asyncio.to_thread(_file_response, answer)
        status = await self._ensured(job)
        response = json_response(job_runner.described(job) | {"status": status})
        response.headers += ((b"retry-after", b"1"),)
        return response

    async def deleted(self, owner: str, number: str) -> Response:
        """Stop a job and remove all that is kept of it. Raises RequestError: 404."""
        job = await self._of(owner, number)
        await self._runner.cancel.remote(str(self._folder.path), number)
        await asyncio.to_thread(self._folder.remove, number)
        return json_response(job_runner.described(job) | {"status": "deleted"})

    async def _of(self, owner: str, number: str) -> Job:
        """The job, which is nobody's business but its owner's: others are told 404 as well."""
        find = partial(self._folder.job, number)
        job = await asyncio.to_thread(find) if _ID.fullmatch(number) else None
        if job is None or job.owner != owner:
            raise not_found(f"/{self._name}/jobs/{number}", "the id of a job that has not expired")
        return job

    def _job(self, owner: str, scope: Scope) -> Job:
        now = time.time()
        told = (value for name, value in scope["headers"] if name == b"content-type")
        content_type = next(told, b"").decode("latin-1")
        return Job(
            id=new_id(),
            owner=owner,
            bundle=self._bundle,
            settings=self._settings.model_dump_json(),
            content_type=content_type,
            created=now,
            expires=now + self._jobs.keep_s,
        )

    async def _ensured(self, job: Job) -> str:
        """Whether the job is waiting or running, after it was made sure that it is one of them."""
        limits = self._jobs.at_once, self._settings.cpus
        status: str = await self._runner.ensure.remote(str(self._folder.path), job.id, *limits)
        return status

    def _check_count(self) -> None:
        if self._folder.count() >= self._jobs.max_jobs:
            ends = (job.expires for job in self._folder.jobs())
            wait = max(1, round(min(ends, default=0) - time.time()))
            raise _busy(f"there are {self._jobs.max_jobs} jobs; delete those you have read", wait)

    async def _sweep(self) -> None:
        while True:
            try:
                await self._swept()
            # What has expired must not stay because the storage did not answer once.
            except Exception as error:  # noqa: BLE001 - logged, and tried again
                _LOGGER.warning("jobs of %s: %s", self._name, type(error).__name__)
            await asyncio.sleep(_SWEEP_S)

    async def _swept(self) -> None:
        """Remove what has expired, and have predicted what nobody does after a restart."""
        await asyncio.to_thread(self._folder.sweep, self._settings.body_within_s)
        for job in await asyncio.to_thread(lambda: list(self._folder.jobs())):
            if not await asyncio.to_thread(self._folder.answer, job.id):
                await self._ensured(job)


@dataclass(slots=True)
class _FileResponse(Response):
    """An answer that is read while it is sent, for it may be large."""

    path: UPath | None = None
    size: int = 0

    async def send(self, send: Send, head: bool = False) -> None:
        assert self.path is not None, "made with one"
        headers = [*self.headers, (b"content-length", b"%d" % self.size)]
        file: Any = await asyncio.to_thread(self.path.open, "rb")
        with file:
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            while not head and (piece := await asyncio.to_thread(file.read, _PIECE)):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _file_response(path: UPath) -> Response:
    headers = ((b"content-type", b"application/json"), *PLAIN_HEADERS)
    return _FileResponse(200, b"", headers, path=path, size=path.stat().st_size)


def _beside(bundle: str) -> str:
    """`<storage>/<job>/jobs` of a bundle in a storage; else below this user's own folder."""
    path = UPath(bundle)
    inside = path.parent.name == "bundles"
    return str(path.parent.parent / "jobs" if inside else UPath(audit.storage_of(bundle)) / "jobs")


def _busy(what: str, wait: int) -> RequestError:
    return RequestError(
        what,
        status=429,
        code="too_many_jobs",
        where="jobs",
        headers=((b"retry-after", b"%d" % wait),),
    )
