"""Back to an earlier release, on with a tried one, an endpoint taken down; what was released."""

from __future__ import annotations

from typing import Any

import ray
from ray import serve

from ray_pipeline import audit
from ray_pipeline.deploy import application, history, release
from ray_pipeline.deploy.board import Release, board
from ray_pipeline.errors import UsageError
from ray_pipeline.job import Serve


def rollback(name: str, storage: str, version: str | None = None, why: str = "") -> dict[str, Any]:
    """Put back the release that was live before, or the newest of `version`, with its settings.

    A new version that is being tried beside the live one is ended instead, which takes a second.

    Args:
        name: the endpoint's.
        storage: where releases were kept, if nothing is live that knows.
        version: of a bundle that was live.
        why: for the history.

    Returns:
        What `deploy` does, and `from`, the version that was live, if one was; or `stopped`, the
        version that was being tried.

    Raises:
        UsageError: there is no such release.
        PipelineError: as `deploy` does.
    """
    running = application.serve_port()
    if running and version is None:
        stopped = ray.get(board().wish.remote(name, "stop"))
        if stopped:
            return {"name": name, "stopped": stopped}
    entries = released(name, storage)
    target = history.before(entries, name, version)
    latest = next((e for e in reversed(entries) if e["action"] != "refused"), None)
    gone = latest["version"] if latest and latest["action"] != "remove" else ""
    then = Serve.model_validate_json(target["settings"])
    back = release.deploy(target["bundle"], name, then, why=why, action="rollback")
    return {**back, "name": name, "from": gone}


def remove(name: str, why: str = "") -> str:
    """Take an endpoint down, which nothing answers for then, and return the version that was live.

    Raises:
        UsageError: there is no such endpoint, a version is being tried on it, or it is one of
            several that share replicas.
    """
    live = ray.get(board().releases.remote()) if application.serve_port() else {}
    if name not in live:
        raise UsageError(
            "nothing is live there",
            where=name,
            expected=f"one of {', '.join(sorted(live))}" if live else "an endpoint",
        )
    gone: Release = live[name]
    if "application" in gone:
        raise UsageError(
            "it shares its replicas with other endpoints",
            where=name,
            expected="an endpoint with replicas of its own",
            hint="`ray-pipeline serve` with the other bundles replaces all that it served",
        )
    if name in ray.get(board().trials.remote()):
        raise UsageError(
            "a version is being tried there",
            where=name,
            hint=f"`ray-pipeline rollback {name}` ends the trial",
        )
    serve.delete(name)
    ray.get(board().removed.remote(name))
    release.told({**gone, "since": release.now(), "by": audit.user()}, "remove", why)
    return gone["version"]


def promote(name: str) -> str:
    """Let the version that is being tried take over now, and return it.

    Raises:
        UsageError: none is being tried.
    """
    promoted = ray.get(board().wish.remote(name, "promote")) if application.serve_port() else None
    if promoted is None:
        raise UsageError(
            "no version is being tried",
            where=name,
            expected="a `deploy` or `run` under way with `serve.release`",
            hint="`ray-pipeline deploy BUNDLE` makes a version live",
        )
    return str(promoted)


def released(name: str, storage: str) -> list[history.Entry]:
    """What was released under that name, oldest first, as far as the cluster, the storage of what
    is live and `storage` know."""
    if not application.serve_port():
        return history.read(storage, name)
    known = ray.get(board().history.remote(name))
    storages = {storage, *(audit.storage_of(kept["bundle"]) for kept in known)}
    return history.joined(*(history.read(one, name) for one in sorted(storages)), known)


def settings(name: str) -> Serve | None:
    """The settings of the endpoint that is live; None where there is none."""
    if not application.serve_port():
        return None
    live = ray.get(board().releases.remote()).get(name)
    return None if live is None else Serve.model_validate_json(live["settings"])
