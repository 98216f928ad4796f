"""The commands about other machines: a job on a cluster."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_pipeline.commands import printed

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

    from ray_pipeline.job import Job
    from ray_pipeline.payload import Payload


def submit(options: argparse.Namespace) -> int:
    """Run a job on a cluster; what is submitted already is found, not run twice."""
    from ray_pipeline import payload, submission

    with tempfile.TemporaryDirectory(prefix="ray_pipeline-") as folder:
        packed = payload.packed(
            options.job, options.set, Path(folder), options.until, watch=options.watch
        )
        at = _client(options)
        details = submission.submitted(at, packed)
        _say(f"{details.submission_id} {details.status.lower()}, {_page(at, details)}")
        if options.follow:
            return _followed(options, at, details, packed)
    result = _told(at, details)
    printed(result, [f"{result['submission']}  {result['status']}"], options.json)
    return 0


def status(options: argparse.Namespace) -> None:
    """Say how a submission stands, or list all of them."""
    from ray_pipeline import submission

    at = _client(options)
    if options.submission is None:
        told = [_told(at, details) for details in submission.listed(at)]
        lines = [f"{one['submission']:<40} {one['status']:<10} {one['started']}" for one in told]
        printed({"submissions": told}, lines or ["nothing was submitted"], options.json)
        return
    one = _told(at, submission.found(at, options.submission))
    lines = [f"{name:<11} {text}" for name, text in one.items() if text not in (None, "")]
    printed(one, lines, options.json)


def logs(options: argparse.Namespace) -> int:
    """Print what a submission's driver has printed; with --follow, until it has ended."""
    from ray_pipeline import submission

    at = _client(options)
    name = str(submission.found(at, options.submission).submission_id)
    if not options.follow:
        sys.stdout.write(submission.logs(at, name))
        return 0
    return submission.exit_code(submission.followed(at, name, _written))


def stop(options: argparse.Namespace) -> None:
    """Stop a submission; submitting the same again goes on from what is stored."""
    from ray_pipeline import submission

    at = _client(options)
    name = str(submission.found(at, options.submission).submission_id)
    told = _told(at, submission.stopped(at, name))
    printed(told, [f"{name}  {told['status']}"], options.json)


def kubernetes(options: argparse.Namespace) -> None:
    """Write manifests for KubeRay: a run, a cluster that stays, a bundle's endpoint, the watch."""
    from ray_pipeline import payload
    from ray_pipeline.deploy import kubernetes as manifests

    with tempfile.TemporaryDirectory() as folder:
        packed = payload.packed(options.job, options.set, Path(folder))
        files = payload.texts(packed)
    unwatched = _unwatched(packed.job)
    site = manifests.site(
        packed.job,
        files=files,
        variables=packed.secrets,
        image=options.image,
        bundle=options.bundle,
        namespace=options.namespace,
        host=options.host,
        redis=options.redis,
        gpus=options.gpus,
        watched=not unwatched,
    )
    written = [str(path) for path in manifests.written(site, Path(options.output))]
    commands = manifests.secrets(site)
    lines = [*written, *(["", "make these Secrets first:", *commands] if commands else [])]
    lines += [] if options.bundle else ["", "give --bundle to have its endpoint too"]
    lines += ["", f"without a watch: {unwatched}"] if unwatched and packed.job.watch else []
    printed({"written": written, "secrets": commands}, lines, options.json)


def _unwatched(job: Job) -> str:
    """Why `watch` cannot train challengers of a job; empty if it can."""
    from ray_pipeline.errors import JobError
    from ray_pipeline.watch import window

    try:
        window.check(job)
    except JobError as error:
        return f"{error.where}: {error.what}"
    return "" if job.watch else "the job has no section `watch`"


def _followed(
    options: argparse.Namespace, at: JobSubmissionClient, details: JobDetails, packed: Payload
) -> int:
    """The exit status of a submission that is watched to its end, and made again if it is lost."""
    from ray_pipeline import submission

    seen: list[str] = []

    def show(text: str) -> None:
        seen.append(text)
        sys.stderr.write(text)
        sys.stderr.flush()

    for again in range(submission.ATTEMPTS, 0, -1):
        details = submission.followed(at, str(details.submission_id), show)
        if again == 1 or not submission.was_lost(details):
            break
        _say(f"{details.submission_id} was lost: {details.message}; submitting it again")
        details = submission.submitted(at, packed)
    told, result = _told(at, details), submission.result("".join(seen)) or {}
    lines = [f"{told['submission']}  {told['status']}"]
    lines += [f"{key:<9} {result[key]}" for key in ("run", "bundle", "endpoint") if result.get(key)]
    printed({**told, **result}, lines, options.json)
    return submission.exit_code(details)


def _client(options: argparse.Namespace) -> JobSubmissionClient:
    """A client of the cluster that is named, or else of the local one."""
    from ray_pipeline import cluster, submission
    from ray_pipeline.errors import UsageError

    address = options.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if address:
        return submission.client(address, insecure=options.insecure)
    running = cluster.record()
    if running is None or not running.get("jobs"):
        raise UsageError(
            "which cluster?",
            expected="--address URL, such as http://127.0.0.1:8265",
            hint="or start one here with `ray-pipeline up --jobs`",
        )
    token = Path(running["token"]).read_text(encoding="utf-8").strip()
    return submission.client(running["jobs"], token=token)


def _told(at: JobSubmissionClient, details: JobDetails) -> dict[str, Any]:
    """What a user is told of a submission. Times are UTC."""
    from datetime import UTC, datetime

    started = details.start_time and datetime.fromtimestamp(details.start_time / 1000, UTC)
    ended = details.end_time and datetime.fromtimestamp(details.end_time / 1000, UTC)
    message = (details.message or "").splitlines()
    return {
        "submission": details.submission_id,
        "status": str(details.status).lower(),
        "job": (details.metadata or {}).get("job"),
        "started": started and started.isoformat(timespec="seconds"),
        "seconds": ended and started and round((ended - started).total_seconds(), 1),
        "message": message[0] if message else None,
        "exit_code": details.driver_exit_code,
        "variables": (details.metadata or {}).get("variables") or None,
        "page": _page(at, details),
    }


def _page(at: JobSubmissionClient, details: JobDetails) -> str:
    return f"{at.get_address()}/#/jobs/{details.submission_id}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _written(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
