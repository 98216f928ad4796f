"""What each command does: call, then print. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_pipeline.job import Job


def run(options: argparse.Namespace) -> None:
    """The whole path: from raw data to an answering endpoint."""
    from ray_pipeline import cluster, jobfile
    from ray_pipeline.commands_records import run_lines

    job = jobfile.read(options.job, options.set)
    cluster.connect()
    cluster.warm()
    from ray_pipeline import pipeline, progress, stuck

    with progress.watcher() as shown, stuck.Noticing(shown) as watcher:
        record = pipeline.run(job, watcher, until=options.until)
    printed(record_result(record), run_lines(record), options.json)


def validate(options: argparse.Namespace) -> None:
    """Check a job's settings, its sources and a sample of its rows; plan its training."""
    from ray_pipeline import jobfile

    job = jobfile.read(options.job, options.set)
    if job.chat is not None:
        from ray_pipeline.chat import documents, rerank

        if job.chat.generate.by == "vllm":
            _check_engine(job)
        rerank.check(job.chat.retrieve)
        files = documents.found(job.data.source, job.chat.access)
        lines = [f"{options.job}: valid", "", *(f"  {f.name:<40} {f.group}" for f in files)]
        told = [{"name": file.name, "group": file.group} for file in files]
        return printed({"valid": True, "documents": told}, lines, options.json)
    from ray_pipeline import costs, path_rows
    from ray_pipeline.data import collect
    from ray_pipeline.model import plan

    fingerprint = collect.fingerprint(job.data)
    _, schema = path_rows.checked(job, job.data)
    lines = [f"{options.job}: valid", ""]
    lines += [f"  {column.name:<20} {column.kind:<10} {column.role}" for column in schema]
    result = {"valid": True, "data": fingerprint, "schema": schema.model_dump(mode="json")}
    if (training := plan.of(job)) is not None:
        lines += ["", *plan.lines(training)]
        result["plan"] = plan.record(training)
        costs.keep_plan(job, training.hours)
    else:
        lines += ["", "after `run --until features`, this plans memory, time and cost of training"]
    return printed(result, lines, options.json)


def _check_engine(job: Job) -> None:
    """Raises JobError: the chatbot's language model cannot be run here."""
    from ray_pipeline import cluster
    from ray_pipeline.deploy import parts

    if os.environ.get("RAY_ADDRESS") or cluster.record():
        cluster.connect(start=False)  # its GPUs count
    parts.ready(job)


def schema(options: argparse.Namespace) -> None:
    """Print the job file's JSON Schema."""
    from ray_pipeline import jobfile

    print(json.dumps(jobfile.json_schema(), indent=2))


def init(options: argparse.Namespace) -> None:
    """Write a small job file and data to start from."""
    from ray_pipeline import starter

    written = starter.written(options.folder)
    printed({"job": str(written)}, [f"wrote {written}", f"next: ray-pipeline run {written}"], False)


def predict(options: argparse.Namespace) -> None:
    """Predict every row of files, or of a database's table, with Ray Data."""
    from ray_pipeline import cluster, jobfile
    from ray_pipeline.deploy import batch

    source = jobfile.source(options.input, table=options.table, query=options.query)
    cluster.connect()
    result = batch.predicted(options.bundle, source, options.output)
    lines = [f"{result['rows_out']:,} rows predicted into {options.output}"]
    if result["rows_quarantined"]:
        lines.append(f"{result['rows_quarantined']:,} rows quarantined in {result['quarantine']}")
    printed(result, lines, options.json)


def annotate(options: argparse.Namespace) -> None:
    """Write the rows that annotators should see next, as tasks for Label Studio."""
    from upath import UPath

    from ray_pipeline import cluster, jobfile, pipeline, progress
    from ray_pipeline.data.labels.annotate import Wanted

    job = jobfile.read(options.job, options.set)
    wanted = Wanted(options.count, options.by, options.bundle, tuple(options.show))
    cluster.connect()
    with progress.watcher() as watcher:
        told = pipeline.annotated(job, wanted, UPath(options.output), watcher)
    lines = [
        f"{told['tasks']:,} tasks in {told['output']}, {told['suspects']:,} of them labels that "
        "look wrong",
        f"labelling interface: {told['interface']}",
        "next: annotate, export as JSON, and name the export under `label.annotations`",
    ]
    printed(told, lines, options.json)


def forget(options: argparse.Namespace) -> None:
    """Erase one person from all that a job has stored, and prove it by a search."""
    from ray_pipeline import jobfile
    from ray_pipeline.data.privacy import forget as erasure

    result = erasure.forgotten(jobfile.read(options.job, options.set), options.subject)
    lines = erasure.described(result)
    printed(result, lines, options.json)


