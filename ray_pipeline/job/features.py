"""How columns become what a model reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ray_pipeline.job.base import Settings


class Features(Settings):
    numbers: Literal["quantile", "standard"] = Field(
        "quantile",
        description="`quantile` maps each number to a normal distribution by its rank; `standard` "
        "subtracts the mean and divides by the standard deviation.",
    )
    max_categories: int = Field(
        1000, ge=1, description="Most frequent values kept per column; the rest are `unknown`."
    )
    min_count: int = Field(2, ge=1, description="Values seen less often in training are `unknown`.")
