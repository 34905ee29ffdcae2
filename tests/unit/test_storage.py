"""URIs, downloads, and errors that name the remedy, against a real S3 server."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from pathlib import Path

import pytest
from cutting import CuttingProxy
from hypothesis import given
from hypothesis import strategies as st
from ultramarine_contract.common import FileEntry
from ultramarine_contract.errors import StorageError
from ultramarine_contract.locations import parse_uri
from ultramarine_contract.storage import Keys, Storage
from unit.conftest import ObjectStore

# URIs


@pytest.mark.parametrize(
    ("uri", "bucket", "key"),
    [
        ("s3://lake/churn/train.csv", "lake", "churn/train.csv"),
        ("s3://lake/churn/", "lake", "churn/"),
        ("s3://lake/", "lake", ""),
        ("s3://my.lake-2/100% sure?/naïve.csv", "my.lake-2", "100% sure?/naïve.csv"),
    ],
)
def test_plain_uris_are_taken_apart(uri: str, bucket: str, key: str) -> None:
    """A bucket and a key come out as they were written."""
    assert parse_uri(uri) == (bucket, key)


@pytest.mark.attack(
    "author/storage-endpoint",
    asset="storage endpoint, internal services",
    threat="a URI or field sends the operator or a pod elsewhere (SSRF)",
    control="the endpoint comes from the chart's values only; URIs are `s3://` and nothing else, checked at "
    "admission and again where they are used",
)
@pytest.mark.attack("author/uri-paths")
@pytest.mark.parametrize(
    "uri",
    [
        "",
        "churn",
        "s3://",
        "s3:///key",
        "s3://bucket",
        "S3://bucket/key",
        "file:///etc/passwd",
        "http://bucket/key",
        "s3://b/key",
        "s3://bu..cket/key",
        "s3://user@bucket/key",
        "s3://bucket:80/key",
        "s3://bucket/../other/key",
        "s3://bucket/a/../../key",
        "s3://bucket/./key",
        "s3://bucket/a//b",
        "s3://bucket//",
        "s3://bucket/a/%2e%2e/b",
        "s3://bucket/a%2Fb",
        "s3://bucket/a\\b",
        "s3://bucket/a\nb",
        "s3://bucket/a\x00b",
        "s3://bucket/\ud800",
        "s3://bucket/" + "k" * 1025,
    ],
)
def test_tricky_uris_are_refused(uri: str) -> None:
    """No other scheme, no way out of the bucket, nothing that two parsers could read in two ways."""
    with pytest.raises(StorageError) as caught:
        parse_uri(uri)

    assert caught.value.reason == "InvalidURI"
    assert not caught.value.transient


@pytest.mark.attack(
    "author/uri-paths",
    asset="files of a pod, other prefixes",
    threat="`..`, encoded or double slashes, backslashes, control characters in a URI",
    control="refused by one strict parser, so that no two parsers can differ",
)
@given(st.text(max_size=60))
def test_any_text_is_a_uri_or_a_storage_error(text: str) -> None:
    """Whatever a person writes, the parser answers with a location that stays inside its bucket, or with a reason."""
    try:
        location = parse_uri("s3://bucket/" + text)
    except StorageError:
        return

    assert str(location) == "s3://bucket/" + text
    assert not {"..", "."} & set(location.key.split("/"))


# Download


def test_an_object_is_downloaded_under_its_own_name(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """An object's last segment is the file's name, and its digest is that of the content."""
    storage.write(f"s3://{bucket}/churn/train.csv", b"a,b\n1,2\n")

    [entry] = storage.download(f"s3://{bucket}/churn/train.csv", tmp_path)

    assert (tmp_path / "train.csv").read_bytes() == b"a,b\n1,2\n"
    assert entry == FileEntry("train.csv", 8, hashlib.sha256(b"a,b\n1,2\n").hexdigest())


def test_an_open_file_is_stored_as_it_is(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """It is read while it is sent, from its beginning to its end."""
    content = bytes(range(256)) * 20_000
    (tmp_path / "study").write_bytes(content)

    with (tmp_path / "study").open("rb") as file:
        storage.write(f"s3://{bucket}/hpo/study", file)

    assert storage.read(f"s3://{bucket}/hpo/study") == content


def test_a_prefix_is_downloaded_with_its_folders(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """All objects below the prefix arrive, folder markers do not become files, neighbours stay where they are."""
    for key in ("churn/a.csv", "churn/deep/er/b.csv", "churn/day=1%2F2/c.csv", "churn-old/x.csv"):
        storage.write(f"s3://{bucket}/churn/", b"")
        storage._client.put_object(Bucket=bucket, Key=key, Body=key.encode())

    entries = storage.download(f"s3://{bucket}/churn/", tmp_path)

    assert sorted(entry.path for entry in entries) == ["a.csv", "day=1%2F2/c.csv", "deep/er/b.csv"]
    assert (tmp_path / "deep/er/b.csv").read_bytes() == b"churn/deep/er/b.csv"


def test_the_size_is_known_before_the_download(storage: Storage, bucket: str) -> None:
    """An object, or all objects below a prefix, without the empty ones that stand for folders."""
    storage.write(f"s3://{bucket}/churn/", b"")
    storage.write(f"s3://{bucket}/churn/a.csv", b"123")
    storage.write(f"s3://{bucket}/churn/deep/b.csv", b"4567")

    assert storage.size(f"s3://{bucket}/churn/a.csv") == (1, 3)
    assert storage.size(f"s3://{bucket}/churn/") == (2, 7)
    with pytest.raises(StorageError) as caught:
        storage.size(f"s3://{bucket}/nothing/")
    assert caught.value.reason == "InputNotFound"


def test_progress_is_told_in_bytes_of_all(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """The count never goes back and ends at the size, however many files come at once."""
    for number in range(20):
        storage.write(f"s3://{bucket}/churn/{number}.csv", bytes(1000 * number))
    told: list[tuple[int, int]] = []

    storage.download(f"s3://{bucket}/churn/", tmp_path, lambda done, total: told.append((done, total)))

    assert told == sorted(told)
    assert told[-1] == (190_000, 190_000)
    assert {total for _, total in told} == {190_000}


def test_a_folder_without_its_slash_is_named_as_the_mistake(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """The message says to add the slash."""
    storage.write(f"s3://{bucket}/churn/a.csv", b"1")

    with pytest.raises(StorageError, match="is a folder; end it with a slash") as caught:
        storage.download(f"s3://{bucket}/churn", tmp_path)

    assert caught.value.reason == "InputNotFound"


@pytest.mark.parametrize("key", ["nothing/", "nothing.csv"])
def test_absent_inputs_are_named(storage: Storage, bucket: str, tmp_path: Path, key: str) -> None:
    """An absent object and an empty prefix are both InputNotFound, with the URI."""
    with pytest.raises(StorageError, match=f"s3://{bucket}/{key}") as caught:
        storage.download(f"s3://{bucket}/{key}", tmp_path)

    assert caught.value.reason == "InputNotFound"


@pytest.mark.parametrize("uri", ["s3://no-such-bucket/a.csv", "s3://no-such-bucket/a/"])
def test_an_absent_bucket_is_named(storage: Storage, tmp_path: Path, uri: str) -> None:
    """The missing bucket, not the key in it, is what the message speaks of."""
    with pytest.raises(StorageError, match="bucket no-such-bucket") as caught:
        storage.download(uri, tmp_path)

    assert caught.value.reason == "BucketNotFound"


@pytest.mark.parametrize("which", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("key", ["a.csv", "a/"])
def test_wrong_keys_are_access_denied(
    storage: Storage, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, key: str
) -> None:
    """A wrong access key or secret key is said to be that, on objects and on prefixes."""
    monkeypatch.setenv(which, "wrong")

    with pytest.raises(StorageError, match="check both keys in the storage Secret") as caught:
        Storage(storage.name).download(f"s3://{bucket}/{key}", tmp_path)

    assert caught.value.reason == "AccessDenied"
    assert not caught.value.transient


def test_absent_server_is_reported_soon_and_as_transient(storage: Storage, tmp_path: Path) -> None:
    """Nothing listens: the error comes within 20 s, says so, and may be tried again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    started = time.monotonic()

    with pytest.raises(StorageError, match=f"127.0.0.1:{port} does not answer") as caught:
        Storage(f"http://127.0.0.1:{port}").download("s3://bucket/a.csv", tmp_path)

    assert (caught.value.reason, caught.value.transient) == ("Unreachable", True)
    assert time.monotonic() - started < 20


