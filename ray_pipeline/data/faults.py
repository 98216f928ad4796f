"""What is said of a file that cannot be found or read, whichever library gave up on it."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from upath import UPath

from ray_pipeline.errors import DataError

_BROKEN = (EOFError, zlib.error, lzma.LZMAError)
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}
_CREDENTIALS = "endpoint and credentials in the environment in which the cluster was started"


@contextmanager
def told(path: UPath | str) -> Iterator[None]:
    """Raises DataError, which names the file, where the body fails to find or read it."""
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
            hint=f"check the file's mode, or {_CREDENTIALS}",
        ) from error
    except ImportError as error:
        scheme = where.partition("://")[0]
        if scheme not in _EXTRAS:
            raise
        raise missing(f"a client for {scheme}://", _EXTRAS[scheme], where) from error
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
    except _client_errors(where) as error:
        raise DataError(
            f"the store cannot be reached: {_line(error)}",
            where=where,
            hint=f"check {_CREDENTIALS}",
        ) from error


def _client_errors(where: str) -> tuple[type[Exception], ...]:
    """What S3's client raises that is no OSError: no connection, no credentials."""
    if _EXTRAS.get(where.partition("://")[0]) != "s3":
        return ()
    from botocore.exceptions import BotoCoreError

    return (BotoCoreError,)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def missing(library: str, extra: str, where: str) -> DataError:
    """What to say where the library that reads a format is not installed."""
    return DataError(
        f"reading this needs {library}, which is not installed",
        where=where,
        hint=f"pip install 'ray-pipeline[{extra}]'",
    )
