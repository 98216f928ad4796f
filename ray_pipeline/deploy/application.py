"""What Ray Serve is told of endpoints: to start, to run a version, to run another beside it."""

from __future__ import annotations

import http.client
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import ray
from ray import serve
from ray.exceptions import ActorDiedError, RayTaskError

from ray_pipeline.deploy import grpc_calls, parts, ports, scaling
from ray_pipeline.deploy.board import Release
from ray_pipeline.deploy.example import Request
from ray_pipeline.deploy.front import FrontReplica, running_replicas
from ray_pipeline.errors import ClusterError
from ray_pipeline.job import Serve

FRONT = "ray_pipeline"
"""The application that answers outside the endpoints."""
REPLICAS = {"chat": "ray_pipeline.chat.replica:ChatReplica"}
"""What answers for a bundle's task, as `module:class`, if not a replica that predicts rows."""
_PREDICTS = "ray_pipeline.deploy.replica:Replica"
_ANSWER_WITHIN_S = 180.0
_START_WITHIN_S = 180.0
_LOGGER = logging.getLogger(__name__)


def serve_port() -> int | None:
    """The port of the cluster's endpoints, or None where Serve does not run."""
    # Serve has no public way to ask for what it was started with.
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return int(client.http_config.port) if client else None


def _grpc_port() -> int | None:
    """The port of the cluster's endpoints for gRPC, or None where Serve has none."""
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None, "Serve runs"
    told: Any = ray.get(client._controller.get_grpc_config.remote())
    return int(told.port) if told.grpc_servicer_functions else None


def start(settings: Serve) -> None:
    """Start Serve on the cluster, with what answers outside the endpoints, if it is not there.

    Raises:
        ClusterError: a port is taken, or Serve listens on another.
    """
    # Its lines about what it starts are not the caller's, who is told by exception what fails.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if found := serve_port():
        _check_ports(settings, found)
        return
    for name in ("port", "grpc"):
        port = getattr(settings, name)
        if port and "RAY_ADDRESS" not in os.environ and not ports.is_free(port, settings.host):
            raise ClusterError(
                f"port {port} is taken by {ports.owner(port)}",
                expected="a free port for the endpoint",
                hint=f"stop that process, or choose another with --set serve.{name}=…",
            )
    try:
        with _patience():
            serve.start(
                proxy_location="EveryNode",
                http_options={"host": settings.host, "port": settings.port},
                grpc_options=grpc_calls.options(settings.grpc) if settings.grpc else None,
            )
    except (ActorDiedError, RayTaskError) as error:
        raise ClusterError(
            f"Ray Serve's proxy did not start: {str(error).strip().splitlines()[-1]}",
            expected=f"that it listens on port {settings.port}",
            hint="`ray-pipeline down` and `ray-pipeline up` start afresh, on other ports",
        ) from error


@contextmanager
def _patience() -> Iterator[None]:
    """Go on where Ray has given up waiting for its proxies: it does after a minute, which they can
    take on a busy machine, and `wait_for_answer` sees that they are there."""
    try:
        yield
    except TimeoutError as error:
        _LOGGER.warning("%s The endpoint's first answer is waited for.", error)


def _check_ports(settings: Serve, found: int) -> None:
    """Raises ClusterError: Serve does not listen where the job would have it, and it cannot be
    told to once it runs."""
    if found != settings.port:
        raise ClusterError(
            f"this cluster's endpoints are on port {found} already",
            expected=f"port {settings.port}, by the job's `serve.port`",
            hint=f"set serve.port={found}, or `ray-pipeline down` first",
        )
    if settings.grpc and (grpc := _grpc_port()) != settings.grpc:
        raise ClusterError(
            f"this cluster's endpoints speak gRPC on port {grpc}"
            if grpc
            else "this cluster's endpoints do not speak gRPC",
            expected=f"port {settings.grpc}, by the job's `serve.grpc`",
            hint=(f"set serve.grpc={grpc}, or " if grpc else "") + "`ray-pipeline down` first",
        )


