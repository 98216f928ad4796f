"""What the steps did, as the clean stage's record and the report have it."""

from __future__ import annotations

from typing import Any

from ray_pipeline.data.steps.found import Change, State
from ray_pipeline.job import Clean

_COLUMNS = [
    *("step", "column", "rows seen", "changed", "set missing", "quarantined"),
    *("what", "before", "after"),
]


def described(clean: Clean, changes: dict[tuple[int, str], Change]) -> dict[str, Any]:
    """`steps`, a list in the steps' order, and `findings`: counts and kinds, never values."""
    named = [
        (clean.steps[number].name if number < len(clean.steps) else "label", number, column, change)
        for (number, column), change in sorted(changes.items(), key=lambda pair: pair[0][0])
    ]
    steps = [
        {"step": name, "number": number + 1, "column": column, **change.described()}
        for name, number, column, change in named
        if name != "label" or change.quarantined
    ]
    rows = [
        [
            *(name, column, change.rows, change.changed, change.emptied, change.quarantined),
            ", ".join(f"{kind} {count:,}" for kind, count in change.kinds.most_common()),
            *(_state(change.before), _state(change.after)),
        ]
        for name, _, column, change in named
        if name != "label" or change.quarantined
    ]
    note = (
        "Each step in its order: what it did to the rows that were usable until then. Ranges are "
        "of numbers; characters are of all texts together."
    )
    table = {"columns": _COLUMNS, "rows": rows}
    return {
        "steps": steps,
        "findings": [{"title": "Cleaning steps", "note": note, "tables": [table]}],
    }


def _state(state: State) -> str:
    texts = [f"{state.missing:,} missing"]
    if state.low <= state.high:
        texts.append(f"{state.low:,.6g} to {state.high:,.6g}")
    if state.characters:
        texts.append(f"{state.characters:,} characters")
    return ", ".join(texts)
