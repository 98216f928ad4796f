"""What is done to training images, so that a network sees none twice."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ray_pipeline.job.base import Fraction, Settings


class Augment(Settings):
    """Changes of images, and of texts read as tokens, drawn anew for each and in each epoch; never
    for validation, test or requests."""

    flip: bool = Field(False, description="Half of the images are mirrored, left to right.")
    shift: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="Largest shift, as a share of the height and of the width."
    )
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(
        0.0, description="Largest turn to either side, in degrees."
    )
    cutout: Fraction = Field(
        0.0, description="Side of a square that is made black, as a share of the shorter side."
    )
    drop: Fraction = Field(0.0, description="Share of a text's tokens that are left out.")