def run(release: Release, settings: Serve, gpus: float) -> None:
    """Put the release behind its path, in place of what is there, replica by replica.

    Raises:
        JobError: `serve.autoscaling` cannot be imported.
        ClusterError: no replica starts.
    """
    name = release["name"]
    application = _application(release, settings, gpus)
    targets = [serve.RunTarget(application, name=name, route_prefix=f"/{name}")]
    if FRONT not in running_replicas():
        front = serve.deployment(
            name="front",
            ray_actor_options={"num_cpus": 0},
            max_ongoing_requests=256,
            logging_config={"enable_access_log": False},
        )(serve.ingress()(FrontReplica))
        targets.append(serve.RunTarget(front.bind(), name=FRONT, route_prefix="/"))
    try:
        with _patience():
            serve.run_many(targets)
    except RuntimeError as error:
        message = serve.status().applications[name].message
        raise ClusterError(
            f"the endpoint did not start: {message.strip() or error}",
            where=name,
            hint="what was live before still is; the replicas' logs are in Ray's session folder",
        ) from error


def run_beside(release: Release, settings: Serve, gpus: float, name: str) -> None:
    """Run the release as the application `name`, which is reached through a handle only.

    Raises:
        JobError: `serve.autoscaling` cannot be imported.
        ClusterError: no replica starts.
    """
    replicas = settings.replicas.model_copy(update={"min": max(1, settings.replicas.min)})
    # What it answers is not logged: requests of which it gets copies would be twice.
    beside = settings.without("log").model_copy(update={"replicas": replicas})
    # It lets nobody in: whose requests it gets was looked at by the version that sends them.
    application = _application({**release, "name": name, "keyring": None}, beside, gpus)
    target = serve.RunTarget(application, name=name, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)
    until, found = time.monotonic() + _START_WITHIN_S, serve.status().applications[name]
    while found.status.value == "DEPLOYING" and time.monotonic() < until:
        time.sleep(0.2)
        found = serve.status().applications[name]
    if found.status.value != "RUNNING":
        raise ClusterError(
            f"version {release['version']} did not start beside the one that is live: "
            f"{found.message.strip() or found.status.value}",
            where=release["name"],
            expected=f"a replica within {_START_WITHIN_S:g} s",
            hint="both versions' replicas need room on the cluster (`serve.cpus`, `serve.gpus`); "
            "what was live before still is",
        )


def deployment(settings: Serve, replica: type, gpus: float) -> serve.Deployment:
    """How Ray Serve runs replicas of the class `replica`. Raises JobError."""
    return serve.deployment(
        name="model",
        autoscaling_config={
            **scaling.policy(settings.autoscaling),
            **scaling.bounds(settings, settings.replicas, settings.target_ongoing_requests),
        },
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        ray_actor_options={"num_cpus": scaling.reserved(settings.cpus), "num_gpus": gpus},
        # A new version's replica answers before an old one is stopped.
        max_surge_percent=100,
        # Requests are counted (GET /metrics); a line for each would cost a fifth of the speed.
        logging_config={"enable_access_log": False},
    )(serve.ingress()(replica))


def _application(release: Release, settings: Serve, gpus: float) -> serve.Application:
    own = settings.without("release").model_dump_json()
    module, _, kind = REPLICAS.get(release.get("task", ""), _PREDICTS).partition(":")
    return deployment(settings, getattr(import_module(module), kind), gpus).bind(
        release["name"], release["bundle"], own, release["keyring"], release["digest"],
        **parts.applications(release["bundle"], settings),
    )  # fmt: skip


def wait_for_answer(release: Release, asked: Request, settings: Serve, key: str | None) -> None:
    """Return once the new version has answered, for Serve is ready before its proxy is."""
    body = json.dumps(asked.body)
    headers = {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})}
    last = "no answer"
    until = time.monotonic() + _ANSWER_WITHIN_S
    while time.monotonic() < until:
        connection = http.client.HTTPConnection("127.0.0.1", settings.port, timeout=10)
        try:
            connection.request("POST", f"/{release['name']}/{asked.path}", body, headers)
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
        f"the endpoint does not answer: {last}", where=release["url"], expected="an answer"
    )
