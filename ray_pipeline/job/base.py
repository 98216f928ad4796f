"""What every section of the job file is."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, lt=1)]
Price = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    """A section of the job file: unknown keys are errors, and nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def without(self, *sections: str) -> Self:
        """The same settings with `sections` at their defaults: for what does not read them."""
        defaults = {
            name: type(self).model_fields[name].get_default(call_default_factory=True)
            for name in sections
        }
        return self.model_copy(update=defaults)


class OneKey(Settings):
    """A mapping with one key, its name, besides those in BESIDE."""

    BESIDE: ClassVar[frozenset[str]] = frozenset()

    def given(self) -> list[str]:
        """The keys that are set; a mapping that is right has one."""
        names = [name for name in type(self).model_fields if name not in self.BESIDE]
        return [name for name in names if getattr(self, name) is not None]

    @property
    def name(self) -> str:
        return self.given()[0]


class Bound(Settings):
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _some_bound(self) -> Bound:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self
