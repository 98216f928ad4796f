"""In place of vLLM, which needs a GPU: the names that Ray's own code of `ray.serve.llm` imports
from vLLM 0.29, so that this code, and all that is built on it, is what tests run. Of what they are
here has what a test looks at: a streamed chat's request, an error, and some of the engine's
arguments."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import BaseModel, Field


class ChatCompletionRequest(BaseModel):
    messages: list[dict[str, Any]]
    model: str | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    stream: bool | None = False
    request_id: str = Field(default_factory=lambda: "made")


class ErrorInfo(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: int


class ErrorResponse(BaseModel):
    error: ErrorInfo


@dataclass
class AsyncEngineArgs:
    """Of about 200."""

    tensor_parallel_size: int = 1
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.92
    quantization: str | None = None


@dataclass
class FrontendArgs:
    chat_template: str | None = None


_NAMES = {
    "engine.arg_utils": "AsyncEngineArgs",
    "entrypoints.launchers.cli_args": "FrontendArgs",
    "entrypoints.openai.chat_completion.protocol": (
        "ChatCompletionRequest ChatCompletionResponse ChatCompletionStreamResponse"
    ),
    "entrypoints.openai.completion.protocol": (
        "CompletionRequest CompletionResponse CompletionStreamResponse"
    ),
    "entrypoints.pooling.embed.protocol": (
        "EmbeddingChatRequest EmbeddingCompletionRequest EmbeddingResponse"
    ),
    "entrypoints.pooling.scoring.protocol": "ScoreResponse ScoreTextRequest",
    "entrypoints.serve.engine.protocol": "ErrorInfo ErrorResponse",
    "entrypoints.serve.tokenize.protocol": (
        "DetokenizeRequest DetokenizeResponse TokenizeChatRequest TokenizeCompletionRequest "
        "TokenizeResponse"
    ),
    "entrypoints.speech_to_text.transcription.protocol": (
        "TranscriptionRequest TranscriptionResponse TranscriptionStreamResponse"
    ),
}


def _put(path: str, names: str) -> None:
    """Have a module of this package at the path, with the names: those above, or empty ones."""
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        full = ".".join([__name__, *parts[:end]])
        module = sys.modules.setdefault(full, ModuleType(full))
        module.__path__ = []
    for name in names.split():
        setattr(module, name, globals().get(name) or type(name, (BaseModel,), {}))


for _path, _names in _NAMES.items():
    _put(_path, _names)
