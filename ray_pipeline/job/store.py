"""Where rows and features are kept for others: tables, databases, the online store, vectors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ray_pipeline.job.base import Settings
from ray_pipeline.job.source import spelt_password

SERVERS = ("postgresql", "mongodb", "redis")


class Store(Settings):
    """One store that a run writes its clean rows to, each row once however often it is run."""

    url: str = Field(
        description="A folder or fsspec URI for a table of `format`, or the URL of a server, "
        "without its password: postgresql://, mongodb://, redis://.",
        examples=["../tables/customers", "postgresql://shop@db/shop", "redis://cache:6379/0"],
    )
    format: Literal["parquet", "delta", "lance", "lancedb"] = Field(
        "parquet", description="The table's format where `url` is a folder; lancedb is for vectors."
    )
    table: str = Field(
        "", pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,62})?$", description="Its name on the server."
    )
    key: str | None = Field(None, description="The column that tells rows apart.")
    columns: tuple[str, ...] = Field((), description="Columns that are kept; all if empty.")
    vector: str | None = Field(None, description="The column of vectors that is searched.")
    rows: Literal["clean", "history"] = Field(
        "clean",
        description="`clean`: the job's rows; `history`: the latest aggregates of each `key` under "
        "`data.history`, for the endpoint to read.",
    )
    mode: Literal["replace", "upsert"] = Field(
        "replace",
        description="`replace`: the table is this run's rows; `upsert`: rows of the same key are "
        "overwritten and the others stay.",
    )

    @property
    def kind(self) -> str:
        """What STORES knows it by: the server's scheme, or the format."""
        scheme = self.url.partition("://")[0].partition("+")[0]
        return scheme if "://" in self.url and scheme in SERVERS else self.format

    @model_validator(mode="after")
    def _fits(self) -> Store:
        if spelt_password(self.url):
            raise ValueError(
                "the URL holds a password; write `${NAME}` in its place and set NAME in the "
                "environment"
            )
        named = self.kind in (*SERVERS, "lancedb")
        if named and not self.table:
            raise ValueError("`table` is needed: the name of the rows on the server")
        if not self.key and (self.mode == "upsert" or self.kind in ("mongodb", "redis", "lancedb")):
            raise ValueError("`key` is needed: the column that tells rows apart")
        if (self.kind == "lancedb") and not self.vector:
            raise ValueError("`vector` is needed: the column of vectors")
        if self.vector and self.kind not in ("lancedb", "postgresql"):
            raise ValueError("vectors are kept by lancedb or postgresql")
        if self.rows == "history" and not self.key:
            raise ValueError("`key` is needed: that of `data.history`")
        if self.kind == "parquet" and self.mode == "upsert":
            raise ValueError("Parquet files cannot be upserted; use delta or lance")
        return self
