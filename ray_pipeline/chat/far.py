"""How a chatbot's replica calls parts that have replicas of their own (`parts.py`, `vllm.py`),
through Ray Serve's handles. Answers are made in threads; a handle belongs to the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray_pipeline.chat.coming import Coming
from ray_pipeline.chat.generators import Prompt, Writer
from ray_pipeline.chat.retriever import Embed

_WITHIN_S = 5.0
"""Until vectors have to be there; then they are made here."""
_RESTS_S = 5.0
"""How long they are made here before the encoder's replicas are asked again."""
_LOGGER = logging.getLogger("ray.serve")


class FarEncoder:
    """Texts [N] to vectors [N, W], made by the encoder's replicas, or else here: if one dies,
    another is asked, and if none answers, none is waited for.

    It is made on the event loop, and called by other threads only.

    Args:
        handle: of the deployment of EncoderReplica.
        digest: of the encoder that is wanted.
        opened: opens that encoder here.
    """

    def __init__(self, handle: Any, digest: str, opened: Callable[[], Embed]) -> None:
        self._handle, self._digest, self._opened = handle, digest, opened
        self._loop = asyncio.get_running_loop()
        self._here: Embed | None = None
        self._rests_until = 0.0

    def __call__(self, texts: Sequence[str]) -> Any:
        if time.monotonic() >= self._rests_until:
            asked = asyncio.run_coroutine_threadsafe(self._asked(list(texts)), self._loop)
            try:
                vectors = asked.result(_WITHIN_S + 1)  # the loop may be at its end
            except Exception as error:  # noqa: BLE001 - whatever it is, the encoder is here, too
                _LOGGER.warning("no encoder answers: %s", type(error).__name__)
                vectors = None
            if vectors is not None:
                self._here = None  # its memory is free again
                return vectors
            self._rests_until = time.monotonic() + _RESTS_S
        here = self._here or self._opened()
        self._here = here
        return here(texts)

    async def _asked(self, texts: list[str]) -> Any:
        async with asyncio.timeout(_WITHIN_S):
            try:
                return await self._handle.embed.remote(self._digest, texts)
            except Exception as error:  # noqa: BLE001 - its replica may have died: another is asked
                _LOGGER.warning("an encoder failed: %s", type(error).__name__)
                return await self._handle.embed.remote(self._digest, texts)


def generator(handle: Any) -> Writer:
    """Answers by the replicas behind the handle of a deployment of GeneratorReplica, or of
    `vllm.VllmReplica`. It is made on the event loop, and called by other threads only."""
    loop = asyncio.get_running_loop()

    def write(prompt: Prompt) -> Coming:
        async def take() -> None:
            parts = handle.options(stream=True).write.remote(prompt.messages)
            try:
                async for part in parts:
                    coming.put(part)
                coming.end()
            except Exception as error:  # noqa: BLE001 - raised where the answer is put together
                coming.end(error)
            finally:
                parts.cancel()

        def left() -> None:
            taking.cancel()

        coming = Coming(closed=left)
        taking = asyncio.run_coroutine_threadsafe(take(), loop)
        return coming

    return write
