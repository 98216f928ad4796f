"""In place of Ray's VLLMEngine, by RAYLLM_VLLM_ENGINE_CLS: it writes one sentence, in the events
that vLLM writes, or does what its question says."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ray.llm._internal.serve.core.engine.protocol import LLMEngine
from ray.serve.llm.openai_api_models import ChatCompletionRequest, ErrorResponse

SENTENCE = "Tea was good with milk."


class Engine(LLMEngine):
    """What it is asked, and what is ended, is told in files of the folder $ENGINE_TELLS."""

    def __init__(self, llm_config: Any) -> None:
        self._config, self._tells = llm_config, Path(os.environ["ENGINE_TELLS"])

    async def start(self) -> None:
        made = self._config.get_engine_config()
        told = {**made.engine_kwargs, "source": made.actual_hf_model_id, "gpus": _gpus()}
        (self._tells / f"started-{os.getpid()}").write_text(json.dumps(told))

    async def chat(
        self, request: ChatCompletionRequest, raw_request_info: Any = None
    ) -> AsyncIterator[str | ErrorResponse]:
        question = request.messages[-1]["content"].rpartition("Question: ")[2]
        told = {**request.model_dump(exclude={"messages"}), "kind": type(request).__name__}
        (self._tells / "asked").write_text(json.dumps(told))
        if "refused" in question:
            error = {"message": "it is too long", "type": "BadRequestError", "code": 400}
            yield ErrorResponse(error=error)
            return
        yield _event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        if "broken" in question:
            yield _event({"error": {"message": "it died", "type": "Internal", "code": 500}})
        if "endless" in question:
            await self._waited()
        for word in SENTENCE.split() if "broken" not in question else ():
            yield _event({"choices": [{"delta": {"content": f"{word} "}}]})
        if "unfinished" in question:
            yield _event({"choices": [{"delta": {"content": "The"}}]})  # so that it is a sentence
            await self._waited()
        yield _event({"choices": [], "usage": {"completion_tokens": 5}})
        yield "data: [DONE]\n\n"

    async def _waited(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            (self._tells / "ended").touch()

    def routing_stats(self) -> dict[str, Any]:
        return {}

    async def check_health(self) -> None:
        """It is well."""

    async def resolve_lora(self, lora_model: Any) -> None:
        raise NotImplementedError

    async def completions(self, request: Any, raw_request_info: Any = None) -> Any:
        raise NotImplementedError

    async def embeddings(self, request: Any, raw_request_info: Any = None) -> Any:
        raise NotImplementedError

    async def transcriptions(self, request: Any, raw_request_info: Any = None) -> Any:
        raise NotImplementedError

    async def reset_prefix_cache(self) -> None:
        raise NotImplementedError


def _gpus() -> list[dict[str, float]]:
    """The bundles of this replica's placement group."""
    from ray.util import get_current_placement_group

    return get_current_placement_group().bundle_specs


def _event(told: dict[str, Any]) -> str:
    return f"data: {json.dumps(told)}\n\n"
