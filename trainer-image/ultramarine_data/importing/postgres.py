"""The result of a query on PostgreSQL: one read-only transaction, streamed by COPY, in bounded memory."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pyarrow as pa
from pyarrow import csv
from ultramarine_contract.dataset_records import PLACE_OF_SECRET, ImportSummary, ImportTask

from ultramarine_data.errors import DataError
from ultramarine_data.importing.parquet import ParquetFolder
from ultramarine_data.tables import quoted

ATTEMPTS, CONNECT_SECONDS, PAUSE_SECONDS = 4, 15, 5
SILENCE_SECONDS = 60  # after the statement's timeout, of which the server tells
BLOCK = 8 * 2**20  # bytes of CSV that are read at once
TYPES = {
    "bool": pa.bool_(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "oid": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "numeric": pa.float64(),  # without a scale; a query that casts to text keeps all digits
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}
# Of the session: nothing is written, and texts of values have one form.
SETTINGS = {
    "application_name": "ultramarine-data",
    "default_transaction_read_only": "on",
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "3",
}
FINAL = (  # no other attempt gets another answer
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)


def read(task: ImportTask, _: Path, data: Path) -> ImportSummary:
    """Write the result of the query as Parquet. Raises DataError for a query that fails, writes or takes too long."""
    address = os.environ.get(PLACE_OF_SECRET, "")
    if not address.startswith(("postgres://", "postgresql://")):
        remedy = "store postgresql://USER:PASSWORD@HOST:PORT/DATABASE under the key"
        raise DataError(f"source.sql.connectionSecretRef has no address of PostgreSQL; {remedy}")
    try:
        return asyncio.run(_read(task, address, data))
    except asyncpg.QueryCanceledError as error:
        message = f"the query took longer than source.sql.timeoutSeconds={task.timeout_seconds}"
        raise DataError(f"{message}; allow more, or select less") from error
    except asyncpg.ReadOnlySQLTransactionError as error:
        raise DataError(f"source.sql.query writes: {error}; give a SELECT") from error
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError, TimeoutError) as error:
        message = f"the connection to the database broke, or it stopped answering: {error}; check that it runs"
        raise DataError(message, transient=True) from error
    except asyncpg.PostgresError as error:
        raise DataError(f"source.sql.query: {error}; correct the query") from error


async def _read(task: ImportTask, address: str, data: Path) -> ImportSummary:
    query = task.query.strip().rstrip(";")
    async with (
        _connected(address, task.timeout_seconds) as connection,
        # One snapshot for the watermark and the rows.
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        prepared = await connection.prepare(query)  # refuses several statements, and names the types
        columns = {str(column.name): TYPES.get(column.type.name, pa.string()) for column in prepared.get_attributes()}
        if not columns:
            raise DataError("source.sql.query returns no columns; give a SELECT")
        mark = await _watermark(connection, query, task, list(columns))
        if task.watermark and mark == task.watermark:
            return ImportSummary(watermark=mark)
        with ParquetFolder(data, task.partition_by) as folder:
            folder.write(pa.schema(list(columns.items())).empty_table())
            await _stream(connection, query, columns, folder)
    return ImportSummary(changed=True, rows=folder.rows, watermark=mark)


async def _watermark(connection: asyncpg.Connection, query: str, task: ImportTask, names: list[str]) -> str:
    if not task.watermark_column:
        return ""
    if task.watermark_column not in names:
        raise DataError(f"watermark: the result has no column {task.watermark_column}; it has {', '.join(names)}")
    statement = f"SELECT max({quoted(task.watermark_column)})::text FROM ({query}) AS result"
    return str(await connection.fetchval(statement) or "")[:256]


async def _stream(
    connection: asyncpg.Connection, query: str, columns: dict[str, pa.DataType], folder: ParquetFolder
) -> None:
    """Copy the result through a pipe: a slow writer holds the database back, so no batch waits in memory."""
    source, sink = os.pipe()
    failures: list[BaseException] = []
    writer = threading.Thread(target=_write, args=(source, columns, folder, failures), name="parquet")
    writer.start()
    loop = asyncio.get_running_loop()

    async def take(block: bytes) -> None:
        view = memoryview(block)
        while view:
            written = await loop.run_in_executor(None, os.write, sink, view)
            view = view[written:]

    try:
        await connection.copy_from_query(query, output=take, format="csv")
    except BrokenPipeError:
        pass  # the writer has failed, and says why
    finally:
        os.close(sink)
        await loop.run_in_executor(None, writer.join)
    if failures:
        raise DataError(f"a value of the result cannot be stored: {failures[0]}; cast it in the query") from failures[0]


def _write(source: int, columns: dict[str, pa.DataType], folder: ParquetFolder, failures: list[BaseException]) -> None:
    convert = csv.ConvertOptions(
        column_types=columns,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        true_values=["t"],
        false_values=["f"],
        timestamp_parsers=[csv.ISO8601],
    )
    names = list(columns)
    try:
        with os.fdopen(source, "rb") as stream:
            reader = csv.open_csv(
                stream,
                csv.ReadOptions(column_names=names, block_size=BLOCK, use_threads=False),
                csv.ParseOptions(newlines_in_values=True),
                convert,
            )
            for batch in reader:
                folder.write(pa.Table.from_batches([batch]))
    except pa.ArrowInvalid as error:
        if not str(error).startswith("Empty CSV"):  # a result without rows
            failures.append(error)
    except (DataError, OSError, pa.ArrowException) as error:
        failures.append(error)


@asynccontextmanager
async def _connected(address: str, timeout_seconds: int) -> AsyncIterator[asyncpg.Connection]:
    settings = {**SETTINGS, "statement_timeout": str(timeout_seconds * 1000)}
    parts = urlsplit(address)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            connection = await asyncpg.connect(
                address,
                timeout=CONNECT_SECONDS,
                command_timeout=timeout_seconds + SILENCE_SECONDS,
                server_settings=settings,
            )
            break
        except FINAL as error:
            raise DataError(f"the database at {parts.hostname} refuses: {error}; correct the Secret") from error
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if attempt == ATTEMPTS:
                remedy = "check that it runs, and that the network lets the pod reach it"
                message = f"the database at {parts.hostname}:{parts.port or 5432} does not answer: {error}; {remedy}"
                raise DataError(message, transient=True) from error
            await asyncio.sleep(PAUSE_SECONDS)
    try:
        yield connection
    finally:
        await connection.close(timeout=CONNECT_SECONDS)
