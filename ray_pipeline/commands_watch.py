"""What the command `watch` does: look, decide, print."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from ray_pipeline.commands import printed

if TYPE_CHECKING:
    from ray_pipeline.job import Job
    from ray_pipeline.runs import Record
    from ray_pipeline.watch.loop import Watching


def watch(options: argparse.Namespace) -> None:
    """Have a model that is better on newer data take over, and a worse one go.

    Looks every `watch.every_s` until it is stopped; with `--once`, once.
    """
    from ray_pipeline import cluster, jobfile

    job = jobfile.read(options.job, options.set)
    cluster.connect()
    watching = watching_of(job)
    while True:
        decision = watching.once()
        printed(decision, lines(decision), options.json)
        sys.stdout.flush()
        if options.once or job.watch is None:
            return
        time.sleep(job.watch.every_s)


def watching_of(job: Job) -> Watching:
    """The watch over a job's endpoint, which trains by the path from data to endpoint."""
    from ray_pipeline import pipeline, progress, stuck
    from ray_pipeline.watch import endpoint, loop

    def train(challenger: Job, until: str) -> Record:
        with progress.watcher() as shown, stuck.Noticing(shown) as watcher:
            return pipeline.run(challenger, watcher, until=until)

    return loop.Watching(job, train, endpoint.Live(job.name, job.storage))


def lines(decision: dict[str, Any]) -> list[str]:
    """A decision for people."""
    seen = decision.get("look")
    told = [f"{decision['id']}  {decision['action']}: {decision['outcome']}"]
    if seen:
        told.append(f"  looked at {seen['rows']:,} rows, {seen['labels']:,} with labels")
    told += [f"  {why}" for why in decision["why"]]
    if decision.get("verdict"):
        told.append(f"  {decision['verdict']}")
    elif "challenger" in decision:
        told.append(f"  {decision['challenger']['verdict']}")
    if decision["outcome"] == "waiting":
        told.append("  next: ray-pipeline promote NAME --job JOB")
    return told
