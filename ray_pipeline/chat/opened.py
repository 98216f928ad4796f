"""What a chatbot's bundle holds: its settings, its encoder, its reranker, its language model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_pipeline.bundle import Bundle
from ray_pipeline.chat import rerank
from ray_pipeline.chat.retriever import Embed, Score
from ray_pipeline.data.encoders import graphs, sentences
from ray_pipeline.data.statistics import SentenceStatistics, TokenStatistics
from ray_pipeline.job.chat import Chat

SETTINGS, ENCODER, GRAPH, MODEL = "chat.json", "encoder.json", "encoder.onnx", "model.gguf"
RERANKER, RERANKER_GRAPH = "reranker.json", "reranker.onnx"


def settings_of(opened: Bundle) -> dict[str, Any]:
    """What a bundle says of its chatbot: `chat`, the job's section, and `confidence`."""
    told: dict[str, Any] = json.loads((opened.path / SETTINGS).read_text(encoding="utf-8"))
    return told


def chat_of(told: dict[str, Any]) -> Chat:
    """The job's section in what `settings_of` says."""
    return Chat.model_validate_json(json.dumps(told["chat"]))


def encoder_of(opened: Bundle) -> SentenceStatistics:
    """How its encoder reads texts."""
    about = (opened.path / ENCODER).read_text(encoding="utf-8")
    return SentenceStatistics.model_validate_json(about)


def embedding(opened: Bundle, threads: int = 1, providers: Sequence[str] = graphs.CPU) -> Embed:
    """Its encoder."""
    graph = opened.path / GRAPH
    return sentences.embedding(encoder_of(opened), threads, graph, providers)


def scoring(opened: Bundle) -> Score | None:
    """Its reranker, if it has one."""
    about = opened.path / RERANKER
    if not about.exists():
        return None
    column = TokenStatistics.model_validate_json(about.read_text(encoding="utf-8"))
    return rerank.scored_by(column, opened.path / RERANKER_GRAPH)


def digest(opened: Bundle) -> str:
    """Of its encoder: vectors of one are nothing to another."""
    files = opened.manifest.files
    return hashlib.sha256(f"{files[ENCODER]} {files[GRAPH]}".encode()).hexdigest()


def model(opened: Bundle) -> Path:
    """The file of its language model, if it has one."""
    return opened.path / MODEL
