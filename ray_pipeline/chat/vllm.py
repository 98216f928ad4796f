"""A chatbot's language model by vLLM, in Ray's own server of one. It is imported where vLLM is
installed only: which GPU nodes need, and who deploys, but no replica of the chatbot."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest

from ray_pipeline.chat.events import texts
from ray_pipeline.chat.generators import Message


class VllmReplica(LLMServer):
    """Writes answers for a chatbot's replicas, many at a time, as `parts.GeneratorReplica` writes
    one: Ray's `chat` takes a class of vLLM's, and yields another where it fails, which would have
    whoever calls it import vLLM.

    Args:
        llm_config: the model, and how vLLM runs it.
        tokens: of an answer at the most.
    """

    # Ray Serve awaits a constructor that is a coroutine, as that of LLMServer is.
    async def __init__(self, llm_config: LLMConfig, tokens: int) -> None:  # type: ignore[misc]
        await super().__init__(llm_config)
        self._tokens = tokens

    async def write(self, messages: list[Message]) -> AsyncGenerator[str]:
        """An answer in pieces, as they come; nobody taking them any more ends it.

        Raises:
            UnavailableError: vLLM failed, or the messages are too long for the model.
        """
        request = ChatCompletionRequest(
            messages=messages, max_completion_tokens=self._tokens, temperature=0, stream=True
        )
        async with aclosing(await self.chat(request)) as batches:
            async for text in texts(batches):
                yield text
