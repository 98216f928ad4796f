"""Ways into an endpoint besides `predict`."""

from __future__ import annotations

from pydantic import Field

from ray_pipeline.job.base import Settings


class GraphQL(Settings):
    """`POST /NAME/graphql`."""

    introspection: bool = Field(
        False, description="Whether callers may ask for the types; for development."
    )
    max_rows: int = Field(
        100,
        ge=1,
        description="Rows in a request, over all its fields. Fewer than `predict` takes: GraphQL "
        "costs more for each.",
    )


class Jobs(Settings):
    """`POST /NAME/jobs`: many rows at once, predicted beside the requests that people wait for."""

    max_rows: int = Field(100_000, ge=1, description="Rows in a job.")
    max_bytes: int = Field(50_000_000, ge=1000, description="Bytes in a job's body.")
    max_jobs: int = Field(
        20, ge=1, description="Jobs that the endpoint has at a time, done ones included."
    )
    at_once: int = Field(1, ge=1, description="Jobs that are predicted at the same time.")
    keep_s: float = Field(
        3600, gt=0, description="Seconds after which a job and its predictions are removed."
    )
    folder: str | None = Field(
        None,
        description="Where jobs are kept, a folder or URI that each machine reaches; "
        "`<storage>/<job>/jobs` of the bundle's storage if not given. Rows are there until they "
        "are predicted, and predictions until they expire.",
    )
