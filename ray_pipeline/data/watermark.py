"""How far a table was read, by a column that only grows; each run takes what is above that.

The mark moves in two steps. Before anything is read, the run writes down up to where it will read,
and it closes that step when the rows are stored. Who is killed in between finds the step open and
reads the same rows again; what appeared above meanwhile waits for the next step.

Values repeat, and a transaction may commit late a value below the mark: so a step ends `lag`
below the greatest value there is. A row that commits more than `lag` late is never seen, nor is
one whose column is null.
"""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

from upath import UPath

from ray_pipeline import files
from ray_pipeline.data.credentials import login
from ray_pipeline.data.databases import connected
from ray_pipeline.data.relations import marked, read_mark, relation
from ray_pipeline.errors import DataError
from ray_pipeline.job import Source
from ray_pipeline.job.source import New

_NOTHING = {"before": None, "taken": None, "open": None}


def settled(source: Source, new: New, mark: UPath) -> New:
    """Which rows this run takes: those of the step that is open, else of a new one, else of the
    last one again.

    Raises:
        DataError: there is no row, the database cannot be read, or the mark is no mark.
    """
    state = _state(mark)
    if state["open"] is None:
        end = _end(source, new)
        known = state["taken"] and read_mark(state["taken"])
        if end is not None and (known is None or end > known):
            state["open"] = marked(end)
            _save(mark, state)
    if state["open"] is None and state["taken"] is None:
        raise DataError("there is no row yet", where=str(source), expected="rows to take")
    opened = state["open"] is not None
    above, upto = (state["taken"], state["open"]) if opened else (state["before"], state["taken"])
    return new.model_copy(update={"above": above if new.rows == "new" else None, "upto": upto})


def committed(new: New, mark: UPath) -> None:
    """Close the step that ends where `new` does. To close it twice changes nothing."""
    state = _state(mark)
    if state["open"] == new.upto:
        _save(mark, {"before": state["taken"], "taken": state["open"], "open": None})


def _end(source: Source, new: New) -> Any:
    """The greatest value of the column less the lag; None where there is no row."""
    import sqlalchemy as sa

    whole = source.model_copy(update={"new": None})
    with connected(source, login(source)) as connection:
        found = relation(whole.model_copy(update={"new": New(column=new.column)}), connection)
        greatest = connection.execute(sa.select(sa.func.max(found.column(new.column)))).scalar()
    if greatest is None or not new.lag:
        return greatest
    if isinstance(greatest, str):
        raise DataError(
            "a column of texts has no `lag`", expected="numbers or times", where=str(source)
        )
    if isinstance(greatest, date):  # a datetime too
        return greatest - timedelta(seconds=new.lag)
    return greatest - type(greatest)(new.lag)


def _state(mark: UPath) -> dict[str, Any]:
    if not mark.exists():
        return dict(_NOTHING)
    try:
        found = json.loads(mark.read_text())
        return {name: found[name] and tuple(found[name]) for name in _NOTHING}
    except (ValueError, KeyError, TypeError):
        raise DataError("the mark cannot be read", where=str(mark)) from None


def _save(mark: UPath, state: dict[str, Any]) -> None:
    files.write_whole(mark, json.dumps(state).encode())