def test_a_server_that_hangs_is_told_after_the_seconds_that_are_given(storage: Storage) -> None:
    """A server that accepts the connection and stays silent is waited for as long as the caller allows, and named."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(StorageError, match="ReadTimeoutError") as caught:
            Storage(endpoint, read_seconds=0.2, attempts=2).artifact_digest("s3://bucket/a.onnx")
    assert (caught.value.reason, caught.value.transient) == ("Unreachable", True)


def test_an_impossible_endpoint_is_refused_at_once() -> None:
    """A typing error in the endpoint is found before anything is sent."""
    with pytest.raises(StorageError) as caught:
        Storage("not an address")

    assert caught.value.reason == "InvalidEndpoint"


def test_a_way_changes_neither_host_nor_signature(object_store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    """Over a forwarded port, requests have the storage's own host and relative paths, also in many parts."""
    heads: list[bytes] = []

    class Way(CuttingProxy):
        def _carry(self, source: socket.socket, sink: socket.socket, upward: bool) -> None:
            if upward:
                heads.append(source.recv(4096, socket.MSG_PEEK))
            super()._carry(source, sink, upward)

    (tmp_path / "large").write_bytes(content := bytes(40 << 20))
    with Way(object_store.endpoint) as way:
        keys = Keys(object_store.access_key, object_store.secret_key)
        storage = Storage("http://storage.lab:9000/", keys=keys, way=way.endpoint.removeprefix("http://"))
        storage.upload(tmp_path / "large", uri := f"s3://{bucket}/a b/large")
        assert b"".join(storage.open(uri).chunks) == content
        assert storage.folders(f"s3://{bucket}/") == [f"s3://{bucket}/a b/"]
    assert heads
    assert all(b"\r\nHost: storage.lab:9000\r\n" in head and head.split()[1].startswith(b"/") for head in heads)


def test_of_many_who_create_an_object_one_succeeds(storage: Storage, bucket: str) -> None:
    """The others are told, and what the first one wrote stays."""
    uri, created = f"s3://{bucket}/one", list[int]()
    threads = [
        threading.Thread(target=lambda n=n: created.append(n) if storage.create(uri, b"%d" % n) else None)
        for n in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [storage.read(uri)] == [b"%d" % n for n in created]
    storage.delete(uri)
    assert storage.create(uri, b"again")


def test_what_is_not_there_is_deleted(storage: Storage, bucket: str) -> None:
    """Whoever deletes twice, not having heard the answer, is done."""
    storage.delete(f"s3://{bucket}/absent")
