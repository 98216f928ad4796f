"""How a new version takes over from the one that is live."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from ray_pipeline.job.base import Settings

Percent = Annotated[float, Field(gt=0, le=100)]


class Trial(Settings):
    """A new version is tried beside the one that is live, step by step, before it takes over."""

    shadow: float = Field(
        0,
        ge=0,
        le=100,
        description="Percent of requests that the new version first gets a copy of, for `hold_s`; "
        "its answers are compared and not returned.",
    )
    steps: tuple[Percent, ...] = Field(
        (1, 10, 50, 100),
        description="Percent of requests that it then answers, step by step; after the last it "
        "takes over.",
    )
    hold_s: float = Field(30, gt=0, description="Seconds that each step lasts.")
    max_error_share: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="Of its answers, those that may be failures (status 5xx, no answer within "
        "`answer_within_s`, or a refusal where the old version answers).",
    )
    max_p99_ratio: float | None = Field(
        3, ge=1, description="Its 99th percentile of latency over the old version's."
    )
    max_p99_ms: float | None = Field(None, gt=0, description="The same in milliseconds.")
    max_distance: float | None = Field(
        0.15,
        gt=0,
        le=1,
        description="By how much the share of a class among its answers, or of values below any "
        "bound, may differ from the old version's.",
    )
    max_differing: float | None = Field(
        None,
        gt=0,
        le=1,
        description="In shadow: share of rows for which it may say another class, or a value "
        "further away than a tenth of the label's deviation.",
    )
    answer_within_s: float = Field(
        5, gt=0, description="The old version answers where the new one has not by then."
    )

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if list(steps) != sorted(set(steps)):
            raise ValueError("must rise, as in [1, 10, 50, 100]")
        return steps
