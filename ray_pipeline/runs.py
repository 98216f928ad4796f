"""Where runs and stages are kept, and how a stage that is already there is not made again.

    <storage>/<job>/stages/<stage>-<digest>/   one stage's output, complete if `stage.json` is there
    <storage>/<job>/runs/<run>/                run.json, report.html, tensorboard/
    <storage>/<job>/bundles/<version>/         what is deployed
    <storage>/<job>/run.prom                   the latest run's figures, for Prometheus

A stage's digest covers its function's code, its settings and the digests of its inputs, so a run
that was stopped goes on where it was, and a changed setting redoes only what depends on it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel
from upath import UPath

from ray_pipeline import __version__, audit, files, run_metrics
from ray_pipeline.errors import PipelineError, UsageError
from ray_pipeline.job import Job

Record = dict[str, Any]
MARKER = "stage.json"
current: ContextVar[str | None] = ContextVar("run", default=None)
"""The id of the run that this thread is in, for logs."""


class Watcher(Protocol):
    """Whoever shows how a run goes on."""

    def started(self, stage: str) -> None: ...
    def event(self, stage: str, event: Record) -> None: ...
    def ended(self, stage: Stage) -> None: ...


@dataclass(frozen=True)
class Stage:
    """A stage's stored output: where it is, what it cost, and what its function returned."""

    name: str
    digest: str
    path: UPath
    seconds: float
    cached: bool
    record: Record

    def summary(self) -> Record:
        rows = {key: self.record.get(key) for key in ("rows_in", "rows_out", "rows_quarantined")}
        return {"name": self.name, "seconds": self.seconds, "cached": self.cached, **rows}


@dataclass
class Run:
    """One run of a job: its folder, its record, and the stages it has passed."""

    id: str
    job: Job
    root: UPath
    watcher: Watcher
    record: Record
    stages: list[Stage] = field(default_factory=list)

    @property
    def folder(self) -> UPath:
        return self.root / "runs" / self.id

    def stage(
        self, name: str, function: Callable[..., Record], *inputs: Any, depends: Any = None
    ) -> Stage:
        """The output of `function(*inputs, out=…)`, made now or found from an earlier run.

        An input that is a `Stage` is handed on as its path. A function that takes `progress` is
        given a callback for events; one that takes `work` a folder that outlives an interruption.
        `depends` is whatever else the output hangs on, such as the digest of the source files.
        """
        digest = digest_of([name, _code_digest(function), list(inputs), depends])
        path = self.root / "stages" / f"{name}-{digest}"
        self.watcher.started(name)
        marker = path / MARKER
        if marker.exists():
            found = json.loads(marker.read_text())
            stage = Stage(name, digest, path, found["seconds"], True, found["record"])
        else:
            stage = self._made(name, digest, path, function, inputs)
        return self._passed(stage)

    def act(self, name: str, function: Callable[..., Record], *inputs: Any) -> Stage:
        """What `function(*inputs)` changed outside the storage; nothing of it is reused.

        The function itself finds out whether there is anything to do, and says so under
        `unchanged` in its record.
        """
        self.watcher.started(name)
        begun = time.monotonic()
        record = function(*inputs)
        seconds = round(time.monotonic() - begun, 3)
        unchanged = bool(record.get("unchanged"))
        return self._passed(Stage(name, "", self.folder, seconds, unchanged, record))

    def told(self, action: str, what: Any, digest: str) -> None:
        """Add to the storage's audit log."""
        audit.write(self.job.storage, action, what=what, digest=digest, run=self.id)

    def _passed(self, stage: Stage) -> Stage:
        self.stages.append(stage)
        self.record["stages"] = [
            {**passed.summary(), "digest": passed.digest, "record": passed.record}
            for passed in self.stages
        ]
        self.save()
        self.watcher.ended(stage)
        return stage

    def _made(
        self,
        name: str,
        digest: str,
        path: UPath,
        function: Callable[..., Record],
        inputs: tuple[Any, ...],
    ) -> Stage:
        begun = time.monotonic()
        files.clear(path, keep="work")
        path.mkdir(parents=True, exist_ok=True)
        extras: Record = {"out": path}
        accepted = inspect.signature(function).parameters
        if "progress" in accepted:
            extras["progress"] = lambda event: self.watcher.event(name, event)
        if "work" in accepted:
            extras["work"] = path / "work"
            extras["work"].mkdir(exist_ok=True)
        if "log_dir" in accepted:
            extras["log_dir"] = self.folder / "tensorboard"
        with files.room(path):
            record = function(*(i.path if isinstance(i, Stage) else i for i in inputs), **extras)
        seconds = round(time.monotonic() - begun, 3)
        made = datetime.now(UTC).isoformat(timespec="seconds")
        whole = {"name": name, "seconds": seconds, "made": made, "record": record}
        _write_json(path / MARKER, whole)
        self.told("write", f"{self.job.name}, stage {name}", digest)
        if "work" in accepted:
            files.clear(path / "work")
        return Stage(name, digest, path, seconds, False, record)

    def save(self) -> None:
        """Write the record as it now stands; a reader never sees half of it."""
        self.record["seconds"] = round(time.time() - self.record["started_s"], 3)
        _write_json(self.folder / "run.json", self.record)
        text = run_metrics.exposition(self.record)
        files.write_whole(self.root / run_metrics.FILE, text.encode())


