"""What Ray Serve runs for a chatbot: a replica, which opens the bundle and builds its own app."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ray_pipeline import bundle
from ray_pipeline.chat.app import ChatEndpoint
from ray_pipeline.chat.bot import Bot
from ray_pipeline.chat.feedback import Feedback
from ray_pipeline.chat.memory import Memory
from ray_pipeline.chat.page import pages
from ray_pipeline.deploy import log_files
from ray_pipeline.deploy.asgi import ASGIApp, Header, Response
from ray_pipeline.deploy.auth import Gate
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.replica import Upkeep
from ray_pipeline.deploy.tokens import Tokens
from ray_pipeline.job import Serve


class ChatReplica:
    """One process that answers for a chatbot; its arguments are those of `deploy.replica.Replica`,
    and handles of the parts that are apart, by name.

    Raises:
        BundleError: the bundle is not whole.
    """

    def __init__(
        self,
        name: str,
        path: str,
        settings: str,
        keyring_id: str | None,
        digest: str,
        **apart: Any,
    ) -> None:
        serve = Serve.model_validate_json(settings)
        bot = Bot(bundle.opened(path), apart=apart)
        counters = Counters()
        gate = Gate(name, tokens=Tokens(serve.jwt) if serve.jwt else None) if keyring_id else None
        upkeep = Upkeep(name, counters, gate, keyring_id, digest)
        upkeep.renew()
        log, mask = log_files.folder(path, name), bot.settings.mask
        feedback = (
            Feedback(log, bot.manifest.version, mask) if bot.settings.feedback and gate else None
        )
        told = bot.settings.memory
        memory = Memory(log, told.days, mask) if told and gate else None
        self._sweeping: asyncio.Task[None] | None = None

        def started() -> None:
            upkeep.start()
            if memory:
                self._sweeping = asyncio.get_running_loop().create_task(memory.sweeping())

        self._endpoint = ChatEndpoint(
            name,
            bot,
            serve,
            gate=gate,
            pages=pages(name, bot, serve),
            counters=counters,
            feedback=feedback,
            memory=memory,
            started=started,
            stopped=upkeep.stop,
        )
        gc.collect()
        gc.freeze()

    def __serve_build_asgi_app__(self) -> ASGIApp:  # Ray Serve's hook
        return self._endpoint

    async def completed(
        self, body: bytes, headers: list[Header]
    ) -> AsyncGenerator[Response | bytes]:
        """An answer in parts, called through a handle by the front: its head, without a body where
        it is streamed, then what is streamed."""
        response = await self._endpoint.completed(body, headers)
        if isinstance(response, Response):
            yield response
            return
        yield Response(response.status, b"", response.extra)
        async with aclosing(response.parts) as parts:
            async for part in parts:
                yield part
