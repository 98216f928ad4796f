"""Something that is done every few seconds beside a block of code, until it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self


class Every:
    """Calls `do` every `seconds` in a thread of that name, first after as many."""

    def __init__(self, seconds: float, do: Callable[[], None], name: str) -> None:
        self._seconds, self._do = seconds, do
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._ended.wait(self._seconds):
            self._do()
