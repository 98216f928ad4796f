"""What a server of OpenAI's protocol says of an answer while it writes it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from ray_pipeline.errors import UnavailableError

_DONE = "[DONE]"


async def texts(batches: AsyncIterator[Any]) -> AsyncIterator[str]:
    """The pieces of an answer in what Ray's LLMServer yields for a streamed chat: lists of server-
    sent events as they go over the wire (`data: {…}`, `data: [DONE]`), or an object with an
    `error` (see `ray.llm._internal.serve.core.server.llm_server` and `engines.vllm.vllm_engine`).

    Raises:
        UnavailableError: the server says that it failed.
    """
    async for batch in batches:
        for event in batch if isinstance(batch, list) else [batch]:
            if not isinstance(event, str):
                raise _failed(event.error.message)
            for line in event.split("\n"):  # a text may hold other characters that end lines
                kind, _, data = line.partition(": ")
                if kind == "data" and data != _DONE and (piece := _text(json.loads(data))):
                    yield piece


def _text(chunk: dict[str, Any]) -> str:
    """What a chunk adds to the answer; its last ones may add nothing."""
    if error := chunk.get("error"):
        raise _failed(error["message"])
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def _failed(why: str) -> UnavailableError:
    return UnavailableError(why, where="the language model")
