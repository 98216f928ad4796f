"""What asks for one label a row, and is refused where a row may have several."""

from __future__ import annotations

from collections.abc import Iterator

from ray_pipeline.errors import JobError
from ray_pipeline.job import Job
from ray_pipeline.schema import Schema

_ONE = ("trees", "language", "embedding")


def check(job: Job, schema: Schema) -> None:
    """Refuse, before anything is done, what a job with a label of the kind `labels` cannot have.

    Raises:
        JobError: it asks for such a thing.
    """
    given = job.data.column(job.data.label)
    kinds = {schema.label.kind, given.kind if given else None}
    for where, why, expected in _asked(job) if "labels" in kinds else ():
        raise JobError(
            f"{why}, and a row may have several labels",
            where=where,
            expected=expected,
            hint=f"or give `{job.data.label}` the kind `category`, if each row has exactly one",
        )


def _asked(job: Job) -> Iterator[tuple[str, str, str]]:
    """Where, why not, and what would do."""
    evaluate, balance = job.evaluate, job.data.balance
    if job.label is not None:
        yield (
            "label",
            "functions and annotators settle on one label a row",
            "rows with their labels",
        )
    if job.model.name in _ONE:
        yield "model.name", f"`{job.model.name}` answers with one label", "a network, say mlp"
    yield from _searched(job)
    if job.compress.distill and job.compress.distill.model.get("name") in _ONE:
        yield "compress.distill.model.name", "trees give one label", "a network, say mlp"
    for name, settings in job.data.features.columns.items():
        if settings.encode == "target":
            where = f"data.features.columns.{name}.encode"
            yield where, "a target encoding is of one label", "onehot, index or hash"
    if evaluate.groups:
        yield "evaluate.groups", "groups are compared by one label", "`evaluate.slices`"
    if balance and (balance.by or balance.method == "resample"):
        where = "data.balance"
        yield where, "rows are weighed or repeated for one label", "`classes: balanced` alone"
    if evaluate.behaviour:
        yield "evaluate.behaviour", "tests of behaviour look at one label", "`evaluate.robustness`"
    if evaluate.positive is not None:
        yield "evaluate.positive", "a class of interest is one of two", "`classes` in the metrics"


def _searched(job: Job) -> Iterator[tuple[str, str, str]]:
    named = job.tune.space.get("model.name") if job.tune else None
    for name in (named and named.choice) or ():
        if name in _ONE:
            yield "tune.space.model.name", f"`{name}` answers with one label", "networks alone"
