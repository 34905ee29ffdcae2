"""Ports on loopback that a real Envoy forwards: to a storage, a server that greets, one without an address."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from pathlib import Path
from typing import Any

import boto3
from aiohttp import ClientSession
from certificates import Authority
from gateway_rig import answers, deployment, free_port, pods, routes, running, who_answers
from ultramarine_gateway.config.forwards import MAX_CONNECTIONS
from unit.conftest import ObjectStore, serving_store

BUCKET = "ultramarine"


def client(store: ObjectStore, port: int, authority: Path) -> Any:
    """An S3 client that connects to a port of loopback, and checks the storage's certificate."""
    return boto3.client(
        "s3",
        endpoint_url=f"https://localhost:{port}",
        region_name="us-east-1",
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
        verify=str(authority),
    )


async def test_an_upload_reaches_the_storage_by_its_own_tls(tmp_path: Path) -> None:
    """An object of several parts comes back as it was sent, by a certificate that Envoy does not have."""
    authority, port, content = Authority(), free_port(), bytes(range(256)) * (12 << 12)
    authority.issue(tmp_path / "tls", "localhost")
    (tmp_path / "data" / BUCKET).mkdir(parents=True)
    (tmp_path / "sent").write_bytes(content)
    with serving_store(tmp_path / "data", tmp_path / "tls") as store:
        server = store.endpoint.replace("127.0.0.1", "localhost")
        async with running("fw", (f"{port}={server}",)) as gateway, ClientSession() as session:
            await answers(session, f"http://127.0.0.1:{gateway.ready_port}/")
            s3 = client(store, port, tmp_path / "tls" / "ca.crt")
            await asyncio.to_thread(s3.upload_file, str(tmp_path / "sent"), BUCKET, "team/sent")
            await asyncio.to_thread(s3.download_file, BUCKET, "team/sent", str(tmp_path / "fetched"))
    assert (tmp_path / "fetched").read_bytes() == content


async def test_a_forwarded_port_is_on_loopback_alone_and_bounded(tmp_path: Path) -> None:
    """No other address of the machine has it; beyond the limit a connection is closed, and a closed one makes room."""
    port, server_port = free_port(), free_port()

    async def greet(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"!")
        await reader.read()
        writer.close()

    async def opened() -> tuple[bytes, StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        return await reader.read(1), writer

    server = await asyncio.start_server(greet, "127.0.0.1", server_port)
    async with (
        server,
        running("fw", (f"{port}=http://127.0.0.1:{server_port}",)) as gateway,
        ClientSession() as session,
    ):
        await answers(session, f"http://127.0.0.1:{gateway.ready_port}/")
        refused = await asyncio.gather(asyncio.open_connection("127.0.0.2", port), return_exceptions=True)
        assert isinstance(refused[0], ConnectionRefusedError)

        first = [await opened() for _ in range(MAX_CONNECTIONS)]
        assert {greeting for greeting, _ in first} == {b"!"}
        greeting, writer = await opened()
        assert greeting == b""
        for _, writer in first:
            writer.close()
        while (await opened())[0] != b"!":  # Envoy counts a closed connection until its server's end is closed, too
            pass


async def test_a_server_without_an_address_disturbs_nothing_else() -> None:
    """Envoy is ready and routes to endpoints; a connection to the forwarded port is closed."""
    port, lost = free_port(), free_port()
    async with (
        running("fw", (f"{lost}=https://storage.invalid",)) as gateway,
        ClientSession() as session,
        pods("blue") as (blue,),
    ):
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100)))
        await answers(session, f"http://127.0.0.1:{gateway.ready_port}/")
        assert await who_answers(session, port, 3) == {"blue": 3}
        reader, writer = await asyncio.open_connection("127.0.0.1", lost)
        assert await reader.read() == b""
        writer.close()
