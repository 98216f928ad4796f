"""What computes a model's predictions: a graphics processor, by its libraries, or the CPU."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ray_pipeline.job.base import Settings

Provider = Literal["tensorrt", "cuda", "cpu"]


class Providers(Settings):
    """What runs the model on a replica that has a GPU."""

    order: Literal["auto"] | tuple[Provider, ...] = Field(
        "auto",
        description="Tried in this order; the first that agrees with the trained model serves. "
        "`auto` is tensorrt, cuda, cpu. Without `cpu`, an endpoint that none of them can serve "
        "is refused.",
    )
    precision: Literal["fp32", "fp16", "int8"] = Field(
        "fp16", description="The fewest bits that TensorRT may compute in; CUDA computes in 32."
    )
    max_difference: float = Field(
        0.01,
        gt=0,
        description="How far a probability (or a value, in standard deviations of the label) may "
        "be from the trained model's.",
    )
    min_agreement: float = Field(
        0.99, ge=0, le=1, description="Share of rows that must get the trained model's label."
    )

    @field_validator("order")
    @classmethod
    def _each_once(cls, order: object) -> object:
        if isinstance(order, tuple) and (not order or len(set(order)) < len(order)):
            raise ValueError("name one provider at least, and each once")
        return order

    @property
    def tried(self) -> tuple[Provider, ...]:
        """The providers in the order in which they are tried."""
        return ("tensorrt", "cuda", "cpu") if self.order == "auto" else self.order
