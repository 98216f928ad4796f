"""How rows are cleaned, and what becomes of those that cannot be used."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ray_pipeline.job.base import Settings
from ray_pipeline.job.steps import Step


class Clean(Settings):
    duplicates: Literal["drop", "keep"] = Field(
        "drop",
        description="Rows equal in every column: keep the first, or all. Rows of a separate test "
        "file are never dropped; training rows that also stand in it are.",
    )
    replace: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="Other spellings of a value, by column: {column: {found: wanted}}.",
    )
    steps: tuple[Step, ...] = Field(
        (),
        description="What is done to the columns, in this order; duplicates are sought after it. "
        "`dates` and `units` say how texts are read, which comes before everything else.",
    )
    max_quarantined: float = Field(
        0.1, gt=0, le=1, description="Refuse to go on if more than this share of rows is unusable."
    )
