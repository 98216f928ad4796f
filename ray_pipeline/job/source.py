"""Where rows come from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ray_pipeline.job.base import Settings


class Source(Settings):
    """A place that rows are read from. A text alone is its `url`."""

    url: str = Field(
        description="File, folder or glob, relative to the job file; any fsspec URI; or a "
        "database's URL, without its password."
    )

    def __str__(self) -> str:
        return self.url


def _whole(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


Place = Annotated[Source, BeforeValidator(_whole, json_schema_input_type=str | Source)]
