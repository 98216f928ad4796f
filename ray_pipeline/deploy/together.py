"""Many bundles behind one application: `ray-pipeline serve --loaded N BUNDLE …`.

They share replicas with what answers at `/`, for Ray Serve gives an application one prefix. Each
has its own path, keys, counters and page, as an endpoint of its own has.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import ray
from ray import serve

from ray_pipeline import bundle
from ray_pipeline.deploy import application, auth, keyring, release, runtime
from ray_pipeline.deploy.app import Endpoint
from ray_pipeline.deploy.asgi import ASGIApp, Header, Response
from ray_pipeline.deploy.auth import Gate
from ray_pipeline.deploy.board import board
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.example import example_request
from ray_pipeline.deploy.front import Front
from ray_pipeline.deploy.many import Kept, Loaded, Many
from ray_pipeline.deploy.pages import pages
from ray_pipeline.deploy.replica import Upkeep, endpoint
from ray_pipeline.deploy.tokens import Tokens
from ray_pipeline.errors import ClusterError, JobError
from ray_pipeline.job import Serve


class ManyReplica:
    """One process that answers for many endpoints, and at `/`.

    Args:
        paths: the bundles by endpoint, as JSON; each is checked when it is loaded.
        settings: the `serve` section, as JSON.
        keyring_id: whose published keys open them, or None for everybody.
        loaded: how many are in memory at most.
    """

    def __init__(self, paths: str, settings: str, keyring_id: str | None, loaded: int) -> None:
        self._paths: dict[str, str] = json.loads(paths)
        self._settings = Serve.model_validate_json(settings)
        self._counters = {name: Counters() for name in self._paths}
        tokens = Tokens(self._settings.jwt) if self._settings.jwt else None
        gates = {name: Gate(name, tokens=tokens) if keyring_id else None for name in self._paths}
        self._kept = {name: Kept(gates[name], self._pages(name)) for name in self._paths}
        self._upkeeps = [
            Upkeep(name, self._counters[name], gates[name], keyring_id, "") for name in self._paths
        ]
        for upkeep in self._upkeeps:
            upkeep.renew()
        self._many = Many(
            self._kept,
            Loaded(self._endpoint, loaded),
            Front({name: partial(self._infer, name) for name in self._paths}),
            started=self._started,
            stopped=self._stopped,
        )
        gc.collect()
        gc.freeze()

    def __serve_build_asgi_app__(self) -> ASGIApp:  # Ray Serve's hook
        return self._many

    def _started(self) -> None:
        for upkeep in self._upkeeps:
            upkeep.start()

    def _stopped(self) -> None:
        for upkeep in self._upkeeps:
            upkeep.stop()

    async def _infer(self, name: str, body: bytes, headers: list[Header]) -> Response:
        return await self._many.infer(name, body, headers)

    def _pages(self, name: str) -> dict[str, Response]:
        return pages(name, bundle.opened(self._paths[name], verify=False), self._settings)

    def _endpoint(self, name: str) -> Endpoint:
        kept, path = self._kept[name], self._paths[name]
        return endpoint(
            name,
            path,
            self._settings,
            gate=kept.gate,
            counters=self._counters[name],
            made=dict(kept.pages),
        )


def deploy(names: Mapping[str, str], settings: Serve, loaded: int) -> list[dict[str, Any]]:
    """Put bundles behind one application; of each its `endpoint` (a URL), `version` and `name`.

    Args:
        names: by a bundle's path the name of its endpoint.
        loaded: how many a replica has in memory at most.

    Raises:
        BundleError: a bundle is not whole, or is a language model.
        JobError: two have one name, or the settings are those of one model.
        ClusterError: the port is taken, Serve listens on another, or no replica starts.
    """
    given = [name for name in _ONE_BUNDLE if getattr(settings, name)]
    if given:
        raise JobError(
            f"many bundles in one application take no `{given[0]}`",
            where="serve",
            hint="serve such a bundle on its own",
        )
    if len(set(names.values())) < len(names) or loaded < 1:
        raise JobError(
            f"{len(names)} bundles, {len(set(names.values()))} names, {loaded} loaded",
            where="serve --loaded",
            expected="bundles of different names, and at least one loaded",
        )
    paths = {name: path for path, name in names.items()}
    opened = {name: bundle.opened(path) for name, path in paths.items()}
    for one in opened.values():
        runtime.check_predicts(one)
    key = auth.key() if settings.auth == "key" else None
    keyring_id = keyring.publish(key) if key else None
    application.start(settings)
    _run(paths, settings, keyring_id, loaded)
    done = []
    for name, one in opened.items():
        made = release.described(one, paths[name], name, settings, keyring_id)
        made["application"] = application.FRONT
        application.wait_for_answer(made, example_request(one, made["name"]), settings, key)
        ray.get(board().released.remote(made))
        done.append({"endpoint": made["url"], "version": made["version"], "name": name})
    return done


_ONE_BUNDLE = ("online", "jobs", "log", "gpus", "apart", "grpc")
"""Settings that are of one bundle."""


def _run(paths: Mapping[str, str], settings: Serve, keyring_id: str | None, loaded: int) -> None:
    deployment = application.deployment(settings, ManyReplica, gpus=0)
    bound = deployment.bind(json.dumps(dict(paths)), settings.model_dump_json(), keyring_id, loaded)
    try:
        serve.run_many([serve.RunTarget(bound, name=application.FRONT, route_prefix="/")])
    except RuntimeError as error:
        message = serve.status().applications[application.FRONT].message
        raise ClusterError(
            f"the endpoints did not start: {message.strip() or error}",
            where=", ".join(paths),
            hint="the replicas' logs are in Ray's session folder",
        ) from error
