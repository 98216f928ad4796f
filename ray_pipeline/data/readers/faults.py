"""What is said of a file that cannot be read, whichever library gave up on it."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from upath import UPath

from ray_pipeline.errors import DataError

_BROKEN = (EOFError, zlib.error, lzma.LZMAError)


@contextmanager
def told(path: UPath | str) -> Iterator[None]:
    """Raises DataError, which names the file, where the body fails to read it."""
    where = str(path)
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(
            f"a file is gone: {_line(error)}",
            where=where,
            hint="put it back, or run again to read what is there now",
        ) from error
    except PermissionError as error:
        raise DataError(
            f"no permission to read it: {_line(error)}",
            where=where,
            hint="check the file's mode, or the credentials in the environment",
        ) from error
    except _BROKEN as error:
        raise DataError(
            f"the compressed file is cut off or broken: {_line(error)}",
            where=where,
            hint="copy the file again, whole",
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"the file cannot be read: {_line(error)}",
            where=where,
            hint="if it was cut off or altered on its way, copy it again",
        ) from error


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def missing(library: str, extra: str, where: str) -> DataError:
    """What to say where the library that reads a format is not installed."""
    return DataError(
        f"reading this needs {library}, which is not installed",
        where=where,
        hint=f"pip install 'ray-pipeline[{extra}]'",
    )
