"""What personal data a source holds, and where: counts out of a sample, never a value."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ray_pipeline.data import parsing, parts
from ray_pipeline.data.connectors import connector
from ray_pipeline.data.privacy import recognise
from ray_pipeline.errors import GateRefused
from ray_pipeline.job import Data, Privacy, Source

PIECES = 4
"""Pieces of each source that are looked into, spread evenly; one task and one recogniser each."""
VALUES = 300
"""Different values that are read of each column in each piece."""
CHARACTERS = 2000
SHARE = {"PERSON": 0.1}
"""Of a column's sampled values: fewer than these, by default 1 %, are taken for an accident. NER
takes many a word of a category for a name, hence more of those."""
_DEFAULT_SHARE = 0.01
_LONG_ENOUGH = 10**8
"""Whole numbers below it are no card, phone or identity number."""

Found = dict[str, dict[str, Any]]
"""By column: `sampled`, how many values were read, and `entities`, in how many each is."""


def write(data: Data, out: UPath) -> dict[str, Any]:
    """Write `found.json`: of each column with personal data, what and in how many of the sample.

    Only a sample is read; `findings` in the record is the report's section.

    Raises:
        JobError: Presidio is not installed.
        DataError: the source cannot be read.
    """
    assert data.privacy is not None
    recognise.check_installed()
    plain = data.model_copy(update={"privacy": None})
    tasks = [
        (source, piece)
        for source in (data.source, data.test)
        if source is not None
        for piece in _spread(connector(source, plain).pieces(source, plain))
    ]
    names = connector(data.source, plain).names(data.source, plain)
    work = partial(_found_in, data=plain, names=tuple(names))
    found = _merged(parts.results(tasks, work))
    (out / "found.json").write_text(json.dumps(found, indent=1))
    return {
        "found": found,
        "untreated": [name for name in found if data.privacy.method(name) is None],
        "findings": [_section(found, data.privacy)],
    }


def gate(record: Mapping[str, Any], privacy: Privacy) -> None:
    """Raises GateRefused where `on_found: refuse` and a column with findings has no treatment."""
    if privacy.on_found == "refuse" and (untreated := record["untreated"]):
        name = untreated[0]
        entities = ", ".join(record["found"][name]["entities"])
        raise GateRefused(
            f"{len(untreated)} columns hold personal data and have no treatment",
            where=f"data.privacy.columns.{name}",
            expected=f"mask, drop, hash or generalise: {entities} was found in it",
            hint="nothing was stored of the rows; name each of "
            f"{', '.join(untreated)} under `data.privacy.columns`, or set `on_found: warn`",
        )


def _spread(pieces: Sequence[Any]) -> list[Any]:
    places = np.linspace(0, len(pieces) - 1, min(len(pieces), PIECES)).round()
    return [pieces[int(place)] for place in places]


def _found_in(task: tuple[Source, Any], data: Data, names: tuple[str, ...]) -> Found:
    """What the first table of a piece holds."""
    source, piece = task
    found: Found = {}
    for table in islice(connector(source, data).tables(piece, data, names), 1):
        found |= _found(table, names)
    return found


def _found(table: pa.Table, names: Sequence[str]) -> Found:
    found: Found = {}
    for name in names:
        if values := sampled(table[name]):
            spans = recognise.spans(values, column=name)
            entities = Counter(entity for row in spans for entity in {s.entity for s in row})
            found[name] = {"sampled": len(values), "entities": dict(entities)}
    return found


def sampled(values: pa.ChunkedArray) -> list[str]:
    """Up to VALUES different texts of a column, evenly spread; none of one that only measures."""
    kind = values.type
    if pa.types.is_integer(kind):
        values = values.filter(pc.greater_equal(pc.cast(values, pa.float64()), _LONG_ENOUGH))
    elif not parsing.is_text(kind):
        return []
    different = pc.unique(parsing.as_texts(values)).drop_null()
    places = np.unique(np.linspace(0, len(different) - 1, min(len(different), VALUES)).astype(int))
    return [text[:CHARACTERS] for text in different.take(pa.array(places)).to_pylist()]


def _merged(found: Sequence[Found]) -> Found:
    """The pieces' findings added up, without what is too rare to be more than an accident."""
    counts: dict[str, Counter[str]] = {}
    rows: Counter[str] = Counter()
    for piece in found:
        for name, column in piece.items():
            rows[name] += column["sampled"]
            counts.setdefault(name, Counter()).update(column["entities"])
    kept = {
        name: {
            entity: count
            for entity, count in column.most_common()
            if count >= SHARE.get(entity, _DEFAULT_SHARE) * rows[name]
        }
        for name, column in counts.items()
    }
    return {
        name: {"sampled": rows[name], "entities": column} for name, column in kept.items() if column
    }


def _section(found: Found, privacy: Privacy) -> dict[str, Any]:
    rows = [
        [name, entity, f"{count:,} of {column['sampled']:,}", privacy.method(name) or "none"]
        for name, column in found.items()
        for entity, count in column["entities"].items()
    ]
    note = "Counted over different values of a sample of each column; no value is kept."
    if not recognise.has_ner():
        note += " Names in free text were not looked for: that needs ray-pipeline[privacy-ner]."
    others = [name for name in privacy.columns if name not in found]
    rows += [[name, "nothing", "", privacy.method(name)] for name in others]
    return {
        "title": "Personal data",
        "note": note if rows else f"None was found. {note}",
        "tables": [{"columns": ["Column", "Found", "Values", "Treatment"], "rows": rows}],
    }
