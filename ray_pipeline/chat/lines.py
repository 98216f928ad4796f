"""Files that people write for a chatbot, a line for each thing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from pydantic import ValidationError
from upath import UPath

from ray_pipeline.errors import DataError
from ray_pipeline.job.base import Settings

Kind = TypeVar("Kind", bound=Settings)


def texts(path: str, each: str) -> list[str]:
    """A file's lines, each of which is what `each` says. Raises DataError: it cannot be read."""
    try:
        return UPath(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read: {error}", where=path, expected=f"{each} on each line, in UTF-8"
        ) from error


def records(path: str, kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
    """Where each line of a file is, and what its JSON object says.

    Raises:
        DataError: it cannot be read, and in which line.
    """
    for number, line in enumerate(texts(path, "a JSON object"), 1):
        where = f"{path}, line {number}"
        try:
            yield where, kind.model_validate_json(line)
        except ValidationError as error:
            what = error.errors()[0]
            raise DataError(
                f"{'.'.join(map(str, what['loc']))}: {what['msg']}", where=where
            ) from error
