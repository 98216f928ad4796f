"""What a network reads and puts out."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ray_pipeline.data.statistics import ImageStatistics, TokenStatistics


class Inputs(BaseModel):
    """What a network reads and puts out for a row.

    `numbers` F scaled numbers, of which the first `embedded` may be given as more than themselves
    (all if None), `categories` the C columns' vocabulary sizes, `outputs` K: one per class, or 1
    for a value. `image` says what the images are like, and `tokens` whose the tokens of texts are
    (without the tokenizer itself), where there are any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    numbers: int
    categories: tuple[int, ...]
    outputs: int
    embedded: int | None = None
    image: ImageStatistics | None = None
    tokens: TokenStatistics | None = None