@contextmanager
def opened(
    job: Job, watcher: Watcher, at_end: Callable[[Run], object] | None = None
) -> Iterator[Run]:
    """A run of `job`: the one that was interrupted, or else a new one.

    Its record ends as done, refused or failed, which `at_end` is called to tell of; a killed
    driver leaves `running`, which the next run of the same job file finds and continues, under
    the same id.

    Raises:
        JobError: another run of this job is going on.
    """
    root = UPath(job.storage) / job.name
    with files.only_one(root, job.name):
        run = _interrupted(job, root, watcher) or _new(job, root, watcher)
        run.save()
        token = current.set(run.id)
        try:
            yield run
            run.record["status"] = "done"
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            refused = isinstance(error, PipelineError) and error.exit_code == 3
            run.record["status"] = "running" if stopped else "refused" if refused else "failed"
            run.record["error"] = {"type": type(error).__name__, "message": str(error)}
            raise
        finally:
            current.reset(token)
            run.save()
            if at_end:
                at_end(run)


def listed(storage: str, job: str | None = None, most: int | None = None) -> list[Record]:
    """The records of all runs in a storage, or of so many, newest first."""
    paths = UPath(storage).glob(f"{job or '*'}/runs/*/run.json")
    newest = sorted(paths, key=lambda path: str(path.parent.name), reverse=True)[:most]
    return [json.loads(path.read_text()) for path in newest]


def found(storage: str, run: str) -> Record:
    """The record of the run whose id begins with `run`, or of the newest for `latest`.

    Raises:
        UsageError: no run, or more than one, answers to that name.
    """
    records = listed(storage)
    matching = records[:1] if run == "latest" else [r for r in records if r["run"].startswith(run)]
    if len(matching) == 1:
        return matching[0]
    raise UsageError(
        f"{'no' if not matching else 'more than one'} run is called `{run}`",
        where=storage,
        expected="one of " + (", ".join(r["run"] for r in records[:5]) or "none yet"),
        hint="`ray-pipeline runs` lists them",
    )


def digest_of(value: Any) -> str:
    """A short sha256 over the canonical JSON of settings, texts, numbers and stages."""
    text = json.dumps(value, sort_keys=True, default=_plain, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Stage):
        return value.digest
    raise TypeError(f"{type(value).__name__} has no digest")


def _code_digest(function: Callable[..., Record]) -> str:
    """A digest over the sources of the function's own folder, and of the schema they share."""
    folder = Path(str(sys.modules[function.__module__].__file__)).parent
    code = hashlib.sha256(__version__.encode())
    for path in (Path(__file__).parent / "schema.py", *sorted(folder.rglob("*.py"))):
        code.update(path.read_bytes())
    return code.hexdigest()[:16]


def _new(job: Job, root: UPath, watcher: Watcher) -> Run:
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    record: Record = {
        "run": run_id,
        "job": job.model_dump(mode="json"),
        "job_digest": digest_of(job),
        "version": __version__,
        "status": "running",
        "started": now.isoformat(timespec="seconds"),
        "started_s": now.timestamp(),
        "stages": [],
        "error": None,
    }
    return Run(run_id, job, root, watcher, record)


def _interrupted(job: Job, root: UPath, watcher: Watcher) -> Run | None:
    for record in listed(job.storage, job.name):
        if record["status"] == "running" and record["job_digest"] == digest_of(job):
            record |= {"error": None, "resumed": record.get("resumed", 0) + 1}
            return Run(record["run"], job, root, watcher, record)
    return None


def _write_json(path: UPath, value: Record) -> None:
    files.write_whole(path, json.dumps(value, indent=1, default=_plain).encode())
