"""A text that comes in pieces, from whoever writes it to whoever reads it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator


class Coming(Iterator[str]):
    """Pieces that one thread puts here and another takes; any may `close` it, and wakes the other.

    Args:
        closed: called once, when nobody wants more.
    """

    def __init__(self, closed: Callable[[], object]) -> None:
        self._came: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
        self._closing, self._closed = threading.Lock(), closed

    def put(self, piece: str) -> None:
        """Add a piece."""
        self._came.put(piece)

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes, because of the error if there is one, which is raised to the other
        side."""
        self._came.put(error)

    def __next__(self) -> str:
        piece = self._came.get()
        if isinstance(piece, str):
            return piece
        self._came.put(None)  # the end stays the end
        if piece is None:
            raise StopIteration
        raise piece

    def close(self) -> None:
        """Nobody wants more."""
        if self._closing.acquire(blocking=False):
            self._closed()
            self._came.put(None)
