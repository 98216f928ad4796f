"""How rows get labels from functions that vote, and how suspected wrong labels are treated."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ray_pipeline.job.base import Settings


class When(Settings):
    """A condition on one column; all that is given must hold, and a missing value meets none."""

    column: str
    contains: str | None = Field(None, description="Text that occurs in the value, in any case.")
    matches: str | None = Field(None, description="Regular expression (RE2) found in the value.")
    among: tuple[str | float | bool, ...] | None = Field(
        None, alias="in", description="The value is one of these."
    )
    above: float | None = None
    below: float | None = None

    @field_validator("matches")
    @classmethod
    def _an_expression(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"no regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _some_condition(self) -> When:
        conditions = (self.contains, self.matches, self.among, self.above, self.below)
        if all(condition is None for condition in conditions):
            raise ValueError("give contains, matches, in, above or below")
        return self


class Function(Settings):
    """One labelling function: a rule, a function of yours, or another bundle. It may abstain."""

    when: When | None = Field(None, description="The rows that a rule votes for.")
    vote: str | None = Field(None, description="The class that a rule votes for.")
    call: str | None = Field(
        None,
        description="`module:function`: a pyarrow Table of rows to an Array of classes, null where "
        "it abstains.",
    )
    bundle: str | None = Field(None, description="A bundle whose predictions are the votes.")
    at_least: float = Field(
        0.0, ge=0, le=1, description="A bundle abstains where it is less sure than this."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Function:
        if sum(kind is not None for kind in (self.when, self.call, self.bundle)) != 1:
            raise ValueError("give exactly one of when, call, bundle")
        if (self.when is None) != (self.vote is None):
            raise ValueError("`when` and `vote` belong together")
        return self


class Label(Settings):
    """Labels by annotators and by functions that vote. Labels that rows already have are kept,
    unless annotators say otherwise."""

    functions: dict[str, Function] = Field(default_factory=dict, description="By name.")
    combine: Literal["majority", "dawid-skene"] = Field(
        "majority",
        description="`dawid-skene` weighs functions by how they agree with the others. Each must "
        "vote for two classes or more, which a rule cannot; needs the extra `label`.",
    )
    classes: tuple[str, ...] = Field(
        (),
        description="What annotators may choose from, in this order; if empty, the classes that "
        "rows and functions name.",
    )
    annotations: tuple[str, ...] = Field(
        (),
        description="Label Studio's exports (JSON or JSON-MIN) of tasks that `annotate` wrote; "
        "each a file, folder or glob, relative to the job file.",
    )
    annotators: Literal["majority", "dawid-skene"] = Field(
        "majority",
        description="How several annotators of one row are combined. `dawid-skene` weighs each by "
        "how they agree with the others; needs the extra `label`.",
    )
    unvoted: Literal["quarantine", "unlabelled"] = Field(
        "quarantine",
        description="Rows without a label: set aside as unusable, or as rows still to be labelled.",
    )
    errors: Literal["off", "report", "drop", "ask"] = Field(
        "off",
        description="Labels that look wrong: list them, set the rows aside, or keep them out until "
        "annotators have been asked.",
    )
    seed: int = 0

    @model_validator(mode="after")
    def _something_to_do(self) -> Label:
        labelling = self.functions or self.annotations or self.unvoted == "unlabelled"
        if not labelling and self.errors == "off":
            raise ValueError(
                "give `functions` or `annotations`, set `unvoted: unlabelled`, or say what becomes "
                "of suspected `errors`"
            )
        return self
