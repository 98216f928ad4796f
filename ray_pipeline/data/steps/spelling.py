"""A category's values in one spelling: each different value is looked at once."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.data.steps.extra import needed
from ray_pipeline.data.steps.found import Apply, Found
from ray_pipeline.job.steps import Spelling

Spelled = tuple[str | None, str]
"""The right spelling (None: there is none), and how it was found; "" is as it stood."""


def applying(settings: Spelling) -> Apply:
    """The step as a function of typed rows."""
    spell = _speller(settings)
    reason = f"{settings.column}: none of the right spellings"

    def apply(rows: pa.Table) -> dict[str, Found]:
        texts = rows[settings.column].combine_chunks()
        coded = texts.dictionary_encode()
        spelled = [spell(text) for text in coded.dictionary.to_pylist()]
        wanted = pa.array([text for text, _ in spelled], pa.string()).take(coded.indices)
        how = pa.array([kind for _, kind in spelled], pa.string()).take(coded.indices)
        faults = pc.fill_null(pc.equal(how, "other"), False)
        aside = settings.other == "quarantine"
        found = Found(pa.chunked_array([wanted]), _counted(how), faults if aside else None, reason)
        return {settings.column: found}

    return apply


def _counted(how: Any) -> Counter[str]:
    found = pc.value_counts(how.drop_null()).to_pylist()
    return Counter({entry["values"]: entry["counts"] for entry in found if entry["values"]})


def _speller(settings: Spelling) -> Callable[[str], Spelled]:
    right = {*settings.like, *settings.values.values()}
    folded = {_folded(text): wanted for text, wanted in settings.values.items()}
    folded |= {_folded(text): text for text in sorted(right)}
    near = {_folded(text): text for text in settings.like}

    def spelled(text: str) -> Spelled:
        if text in settings.values:
            return settings.values[text], "listed"
        if text in right:
            return text, ""
        if settings.fold and (wanted := folded.get(_folded(text))) is not None:
            return wanted, "case"
        if settings.threshold is not None:
            nearest = _nearest(_folded(text), near, settings.threshold)
            if nearest is not None:
                return nearest, "near"
        if settings.like and settings.other != "keep":
            return (None if settings.other == "missing" else text), "other"
        return text, ""

    return spelled


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _nearest(text: str, near: dict[str, str], threshold: float) -> str | None:
    """The one that is most alike, at least `threshold`; None if two are equally so."""
    rapidfuzz = needed("rapidfuzz", "fuzzy spelling")
    found = rapidfuzz.process.extract(
        text, list(near), scorer=rapidfuzz.fuzz.ratio, score_cutoff=100 * threshold, limit=2
    )
    if not found or (len(found) == 2 and found[0][1] == found[1][1]):
        return None
    return near[found[0][0]]
