"""From a bundle to an endpoint that answers, on the cluster this process is connected to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import ray
from upath import UPath

from ray_pipeline import __version__, audit, bundle
from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy import (
    application,
    auth,
    grpc_calls,
    history,
    inference,
    keyring,
    parts,
    request_log,
    runtime,
    trial,
)
from ray_pipeline.deploy.board import Release, board
from ray_pipeline.deploy.example import Request, example_request
from ray_pipeline.deploy.front import application_of, running_replicas
from ray_pipeline.deploy.tokens import Tokens
from ray_pipeline.errors import GateRefused, JobError
from ray_pipeline.files import LOCAL
from ray_pipeline.job import Online, Serve


def deploy(
    path: str | UPath,
    name: str,
    settings: Serve,
    *,
    why: str = "",
    action: history.Action = "deploy",
) -> dict[str, Any]:
    """Put the bundle at `path` behind `/NAME/` and wait until it has answered a prediction.

    A release of the same bundle, settings and key is left as it is. Another version takes the
    place of the one that is live, replica by replica, without a gap; with `serve.release`, once it
    has been tried beside it. A rollback tries nothing.

    Returns:
        `endpoint` (its URL), `version`, `unchanged`, `curl` (a command that calls it), and `trial`
        where it was tried.

    Raises:
        BundleError: the bundle is not whole, or is a language model by itself.
        JobError: `serve.online` or `serve.log` names columns that the model does not know,
            `serve.apart` parts that it has not, the keys of `serve.jwt` cannot be read, or a GPU
            or vLLM is needed that is not there.
        ClusterError: the port is taken, Serve listens on another, or no replica starts.
        GateRefused: it was tried, and is no good.
    """
    path = _absolute(path)
    opened = bundle.opened(path)
    if opened.manifest.task != "chat":
        runtime.check_predicts(opened)
    gpus = _gpus(settings)
    if settings.online:
        _check_online(settings.online, opened)
    parts.check(settings.apart, opened)
    if settings.grpc:
        grpc_calls.check(opened)
    if settings.log:
        request_log.check(settings.log, opened.manifest)
    if settings.jwt:
        Tokens(settings.jwt).refresh()
    key = auth.key() if settings.auth == "key" else None
    # Before anything answers: a replica begins with the keys that it finds.
    keyring_id = keyring.publish(key) if key else None
    release = described(opened, path, name, settings, keyring_id, why)
    asked = example_request(opened, name)
    unchanged, phases = _is_live(release), []
    if not unchanged:
        application.start(settings)
        with _tried(release, settings, gpus, asked, action) as phases:
            application.run(release, settings, gpus)
            application.wait_for_answer(release, asked, settings, key)
        _noted(release, opened, action)
    return {
        "endpoint": release["url"],
        "version": release["version"],
        "unchanged": unchanged,
        "curl": _curl(release, asked),
        **({"gpus": gpus} if settings.gpus else {}),
        **_found(settings, phases),
    }


_PATHS = {"chat": "v1/chat/completions"}


@contextmanager
def _tried(
    release: Release, settings: Serve, gpus: float, asked: Request, action: history.Action
) -> Iterator[list[dict[str, Any]]]:
    """The phases of the trial that a release has to pass before the block; none where nothing is
    live, and for a rollback. Raises GateRefused, and keeps that it did."""
    live = ray.get(board().releases.remote()).get(release["name"])
    running = running_replicas().get(release["name"], ("", 0))[0] == "RUNNING"
    if settings.release is None or live is None or not running or action == "rollback":
        yield []
        return
    try:
        with trial.passed(release, live, settings, gpus, asked.body["rows"][0]) as phases:
            yield phases
    except GateRefused as error:
        _kept(history.entry(release, "refused", why=error.what))
        raise


def _noted(release: Release, opened: Bundle, action: history.Action) -> None:
    """Tell the board, the history and the audit log what is live now."""
    release["since"] = now()  # a trial may have lasted for hours
    ray.get(board().released.remote(release))
    told(release, action, digest=opened.manifest.digest)


def told(release: Release, action: history.Action, why: str = "", **more: str) -> None:
    """Tell the history, and with `more` the audit log, what became of an endpoint."""
    _kept(history.entry(release, action, why))
    what = f"{release['name']}, version {release['version']}"
    audit.write(audit.storage_of(release["bundle"]), action, what=what, **more)


def _kept(entry: history.Entry) -> None:
    history.write(audit.storage_of(entry["bundle"]), entry)
    ray.get(board().keep.remote(entry))


def _absolute(path: str | UPath) -> UPath:
    """The path as other processes find it."""
    path = UPath(path)
    return path.absolute() if path.protocol in LOCAL else path


def _found(settings: Serve, phases: list[dict[str, Any]]) -> dict[str, Any]:
    """What was measured on the way, for the record and the report."""
    found = _online(settings.online) if settings.online else {}
    if phases:
        findings = [*trial.findings(phases), *found.get("findings", [])]
        found |= {"trial": phases, "findings": findings}
    return found


def _gpus(settings: Serve) -> float:
    """GPUs that a replica gets: those that the job asks for, or none where there are none.

    Raises:
        JobError: there are none, and the job says that the CPU may not serve.
    """
    if not settings.gpus or ray.cluster_resources().get("GPU"):  # type: ignore[no-untyped-call]
        return settings.gpus
    if "cpu" not in settings.providers.tried:
        raise JobError(
            "this cluster has no GPU",
            where="serve.providers.order",
            expected=f"one for {' or '.join(settings.providers.tried)}",
            hint="add `cpu` to the list, or start the cluster where a GPU is",
        )
    return 0


def _check_online(online: Online, opened: Bundle) -> None:
    schema = opened.manifest.schema
    features = [column.name for column in schema.features]
    for name, known in ((online.key, list(schema.names)), *((c, features) for c in online.columns)):
        if name not in known:
            raise JobError(
                f"the model knows no column `{name}`",
                where="serve.online",
                expected=f"one of {', '.join(known)}",
            )


def _online(settings: Online) -> dict[str, Any]:
    """How long the online store takes, measured from here, for the report."""
    from ray_pipeline.deploy import online

    taken = online.latency(settings)
    row = [settings.table, ", ".join(settings.columns), taken["p50"], taken["p99"]]
    table = {"columns": ["table", "columns", "p50 ms", "p99 ms"], "rows": [row]}
    note = "What a request waits for the features that it does not carry, beside the prediction."
    return {
        "online": taken,
        "findings": [{"title": "The online store", "note": note, "tables": [table]}],
    }


def endpoints() -> list[dict[str, Any]]:
    """What is live: name, version, url, replicas, since, by, why, status of each endpoint, and the
    version that is tried beside it, if there is one."""
    if not application.serve_port():
        return []
    running = running_replicas()
    releases, trials = ray.get([board().releases.remote(), board().trials.remote()])
    return [
        {
            "name": name,
            "version": release["version"],
            "url": release["url"],
            "replicas": running.get(application_of(release), ("GONE", 0))[1],
            "since": release["since"],
            "by": release["by"],
            "why": release["why"],
            "status": running.get(application_of(release), ("GONE", 0))[0],
            "trial": trials.get(name),
        }
        for name, release in sorted(releases.items())
    ]


def live(name: str) -> str | None:
    """The bundle that the endpoint has now; None where there is none."""
    if not application.serve_port():
        return None
    releases: dict[str, Release] = ray.get(board().releases.remote())
    return releases[name]["bundle"] if name in releases else None


def described(  # noqa: PLR0917 - what a release is
    opened: Bundle,
    path: str | UPath,
    name: str,
    settings: Serve,
    keyring_id: str | None,
    why: str = "",
    by: str | None = None,
) -> Release:
    """What is put behind the endpoint `name`, by this user if not by another."""
    manifest = opened.manifest
    determined = [manifest.digest, name, settings.without("release").model_dump_json()]
    determined += [keyring_id or "", __version__]
    return {
        "name": name,
        "version": manifest.version,
        "bundle": str(path),
        "digest": hashlib.sha256("\n".join(determined).encode()).hexdigest(),
        "since": now(),
        "by": by or audit.user(),
        "why": why,
        "settings": settings.model_dump_json(),
        "url": f"http://127.0.0.1:{settings.port}/{name}/{_PATHS.get(manifest.task, 'predict')}",
        "task": manifest.task,
        "auth": settings.auth,
        "keyring": keyring_id,
        "metrics": settings.metrics,
        "metadata": {**inference.metadata(manifest), "name": name},
    }


def now() -> str:
    """This moment as releases have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _is_live(release: Release) -> bool:
    if not application.serve_port():
        return False
    name = release["name"]
    known: dict[str, Release] = ray.get(board().releases.remote())
    same = name in known and known[name]["digest"] == release["digest"]
    return same and running_replicas().get(name, ("", 0))[0] == "RUNNING"


def _curl(release: Release, asked: Request) -> str:
    key = ' -H "X-API-Key: $(ray-pipeline key)"' if release["auth"] == "key" else ""
    body = json.dumps(asked.body).replace("'", "'\\''")
    return f"curl -sS {release['url']}{key} -d '{body}'"
