"""The embedded storage as a server: it keeps what it has acknowledged, and is not exhausted by what it is sent."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from ports import free_port
from ultramarine_cluster import build, programs
from unit.conftest import eventually

BUCKET = "ultramarine"
HUGE = "Content-Length: 200000000"


class Server:
    """The storage on a folder of its own; it is started and ended as the test likes."""

    def __init__(self, folder: Path) -> None:
        self.data, self.accounts = folder / "data", folder / "accounts"
        self.data.mkdir()
        self.accounts.mkdir()
        (self.accounts / "root").write_text("first")
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        address = f"127.0.0.1:{self.port}"
        command = [programs.path("ultramarine-storage"), "-listen", address, "-data", self.data]
        self.process = subprocess.Popen([*command, "-accounts", self.accounts], stderr=subprocess.PIPE)
        eventually(self.is_healthy)

    def is_healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.suppress(OSError):
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        return False

    def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(120)

    def client(self, secret: str = "first") -> Any:
        config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
        keys = {"aws_access_key_id": "root", "aws_secret_access_key": secret}
        url = f"http://127.0.0.1:{self.port}"
        return boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=config, **keys)

    @property
    def memory(self) -> int:
        """Bytes of resident memory."""
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A storage that runs."""
    build.ensure(("ultramarine-storage",))
    server = Server(tmp_path)
    server.start()
    yield server
    if server.process is not None and server.process.poll() is None:
        server.end()


def test_what_was_acknowledged_outlives_a_kill(server: Server) -> None:
    """Objects whose writes were answered are whole after the server was killed among further writes."""
    stored: list[str] = []

    def write(number: int) -> None:
        s3 = server.client()
        with contextlib.suppress(ClientError, BotoCoreError):
            for turn in range(1000):
                key = f"team-a/{number}/{turn}/x"
                s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode() * 100)
                stored.append(key)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    eventually(lambda: len(stored) > 200)
    server.end()
    for writer in writers:
        writer.join()
    server.start()

    s3 = server.client()
    for key in stored:
        assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == key.encode() * 100


def test_an_upload_that_was_cut_off_while_it_was_completed_can_be_completed(server: Server) -> None:
    """No client is told that the object exists before it does; after the restart the next attempt creates it."""
    s3, place = server.client(), {"Bucket": BUCKET, "Key": "team-a/big"}
    upload = s3.create_multipart_upload(**place)["UploadId"]
    part = s3.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"x" * 1000)
    whole = {"UploadId": upload, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}}
    (folder,) = (server.data / BUCKET / ".sgwtmp/multipart").glob(f"*/{upload}")
    # As versitygw leaves it when it is killed under way: with the ETag that the whole object would have.
    etag = s3_etag(part["ETag"])
    folder.rename(folder.with_name(f"{upload}.{etag}.inprogress"))

    with pytest.raises(ClientError) as caught:
        s3.complete_multipart_upload(**place, **whole)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    server.end()
    server.start()
    s3 = server.client()
    s3.complete_multipart_upload(**place, **whole)
    assert s3.get_object(**place)["Body"].read() == b"x" * 1000


def s3_etag(part: str) -> str:
    """The ETag of an object of one part, without quotes."""
    return f"{md5(bytes.fromhex(part.strip(chr(34)))).hexdigest()}-1"


def test_uploads_that_were_abandoned_go(server: Server) -> None:
    """A week after its last part an upload is removed, and its room is free; a younger one stays."""
    s3 = server.client()
    for key in ("team-a/old", "team-a/new"):
        upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"x")
        if key.endswith("old"):
            (old,) = (server.data / BUCKET / ".sgwtmp/multipart").glob(f"*/{upload}")
            os.utime(old, (0, 0))
    server.end()
    server.start()

    eventually(lambda: not old.exists())
    assert len(list((server.data / BUCKET / ".sgwtmp/multipart").glob("*/*"))) == 1


def test_requests_under_way_are_finished_before_the_end(server: Server) -> None:
    """SIGTERM, as at a rollout, ends the server in order."""
    server.client().put_object(Bucket=BUCKET, Key="team-a/x", Body=b"x")
    assert server.end(signal.SIGTERM) == 0


def test_roots_key_is_exchanged_without_a_restart(server: Server) -> None:
    """The new one opens at once, and the old one no more."""
    server.client().put_object(Bucket=BUCKET, Key="team-a/x", Body=b"x")
    (server.accounts / "root").write_text("second\n")

    server.client("second").get_object(Bucket=BUCKET, Key="team-a/x")
    with pytest.raises(ClientError):
        server.client("first").get_object(Bucket=BUCKET, Key="team-a/x")