def expire(options: argparse.Namespace) -> None:
    """Remove what a job has stored for longer than it says that it may be kept: rows, or what was
    asked in a chatbot's conversations."""
    from ray_pipeline import jobfile
    from ray_pipeline.data.privacy import expire as retention

    job = jobfile.read(options.job, options.set)
    if job.chat:
        from ray_pipeline.chat import memory

        removed = memory.expired(job)
        printed({"questions": removed}, [f"{removed:,} questions removed"], options.json)
        return
    result = retention.expired(job)
    printed(result, retention.described(result), options.json)


def rotate(options: argparse.Namespace) -> None:
    """Begin a new key for hashes of personal data; what old keys made still resolves."""
    from ray_pipeline.data.privacy import keys

    ids = [key.id for key in keys.rotated()]
    printed({"keys": ids}, [f"new hashes begin with {ids[0]}:"], options.json)


def serve(options: argparse.Namespace) -> None:
    """Serve bundles until stopped; no job file is needed."""
    from ray_pipeline import bundle, cluster, jobfile
    from ray_pipeline.deploy import release, together

    settings = jobfile.serving(options.set)
    names = {path: bundle.opened(path).manifest.name for path in options.bundle}
    found = cluster.record() or os.environ.get("RAY_ADDRESS")
    stopped = threading.Event()
    try:
        cluster.connect()
        # Ray has handlers of its own, which end the process at once.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        if options.loaded:
            answering: Iterable[Any] = together.deploy(names, settings, options.loaded)
        else:
            answering = (release.deploy(path, name, settings) for path, name in names.items())
        for live in answering:
            print(json.dumps(live) if options.json else live["endpoint"], flush=True)
        stopped.wait()
    finally:
        if not found:  # a cluster that was there before goes on
            cluster.down()


def up(options: argparse.Namespace) -> None:
    """Start a local cluster with Serve's fast path."""
    from ray_pipeline import cluster

    started = cluster.up(jobs=options.jobs)
    lines = [f"Ray is up at {started['address']}"]
    lines += [f"jobs at {started['jobs']}"] if started.get("jobs") else []
    printed(started, lines, options.json)


def down(options: argparse.Namespace) -> None:
    """Stop the local cluster and the endpoints on it."""
    from ray_pipeline import cluster

    stopped = cluster.down()
    printed({"stopped": stopped}, ["stopped" if stopped else "nothing was running"], options.json)


def key(options: argparse.Namespace) -> None:
    """Print the API key, made on first use."""
    from ray_pipeline.deploy import auth

    print(auth.key(new=options.new))
    if options.new:
        _publish_keys()


def keys(options: argparse.Namespace) -> None:
    """Add, list or revoke keys for others; live endpoints know within two seconds."""
    from ray_pipeline.deploy import keyring
    from ray_pipeline.errors import UsageError

    if options.action == "list":
        known = keyring.keyring().keys
        listed = [key.model_dump(exclude={"hash"}) for key in known]
        printed({"keys": listed}, keyring.lines(known) or ["no keys yet"], options.json)
        return
    if not options.name:
        raise UsageError(f"`keys {options.action}` needs the key's name")
    if options.action == "revoke":
        told = {"revoked": options.name, "count": keyring.revoke(options.name)}
        _publish_keys()
        printed(told, [f"revoked {options.name} ({told['count']})"], options.json)
        return
    text = keyring.add(
        options.name,
        options.scope or ("predict",),
        options.endpoint,
        rate=options.rate,
        burst=options.burst,
        expires_in=keyring.duration(options.expires),
        overlap=keyring.duration(options.overlap),
    )
    _publish_keys()
    printed({"name": options.name, "key": text}, [text], options.json)


def _publish_keys() -> None:
    """Tell the cluster, if one runs; else the next `deploy` does."""
    import os

    from ray_pipeline import cluster
    from ray_pipeline.deploy import auth, keyring

    if os.environ.get("RAY_ADDRESS") or cluster.record():
        cluster.connect(start=False)
        keyring.publish(auth.key())


def record_result(record: dict[str, Any]) -> dict[str, Any]:
    """What `run --json` promises, out of a run's record."""
    kept = ("name", "seconds", "cached", "rows_in", "rows_out", "rows_quarantined")
    return {
        "run": record["run"],
        "bundle": record.get("bundle"),
        "endpoint": record.get("endpoint"),
        "report": record.get("report"),
        "metrics": record.get("metrics", {}),
        "stages": [{key: stage[key] for key in kept} for stage in record["stages"]],
    }


def printed(result: dict[str, Any], lines: Sequence[str], as_json: bool) -> None:
    """Print a result: as one JSON object, or as lines for people."""
    print(json.dumps(result) if as_json else "\n".join(lines))
