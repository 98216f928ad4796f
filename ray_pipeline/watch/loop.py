"""Look, decide, and do what was decided: once, or again and again.

    nothing    all is as it was, or nothing can be done about what is not
    refuse     something is to be done, and must not be: too many runs today, nothing to judge by
    rollback   what was live before is better on the rows whose labels came
    run        a challenger is trained, judged, and released if it is better

Each step of a decision is written down before the next begins, and none that can be seen from
outside is done twice: whoever is killed is gone on from by the next look. What was released is
looked up in the endpoint's own history, which is written with the release.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from upath import UPath

from ray_pipeline import bundle, files, runs
from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy import engines, history, log_files, reference
from ray_pipeline.deploy.history import Entry
from ray_pipeline.errors import DataError, GateRefused, JobError, UsageError
from ray_pipeline.job import Job, Log, Serve, Watch
from ray_pipeline.runs import Record
from ray_pipeline.watch import decisions, judge, look, window
from ray_pipeline.watch.decisions import Decision, Decisions
from ray_pipeline.watch.look import Look
from ray_pipeline.watch.window import Files

_TRIES = 3
"""After so many tries that were ended from outside a decision is given up."""

Train = Callable[[Job, str], Record]
"""Runs a job as far as a stage, and returns the run's record: `pipeline.run`, given from above."""


class Endpoint(Protocol):
    """The endpoint that is watched (deploy/release.py, deploy/changes.py)."""

    def live(self) -> str | None: ...
    def history(self) -> list[Entry]: ...
    def deploy(self, path: str, settings: Serve, why: str) -> None: ...
    def rollback(self, why: str) -> None: ...
    def told(self, figures: dict[str, Any]) -> None: ...


