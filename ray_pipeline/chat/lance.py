"""An index as a table of LanceDB, in a folder."""

from __future__ import annotations

import json
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from upath import UPath

from ray_pipeline import files
from ray_pipeline.chat.chunks import Passage
from ray_pipeline.chat.corrections import DOCUMENT
from ray_pipeline.chat.search import Hit, Ranked, Vectors
from ray_pipeline.chat.support import plain
from ray_pipeline.chat.words import fragments
from ray_pipeline.data.media.extras import library

TABLE = "passages"
WORDS, FRAGMENTS = "searched", "fragments"
"""The columns that are searched by words, and by pieces of words."""
WHOLE = "passage"
"""The column of passages as JSON: they are read a few at a time, and then each column costs as much
as a search's plan."""
HELD = 2_000
"""From this many passages on vectors are searched through an index, which LanceDB holds in memory;
below, they are read from the table. As they are: at eight bits a number they would take a quarter
of the place, and three times as long to compare."""
INDEXED = 50_000
"""From this many passages on that index has parts of what is near to each other, of which few are
searched; below, it has one, and all vectors are compared."""
NEAR: Final = "dot"
"""Vectors are of length 1, so that their product is their cosine. As `cosine`, LanceDB tells twice
the distance where it searches through an index."""
PROBED = 32
"""Parts that are searched, or more where these have too few passages that one may read. Half as
many find as much where vectors are around topics, and save 1 ms among 100,000 passages."""
_ASKED = ("digest", "document", "section", "headings", "group", WORDS)
"""The fields of passages that are columns, too: what is searched, or asked of all rows."""


def created(folder: UPath, passages: Sequence[Passage], vectors: Mapping[str, Any]) -> Any:
    """A table of passages that is searched by words, by pieces of words and by vectors. Raises
    DataError."""
    lancedb = library("lancedb", "chat")
    from lancedb.index import FTS, Bitmap, IvfFlat

    rows = pa.table(
        {name: pa.array([getattr(passage, name) for passage in passages]) for name in _ASKED}
    )
    whole = pa.array([json.dumps(passage._asdict()) for passage in passages])
    files.clear(folder)  # of an attempt that was interrupted
    flat = np.concatenate([vectors[passage.digest] for passage in passages]).astype(np.float32)
    width = len(flat) // len(passages)
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
    pieces = pa.array([fragments(passage.searched) for passage in passages])
    for name, told in (("vector", column), (FRAGMENTS, pieces), (WHOLE, whole)):
        rows = rows.append_column(name, told)
    table = lancedb.connect(str(folder)).create_table(TABLE, rows)
    words = FTS(language="English", stem=True, remove_stop_words=True, ascii_folding=True)
    table.create_index(WORDS, config=words)
    as_they_are = FTS(base_tokenizer="whitespace", stem=False, remove_stop_words=False)
    table.create_index(FRAGMENTS, config=as_they_are)
    if len(passages) >= HELD:
        table.create_index("group", config=Bitmap())
        count = round(len(passages) ** 0.5) if len(passages) >= INDEXED else 1
        near = IvfFlat(distance_type=NEAR, num_partitions=count)
        table.create_index("vector", config=near)
    return table


