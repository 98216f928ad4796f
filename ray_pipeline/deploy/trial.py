"""A new version beside the one that is live: it answers more and more requests, watched by gates.

The replicas of the old version pass a share of their requests on (split.py) and answer themselves
where the new one fails. Who tries renews the trial twice a second; if its process dies, the board
ends the trial after ten seconds and the old version answers everything.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
from ray import serve
from ray.exceptions import RayError

from ray_pipeline.deploy import application, tally
from ray_pipeline.deploy.board import Release, board
from ray_pipeline.deploy.split import Answered
from ray_pipeline.errors import GateRefused, PipelineError, UsageError
from ray_pipeline.job import Serve, Trial

_LOOK_S = 0.5
_LEASE_S = 10.0
_TAKEOVER_S = 600.0
_HEARD_S = 2.0
"""Replicas hear of a change within a second."""
_WARM = 20
_LOGGER = logging.getLogger(__name__)


class Phase(NamedTuple):
    """A part of a trial: what share of requests, and whether it only gets copies of them."""

    percent: float
    copies: bool

    def __str__(self) -> str:
        return f"{'copies of ' if self.copies else ''}{self.percent:g} % of requests"


@contextmanager
def passed(
    release: Release, live: Release, settings: Serve, gpus: float, row: dict[str, Any]
) -> Iterator[list[dict[str, Any]]]:
    """Try `release` beside `live`; the block, in which it takes its place, begins once the gates
    have let it through. It goes on answering its last share until the block ends.

    Yields:
        For each phase what was answered, by the new version and by the old one.

    Raises:
        GateRefused: it failed, was slow or predicts differently, or somebody stopped it.
        ClusterError: it does not start.
        UsageError: another version is being tried.
    """
    asked = settings.release
    assert asked is not None, "a release without steps is not tried"
    name, beside = release["name"], f"{release['name']}.next"
    if other := ray.get(board().trials.remote()).get(name):
        raise UsageError(
            f"version {other['version']} is being tried",
            where=name,
            hint=f"`ray-pipeline promote {name}` lets it take over, `rollback {name}` ends it",
        )
    try:
        application.run_beside(release, settings, gpus, beside)
        _warm(release, beside, row)
        yield _phases(release, live, asked, beside)
    finally:
        ray.get(board().end.remote(name))
        time.sleep(_HEARD_S)
        serve.delete(beside)


def _phases(release: Release, live: Release, asked: Trial, beside: str) -> list[dict[str, Any]]:
    shadow = [Phase(asked.shadow, copies=True)] if asked.shadow else []
    phases = [*shadow, *(Phase(percent, copies=False) for percent in asked.steps)]
    passed = []
    for phase in phases:
        _begin(release, live, asked, beside, phase, _LEASE_S)
        held, promoted = _held(release, live, asked, phase)
        passed.append(held)
        if promoted:
            break
    if phases:
        _begin(release, live, asked, beside, phase, _TAKEOVER_S)
    return passed


def _begin(  # noqa: PLR0917 - what a trial is
    release: Release, live: Release, asked: Trial, beside: str, phase: Phase, lease_s: float
) -> None:
    told = {
        "against": live["digest"],
        "application": beside,
        "share": phase.percent / 100,
        "copies": phase.copies,
        "within_s": asked.answer_within_s,
    }
    _LOGGER.info("%s: version %s gets %s", release["name"], release["version"], phase)
    ray.get(board().begin.remote(release["name"], release["version"], told, lease_s))


def _held(
    release: Release, live: Release, asked: Trial, phase: Phase
) -> tuple[dict[str, Any], bool]:
    """What was answered in a phase that no gate ended, and whether somebody ended the trial well.

    Raises:
        GateRefused: a gate did, or somebody stopped it.
    """
    name, until = release["name"], time.monotonic() + asked.hold_s
    while True:
        time.sleep(min(_LOOK_S, asked.hold_s))
        followed = ray.get(board().follow.remote(name, _LEASE_S))
        if followed is None:
            lost = GateRefused(f"not heard of for {_LEASE_S:g} s", where=name)
            raise _refused(release, live, phase, lost)
        tallies, wish = followed
        old, new = tallies["old"], tallies["new"]
        if wish == "stop":
            raise _refused(release, live, phase, GateRefused("stopped by `rollback`", where=name))
        if refusal := tally.refusal(old, new, asked):
            raise _refused(release, live, phase, refusal)
        if wish == "promote" or time.monotonic() >= until:
            return _figures(phase, old, new), wish == "promote"


def _refused(release: Release, live: Release, phase: Phase, why: GateRefused) -> GateRefused:
    return GateRefused(
        f"version {release['version']} was refused at {phase}: {why.what}",
        where=why.where,
        expected=why.expected,
        hint=f"version {live['version']} answers everything again"
        + (f"; {why.hint}" if why.hint else ""),
    )


def _figures(phase: Phase, old: tally.Tally, new: tally.Tally) -> dict[str, Any]:
    def milliseconds(one: tally.Tally) -> float | None:
        late = tally.p99(one)
        return None if late is None else round(1000 * late, 3)

    return {
        "percent": phase.percent,
        "copies": phase.copies,
        "answers": new["answers"],
        "failures": sum(new["failures"].values()),
        "p99_ms": milliseconds(new),
        "old_answers": old["answers"],
        "old_p99_ms": milliseconds(old),
        "distance": round(tally.distance(old, new)[0], 4),
        "differing": new["differing"] if phase.copies else None,
    }


def _warm(release: Release, beside: str, row: dict[str, Any]) -> None:
    """Have it answer an example row, first slowly, then as it will.

    Raises:
        GateRefused: it does not.
    """
    body, handle = json.dumps({"rows": [row]}).encode(), serve.get_app_handle(beside)
    try:
        for _ in range(_WARM):
            answer: Answered = handle.answered.remote(body, []).result(timeout_s=60)
            assert answer.response.status == 200, "other answers are raised"
    except (RayError, PipelineError, TimeoutError) as error:
        cause = getattr(error, "cause", None) or error
        raise GateRefused(
            f"version {release['version']} does not answer its own example row: "
            f"{type(cause).__name__}: {str(cause).splitlines()[0]}",
            where=release["name"],
            expected="a prediction",
            hint="what was live before still is; the replicas' logs are in Ray's session folder",
        ) from error


def findings(phases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table of a trial's phases, for the report."""
    heads = ["requests", "answers", "failures", "p99 ms", "old p99 ms", "distance"]
    rows = [
        [
            str(Phase(one["percent"], one["copies"])),
            one["answers"],
            one["failures"],
            one["p99_ms"],
            one["old_p99_ms"],
            one["distance"],
        ]
        for one in phases
    ]
    note = "What the new version answered beside the old one before it took over."
    return [{"title": "The release", "note": note, "tables": [{"columns": heads, "rows": rows}]}]
