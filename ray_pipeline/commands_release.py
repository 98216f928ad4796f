"""What the commands about live endpoints do: release, list, go back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ray_pipeline.commands import printed


def deploy(options: argparse.Namespace) -> None:
    """Put a bundle behind an endpoint.

    Settings are those that the endpoint has now, or the defaults, changed by `--set`.
    """
    from ray_pipeline import bundle, cluster, jobfile
    from ray_pipeline.deploy import changes, release

    opened = bundle.opened(options.bundle)
    cluster.connect()
    name = options.name or opened.manifest.name
    settings = jobfile.serving(options.set, changes.settings(name))
    live = release.deploy(options.bundle, name, settings, why=options.why)
    if not live["unchanged"]:
        _tell_mlflow(name, options.storage)
    printed(live, [live["endpoint"]], options.json)


def endpoints(options: argparse.Namespace) -> None:
    """List what is live where, since when and by whom; with `--history`, what was."""
    from ray_pipeline import cluster
    from ray_pipeline.deploy import changes, release

    cluster.connect(start=False)
    if options.history:
        entries = changes.released(options.history, options.storage)
        printed({"history": entries}, _history_lines(entries) or ["no releases"], options.json)
        return
    live = release.endpoints()
    printed({"endpoints": live}, _live_lines(live) or ["nothing is live"], options.json)


def rollback(options: argparse.Namespace) -> None:
    """Put back what was live before, or end the trial of a new version."""
    from ray_pipeline import cluster
    from ray_pipeline.deploy import changes

    cluster.connect()
    back = changes.rollback(options.name, options.storage, options.to, options.why)
    if "stopped" in back:
        lines = [f"version {back['stopped']} is no longer tried; the old one answers everything"]
    else:
        _tell_mlflow(options.name, options.storage)
        instead = f", instead of {back['from']}" if back["from"] else ""
        lines = [f"version {back['version']} is live again{instead}"]
    printed(back, lines, options.json)


def remove(options: argparse.Namespace) -> None:
    """Take an endpoint down; `rollback` puts it back."""
    from ray_pipeline import cluster
    from ray_pipeline.deploy import changes

    cluster.connect(start=False)
    version = changes.remove(options.name, options.why)
    told = {"name": options.name, "removed": version}
    printed(told, [f"version {version} is no longer live, and nothing is there"], options.json)


def promote(options: argparse.Namespace) -> None:
    """Let the version that is being tried take over now, or the one that `watch` has waiting."""
    from ray_pipeline import cluster
    from ray_pipeline.deploy import changes

    if options.job:
        _approve(options)
        return
    cluster.connect(start=False)
    version = changes.promote(options.name)
    told = {"name": options.name, "promoted": version}
    printed(told, [f"version {version} takes over"], options.json)


def _approve(options: argparse.Namespace) -> None:
    from ray_pipeline import cluster, jobfile
    from ray_pipeline.commands_watch import lines, watching_of
    from ray_pipeline.errors import UsageError

    job = jobfile.read(options.job)
    cluster.connect(start=False)
    decision = watching_of(job).promoted() if job.name == options.name else None
    if decision is None:
        raise UsageError(
            "no challenger waits",
            where=options.name,
            expected="one that `watch` has found better, with `watch: {approve: true}`",
        )
    printed(decision, lines(decision), options.json)


def _tell_mlflow(name: str, storage: str) -> None:
    from ray_pipeline.deploy import changes, registry

    registry.told(changes.released(name, storage)[-1])


def _live_lines(live: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for one in live:
        why = f" ({one['why']})" if one["why"] else ""
        lines.append(
            f"{one['name']:<16} {one['version']:<18} {one['status']:<10} {one['replicas']} "
            f"replicas  since {one['since']} by {one['by']}{why}  {one['url']}"
        )
        if trial := one["trial"]:
            gets = f"{'copies of ' if trial['copies'] else ''}{trial['percent']:g} % of requests"
            answers = f"{trial['answers']} answers, {trial['failures']} failures"
            lines.append(f"{'':<16} {trial['version']:<18} {'TRIED':<10} {gets}, {answers}")
    return lines


def _history_lines(entries: Sequence[Any]) -> list[str]:
    return [
        f"{e['since']}  {e['action']:<9} {e['version']:<18} {e['by']:<12} {e['why']}".rstrip()
        for e in entries
    ]
