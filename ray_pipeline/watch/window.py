"""Which files a challenger learns from, and which both models are judged on."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ray_pipeline.data import sources
from ray_pipeline.errors import JobError
from ray_pipeline.job import Job, Source
from ray_pipeline.job.source import New
from ray_pipeline.job.watch import Window


class Files(NamedTuple):
    """Names of files, oldest first: to learn from, to judge on, and those that are new."""

    learn: tuple[str, ...]
    judge: tuple[str, ...]
    new: tuple[str, ...]


def check(job: Job) -> None:
    """Raises JobError where a challenger could not be trained on files that came later."""
    source = job.data.source
    if source.table or source.query or source.pattern or source.new or job.data.test:
        raise JobError(
            "only a folder or glob of files can be learned from again",
            where="data.source",
            expected="files whose names rise with time; no `new`, and no `data.test`, for the "
            "newest files are the test",
            hint="leave out `watch`, or have the rows written as files",
        )
    if not job.evaluate.bootstrap:
        raise JobError(
            "0 resamples tell no difference from chance",
            where="evaluate.bootstrap",
            expected="some hundred, to compare a challenger with",
        )


def chosen(source: Source, settings: Window, seen: Collection[str]) -> Files:
    """The files as they are now, of which the live model has seen some; new are those that come
    after all of these.

    Raises:
        DataError: there is none.
    """
    names = [str(path) for path in sources.listed(source.url)]
    older = names[: -settings.judge]
    learn = older[-settings.files :] if settings.files else older
    newest = max(seen, default="")
    new = tuple(name for name in names if name > newest)
    return Files(tuple(learn), tuple(names[-settings.judge :]), new)


def challenger(job: Job, learn: Collection[str], judge: Collection[str], champion: str) -> Job:
    """The job that makes a challenger of these files, and compares it with the bundle `champion`;
    with none, if it is empty."""

    def of(files: Collection[str]) -> Source:
        fixed = New(files=tuple(files), fixed=True)
        return job.data.source.model_copy(update={"new": fixed})

    data = job.data.model_copy(update={"source": of(learn), "test": of(judge)})
    evaluate = job.evaluate.model_copy(update={"champion": champion or None})
    return job.model_copy(update={"data": data, "evaluate": evaluate})
