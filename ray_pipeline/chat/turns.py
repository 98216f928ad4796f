"""Answers that are made in threads, so many at a time; the rest wait their turn, and are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, NamedTuple

from ray_pipeline.chat.answer import Gone, Piece

_SILENT_S = 1.0
"""Of an answer; then who takes it is told that it waits, and behind how many."""


class Waiting(NamedTuple):
    """Nothing has come yet: so many that came before are not begun, or it is being answered."""

    before: int | None

    def said(self) -> bytes:
        """A comment of server-sent events, which clients pass over if they know nothing of it."""
        what = "working" if self.before is None else f"waiting behind {self.before}"
        return f": {what}\n\n".encode()


class Turns:
    """The threads, and who has come and begun: they begin in the order in which they came."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "answer")
        self._came = self._begun = 0

    async def taken(
        self, made: Callable[[Gone], Iterator[Piece]]
    ) -> AsyncGenerator[Piece | Waiting]:
        """The pieces that `made` makes in a thread, and in between that there is none yet; it ends
        soon after nobody takes them any more."""
        loop, came, left = asyncio.get_running_loop(), asyncio.Queue[Any](), Event()
        place = self._came

        def begin() -> None:
            self._begun += 1

        def work() -> None:
            loop.call_soon_threadsafe(begin)
            if left.is_set():
                return
            try:
                for piece in made(left.is_set):
                    loop.call_soon_threadsafe(came.put_nowait, piece)
                    if left.is_set():
                        break
                loop.call_soon_threadsafe(came.put_nowait, None)
            except Exception as error:  # noqa: BLE001 - raised again on the loop
                loop.call_soon_threadsafe(came.put_nowait, error)

        self._threads.submit(work)
        self._came += 1
        try:
            while True:
                try:
                    piece = await asyncio.wait_for(came.get(), _SILENT_S)
                except TimeoutError:
                    yield Waiting(place - self._begun if place >= self._begun else None)
                    continue
                if piece is None:
                    return
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            left.set()
