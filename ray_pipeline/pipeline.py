"""The path from raw data to an answering endpoint, top to bottom."""

from __future__ import annotations

from upath import UPath

from ray_pipeline import audit, costs, report, runs, tracking
from ray_pipeline.data.labels import annotate
from ray_pipeline.data.labels.annotate import Wanted
from ray_pipeline.errors import JobError, UsageError
from ray_pipeline.job import Job
from ray_pipeline.path import path
from ray_pipeline.runs import Record, Run, Watcher
from ray_pipeline.schema import Schema

__all__ = ["STAGES", "annotated", "path", "run"]

STAGES = (
    "index",
    "judge",
    "privacy",
    "clean",
    "anonymity",
    "label",
    "history",
    "split",
    "bias",
    "features",
    "store",
    "negatives",
    "tune",
    "train",
    "folds",
    "prune",
    "distill",
    "compress",
    "evaluate",
    "champion",
    "export",
    "engines",
    "deploy",
)


def run(job: Job, watcher: Watcher, until: str | None = None) -> Record:
    """The record of running `job`, as far as the stage `until` if one is given.

    Stages that an earlier run stored are not made again. However it ends, the run's record and
    its page are written and MLflow is told.

    Raises:
        UsageError: `until` is not a stage.
        JobError: a chatbot could not be deployed here.
        PipelineError: a stage failed, or a gate refused.
    """
    if until is not None and until not in STAGES:
        raise UsageError(f"no stage is called `{until}`", expected=", ".join(STAGES))
    if job.chat and until in (None, "deploy"):
        from ray_pipeline.deploy import parts  # and with it Ray Serve

        parts.ready(job)
    with tracking.following(job.storage) as tracker:

        def told(ended: Run) -> None:
            report.write(ended.record, ended.folder)
            tracker.log(ended.record, ended.folder)

        with costs.Meter() as meter, runs.opened(job, watcher, at_end=told) as current:
            current.record["report"] = str(current.folder / "report.html")
            before = current.record.get("costs", ())  # of a part that was interrupted
            current.record["findings"] = []  # which that part had, too, and are found again
            try:
                for stage in path(current):
                    current.record["costs"] = meter.told(job.prices, before)
                    if until and STAGES.index(stage.name) >= STAGES.index(until):
                        break  # a job without that stage stops after the next
            finally:
                current.record["costs"] = meter.told(job.prices, before)
                current.record["findings"] = [*current.record["findings"], _costs(current)]
    return current.record


def _costs(run: Run) -> Record:
    """The report's section on what the run has had of the cluster."""
    job, record = run.job, run.record
    training: dict[str, float] = {}
    trained = next((one for one in run.stages if one.name == "train" and not one.cached), None)
    if trained and (planned := costs.planned_hours(job)):
        workers = trained.record.get("workers") or 1
        training = {"planned": planned, "used": workers * trained.seconds / 3600}
    return costs.finding(record["costs"], training)


def annotated(job: Job, wanted: Wanted, out: UPath, watcher: Watcher) -> Record:
    """Write what annotators should see next to `out`, as tasks for Label Studio; how many of what.

    The job is run as far as its labels; what an earlier run stored is not made again.

    Raises:
        JobError: the job has no `label` section.
        PipelineError: a stage failed, or there is nothing to ask.
    """
    if job.label is None:
        raise JobError(
            "every row of this job has a label",
            where="label",
            expected="a section that says how rows get labels",
            hint="`label: {unvoted: unlabelled}` lets rows be without; `errors: ask` asks about "
            "labels that look wrong",
        )
    record = run(job, watcher, until="label")
    folder = UPath(job.storage) / job.name / "stages"
    made = {made["name"]: folder / f"{made['name']}-{made['digest']}" for made in record["stages"]}
    schema = Schema.model_validate(record["schema"])
    told = annotate.written(made["clean"], made["label"], job.label, schema, wanted, out=out)
    audit.write(job.storage, "annotate", what=job.name, output=str(out), rows=told["tasks"])
    return told
