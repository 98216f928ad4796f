"""From a bundle to an endpoint that answers, on the cluster this process is connected to."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import time
from datetime import UTC, datetime
from typing import Any

import ray
from ray import serve
from ray.exceptions import ActorDiedError, GetTimeoutError
from upath import UPath

from ray_pipeline import __version__, audit, bundle
from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy import auth, inference, keyring, ports, runtime
from ray_pipeline.deploy.board import Release, board
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.front import FrontReplica, running_replicas
from ray_pipeline.deploy.replica import Replica
from ray_pipeline.deploy.tokens import Tokens
from ray_pipeline.errors import ClusterError, JobError
from ray_pipeline.job import Online, Serve

_FRONT = "ray_pipeline"
_ANSWER_WITHIN_S = 60.0


def deploy(path: str | UPath, name: str, settings: Serve) -> dict[str, Any]:
    """Put the bundle at `path` behind `/NAME/` and wait until it has answered a prediction.

    A release of the same bundle, settings and key is left as it is. Another version takes the
    place of the one that is live, replica by replica, without a gap.

    Returns:
        `endpoint` (its URL), `version`, `unchanged`, `curl` (a command that calls it).

    Raises:
        BundleError: the bundle is not whole, or is a language model.
        JobError: `serve.online` names columns that the model does not know, the keys of
            `serve.jwt` cannot be read, or a GPU is needed that the cluster does not have.
        ClusterError: the port is taken, Serve listens on another, or no replica starts.
    """
    opened = bundle.opened(path)
    runtime.check_predicts(opened)
    gpus = _gpus(settings)
    if settings.online:
        _check_online(settings.online, opened)
    if settings.jwt:
        Tokens(settings.jwt).refresh()
    key = auth.key() if settings.auth == "key" else None
    # Before anything answers: a replica begins with the keys that it finds.
    release = _release(opened, path, name, settings, keyring.publish(key) if key else None)
    unchanged = _is_live(release)
    if not unchanged:
        start(settings.port, settings.host)
        _run(release, settings, gpus)
        _wait_for_answer(release, example_row(opened), settings, key)
        ray.get(board().released.remote(release))
        audit.write(
            audit.storage_of(path),
            "deploy",
            what=f"{name}, version {release['version']}",
            digest=opened.manifest.digest,
        )
    return {
        "endpoint": release["url"],
        "version": release["version"],
        "unchanged": unchanged,
        "curl": _curl(release, example_row(opened)),
        **({"gpus": gpus} if settings.gpus else {}),
        **(_online(settings.online) if settings.online else {}),
    }


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
    """What is live: name, version, url, replicas, since, status of each endpoint."""
    if not _serve_port():
        return []
    running = running_replicas()
    releases: dict[str, Release] = ray.get(board().releases.remote())
    return [
        {
            "name": name,
            "version": release["version"],
            "url": release["url"],
            "replicas": running.get(name, ("GONE", 0))[1],
            "since": release["since"],
            "status": running.get(name, ("GONE", 0))[0],
        }
        for name, release in sorted(releases.items())
    ]


def live(name: str) -> str | None:
    """The bundle that the endpoint has now; None where there is none."""
    if not _serve_port():
        return None
    releases: dict[str, Release] = ray.get(board().releases.remote())
    return releases[name]["bundle"] if name in releases else None


def start(port: int, host: str) -> None:
    """Start Serve on the cluster, with what answers outside the endpoints, if it is not there.

    Raises:
        ClusterError: the port is taken, or Serve listens on another.
    """
    # Its lines about what it starts are not the caller's, who is told by exception what fails.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    found = _serve_port()
    if found and found != port:
        raise ClusterError(
            f"this cluster's endpoints are on port {found} already",
            expected=f"port {port}, by the job's `serve.port`",
            hint=f"set serve.port={found}, or `ray-pipeline down` first",
        )
    if found:
        return
    if "RAY_ADDRESS" not in os.environ and not ports.is_free(port, host):
        raise ClusterError(
            f"port {port} is taken by {ports.owner(port)}",
            expected="a free port for the endpoint",
            hint="stop that process, or choose another with --set serve.port=…",
        )
    try:
        serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
    except (GetTimeoutError, ActorDiedError) as error:
        raise ClusterError(
            f"Ray Serve's proxy did not start: {error}",
            expected=f"that it listens on port {port} within a minute",
            hint="where the machine is only slow, give the command again: what is done is kept",
        ) from error


def _release(
    opened: Bundle, path: str | UPath, name: str, settings: Serve, keyring_id: str | None
) -> Release:
    manifest = opened.manifest
    determined = [manifest.digest, name, settings.model_dump_json()]
    determined += [keyring_id or "", __version__]
    return {
        "name": name,
        "version": manifest.version,
        "bundle": str(path),
        "digest": hashlib.sha256("\n".join(determined).encode()).hexdigest(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": f"http://127.0.0.1:{settings.port}/{name}/predict",
        "auth": settings.auth,
        "keyring": keyring_id,
        "metrics": settings.metrics,
        "metadata": {**inference.metadata(manifest), "name": name},
    }


def _is_live(release: Release) -> bool:
    if not _serve_port():
        return False
    name = release["name"]
    known: dict[str, Release] = ray.get(board().releases.remote())
    same = name in known and known[name]["digest"] == release["digest"]
    return same and running_replicas().get(name, ("", 0))[0] == "RUNNING"


def _run(release: Release, settings: Serve, gpus: float) -> None:
    name = release["name"]
    application = _deployment(settings, gpus).bind(
        name, release["bundle"], settings.model_dump_json(), release["keyring"]
    )
    targets = [serve.RunTarget(application, name=name, route_prefix=f"/{name}")]
    if _FRONT not in running_replicas():
        front = serve.deployment(
            name="front",
            ray_actor_options={"num_cpus": 0},
            max_ongoing_requests=256,
            logging_config={"enable_access_log": False},
        )(serve.ingress()(FrontReplica))
        targets.append(serve.RunTarget(front.bind(), name=_FRONT, route_prefix="/"))
    try:
        serve.run_many(targets)
    except RuntimeError as error:
        message = serve.status().applications[name].message
        raise ClusterError(
            f"the endpoint did not start: {message.strip() or error}",
            where=name,
            hint="what was live before still is; the replicas' logs are in Ray's session folder",
        ) from error


def _deployment(settings: Serve, gpus: float) -> serve.Deployment:
    return serve.deployment(
        name="model",
        autoscaling_config={
            "min_replicas": settings.replicas.min,
            "max_replicas": settings.replicas.max,
            "target_ongoing_requests": settings.target_ongoing_requests,
            "upscale_delay_s": settings.upscale_delay_s,
            "downscale_delay_s": settings.downscale_delay_s,
            # Load is averaged over this; the default of 30 answers a rush half a minute late.
            # It has to be above Serve's nominal interval of 10.
            "look_back_period_s": 11,
        },
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": gpus},
        # A new version's replica answers before an old one is stopped.
        max_surge_percent=100,
        # Requests are counted (GET /metrics); a line for each would cost a fifth of the speed.
        logging_config={"enable_access_log": False},
    )(serve.ingress()(Replica))


def _wait_for_answer(
    release: Release, row: dict[str, Any], settings: Serve, key: str | None
) -> None:
    """Return once the new version has predicted `row`, for Serve is ready before its proxy is."""
    body = json.dumps({"rows": [row]})
    headers = {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})}
    last = "no answer"
    until = time.monotonic() + _ANSWER_WITHIN_S
    while time.monotonic() < until:
        connection = http.client.HTTPConnection("127.0.0.1", settings.port, timeout=10)
        try:
            connection.request("POST", f"/{release['name']}/predict", body, headers)
            response = connection.getresponse()
            text = response.read()
            if response.status == 200 and json.loads(text)["version"] == release["version"]:
                return
            last = f"{response.status} {text[:200].decode(errors='replace')}"
        except OSError as error:
            last = str(error)
        finally:
            connection.close()
        time.sleep(0.05)
    raise ClusterError(
        f"the endpoint does not answer: {last}", where=release["url"], expected="a prediction"
    )


def _serve_port() -> int | None:
    """The port of the cluster's endpoints, or None where Serve does not run."""
    # Serve has no public way to ask for what it was started with.
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return int(client.http_config.port) if client else None


def _curl(release: Release, row: dict[str, Any]) -> str:
    key = ' -H "X-API-Key: $(ray-pipeline key)"' if release["auth"] == "key" else ""
    body = json.dumps({"rows": [row]}).replace("'", "'\\''")
    return f"curl -sS {release['url']}{key} -d '{body}'"
