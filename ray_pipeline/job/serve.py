"""The endpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ray_pipeline.job.base import Settings
from ray_pipeline.job.source import spelt_password


class Replicas(Settings):
    min: int = Field(1, ge=0)
    max: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError("min is above max")
        return self


class Online(Settings):
    """Features that a request need not carry: the endpoint reads them by the row's key."""

    url: str = Field(
        description="The Redis that a store of the job wrote to, without its password: replicas "
        "take that from their own environment.",
        examples=["redis://cache:6379/0"],
    )
    table: str = Field(min_length=1, description="The store's `table`.")
    key: str = Field(description="The column whose value in the row is the key.")
    columns: tuple[str, ...] = Field(
        min_length=1, description="Feature columns that are read where a row lacks them."
    )

    @field_validator("url")
    @classmethod
    def _redis(cls, url: str) -> str:
        if not url.startswith(("redis://", "rediss://")):
            raise ValueError("must be redis:// or rediss://")
        if spelt_password(url):
            raise ValueError("holds a password; write `${NAME}` in its place")
        return url


class Serve(Settings):
    port: int = Field(8000, ge=1, le=65535)
    host: str = Field(
        "127.0.0.1",
        description="The address to listen on; 0.0.0.0 lets other machines in, and is needed on a "
        "cluster of several.",
    )
    auth: Literal["key", "none"] = Field("key", description="Who may call: holders of the key.")
    replicas: Replicas = Replicas()
    cpus: float = Field(0.5, gt=0, description="CPUs reserved for a replica.")
    target_ongoing_requests: float = Field(
        8,
        gt=0,
        description="Requests in flight per replica that autoscaling aims at; a replica of a small "
        "model that is busy all the time has about 15.",
    )
    max_ongoing_requests: int = Field(
        64, ge=1, description="Requests a replica takes at a time; more wait in the queue."
    )
    max_queued_requests: int = Field(
        1024, ge=1, description="Requests that may wait; more are told 503 or 429 at once."
    )
    upscale_delay_s: float = Field(3, ge=0)
    downscale_delay_s: float = Field(60, ge=0)
    online: Online | None = Field(
        None, description="Where features that a request does not carry are read."
    )
    max_rows: int = Field(1000, ge=1, description="Rows in a request.")
    max_bytes: int = Field(1_000_000, ge=1000, description="Bytes in a request's body.")
