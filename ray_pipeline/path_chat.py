"""The stages of a job with a chatbot: its index, how well it is found in, and its endpoint."""

from __future__ import annotations

from collections.abc import Iterator

from ray_pipeline.chat import corrections, export, feedback, index, judge, rerank
from ray_pipeline.chat.corrections import Correction
from ray_pipeline.data.encoders import tokens
from ray_pipeline.deploy import log_files, publish, release
from ray_pipeline.job import Chat
from ray_pipeline.model import gates
from ray_pipeline.runs import Run, Stage


def path(run: Run, chat: Chat) -> Iterator[Stage]:
    """Each stage, as it is passed; the run's record says by then what it found.

    Raises:
        JobError: the reranker cannot be loaded.
        PipelineError: a stage failed, or a gate refused.
    """
    job, record = run.job, run.record
    rerank.check(chat.retrieve)
    source = index.fingerprint(job.data.source, chat)
    asking = ("title", "site", "examples", "memory")
    indexed = chat.without(*asking, "intents", "retrieve", "generate", "judge")
    right = corrections.read(chat, _told(run, chat))
    made = run.stage("index", index.write, job.data.source, indexed, right, depends=source)
    if not made.cached:
        run.told("read", [str(job.data.source)], tokens.digest_of(chat.encoder))
    yield made

    settings = chat.without(*asking)
    asked = judge.fingerprint(chat)
    judged = run.stage("judge", judge.write, made, settings, job.evaluate.bootstrap, depends=asked)
    record["metrics"] = judged.record["metrics"]
    record["gates"] = {name: gate.model_dump() for name, gate in job.evaluate.bounds.items()}
    yield judged
    gates.passed(record["metrics"], job.evaluate.bounds)

    lineage = {stage.name: stage.digest for stage in run.stages}
    exported = run.stage("export", export.write, made, judged, job.name, chat, lineage)
    bundle = publish.published(exported.path, run.root / "bundles" / exported.digest)
    record["bundle"] = str(bundle)
    yield exported
    live = run.act("deploy", release.deploy, bundle, job.name, job.serve)
    record |= {"endpoint": live.record["endpoint"], "curl": live.record["curl"]}
    yield live


def _told(run: Run, chat: Chat) -> list[Correction]:
    """What was put right at the endpoint; what was only called wrong is told in the report."""
    if not chat.feedback:
        return []
    log = log_files.folder(run.root / "bundles" / "any", run.job.name)
    if wrong := feedback.complaints(log):
        finding = {
            "title": "Answers that were called wrong",
            "note": f"{len(wrong)} that nobody has put right since; the newest.",
            "tables": [{"columns": ["question"], "rows": [[one] for one in wrong[-20:]]}],
            "place": "data",
        }
        run.record["findings"].append(finding)
    return feedback.corrections(log)