class LancePassages:
    """Such a table, opened: `search.Passages`."""

    def __init__(self, database: UPath) -> None:
        lancedb = library("lancedb", "chat")
        # Not through its blocking table, which goes to this loop and back five times for a search.
        self._loop = library("lancedb.background_loop", "chat").LOOP
        self._table = self._told(self._told(lancedb.connect_async(str(database))).open_table(TABLE))
        columns = self._told(self._table.schema()).names
        self._fields = [WHOLE] if WHOLE in columns else list(Passage._fields)
        self.groups = frozenset(self._columns("group")["group"].unique().to_pylist())
        self._corrections = self._corrected()

    def by_vector(
        self, vector: Sequence[float], groups: Collection[str], count: int
    ) -> list[Ranked]:
        query = self._table.query().nearest_to(vector).column("vector").distance_type(NEAR)
        query = query.nprobes(PROBED)
        if not self.groups <= set(groups):
            query = query.maximum_nprobes(0)  # as many parts as it takes to find enough
        found = self._ranked(query, groups, count, "_distance")
        return [Ranked(row, 1 - distance) for row, distance in found]

    def by_words(self, question: str, groups: Collection[str], count: int) -> list[Ranked]:
        return self._matching(question, WORDS, groups, count)

    def by_fragments(self, question: str, groups: Collection[str], count: int) -> list[Ranked]:
        return self._matching(fragments(question), FRAGMENTS, groups, count)

    def read(self, ranked: Sequence[Ranked]) -> list[Hit]:
        taken = self._table.take_row_ids([row for row, _ in ranked]).with_row_id()
        told = self._told(taken.select(self._fields).to_arrow())  # in any order
        passages = dict(zip(told["_rowid"].to_pylist(), self._passages(told), strict=True))
        return [Hit(passages[row], score) for row, score in ranked]

    def corrected(self, question: str, ranked: Sequence[Ranked]) -> Sequence[Ranked]:
        own = self._corrections.get(plain(question), ())
        return [one for one in ranked if one.row in own] or ranked

    def sections(self) -> dict[int, str]:
        told = self._columns("section")
        return dict(zip(told["_rowid"].to_pylist(), told["section"].to_pylist(), strict=True))

    def everything(self) -> list[Passage]:
        return self._passages(self._columns(*self._fields))

    def vectors(self) -> Iterator[tuple[str, Vectors]]:
        rows = self._columns("digest", "vector")
        flat = np.asarray(rows["vector"].combine_chunks().flatten(), np.float32)
        yield from zip(rows["digest"].to_pylist(), flat.reshape(len(rows), -1), strict=True)

    def _told(self, coming: Coroutine[Any, Any, Any]) -> Any:
        """What LanceDB answers."""
        return self._loop.run(coming)

    def _passages(self, rows: pa.Table) -> list[Passage]:
        """The passages of rows with `_fields`; an index of before has a column for each field."""
        if WHOLE in self._fields:
            return [Passage(**json.loads(one)) for one in rows[WHOLE].to_pylist()]
        return [Passage(**one) for one in rows.select(self._fields).to_pylist()]

    def _corrected(self) -> dict[str, set[int]]:
        """The rows of corrections by the words of their questions."""
        rows: dict[str, set[int]] = {}
        for one in self._columns("headings", where=f"document = '{DOCUMENT}'").to_pylist():
            rows.setdefault(plain(one["headings"]), set()).add(one["_rowid"])
        return rows

    def _columns(self, *names: str, where: str | None = None) -> pa.Table:
        """Columns of all rows, or of those `where` something holds, and `_rowid`."""
        query = self._table.query().select(list(names)).with_row_id()
        return self._told((query.where(where) if where else query).to_arrow())

    def _matching(
        self, text: str, column: str, groups: Collection[str], count: int
    ) -> list[Ranked]:
        if not text.strip():
            return []
        # Not as text: LanceDB would read quotation marks and signs in it as operators.
        asked = library("lancedb.query", "chat").MatchQuery(text, column)
        query = self._table.query().nearest_to_text(asked)
        return [Ranked(*found) for found in self._ranked(query, groups, count, "_score")]

    def _ranked(
        self, query: Any, groups: Collection[str], count: int, score: str
    ) -> Iterator[tuple[int, float]]:
        if not self.groups <= set(groups):  # who may read everything is spared the condition
            # Before the search, not after: else others' passages would take the places of one's
            # own, and their number would tell of them.
            allowed = ", ".join("'{}'".format(group.replace("'", "''")) for group in sorted(groups))
            query = query.where(f"`group` IN ({allowed})")
        found = self._told(query.limit(count).select([score]).with_row_id().to_arrow())
        return zip(found["_rowid"].to_pylist(), found[score].to_pylist(), strict=True)
