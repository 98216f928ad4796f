"""PostgreSQL's rows as Arrow, without a Python object for each value: by ADBC, through COPY.

Only columns whose Arrow values are those that the ordinary driver gives are read so. A statement
with another column (JSON, arrays, `real`, intervals and so on) is the ordinary driver's, whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.data.credentials import Login
from ray_pipeline.data.databases import DRIVERS, missing, said
from ray_pipeline.job import Source

if TYPE_CHECKING:
    import sqlalchemy as sa

_YEARS = (-719162, 2932896)
"""Days from 1970 to the first and last that Python and the steps after this know: 0001 to 9999."""
BATCH_BYTES = 4 << 20
"""About as much is held at a time."""
_DAY_US = 86_400_000_000


def reads(login: Login) -> bool:
    """Whether the URL is one of PostgreSQL that names no driver but the default one."""
    return login.url.partition("://")[0] in ("postgresql", DRIVERS["postgresql"])


def batches(
    source: Source, login: Login, statement: sa.Select[Any], wanted: Sequence[pa.Field]
) -> Iterator[tuple[pa.Table, list[str | None]]] | None:
    """The rows of a statement, streamed, its columns as `wanted`, in order, and each row's fault.

    None where a column is of a type that ADBC gives otherwise, which is seen before it is read.

    Raises:
        DataError: ADBC is not installed, the database cannot be reached or refuses, or it fails
            while it is read; without users or passwords.
    """
    try:
        from adbc_driver_manager import Error
        from adbc_driver_postgresql import dbapi
    except ImportError:
        raise missing("adbc-driver-postgresql", source) from None
    text = _compiled(statement)
    try:
        with dbapi.connect(_address(login)) as connection, connection.cursor() as cursor:
            schema = cursor.adbc_execute_schema(text)
    except Error as error:
        raise said(error, source, login) from None
    if not all(_fits(field, its.type) for field, its in zip(schema, wanted, strict=True)):
        return None
    return _streamed(source, login, text, wanted)


def _streamed(
    source: Source, login: Login, text: str, wanted: Sequence[pa.Field]
) -> Iterator[tuple[pa.Table, list[str | None]]]:
    from adbc_driver_manager import Error
    from adbc_driver_postgresql import dbapi

    try:
        with dbapi.connect(_address(login)) as connection, connection.cursor() as cursor:
            hint = {"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)}
            cursor.adbc_statement.set_options(**hint)
            cursor.execute(text)
            for batch in cursor.fetch_record_batch():
                if len(batch):
                    yield _converted(batch, wanted)
    except (Error, pa.ArrowException, OSError) as error:
        raise said(error, source, login) from None


def _address(login: Login) -> str:
    """The URL as libpq reads it."""
    import sqlalchemy as sa

    url = sa.make_url(login.url).set(drivername="postgresql")
    return url.render_as_string(hide_password=False)


def _compiled(statement: sa.Select[Any]) -> str:
    """The statement with its bounds spelt out: COPY takes no parameters."""
    from sqlalchemy.dialects import postgresql

    dialect: Any = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def _fits(field: pa.Field, wanted: pa.DataType) -> bool:
    """Whether a column as ADBC gives it can be made the same as the ordinary driver gives it."""
    if _is_numeric(field.type):
        return bool(pa.types.is_string(wanted) or pa.types.is_decimal(wanted))
    if pa.types.is_integer(field.type):
        return bool(pa.types.is_int64(wanted))
    same = (pa.bool_(), pa.float64(), pa.string(), pa.binary(), pa.date32())
    return bool(field.type == wanted and (wanted in same or pa.types.is_timestamp(wanted)))


def _is_numeric(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.OpaqueType) and kind.type_name == "numeric"


def _converted(
    batch: pa.RecordBatch, wanted: Sequence[pa.Field]
) -> tuple[pa.Table, list[str | None]]:
    columns: list[pa.Array] = []
    faults: list[str | None] = [None] * len(batch)
    for column, field in zip(batch.columns, wanted, strict=True):
        kind = field.type
        if _is_numeric(column.type):
            columns.append(_exact(column.storage, kind))
        elif pa.types.is_temporal(kind):
            columns.append(_within_years(column, field, faults))
        else:
            columns.append(column.cast(kind))
    return pa.table(columns, schema=pa.schema(wanted)), faults


def _exact(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Numbers that came as texts; as decimals NaN and infinities, which are none, are null."""
    if pa.types.is_decimal(kind):
        texts = pc.if_else(pc.match_substring_regex(texts, "(?i)[ni]"), None, texts)
    else:  # spelt as the ordinary driver does
        texts = pc.replace_substring_regex(texts, "^nan$", "NaN")
        texts = pc.replace_substring_regex(texts, "inf$", "Infinity")
    return texts.cast(kind)


def _within_years(column: pa.Array, field: pa.Field, faults: list[str | None]) -> pa.Array:
    """The dates that have a year, null for infinities and the like, which are faults."""
    unit, low, high = (
        (pa.int32(), *_YEARS)
        if pa.types.is_date(field.type)
        else (pa.int64(), _YEARS[0] * _DAY_US, (_YEARS[1] + 1) * _DAY_US - 1)
    )
    numbers = column.cast(unit)
    outside = pc.or_(pc.less(numbers, low), pc.greater(numbers, high))
    if not pc.any(outside).as_py():
        return column
    for place in pc.indices_nonzero(outside).to_pylist():
        found = "found a date outside the years 1 to 9999"
        faults[place] = f"{field.name}: expected {field.type}, {found}"
    return pc.if_else(outside, None, column)
