"""Standard output while a command runs: for its results, and for nothing else."""

from __future__ import annotations

import io
import sys
import threading
from typing import TextIO


class Results(io.TextIOBase):
    """What the main thread writes goes to `out`; what others do, to standard error.

    A command prints its results in the main thread, with a JSON object as the last line. Ray's own
    thread prints there as well, say that a node was lost, and would come behind it.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        return self._to().write(text)

    def flush(self) -> None:
        self._to().flush()

    def fileno(self) -> int:
        return self._out.fileno()

    def isatty(self) -> bool:
        return self._out.isatty()

    def _to(self) -> TextIO:
        own = threading.current_thread() is threading.main_thread()
        return self._out if own else sys.stderr