class Watching:
    """The watch over one job's endpoint.

    Args:
        job: with a `watch` section.
        train: runs the path.
        endpoint: what is live.

    Raises:
        JobError: there is no such section, or a challenger could not be trained.
    """

    def __init__(self, job: Job, train: Train, endpoint: Endpoint) -> None:
        if job.watch is None:
            raise JobError("nothing is to be watched", where="watch", expected="a section `watch`")
        window.check(job)
        self._job, self._train, self._endpoint = job, train, endpoint
        self._watch: Watch = job.watch
        self._root = UPath(job.storage) / job.name
        self.decisions = Decisions(self._root)

    def once(self) -> Decision:
        """Go on with what was left unfinished, or look and decide; what came of it.

        Raises:
            JobError: another process is at it.
            PipelineError: a step failed; the next look tries again.
        """
        with files.only_one(self._root / "watch", f"watch {self._job.name}"):
            decision = self.decisions.unfinished() or self._decided()
            return self._done(decision)

    def promoted(self) -> Decision | None:
        """Release the challenger that waits for a person; None where none does."""
        with files.only_one(self._root / "watch", f"watch {self._job.name}"):
            waiting = self.decisions.waiting()
            if waiting is None:
                return None
            if waiting.get("live", {}).get("bundle") != self._endpoint.live():
                return self._ended(waiting, "refused", "another version is live by now")
            waiting["outcome"] = None
            waiting["approved"] = True
            self.decisions.save(waiting)
            return self._done(waiting)

    def _decided(self) -> Decision:
        """What a look leads to; it is kept, and nothing is done about it yet."""
        live = self._endpoint.live()
        opened = bundle.opened(live) if live else None
        seen = self._look(str(live), opened) if opened else None
        decision = self._choice(opened, seen)
        if seen:
            decision["look"] = seen.record()
        if opened:
            manifest = opened.manifest
            told = {"version": manifest.version, "digest": manifest.digest}
            decision["live"] = {"bundle": str(live), **told}
        self.decisions.looked(decision)
        self._endpoint.told(_figures(seen))
        if decision["action"] == "nothing":
            decision["outcome"] = "nothing"
        elif decision["action"] == "refuse" and self._is_repeated(decision):
            decision["outcome"] = "refused"  # one record says so until something changes
        else:
            self.decisions.save(decision)
        return decision

    def _is_repeated(self, decision: Decision) -> bool:
        newest = self.decisions.all()[-1:]
        return bool(newest) and newest[0]["why"] == decision["why"]

    def _look(self, live: str, opened: Bundle) -> Look | None:
        kept = log_files.folder(live, self._job.name)
        return look.looked(kept, opened, self._watch.drift, self._watch.log or Log())

    def _choice(self, opened: Bundle | None, seen: Look | None) -> Decision:
        if opened and seen and (better := self._before_is_better(seen)):
            return decisions.made("rollback", [better])
        known = self._seen(opened)
        chosen = window.chosen(self._job.data.source, self._watch.window, known)
        why = self._triggers(opened, seen, chosen)
        if not why:
            return decisions.made("nothing", ["all is as it was"])
        if opened and not known:
            what = "what the live model has learned from is not known: a `run` here has not made it"
            return decisions.made("nothing", [*why, what])
        if cannot := self._impossible(opened, chosen):
            return decisions.made("nothing", [*why, cannot])
        if (count := self.decisions.runs_today()) >= self._watch.max_runs:
            most = f"{count} runs in 24 hours, and {self._watch.max_runs} are allowed"
            return decisions.made("refuse", [*why, most])
        return decisions.made("run", why, learn=list(chosen.learn), judge=list(chosen.judge))

    def _triggers(self, opened: Bundle | None, seen: Look | None, chosen: Files) -> list[str]:
        """Why a challenger is to be trained; none if it is not."""
        if opened is None:
            return ["nothing is live"]
        settings, why = self._watch, []
        for one in seen.alarms if seen else ():
            why.append(
                f"{one.column}: {one.question} {one.size:.3g}, beyond {one.bound:g} "
                f"(by chance {one.chance:.2g})"
            )
        if settings.new_files is not None and len(chosen.new) >= settings.new_files:
            why.append(f"{len(chosen.new)} new files, up to {UPath(chosen.new[-1]).name}")
        if settings.every_days is not None and _age_days(opened) > settings.every_days:
            why.append(f"the model is older than {settings.every_days:g} days")
        return why

    def _impossible(self, opened: Bundle | None, chosen: Files) -> str:
        """Why there is nothing to train a challenger on; empty if there is."""
        if not chosen.learn:
            return "there are too few files to learn from some and judge on others"
        if opened and not set(chosen.judge) <= set(chosen.new):
            return "no labelled file is there that neither model has seen"
        for one in self.decisions.all():
            same = one.get("learn") == list(chosen.learn) and one.get("judge") == list(chosen.judge)
            if same and one["action"] == "run" and opened:
                return f"the same files were decided on in {one['id']}: {one['outcome']}"
        return ""

    def _seen(self, opened: Bundle | None) -> list[str]:
        """Files that the live model has learned from or was judged on."""
        if opened is None:
            return []
        at = str(self._endpoint.live())
        if made := self.decisions.about(at):
            return [*made["learn"], *made["judge"]]
        for record in runs.listed(self._job.storage, self._job.name):
            if record.get("bundle") == at:
                return list(record.get("sources", ()))
        return []

    def _before_is_better(self, seen: Look) -> str:
        if len(seen.labelled) < self._watch.drift.min_labels:
            return ""
        try:
            before = history.before(self._endpoint.history(), self._job.name)
        except UsageError:  # nothing was live before
            return ""
        opened = bundle.opened(before["bundle"])
        masked = self._watch.log.mask if self._watch.log else ()
        return judge.better_before(seen.labelled, opened, self._watch.drift, masked)

    def _done(self, decision: Decision) -> Decision:
        """Do what is left of a decision."""
        if decision["outcome"] is not None:
            return decision
        decision["tries"] = decision.get("tries", 0) + 1
        if decision["tries"] > _TRIES:
            return self._ended(decision, "failed", f"given up after {_TRIES} tries")
        self.decisions.save(decision)
        if decision["action"] == "rollback":
            return self._rolled_back(decision)
        if decision["action"] == "refuse":
            return self._ended(decision, "refused")
        if "challenger" not in decision and (why := self._trained(decision)):
            return self._ended(decision, "refused", why)
        return self._released(decision)

    def _trained(self, decision: Decision) -> str:
        """Train the challenger and note it; or why it is refused."""
        live = decision.get("live", {}).get("bundle", "")
        job = window.challenger(self._job, decision["learn"], decision["judge"], live)
        try:
            if live and (why := self._unbelievable(job, live)):
                return why
            until = "engines" if self._job.serve.gpus and engines.gpus() else "export"
            record = self._train(job, until)
        except (GateRefused, DataError) as error:
            return f"{error.where}: {error.what}" if error.where else error.what
        compared = record["metrics"].get("champion")
        verdict = judge.verdict(compared, self._watch.judge)
        manifest = bundle.opened(record["bundle"]).manifest
        decision["challenger"] = {
            "run": record["run"],
            "bundle": record["bundle"],
            "version": manifest.version,
            "digest": manifest.digest,
            "compared": compared,
            "better": verdict.better,
            "verdict": verdict.why,
        }
        self.decisions.save(decision)
        return ""

    def _unbelievable(self, job: Job, live: str) -> str:
        """Why the new data may not be learned from: expectations raise, labels are told."""
        record = self._train(job, "clean")
        known = reference.known(bundle.opened(live, verify=False))
        made = next(one for one in record["stages"] if one["name"] == "clean")
        cleaned = self._root / "stages" / f"clean-{made['digest']}"
        return (known and judge.unbelievable(cleaned, job.data.label, known, self._watch)) or ""

    def _released(self, decision: Decision) -> Decision:
        made = decision["challenger"]
        if not made["better"]:
            return self._ended(decision, "refused", made["verdict"])
        if self._watch.approve and not decision.get("approved"):
            return self._ended(decision, "waiting", made["verdict"])
        already = self._since(decision, made["version"])
        if already is None:
            try:
                why = f"watch {decision['id']}: {made['verdict']}"
                self._endpoint.deploy(made["bundle"], self._job.served, why)
            except GateRefused as error:
                return self._ended(decision, "rolled_back", error.what)
        elif already["action"] == "refused":
            return self._ended(decision, "rolled_back", already["why"])
        return self._ended(decision, "promoted", made["verdict"])

    def _rolled_back(self, decision: Decision) -> Decision:
        entries = self._endpoint.history()
        if not any(_is_of(decision, one) and one["action"] == "rollback" for one in entries):
            self._endpoint.rollback(f"watch {decision['id']}: {decision['why'][0]}")
        return self._ended(decision, "rolled_back")

    def _since(self, decision: Decision, version: str) -> Entry | None:
        """What the endpoint's history says of the challenger since it was decided on."""
        for one in reversed(self._endpoint.history()):
            tried = one["action"] == "refused" and one["since"] >= decision["created"]
            if one["version"] == version and (_is_of(decision, one) or tried):
                return one
        return None

    def _ended(self, decision: Decision, outcome: decisions.Outcome, why: str = "") -> Decision:
        decision["outcome"] = outcome
        if why:
            decision["verdict"] = why
        self.decisions.save(decision)
        return decision


def _figures(seen: Look | None) -> dict[str, Any]:
    """What `/metrics` shows of a look."""
    now = round(datetime.now(UTC).timestamp(), 3)
    if seen is None:
        return {"looked": now}
    record = seen.record()
    return {"looked": now, "findings": record["findings"], "alarms": len(seen.alarms)}


def _is_of(decision: Decision, entry: Entry) -> bool:
    return entry["why"].startswith(f"watch {decision['id']}:")


def _age_days(opened: Bundle) -> float:
    made = datetime.fromisoformat(opened.manifest.created)
    return (datetime.now(UTC) - made).total_seconds() / 86_400