@pytest.mark.parametrize(("secret", "words"), [("", b"no key of the account root"), ("first", b"is not a bucket name")])
def test_what_is_missing_at_the_start_is_named(tmp_path: Path, secret: str, words: bytes) -> None:
    """Without root's key, or with a bucket that cannot be one, it ends, and says which."""
    build.ensure(("ultramarine-storage",))
    (tmp_path / "accounts").mkdir()
    (tmp_path / "accounts" / "root").write_text(secret)
    command = [programs.path("ultramarine-storage"), "-data", tmp_path, "-accounts", tmp_path / "accounts"]
    bucket = ["-bucket", "a..b"] if secret else []
    done = subprocess.run([*command, *bucket], capture_output=True, timeout=120)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.attack(
    "training/storage-memory",
    asset="the embedded storage",
    threat="its memory or its connections are used up by large forms, documents or silent clients",
    control="bodies other than content are 2 MiB at most, 8 long ones at a time and 30 s each; a batch names 1,000 "
    "keys; forms are refused unread; an address has 1,024 connections, each for 10 s without a whole head and idle for "
    "two minutes",
)
@pytest.mark.parametrize(
    "head",
    [
        f"POST /ultramarine HTTP/1.1|Content-Type: multipart/form-data; boundary=x|{HUGE}",
        f"POST /ultramarine?delete HTTP/1.1|{HUGE}",
        "POST /ultramarine?delete HTTP/1.1|Transfer-Encoding: chunked",
        f"GET /ultramarine?list-type=2 HTTP/1.1|{HUGE}",
        f"PUT /ultramarine/team-a/x HTTP/1.1|{HUGE}",
        # Of a form that a guard by paths might not see.
        "GET http://s?list-type=2 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT %2Fultramarine/team-b/x HTTP/1.1",
    ],
)
def test_who_has_no_key_cannot_fill_the_memory(server: Server, head: str) -> None:
    """Forms, documents and contents without a signature are refused before they are read."""
    before = server.memory
    sockets = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(8)]
    for opened in sockets:
        opened.sendall(f"{head}|Host: s||".replace("|", "\r\n").encode())
        with contextlib.suppress(OSError):
            for _ in range(16):
                opened.sendall(b"x" * 2**20)
    for opened in sockets:
        with contextlib.suppress(ConnectionResetError):
            answer = opened.recv(64)
            assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer
        opened.close()

    assert server.is_healthy()
    assert server.memory - before < 100 * 2**20


@pytest.mark.slow
@pytest.mark.attack("training/storage-memory")
def test_one_address_cannot_keep_the_others_away(server: Server) -> None:
    """Connections that say nothing, or half of a request, are few enough for others to be answered, and end soon."""
    begun = time.monotonic()
    silent = []
    for number in range(1200):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=20, source_address=("127.0.0.9", 0))
        silent.append(client)
        if number % 2:
            with contextlib.suppress(OSError):
                client.sendall(b"GET /ultramarine HTTP/1.1\r\nHost: s\r\nx-half: ")
    assert server.is_healthy()
    assert time.monotonic() - begun < 60
    for client in silent:
        client.settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(4096):
                continue
        client.close()


@pytest.mark.attack("training/storage-memory")
def test_who_has_a_key_cannot_fill_the_memory(server: Server) -> None:
    """Batches of more than 1,000 keys are refused, and of those that never end few are read at a time."""
    s3 = server.client()
    with pytest.raises(ClientError, match="1,000 keys"):
        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": f"team-a/{n}"} for n in range(1001)]})
    before = server.memory
    signed = AWSRequest("POST", f"http://127.0.0.1:{server.port}/{BUCKET}?delete=", data=b"x" * (2 * 2**20))
    S3SigV4Auth(Credentials("root", "first"), "s3", "us-east-1").add_auth(signed)
    head = "".join(f"{name}: {value}\r\n" for name, value in signed.headers.items())
    text = (
        f"POST /{BUCKET}?delete= HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {2 * 2**20}\r\n{head}\r\n"
    )
    sockets = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(60)]
    for opened in sockets:
        with contextlib.suppress(OSError):
            opened.sendall(text.encode() + b"x" * (2 * 2**20 - 1))
    assert server.memory - before < 150 * 2**20
    assert server.is_healthy()
    for opened in sockets:
        opened.close()


def test_arrow_reads_and_writes(server: Server) -> None:
    """pyarrow's own client, which is in the trainer's image, writes a file in parts and lists it."""
    fs = pytest.importorskip("pyarrow.fs")
    s3 = fs.S3FileSystem(
        access_key="root",
        secret_key="first",
        endpoint_override=f"127.0.0.1:{server.port}",
        scheme="http",
        region="us-east-1",
    )
    with s3.open_output_stream(f"{BUCKET}/team-a/deep/x.bin") as stream:
        for _ in range(3):
            stream.write(b"y" * (6 * 2**20))
    assert s3.get_file_info(f"{BUCKET}/team-a/deep/x.bin").size == 18 * 2**20
    listed = s3.get_file_info(fs.FileSelector(f"{BUCKET}/team-a", recursive=True))
    assert f"{BUCKET}/team-a/deep/x.bin" in [entry.path for entry in listed]
