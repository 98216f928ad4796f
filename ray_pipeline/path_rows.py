"""The stages of a job with a model of rows, each made of those before it."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any

from ray_pipeline.data import (
    balance,
    bias,
    clean,
    collect,
    expectations,
    features,
    history,
    increments,
    labels,
    split,
    steps,
    stores,
)
from ray_pipeline.data.privacy import anonymity, expire, findings, tombstones, treatment
from ray_pipeline.data.steps import serving
from ray_pipeline.deploy import (
    champion,
    choice,
    embedding_export,
    engines,
    export,
    language_export,
    publish,
    release,
)
from ray_pipeline.job import Data, Job, Train, Tune
from ray_pipeline.model import (
    distill,
    evaluate,
    folds,
    gates,
    negatives,
    one_label,
    prune,
    space,
    train,
    zoo,
)
from ray_pipeline.runs import Run, Stage
from ray_pipeline.schema import Schema


def path(run: Run) -> Iterator[Stage]:
    """Each stage, as it is passed; the run's record says by then what it found.

    Raises:
        PipelineError: a stage failed, or a gate refused.
    """
    job, record = run.job, run.record
    if job.data.privacy and job.data.privacy.retention_days:
        record["expired"] = expire.removed(job)
    data = increments.settled(tombstones.settled(job.data, run.root), run.root)
    clean_schema, schema = checked(job, data)
    record["schema"] = schema.model_dump(mode="json")
    record["sources"] = collect.places(data)

    cleaned = yield from _cleaned(run, data, clean_schema)
    record["warnings"] = expectations.judged(cleaned.record, data.expect)
    cleaning = serving.served(data.clean, cleaned.record.get("fitted"), schema)
    cleaned = yield from _labelled(run, cleaned, data, schema)
    if data.history:
        past, joining = history.fingerprint(data), data.without("split", "features", "balance")
        cleaned = run.stage("history", history.write, cleaned, joining, schema, depends=past)
        yield cleaned
        schema = history.extended(schema, data.history)
        record["schema"] = schema.model_dump(mode="json")
    rows_alone = data.without("history", "features", "balance")
    yield (sides := run.stage("split", split.write, cleaned, rows_alone, schema))
    groups, positive = job.evaluate.groups, job.evaluate.positive
    if groups or (data.balance and schema.label.kind != "labels"):
        yield run.stage("bias", bias.write, sides, groups, data.balance, positive, schema)
    bases = features.fingerprint(data.features)
    yield (prepared := run.stage("features", features.write, sides, data, schema, depends=bases))
    if job.stores:
        kept = (cleaned.path, job.stores, cleaned.digest, data.history)
        yield run.act("store", stores.write, *kept)

    code = zoo.code_digest(job)
    if data.paired and job.model.contrastive.hard_negatives:
        yield (prepared := run.stage("negatives", negatives.write, prepared, job.model))
    trained, training = yield from _trained(run, prepared, code)
    if job.evaluate.folds:
        divided = (trained, prepared, sides, data, schema, training, folds.part(job.evaluate))
        folded = run.stage("folds", folds.write, *divided, depends=[code, bases])
        record["folds"] = folded.record["folds"]
        yield folded
    trained = yield from _smaller(run, trained, training, prepared, sides, schema)
    judged = yield from _judged(run, trained, prepared, sides, schema, depends=code)
    made = (trained, prepared, sides, judged, schema)
    yield from _deployed(run, made, (cleaning, treatment.at_serving(schema, data.privacy)))


def checked(job: Job, data: Data) -> tuple[Schema, Schema]:
    """The columns of clean rows, and of labelled ones; each section has been held against them.

    Raises:
        PipelineError: a source, an export or a bundle cannot be read, or a section names columns
            that are not there or do not suit it.
    """
    clean_schema, schema = _schemas(job, data)
    one_label.check(job, schema)
    evaluate.check(job.evaluate, schema, data.paired)
    features.check(data.features, history.extended(schema, data.history))
    balance.check(data.balance, schema)
    steps.check(data.clean, clean_schema)
    expectations.check(data.expect, clean_schema)
    return clean_schema, schema


def _schemas(job: Job, data: Data) -> tuple[Schema, Schema]:
    """The columns of clean rows, and those once annotators or functions have given them labels."""
    found = collect.schema(data, labelled=job.label is None)
    if job.label is None:
        return found, found
    clean_schema = labels.unlabelled(found, data.label)
    labels.check(job.label, clean_schema)
    return clean_schema, labels.labelled(found, data.label)


def _labelled(
    run: Run, cleaned: Stage, data: Data, schema: Schema
) -> Generator[Stage, None, Stage]:
    """The clean rows with labels, where the job says how they get them; else as they are."""
    settings = run.job.label
    if settings is None:
        return cleaned
    code, rows = labels.fingerprint(settings), data.without("history", "split", "balance")
    made = run.stage("label", labels.write, cleaned, settings, rows, schema, depends=code)
    yield made
    labels.check_trainable(made.record)
    return made


def _cleaned(run: Run, data: Data, schema: Schema) -> Generator[Stage, None, Stage]:
    """Cleaned rows; before them what personal data the source holds, after them how well people
    are hidden in what is stored."""
    source, privacy = collect.fingerprint(data), data.privacy
    if privacy and privacy.find == "auto":
        rows_as_read = data.without("clean", "expect", "history", "split", "features", "balance")
        yield (found := run.stage("privacy", findings.write, rows_as_read, depends=source))
        findings.gate(found.record, privacy)

    rows = data.without("history", "split", "features", "balance")
    cleaned = run.stage("clean", clean.write, rows, schema, depends=source)
    increments.committed(data, run.root)
    yield cleaned
    if not cleaned.cached:
        run.told("read", [str(place) for place in (data.source, data.test) if place], source)
    if privacy and (privacy.quasi_identifiers or privacy.retention_days):
        yield (hidden := run.stage("anonymity", anonymity.write, cleaned, privacy, schema))
        anonymity.gate(hidden.record, privacy)
    return cleaned


def _trained(run: Run, prepared: Stage, code: str) -> Generator[Stage, None, tuple[Stage, Train]]:
    """The trained model, of the best settings that were found if any were sought, and how it was
    trained."""
    job, record = run.job, run.record
    model, training = job.model, job.train
    search = job.tune or (Tune() if model.name == space.AUTO else None)
    if search is not None:
        from ray_pipeline.model import bred, tune  # Optuna and Ray Tune, for a second

        searched = run.stage("tune", tune.write, prepared, model, training, search, depends=code)
        record["trials"] = json.loads((searched.path / "trials.json").read_text())
        yield searched
        model, training = tune.apply(tune.best(searched.path), model, training)
    if search is not None and search.scheduler == "pbt":  # the search has trained it
        best = (prepared, searched, model, training)
        trained = run.stage("train", bred.write, *best, depends=code)
    else:
        trained = run.stage("train", train.write, prepared, model, training, depends=code)
    record["history"] = json.loads((trained.path / "history.json").read_text())
    yield trained
    return trained, training


def _smaller(  # noqa: PLR0917 - stages come by position
    run: Run, trained: Stage, training: Train, prepared: Stage, sides: Stage, schema: Schema
) -> Generator[Stage, None, Stage]:
    """The network that is judged and deployed: the trained one, unless the job asks for smaller
    ones and one of them is better by its objective."""
    settings, code = run.job.compress, zoo.code_digest(run.job)
    networks = {"trained": trained}
    if settings.prune:
        asked = (trained, prepared, training, settings.prune)
        yield (made := run.stage("prune", prune.write, *asked, depends=code))
        networks["pruned"] = made
    if settings.distill:
        asked_of = (trained, prepared, training, settings.distill)
        yield (made := run.stage("distill", distill.write, *asked_of, depends=code))
        networks["student"] = made
    if len(networks) == 1:
        return trained
    each = (trained, networks.get("pruned"), networks.get("student"))
    yield (
        compared := run.stage("compress", choice.write, *each, prepared, sides, schema, settings)
    )
    return networks[compared.record["chosen"]]


def _judged(
    run: Run, trained: Stage, prepared: Stage, sides: Stage, schema: Schema, *, depends: str
) -> Generator[Stage, None, Stage]:
    """The model's metrics on rows that it has not seen, inside the job's bounds."""
    settings, record = run.job.evaluate, run.record
    inputs = (trained, prepared, sides, schema, settings.without("gates", "champion", "folds"))
    judged = run.stage("evaluate", evaluate.write, *inputs, depends=depends)
    record["metrics"] = dict(judged.record["metrics"])
    if "folds" in record:
        record["metrics"]["folds"] = record["folds"]
    yield judged
    if rival := champion.found(settings.champion, run.job.name):
        shared = (judged, sides, schema, settings.bootstrap, str(rival.path))
        compared = run.stage("champion", champion.write, *shared, depends=rival.manifest.digest)
        record["metrics"]["champion"] = compared.record["champion"]
        yield compared
    record["gates"] = {name: gate.model_dump() for name, gate in settings.bounds.items()}
    gates.passed(record["metrics"], settings.bounds)
    return judged


def _deployed(
    run: Run, made: tuple[Any, ...], at_serving: tuple[Any, Any]
) -> Generator[Stage, None, None]:
    """The bundle of what was `made`, which treats and cleans requests as rows were, and its
    endpoint."""
    job, record = run.job, run.record
    lineage = {stage.name: stage.digest for stage in run.stages}
    if job.data.written and not job.data.paired:
        yield from _language(run, made, lineage)
        return
    compared = [stage.record["networks"] for stage in run.stages if stage.name == "compress"]
    forms = job.compress.without("prune", "distill")
    named = (job.name, forms, lineage, *at_serving, *compared)
    writer = embedding_export.write if job.data.paired else export.write
    exported = run.stage("export", writer, *made, *named)
    if job.serve.gpus and (kinds := engines.gpus()) and not job.data.paired:
        batches = (job.serve.providers, job.serve.target_ongoing_requests, job.serve.max_rows)
        asked = (exported, *made[:3], made[-1], *batches)
        yield exported
        exported = run.stage("engines", engines.write, *asked, depends=kinds)
    bundle = publish.published(exported.path, run.root / "bundles" / exported.digest)
    record["bundle"] = str(bundle)
    yield exported
    live = run.act("deploy", release.deploy, bundle, job.name, job.served)
    record |= {"endpoint": live.record["endpoint"], "curl": live.record["curl"]}
    yield live


def _language(
    run: Run, made: tuple[Any, ...], lineage: dict[str, str]
) -> Generator[Stage, None, None]:
    """The bundle of a language model. It has no endpoint: it does not predict rows."""
    named = (run.job.name, lineage)
    tools = language_export.converters()
    yield (exported := run.stage("export", language_export.write, *made, *named, depends=tools))
    bundle = publish.published(exported.path, run.root / "bundles" / exported.digest)
    run.record["bundle"] = str(bundle)
