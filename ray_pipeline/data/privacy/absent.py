"""Imports without what a package would load only because it happens to be installed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager


@contextmanager
def absent(*packages: str) -> Iterator[None]:
    """As if these packages were not installed, for what this thread imports in the block: an
    `import` of one raises ModuleNotFoundError, unless it is loaded already. Afterwards, and in
    other threads meanwhile, they are there as ever."""
    finder = _Absent(packages)
    # A new list in the place of the old: a thread that is going through that would miss a finder.
    sys.meta_path = [finder, *sys.meta_path]
    try:
        yield
    finally:
        sys.meta_path = [other for other in sys.meta_path if other is not finder]


class _Absent:
    """A finder that finds nothing, and stops the thread that made it from asking the next one."""

    def __init__(self, packages: Collection[str]) -> None:
        self._packages, self._thread = packages, threading.get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in self._packages and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{name} is not to be loaded here", name=name)
