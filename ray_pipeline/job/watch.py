"""What is kept of an endpoint's requests, and what is made of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ray_pipeline.job.base import Settings


class Log(Settings):
    """Requests and their predictions, kept in the storage: a sample of them, for a while."""

    sample: float = Field(0.1, gt=0, le=1, description="Share of the requests that are kept.")
    max_bytes: int = Field(
        200_000_000,
        ge=100_000,
        description="Bytes that are kept in all; the oldest are removed first. Labels that were "
        "sent later may take a quarter as much besides.",
    )
    max_age_days: float = Field(30, gt=0, description="What is older is removed.")
    every_s: float = Field(
        5,
        gt=0,
        description="How often a replica writes what it has kept; till then it is in memory.",
    )
    mask: tuple[str, ...] = Field(
        (), description="Columns of which only is kept whether there was a value."
    )
    texts: Literal["length", "mask", "whole"] = Field(
        "length",
        description="Of columns of the kind `text`: how many characters they have, the text with "
        "what is found of personal data in it replaced by its name, such as `<EMAIL>`, or the text "
        "as the model reads it, which the vectors of rows take.",
    )
    images: Literal["none", "pixels"] = Field(
        "none",
        description="Of columns of the kind `image`: nothing, or the pixels that the model reads, "
        "which the vectors of rows take.",
    )


class Drift(Settings):
    """When rows are called otherwise than those that the model was made for: where a difference is
    both beyond its bound and beyond chance."""

    rows: int = Field(5000, ge=100, description="The newest logged rows, so many, are looked at.")
    days: float | None = Field(None, gt=0, description="None of them is older than that.")
    min_rows: int = Field(500, ge=50, description="Of fewer rows nothing is said.")
    min_labels: int = Field(200, ge=30, description="Nor of fewer labels how good the model is.")
    false_alarms: float = Field(
        0.01,
        gt=0,
        lt=0.5,
        description="Of looks at rows that are as they were, the share that may have an alarm, of "
        "whatever column.",
    )
    max_psi: float = Field(
        0.1, gt=0, description="Population stability index of a column, or of the predictions."
    )
    max_missing: float = Field(
        0.05, gt=0, lt=1, description="By how much the share of missing values may change."
    )
    max_unseen: float = Field(
        0.02, gt=0, lt=1, description="By how much the share of unknown values may grow."
    )
    max_mmd: float = Field(
        0.04,
        gt=0,
        description="Maximum mean discrepancy of the vectors of rows with texts or images.",
    )
    max_worse: float = Field(
        0.03,
        gt=0,
        description="Accuracy that may be lost; of values, the share by which the mean absolute "
        "error may grow.",
    )


class Window(Settings):
    """What a challenger learns from and is judged on: files of the source, in their names' order.

    Names are to rise with time, as dates do.
    """

    files: int | None = Field(
        None, ge=1, description="Newest files that it learns from; all that are older if absent."
    )
    judge: int = Field(
        1, ge=1, description="Files that are newer still, which neither model has seen."
    )


class Judge(Settings):
    """When a challenger takes over, and which data it may not learn from."""

    metric: str | None = Field(
        None,
        description="By which the two are compared: accuracy or rmse if absent. The whole interval "
        "of the difference has to be on the better side (`evaluate.bootstrap`, rows in pairs).",
    )
    min_gain: float = Field(0, ge=0, description="By how much it has to be better.")
    max_label_psi: float = Field(
        0.25,
        gt=0,
        description="Population stability index of the labels of the new files, above which they "
        "are not believed.",
    )


class Watch(Settings):
    """What is kept of an endpoint's requests, and what is made of it."""

    log: Log | None = Field(None, description="`{}` keeps a sample, with the defaults below.")
    drift: Drift = Drift()
    window: Window = Window()
    judge: Judge = Judge()
    every_s: float = Field(300, gt=0, description="How often `watch` looks, without `--once`.")
    new_files: int | None = Field(
        1,
        ge=1,
        description="So many files that the model has not seen start a run; null: no number does.",
    )
    every_days: float | None = Field(
        None, gt=0, description="So does a model that is older, if there is a new file."
    )
    max_runs: int = Field(4, ge=1, description="Runs in 24 hours.")
    approve: bool = Field(
        False,
        description="A challenger that is better waits for a person's `ray-pipeline promote`.",
    )
