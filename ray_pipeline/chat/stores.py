"""Where an index is: in a folder, as a table of LanceDB, or on a server, whose place and version
the folder then names. Who searches it does not know which."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from upath import UPath

from ray_pipeline import files
from ray_pipeline.chat import lance, postgres
from ray_pipeline.chat.chunks import Passage
from ray_pipeline.chat.lance import LancePassages
from ray_pipeline.chat.postgres import PostgresPassages
from ray_pipeline.chat.search import Passages
from ray_pipeline.chat.server import Server
from ray_pipeline.job.chat import ChatStore

DATABASE, PLACE = "lance", "postgres.json"
"""What is in the folder: the table itself, or where it is."""
_MARKER = "stage.json"
_SPARED = 2
"""Versions that no bundle names and that are kept, the newest: a run may be about to name one."""


class Place(NamedTuple):
    """A version of an index on a server."""

    url: str
    version: str


def written(
    folder: UPath,
    passages: Sequence[Passage],
    vectors: Mapping[str, Any],
    store: ChatStore | None = None,
) -> None:
    """Write the index of passages, whose vectors are by digest, to `folder` or `store`.

    Raises:
        DataError: a library is not installed, or a variable not set.
        UnavailableError: the server does not answer.
    """
    if store is None:
        lance.created(folder / DATABASE, passages, vectors)
        return
    # The path's, not the contents': another storage's index of the same is not this one's to drop.
    version = "chat_" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    place = Place(store.url, version)
    (folder / PLACE).write_text(json.dumps(place._asdict()))  # first: nothing is there unnamed
    postgres.written(Server(place.url), place.version, passages, vectors)


def opened(folder: UPath) -> Passages:
    """The index in `folder`, or the one that it names. Raises DataError."""
    if place := _place(folder):
        return PostgresPassages(Server(place.url), place.version)
    return LancePassages(folder / DATABASE)


@contextmanager
def tried(
    folder: UPath,
    passages: Sequence[Passage],
    vectors: Mapping[str, Any],
    store: ChatStore | None,
) -> Iterator[Passages]:
    """An index as `written` would write it, for a trial: nothing of it stays on a server."""
    if store is None:
        lance.created(folder / DATABASE, passages, vectors)
        yield LancePassages(folder / DATABASE)
        return
    with postgres.temporary(Server(store.url), passages, vectors) as made:
        yield made


def outlived(folder: UPath) -> list[str]:
    """Remove the versions that the stages beside `folder` have on its server and that no bundle of
    the job names, but for the newest; the names of those stages, which are removed, too. So a
    version stays as long as its bundle.

    Raises:
        UnavailableError: the server does not answer.
    """
    own = _place(folder)
    if own is None:
        return []
    bundles = (folder.parent.parent / "bundles").glob(f"*/{PLACE}")
    named = {_place(path.parent) for path in bundles} | {own}
    unnamed = [
        (_made(path.parent), path.parent, place)
        for path in folder.parent.glob(f"index-*/{PLACE}")
        if (place := _place(path.parent)) and place.url == own.url and place not in named
    ]
    removed = sorted(unnamed, key=lambda one: (one[0], str(one[1])))[:-_SPARED]
    for _, stage, place in removed:
        (stage / _MARKER).unlink(missing_ok=True)  # first: what is not whole is not taken for it
        postgres.dropped(Server(place.url), place.version)
        files.clear(stage)
    return [stage.name for _, stage, _ in removed]


def _made(stage: UPath) -> str:
    """When a stage ended; nothing if it was interrupted."""
    marker = stage / _MARKER
    return str(json.loads(marker.read_text())["made"]) if marker.exists() else ""


def _place(folder: UPath) -> Place | None:
    path = folder / PLACE
    return Place(**json.loads(path.read_text())) if path.exists() else None
