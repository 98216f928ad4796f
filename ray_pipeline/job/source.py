"""Where rows come from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from ray_pipeline.job.base import Settings

_FROM_ENVIRONMENT = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_LOGIN = re.compile(r"[^/@:?]*:(?!\d+/)([^?]*)@")
_SPELLED_OUT = (
    "the URL holds a password; write `${NAME}` in its place and set NAME in the environment"
)
Mark = tuple[str, int | float | str]
"""A value of a column as JSON has it, after the name of its type."""
_SECRETS = {"password", "passwd", "pwd", "secret", "token", "sslpassword"}


class Join(Settings):
    """Another table, joined in the database to the rows read so far."""

    table: str = Field(description="The other table, as `table` or `schema.table`.")
    on: tuple[str, ...] | dict[str, str] = Field(
        description="Columns that are equal: their common names, or a mapping from the name so "
        "far to the other table's.",
        min_length=1,
    )
    how: Literal["left", "inner"] = Field(
        "left", description="`left` keeps rows without a match, with nulls; `inner` drops them."
    )
    columns: tuple[str, ...] | dict[str, str] | None = Field(
        None,
        description="Columns to take, or a mapping from their names to new ones; all but `on` if "
        "absent.",
    )


class New(Settings):
    """Rows that come in over time: each run takes those that are there, each row once.

    What was taken is kept beside the job's runs, and moves on when the cleaned rows are stored. A
    run that finds nothing new has the rows of the one before.
    """

    column: str | None = Field(
        None,
        description="Tables: a column that only grows, such as a serial number or the time of a "
        "change; rows without a value in it are never taken. Absent for folders, whose files are "
        "taken as they come, each once.",
    )
    lag: float = Field(
        0,
        ge=0,
        description="How far below the column's greatest value rows still may appear: seconds for "
        "times, else its own units. Rows nearer to it wait for a later run. Give more than the "
        "longest transaction takes.",
    )
    rows: Literal["all", "new"] = Field(
        "all",
        description="`all`: a run has all rows taken so far and the new ones; `new`: only these.",
    )
    above: Mark | None = Field(None, description="Set by each run: the mark that rows are above.")
    upto: Mark | None = Field(None, description="Set by each run: the mark that rows are up to.")
    files: tuple[str, ...] | None = Field(None, description="Set by each run: its files.")
    fixed: bool = Field(False, description="Set by `watch`: these files, whatever was taken.")


class Source(Settings):
    """A place that rows are read from. A text alone is its `url`."""

    url: str = Field(
        description="File, folder or glob, relative to the job file; any fsspec URI; or a "
        "database's URL, without its password: that comes from the environment, either by the "
        "database's own variables (PGPASSWORD, MYSQL_PWD, REDIS_PASSWORD) or where the URL says "
        "`${NAME}`."
    )
    table: str | None = Field(None, description="Table or collection of a database.")
    query: str | None = Field(None, description="A SELECT instead of a table.")
    namespace: str | None = Field(
        None, alias="schema", description="The database schema of `table` and of joined tables."
    )
    join: tuple[Join, ...] = Field((), description="Tables joined to `table` by the database.")
    key: str | None = Field(
        None,
        description="Column of whole numbers, dates or texts by whose ranges tasks share the "
        "reading; the primary key if absent.",
    )
    partitions: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Ranges, read in parallel; by the number of rows if absent.",
    )
    pattern: str | None = Field(None, description="Redis: the keys to read, such as `user:*`.")
    labels: str | None = Field(
        None,
        description="Texts, pages, images, videos: a CSV of labels, relative to the job file. Its "
        "column `path`, or else its first, holds file names relative to `url`; the others become "
        "columns. Without it, `label` is the name of a file's folder.",
    )
    sections: bool = Field(
        False, description="HTML: a row for each heading and what follows it, not one for a page."
    )
    frames_per_second: float | None = Field(
        None, gt=0, le=1000, description="Video: frames taken in a second; all if absent."
    )
    segment_seconds: float = Field(
        1.0,
        gt=0,
        description="Video: the length of a `segment`, to split by: frames next to each other are "
        "nearly the same, and should fall on one side.",
    )
    thumbnail: int | None = Field(
        None,
        ge=1,
        le=32,
        description="Images, video: instead of the image, its mean red, green and blue in each "
        "cell of a grid of so many rows and columns, and its `edges`: how sharp it is.",
    )
    new: New | None = Field(
        None, description="Rows that come in over time: what each run takes; absent, what is there."
    )
    sheet: str | None = Field(None, description="Sheet of an Excel file; the first if absent.")
    version: int | str | None = Field(
        None,
        description="Version of a Delta, Iceberg or Lance table: its number, a tag or branch, for "
        "Delta a time (ISO 8601); the newest if absent.",
    )

    @property
    def scheme(self) -> str:
        """`postgresql` of `postgresql+psycopg://…`; empty for a path."""
        return self.url.partition("://")[0].partition("+")[0].lower() if "://" in self.url else ""

    @property
    def place(self) -> str:
        """The URL without user, password and parameters: what may be shown and stored."""
        if "://" not in self.url:
            return self.url
        scheme, _, rest = self.url.partition("://")
        before, slash, path = rest.partition("/")
        if self.table or self.query or self.pattern:  # elsewhere a `?` may be part of a glob
            path = path.partition("?")[0]
        return f"{scheme}://{before.rpartition('@')[2]}{slash}{path}"

    def __str__(self) -> str:
        what = self.table or self.pattern or ("query" if self.query else "")
        return f"{self.place} {what}" if what else self.place

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if spelt_password(self.url):
            raise ValueError(_SPELLED_OUT)
        if self.table and self.query:
            raise ValueError("give `table` or `query`, not both")
        if self.join and not self.table:
            raise ValueError("`join` needs a `table` to join to; a query can join by itself")
        if self.partitions and self.partitions > 1 and self.query and not self.key:
            raise ValueError("to read a query in `partitions`, name the `key` column to divide by")
        if (self.table or self.query or self.pattern) and "://" not in self.url:
            raise ValueError("`table`, `query` and `pattern` need the URL of a database")
        if self.new and (self.new.column is None) == bool(self.table or self.query):
            raise ValueError("`new.column` is needed for a table or query, and for nothing else")
        return self


def spelt_password(url: str) -> str | None:
    """A password that the URL spells out, be it before the host or among the parameters."""
    if "://" not in url:
        return None
    before_host = _LOGIN.match(url.partition("://")[2])
    given = [before_host[1]] if before_host else []
    given += [value for name, value in parse_qsl(urlsplit(url).query) if name.lower() in _SECRETS]
    return next((text for text in given if text and not _FROM_ENVIRONMENT.fullmatch(text)), None)


def _source(url: str) -> Source:
    if spelt_password(url):  # said here: an error of `Source` would quote the whole URL
        raise ValueError(_SPELLED_OUT)
    return Source(url=url)


def _form(value: Any) -> str:
    return "text" if isinstance(value, str) else "mapping"


if TYPE_CHECKING:
    Place = Source
else:  # a validator before the union would have YAML's lists refused as tuples
    Place = Annotated[
        Annotated[str, AfterValidator(_source), Tag("text")] | Annotated[Source, Tag("mapping")],
        Discriminator(_form),
    ]
