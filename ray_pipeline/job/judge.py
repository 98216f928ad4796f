"""How a model is judged, what refuses it, and how it is compressed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ray_pipeline.job.base import Bound, Settings


class Evaluate(Settings):
    groups: tuple[str, ...] = Field(
        (), description="Columns whose values are compared as groups of people, say sex."
    )
    positive: str | None = Field(
        None,
        description="For two classes, the one that precision, recall and F1 speak of; the rarer "
        "one if not given.",
    )
    bootstrap: int = Field(1000, ge=0, description="Resamples behind each interval; 0 for none.")
    gates: dict[str, Bound] = Field(
        default_factory=dict,
        description="Bounds on test metrics; outside them nothing is deployed (exit 3).",
        examples=[{"accuracy": {"min": 0.85}}],
    )


class Compress(Settings):
    int8: Literal["auto", "never"] = Field(
        "auto", description="Quantize when it is faster here and within `max_drop`."
    )
    max_drop: float = Field(
        0.005, ge=0, description="Largest loss of validation accuracy (or R²) allowed."
    )
