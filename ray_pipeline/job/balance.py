"""How training is kept from learning what the sample got wrong about groups or classes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ray_pipeline.job.base import Settings


class Balance(Settings):
    """Weights or resampling of the training rows; validation and test rows stay as they are."""

    by: tuple[str, ...] = Field(
        (),
        description="Columns whose values are groups, which then get the same share of each class. "
        "They may have the role `ignore`.",
        examples=[["sex"]],
    )
    method: Literal["reweigh", "resample"] = Field(
        "reweigh",
        description="`reweigh` gives each row a weight in the loss; `resample` repeats rows and "
        "leaves rows out, chosen by their hash, until the counts are the same.",
    )
    classes: Literal["none", "balanced"] = Field(
        "none", description="`balanced` gives every class the same total weight as well."
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> Balance:
        if not self.by and self.classes == "none":
            raise ValueError("give `by`, or `classes: balanced`")
        return self
